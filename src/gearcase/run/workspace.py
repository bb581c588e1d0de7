"""The agent's files as states that can be kept, compared and returned to.

A state that is asked for is scanned while the box is frozen, so that it is one moment's. Freezing for a scan is not the brake: it is not
recorded as a level and lasts milliseconds. Whoever looks at the files, keeps, changes or returns them does so in `turn`, one after the
other: a sub-agent's files come in before a return or after it, never in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from gearcase.errors import Refused, UsageError
from gearcase.events import FilesChanged, Rewound, SnapshotTaken
from gearcase.run.accounts import LEAD
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Difference, Manifest, difference
from gearcase.sandbox.snapshots import restore, scan
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Recorder, Sandbox

if TYPE_CHECKING:
    from gearcase.run.databases import Databases
    from gearcase.run.steps import Steps

T = TypeVar("T")

_NAMED = 50
"""Changed paths that are named in the journal; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A kept state. `name` is s1, s2, ...; s0 is what was given."""

    name: str
    manifest: Manifest
    note: str


@dataclass(frozen=True, slots=True)
class Return:
    """To a snapshot: the one that was made of what it `left`, what was undone, and paths of what could not be made again."""

    name: str
    left: Snapshot
    undone: Difference
    missing: tuple[bytes, ...] = ()


class Workspace:
    """Snapshots of one sandbox's /workspace."""

    def __init__(self, sandbox: Sandbox, store: BlobStore, recorder: Recorder, agent: str = LEAD) -> None:
        self._sandbox = sandbox
        self._store = store
        self._recorder = recorder
        self._agent = agent
        self._seen: Manifest | None = None
        self.turn = asyncio.Lock()
        self.snapshots: dict[str, Snapshot] = {}
        self.steps: Steps | None = None
        """Those that are kept by themselves, where any are."""
        self.databases: Databases | None = None
        """What is kept under the same names, where any are."""
        self.seen: Callable[[], Awaitable[None]] | None = None
        """Looks at the files and keeps such a snapshot, while somebody does so."""

    async def keep(self, note: str = "") -> Snapshot:
        """Keep the present state; records what changed since the last one that was kept."""
        async with self.turn:
            return await self._keep(note)

    async def _keep(self, note: str) -> Snapshot:
        before = next(reversed(self.snapshots.values()), None)
        name = f"s{len(self.snapshots)}"
        async with self.still() as files:
            self._seen = manifest = await in_thread(scan, files, self._store, self._before())
            if self.databases is not None:
                await self.databases.keep(name)
        if self.steps is not None:
            await in_thread(self.steps.named, name, note, manifest)
        snapshot = self.snapshots[name] = Snapshot(name, manifest, note)
        self._recorder.append(SnapshotTaken(name, manifest.files, manifest.size, note), self._agent)
        if before is not None:
            self._record_change(name, difference(before.manifest, manifest))
        return snapshot

    async def state(self) -> Manifest:
        """The files of this moment, their contents kept in the run's store. It has no name and is not on record.

        Raises Refused `too_many_files`, RunError `tree_changed`, `unreadable`, `disk_full`.
        """
        async with self.turn:
            return await self._look()

    async def change(self, work: Callable[[int, Manifest], T]) -> T:
        """Have `work` look at the files of this moment (their descriptor and their manifest) and change them, while nothing moves.

        It runs in a thread. What it changed is kept as a snapshot where any are kept by themselves: whoever is told of it afterwards finds
        it after a crash, too. Raises what `state` and `work` raise.
        """
        async with self.turn, self.still() as files:
            self._seen = await in_thread(scan, files, self._store, self._before())
            done = await in_thread(work, files, self._seen)
        if self.seen is not None:
            await self.seen()
        return done

    async def _look(self) -> Manifest:
        """Scan; what did not change since the last look is not read."""
        async with self.still() as files:
            self._seen = await in_thread(scan, files, self._store, self._before())
        return self._seen

    def _before(self) -> Manifest | None:
        return self._seen or next((kept.manifest for kept in reversed(self.snapshots.values())), None)

    def begin(self, files: Manifest, steps: Steps | None = None) -> None:
        """What the agent starts with: the snapshot s0. `steps` keeps more of them by themselves."""
        self.snapshots["s0"] = Snapshot("s0", files, "as given")
        self.steps = steps
        if steps is not None:
            steps.begin(files)

    async def rewind(self, name: str, by: str = "agent", first: Callable[[Return], Awaitable[None]] | None = None) -> Return:
        """Bring the files back to a kept state; what is lost by it is kept as a snapshot before. `first`: done in between, with what
        will be undone.

        Raises Refused `no_snapshot`, `not_kept`, and what `restore` raises; then the files may be half way, and the state before is kept.
        """
        async with self.turn:
            wanted = await self._wanted(name)
            left = await self._keep(f"before the return to {name}")
            back = Return(name, left, difference(wanted, left.manifest))
            if first is not None:
                await first(back)
            async with self.still() as files:
                store = self.steps.store if self.steps is not None else self._store
                missing = await in_thread(restore, files, wanted, store, self._sandbox.owner)
            undone = back.undone
            changed = len(undone.changed) + len(undone.moved)
            event = Rewound(name, by, left.name, len(undone.added), changed, len(undone.removed))
            self._recorder.append(event, self._agent)
        return replace(back, missing=missing)

    async def _wanted(self, name: str) -> Manifest:
        if name in self.snapshots:
            return self.snapshots[name].manifest
        try:
            if self.steps is not None:
                return await in_thread(self.steps.files_of, name)
        except UsageError as error:
            if error.code == "not_kept":
                raise Refused(error.code, error.message, remedy=error.remedy) from None
        own = self.steps.latest(_NAMED) if self.steps is not None else []
        known = ", ".join([*self.snapshots, *(state.name for state in own)]) or "none yet"
        raise Refused("no_snapshot", f"there is no snapshot {name!r}", remedy=f"kept are: {known}")

    @property
    def root(self) -> int:
        """The descriptor of its files, which may move."""
        return self._sandbox.workspace

    def alive(self) -> list[str]:
        """The names of those that were kept by themselves and are still there."""
        return [state.name for state in self.steps.kept_by_themselves] if self.steps is not None else []

    def tell(self) -> None:
        """Put on record what became of those that are kept by themselves."""
        if self.steps is not None:
            events, self.steps.events = self.steps.events, []
            for event in events:
                self._recorder.append(event, self._agent)

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
