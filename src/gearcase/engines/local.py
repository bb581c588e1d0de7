"""The engine of a run that names none: its own process, where calls are waits and each command has a sandbox of its own.

Nothing crosses, so there is always room for a task, which is what was asked in one turn. Money is held by the run's own door, call by call;
the brake reaches that door and the sandboxes by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from gearcase.engines.crew import Crew
from gearcase.seams import Capacity, Done, EngineEvent, Lost, Started, Task
from gearcase.swarm.worker import Outcome

NODE = "here"
_SHARD = 512


class LocalEngine:
    """See `Engine`. `workers`, by the name of a work, know how it is done."""

    def __init__(self, workers: Mapping[str, Callable[[str], Awaitable[Outcome]]]) -> None:
        self._workers = workers
        self._events: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._crews: dict[str, tuple[Crew, asyncio.Task[None]]] = {}
        self._closed = False

    async def submit(self, task: Task) -> str:
        """See `Engine`."""
        crew = Crew(task, self._workers[str(task.work["name"])], lambda place, told: self._tell(Done(task.id, ((place, told),))))
        self._tell(Started(task.id, NODE))
        self._crews[task.id] = crew, asyncio.create_task(self._run(task.id, crew))
        return task.id

    def _tell(self, event: EngineEvent) -> None:
        self._events.put_nowait(event)

    async def _run(self, name: str, crew: Crew) -> None:
        try:
            await crew.run()
        except asyncio.CancelledError:
            self._tell(Lost(name, NODE, "it was broken off"))
        else:
            self._tell(Done(name, (), over=True))
        finally:
            del self._crews[name]

    async def events(self) -> AsyncIterator[EngineEvent]:
        """See `Engine`."""
        while (event := await self._events.get()) is not None:
            yield event

    async def cancel(self, handle: str, hard: bool) -> None:
        """See `Engine`."""
        if handle in self._crews:
            crew, running = self._crews[handle]
            crew.stop()
            if hard:
                running.cancel()

    def capacity(self) -> Capacity:
        """See `Engine`."""
        return Capacity(0 if self._closed else 1, 1, _SHARD)

    async def close(self) -> tuple[str, ...]:
        """See `Engine`. What its workers made they have closed themselves."""
        self._closed = True
        running = [one for _, one in self._crews.values()]
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._events.put_nowait(None)
        return ()
