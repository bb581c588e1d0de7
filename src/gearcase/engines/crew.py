"""A crew works on the items of a task, so many at a time: the same on every node, and where there are none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from gearcase.errors import GearcaseError
from gearcase.seams import Task
from gearcase.swarm.worker import Fault, Outcome, fault_of, outcome_as_json

Ask = Callable[[str], Awaitable[Outcome | None]]
"""Works on one item; None: it cannot be begun now, and nor can those after it."""
Tell = Callable[[int, Mapping[str, Any]], None]

_log = logging.getLogger(__name__)


class Crew:
    """Works on one task. `tell` hears what each item came to; `run` returns when nothing is going on any more."""

    def __init__(self, task: Task, ask: Ask, tell: Tell) -> None:
        self._task = task
        self._ask = ask
        self._tell = tell
        self._items: Iterator[tuple[int, str]] = iter(enumerate(task.items))
        self._running: asyncio.Future[list[Any]] | None = None

    async def run(self) -> None:
        """Work until all items have ended, or those that were begun once it is stopped. Cancelling it breaks them off."""
        hands = min(self._task.at_once, len(self._task.items))
        async with asyncio.TaskGroup() as group:
            for _ in range(hands):
                group.create_task(self._work())

    def stop(self) -> None:
        """Begin no further item."""
        self._items = iter(())

    async def _work(self) -> None:
        while (following := next(self._items, None)) is not None:
            place, text = following
            outcome = await self._one(text)
            if outcome is None:
                return self.stop()
            self._tell(place, outcome_as_json(outcome))
        return None

    async def _one(self, text: str) -> Outcome | None:
        try:
            return await self._ask(text)
        except GearcaseError as error:  # the store or the journal refuses
            return fault_of(error)
        except Exception:
            _log.exception("an item of %s failed", self._task.work.get("name"))
            return Fault("terminal", "internal", "Gearcase itself failed; the operator finds the cause in the run's log")
