"""Forks: what an agent's files held at one moment, in a fresh sandbox.

The moment is a manifest (`Workspace.state`): a look at every file, and a copy of those that changed since the last look. Filling a
sandbox reads the contents from the run's store, each compared with its digest. So a fork never walks another agent's live files, and
what its programs do is seen by nobody else.

Threat: the files are an agent's. They are restored by descriptors, without following a link (`snapshots.restore`); sockets, devices and
mounts are left out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from gearcase.brake import Brake
from gearcase.doors.patterns import Patterns, State
from gearcase.errors import UsageError
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Entry, Manifest
from gearcase.sandbox.snapshots import restore
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Driver, Limits, Mount, Sandbox, SandboxSpec

_NOTHING = Manifest()


def chosen(files: Manifest, patterns: Iterable[str], also: Collection[str] = ()) -> Manifest:
    """What the patterns name of a state (see `doors.patterns`), with the folders that it lies in.

    `also`: printable paths that come along with all below them, where they are there.

    Raises UsageError `bad_pattern`, and `not_there` for a pattern that names nothing.
    """
    kept: set[int] = set()
    for entry in files.entries if also else ():
        if id(entry.parent) in kept or printable(entry.path) in also:
            kept.add(id(entry))
    for pattern in patterns:
        found = _matching(files, Patterns([pattern]))
        if not found:
            remedy = "name files or folders below /workspace; `ls` shows them"
            raise UsageError("not_there", f"{pattern!r} names nothing that is there", remedy=remedy)
        kept |= found
    return files.part(lambda entry: id(entry) in kept)


def _matching(files: Manifest, patterns: Patterns) -> set[int]:
    states: dict[int, State] = {id(None): patterns.start}
    found: set[int] = set()
    for entry in files.entries:
        state = states[id(entry.parent)]
        if entry.kind == "directory":
            states[id(entry)] = patterns.below(state, entry.name)
        if patterns.matches(state, entry.name) or (entry.kind == "directory" and _named(patterns, state, entry)):
            found.add(id(entry))
    return found


def _named(patterns: Patterns, state: State, entry: Entry) -> bool:
    """Whether a folder itself is meant, so that an empty one comes along: a name below it would match, whatever it is."""
    return patterns.matches(patterns.below(state, entry.name), b"\0")


class Forks:
    """Makes fresh sandboxes of one run. They obey its brake, have no door, and are swept with it."""

    def __init__(self, driver: Driver, store: BlobStore, brake: Brake, run: str) -> None:
        self._driver = driver
        self._store = store
        self._brake = brake
        self._run = run
        self.residue: list[str] = []
        """What stayed of those that were closed; empty is the promise."""

    async def fill(self, sandbox: Sandbox, files: Manifest, known: Manifest = _NOTHING) -> tuple[bytes, ...]:
        """Make the /workspace of a sandbox in which nothing ran yet, and which holds what is `known`, these files.

        Returns the paths of what cannot be made again (sockets, devices, mounts). Raises RunError `disk_full`, `blob_damaged`.
        """
        return await in_thread(restore, sandbox.workspace, files, self._store, sandbox.owner, known=known)

    @asynccontextmanager
    async def open(
        self,
        name: str,
        limits: Limits,
        files: Manifest | None = None,
        *,
        mounts: Sequence[Mount] = (),
        environment: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Sandbox]:
        """A fresh sandbox without doors, filled with `files`, torn down when the block ends. `name` is unique in the run.

        Raises what the driver and `fill` raise. A run that stands frozen freezes it too: its commands wait.
        """
        spec = SandboxSpec(f"{self._run}-{name}", limits, tuple(mounts), environment=environment or {})
        sandbox = await self._driver.open(spec)
        try:
            if files is not None:
                await self.fill(sandbox, files)
            await self._brake.add_sandbox(sandbox)
            try:
                yield sandbox
            finally:
                self._brake.remove_sandbox(sandbox)
        finally:
            self.residue += await sandbox.close()
