"""The agent's files as states that can be kept, compared and returned to.

A scan is made while the box is frozen, so that a state is one moment's. Freezing for a scan is not the brake: it is not recorded as
a level and lasts milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from gearcase.errors import Refused
from gearcase.events import FilesChanged, Rewound, SnapshotTaken
from gearcase.run.accounts import LEAD
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Difference, Manifest, difference
from gearcase.sandbox.snapshots import restore, scan
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Recorder, Sandbox

T = TypeVar("T")

_NAMED = 50
"""Changed paths that are named in the journal; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A kept state. `name` is s1, s2, ...; s0 is what was given."""

    name: str
    manifest: Manifest
    note: str


class Workspace:
    """Snapshots of one sandbox's /workspace."""

    def __init__(self, sandbox: Sandbox, store: BlobStore, recorder: Recorder, agent: str = LEAD) -> None:
        self._sandbox = sandbox
        self._store = store
        self._recorder = recorder
        self._agent = agent
        self._seen: Manifest | None = None
        self._turn = asyncio.Lock()
        self.snapshots: dict[str, Snapshot] = {}

    async def keep(self, note: str = "") -> Snapshot:
        """Keep the present state; records what changed since the last one that was kept."""
        async with self._turn:
            before = next(reversed(self.snapshots.values()), None)
            manifest = await self._look()
            name = f"s{len(self.snapshots)}"
            snapshot = self.snapshots[name] = Snapshot(name, manifest, note)
            self._recorder.append(SnapshotTaken(name, manifest.files, manifest.size, note), self._agent)
            if before is not None:
                self._record_change(name, difference(before.manifest, manifest))
            return snapshot

    async def state(self) -> Manifest:
        """The files of this moment, their contents kept in the run's store. It has no name and is not on record.

        Raises Refused `too_many_files`, RunError `tree_changed`, `unreadable`, `disk_full`.
        """
        async with self._turn:
            return await self._look()

    async def change(self, work: Callable[[int, Manifest], T]) -> T:
        """Have `work` look at the files of this moment (their descriptor and their manifest) and change them, while nothing moves.

        It runs in a thread. Raises what `state` and `work` raise.
        """
        async with self._turn, self.still() as files:
            self._seen = await in_thread(scan, files, self._store, self._before())
            return await in_thread(work, files, self._seen)

    async def _look(self) -> Manifest:
        """Scan; what did not change since the last look is not read."""
        async with self.still() as files:
            self._seen = await in_thread(scan, files, self._store, self._before())
        return self._seen

    def _before(self) -> Manifest | None:
        return self._seen or next((kept.manifest for kept in reversed(self.snapshots.values())), None)

    def begin(self, files: Manifest) -> None:
        """What the agent starts with: the snapshot s0."""
        self.snapshots["s0"] = Snapshot("s0", files, "as given")

    async def rewind(self, name: str) -> tuple[Snapshot, Difference]:
        """Bring the files back to a kept state; what is lost by it is kept as a snapshot first. Returns the difference undone."""
        wanted = self.snapshots.get(name)
        if wanted is None:
            known = ", ".join(self.snapshots) or "none yet"
            raise Refused("no_snapshot", f"there is no snapshot {name!r}", remedy=f"kept are: {known}")
        now = await self.keep(f"before the return to {name}")
        async with self._turn:
            async with self.still() as files:
                await in_thread(restore, files, wanted.manifest, self._store, self._sandbox.owner)
            self._recorder.append(Rewound(name), self._agent)
        return wanted, difference(wanted.manifest, now.manifest)

    @asynccontextmanager
    async def still(self) -> AsyncGenerator[int]:
        """While this lasts nothing in the box moves, whatever becomes of the brake. Gives the descriptor of its files."""
        async with self._sandbox.still():
            yield self._sandbox.workspace

    def _record_change(self, name: str, change: Difference) -> None:
        if change:
            paths = [path.decode("utf-8", "replace") for path in change.paths(_NAMED)]
            event = FilesChanged(name, len(change.added), len(change.changed), len(change.removed), change.size, paths)
            self._recorder.append(event, self._agent)
