"""Fresh sandboxes for the commands of maps: each sees some of the agent's files as they were when its map began, and nothing else.

No doors and no network but its own loopback. The files are a view (`sandbox/views.py`) that all sandboxes of a map share, read-only, at
/mnt/workspace; in a sandbox's own, writable /workspace a link stands for each of them. What one leaves behind, the next does not see.

A sandbox gets a share of what the agent's box may use, and waits until that share is free: all of them together never have more than the
box once more; the one in which a map's answers are judged lives beside them, with a quarter. They are known to the run's brake from the
moment in which they are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gearcase.doors.housed import Housed
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.threads import in_thread
from gearcase.sandbox.views import at_or_below, make_view, remove_view
from gearcase.seams import Housing, Limits, Mount
from gearcase.swarm.items import Use

_MIB = 1 << 20
LEAST = Limits(memory=48 * _MIB, cpus=0.05, disk=8 * _MIB, processes=16)
"""Of what a sandbox gets, where the box has that much."""
SEEN = "/mnt/workspace"
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True, slots=True)
class View:
    """Files of the agent at one moment. `names` are the entries of its top folder, `cwd` is where commands begin."""

    manifest: Manifest
    folder: Path
    names: tuple[bytes, ...]
    cwd: str

    @property
    def digest(self) -> str:
        """Of what is seen."""
        return self.manifest.digest


class Sandboxes:
    """They of one run. `state` tells the agent's files as they are now; `pay` books seconds of processor time."""

    def __init__(
        self,
        housing: Housing,
        limits: Limits,
        state: Callable[[], Awaitable[Manifest]],
        store: BlobStore,
        pay: Callable[[float], None],
        seen: Sequence[Mount] = (),
    ) -> None:
        self._housing = housing
        self._limits = limits
        self._state = state
        self._store = store
        self._pay = pay
        self._seen = tuple(seen)
        self._own = housing.folder / "shards" / secrets.token_hex(4)  # another agent may have the same files
        self._views: dict[Path, int] = {}
        self._making = asyncio.Lock()
        self._owed = 0.0  # seconds that are not booked yet, fewer than one
        self._taken = 0.0
        self._freed = asyncio.Condition()

    @property
    def sees_more(self) -> bool:
        """Whether commands also see files that are on this machine alone."""
        return bool(self._seen)

    def most(self, asked: int | None) -> int:
        """How many may live at a time where so many are asked for: of cores by default, and no more than have enough of the box each."""
        limits = self._limits
        cores = max(1, min(os.cpu_count() or 1, round(limits.cpus)))
        enough = (limits.memory // LEAST.memory, limits.disk // LEAST.disk, limits.processes // LEAST.processes)
        return max(1, min(asked or cores, *enough))

    def share(self, parts: int) -> Limits:
        """What one of so many gets."""
        limits = self._limits
        return Limits(
            max(16 * _MIB, limits.memory // parts),
            max(0.05, limits.cpus / parts),
            max(4 * _MIB, limits.disk // parts),
            max(4, limits.processes // parts),
            limits.open_files,
        )

    async def view(self, paths: Sequence[str], cwd: str, without: Sequence[str]) -> View:
        """The agent's files of this moment below `paths`, relative to /workspace; give it back with `leave`. Raises GearcaseError."""
        wanted, hidden = [_inside(path) for path in paths], [_inside(path) for path in without]
        folder = _inside(cwd)
        async with self._making:
            manifest = at_or_below(await self._state(), wanted, folder, hidden)
            place = self._own / manifest.digest
            if not self._views.get(place):
                await in_thread(remove_view, place) if place.exists() else None
                self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
                await in_thread(make_view, manifest, self._store, place)
            self._views[place] = self._views.get(place, 0) + 1
        names = tuple(entry.name for entry in manifest.entries if entry.parent is None)
        begin = "/workspace" + (f"/{os.fsdecode(folder)}" if folder and manifest.find(folder) is not None else "")
        return View(manifest, place, names, begin)

    async def leave(self, view: View) -> None:
        """The view is not used any more by this map, which has ended."""
        self._settle()
        async with self._making:
            self._views[view.folder] -= 1
            if not self._views[view.folder]:
                del self._views[view.folder]
                await in_thread(remove_view, view.folder)

    @asynccontextmanager
    async def fresh(self, view: View, parts: int, use: Use) -> AsyncGenerator[Housed]:
        """A sandbox with one of so many parts of the box, once that is free. Raises GearcaseError where it cannot be made."""
        async with self._turn(parts):
            housed = await self.open(view, parts, use)
            try:
                yield housed
            finally:
                await self.close(housed)

    async def open(self, view: View, parts: int, use: Use) -> Housed:
        """A sandbox that lives until `close`, beside those that wait for their share. Raises GearcaseError."""
        mounts = (*self._seen, Mount(view.folder, SEEN))
        housed = await Housed.open(self._housing, "shard", self.share(parts), mounts, ENVIRONMENT)
        use.sandboxes += 1
        try:
            for name in view.names:
                os.symlink(os.fsencode(SEEN) + b"/" + name, name, dir_fd=housed.sandbox.workspace)
        except BaseException:
            await self.close(housed)
            raise
        return housed

    async def close(self, housed: Housed) -> None:
        """End it and all in it. What stays is told to the run."""
        self._housing.release(housed.sandbox, ())  # a brake that is pulled now has nothing to stop there
        await housed.close()

    def took(self, seconds: float, use: Use) -> None:
        """Processor time that a command took: the agent pays it."""
        use.cpu += seconds
        self._owed += seconds
        if self._owed >= 1.0:
            self._settle()

    def _settle(self) -> None:
        owed, self._owed = self._owed, 0.0
        if owed:
            self._pay(owed)

    @asynccontextmanager
    async def _turn(self, parts: int) -> AsyncGenerator[None]:
        share = 1 / parts
        async with self._freed:
            await self._freed.wait_for(lambda: self._taken + share < 1.0001)
            self._taken += share
        try:
            yield
        finally:
            self._taken -= share
            async with self._freed:
                self._freed.notify_all()

    async def forget(self) -> None:
        """The run ends: no view is left, and nothing is owed."""
        self._settle()
        for folder in list(self._views):
            del self._views[folder]
            await in_thread(remove_view, folder)
        for folder in (self._own, self._own.parent):  # the one above is shared with other agents
            with contextlib.suppress(OSError):
                folder.rmdir()


def _inside(path: str) -> bytes:
    """A path relative to /workspace, normalised: empty for all of it. What leads out of it is in no manifest."""
    return os.fsencode(os.path.normpath(path)).removeprefix(b"./") if os.path.normpath(path) != "." else b""
