"""What a database was at earlier moments: kept as the files of its server, told by tables and rows, opened again on a server of its own.

Nothing is asked of the server that is looked at: it may stand frozen, in the middle of a statement. What is kept is what a crash would
leave, as for a branch of a branch (`running`). How a state differs is found out on copies, in sandboxes that are thrown away.

Threat: the files are of somebody's making. They are opened in sandboxes like the one that they come from, with our own settings and rules
of who may connect. These run while the rest of the run stands frozen, and end with the door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gearcase.box import doors as declaration
from gearcase.doors.keeping import KEPT, Keeping, Kept, Look, PreparedReturn
from gearcase.doors.postgres import facts
from gearcase.doors.postgres.cluster import Cluster
from gearcase.doors.postgres.difference import DATABASES, as_text, compare
from gearcase.doors.postgres.facts import Inventory
from gearcase.doors.postgres.running import look_at
from gearcase.errors import RunError
from gearcase.sandbox.blobs import Keeps
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Housing, Sandbox

T = TypeVar("T")
_COUNT_WITHIN = 60.0
"""Seconds in which a state is opened and its rows are counted, for a person who waits."""


@dataclass(frozen=True, slots=True)
class _Known:
    inventory: Inventory
    lost: list[str]


class Returning:
    """Of one door. `standing` is its server at any moment, `put` puts another in its place; `most`: bytes of the states that are kept."""

    def __init__(
        self,
        name: str,
        housing: Housing,
        standing: Callable[[], Cluster],
        put: Callable[[Cluster], Awaitable[None]],
        declared: declaration.PostgresDoor,
        most: int,
    ) -> None:
        self._name = name
        self._housing = housing
        self._standing = standing
        self._put = put
        self._declared = declared
        self._works: set[asyncio.Task[Any]] = set()
        folder = housing.folder / DATABASES / f"{name}{KEPT}"
        self.keeping = Keeping(folder, housing.folder / "blobs", most, self._look)

    async def _look(self, keeps: Keeps, previous: Manifest, unread: Set[int]) -> Look:
        cluster = self._standing()
        sandbox = cluster.housed.sandbox
        async with sandbox.still():
            files, segment = await in_thread(look_at, sandbox.workspace, keeps, previous, unread, self._name)
        return Look(files, cluster.password, segment)

    async def difference(self, before: Kept, now: Kept) -> tuple[list[str], list[str]] | None:
        """See `ReturnsTo`."""
        try:
            async with asyncio.timeout(_COUNT_WITHIN):
                told = await asyncio.gather(self._tied(self._known(before)), self._tied(self._known(now)), return_exceptions=True)
        except TimeoutError:
            return None
        for one in told:
            if isinstance(one, BaseException):
                raise one
        first, second = (one for one in told if not isinstance(one, BaseException))
        return [as_text(change) for change in compare(first.inventory, second.inventory)], first.lost

    async def _known(self, kept: Kept) -> _Known:
        if kept.known is None:
            cluster = await self._open(kept)
            try:
                await facts.after_a_crash(cluster)
                kept.known = _Known(await facts.inventory(cluster), cluster.left_out)
            finally:
                await cluster.close()
        return kept.known

    async def prepare(self, kept: Kept) -> PreparedReturn:
        """See `ReturnsTo`."""
        cluster = await self._tied(self._open(kept))
        return PreparedReturn(lambda: self._put(cluster), cluster.close)

    async def _open(self, kept: Kept) -> Cluster:
        housing, declared, binaries = replace(self._housing, adopt=_alone), self._declared, self._standing().binaries
        store = self.keeping.store
        return await Cluster.open_state(housing, binaries, self._name, kept, store, declared.memory, declared.disk)

    async def _tied(self, work: Awaitable[T]) -> T:
        """What it comes to; where the door is closed before, RunError `door_failed`."""
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if (current := asyncio.current_task()) is not None and current.cancelling():
                task.cancel()
                await asyncio.wait({task})
                raise
            remedy = "see how the run ended: gearcase report"
            raise RunError("door_failed", f"the database {self._name} ended meanwhile", remedy=remedy) from None

    async def close(self) -> None:
        """End what goes on; nothing of the states stays. Idempotent."""
        while self._works:
            for work in self._works:
                work.cancel()
            await asyncio.wait(self._works)
        await self.keeping.close()


async def _alone(sandbox: Sandbox) -> None:
    """It is not under the brake: it works while the run stands frozen, and is thrown away or adopted."""
