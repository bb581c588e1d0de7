"""A run that begins where another one stood: its given files are those of a snapshot, its goal is another, its box is otherwise the same.

The other run may live, have ended, or have died; it is only read. Nothing else of it comes along: no money, no database, no sub-agent, no
memory. What it knew of given git repositories comes along, so that `gearcase diff` and `apply` show the whole change since they were given.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from gearcase.doors.repositories import FACTS, START, recall
from gearcase.events import RunForked
from gearcase.runs import RunFolder
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.snapshots import restore, scan
from gearcase.sandbox.states import States


@dataclass(frozen=True, slots=True)
class Fork:
    """Of which run, and at which of its snapshots."""

    folder: RunFolder
    at: str

    def require(self) -> None:
        """Raises UsageError `no_snapshot`, `not_kept`."""
        States(self.folder.states).require(self.at)

    def give(self, root: int, owner: tuple[int, int], to: RunFolder, store: BlobStore) -> tuple[Manifest, RunForked]:
        """Fill a fresh workspace (the descriptor `root`) of the run `to`, and its store.

        Raises UsageError `no_snapshot`, `not_kept`, RunError `blob_damaged` where it was pruned meanwhile, `disk_full`.
        """
        states = States(self.folder.states)
        states.require(self.at)
        files, source = states.manifest(self.at), BlobStore(self.folder.pool, BlobStore(self.folder.blobs))
        restore(root, files, source, owner, known=Manifest())
        given = scan(root, store)
        repositories = recall(self.folder.path)
        for repository in repositories:
            for digest in repository.start.digests():
                store.take(digest, source)
        for name in (START, FACTS) if repositories else ():  # the facts last: with them, both are whole
            shutil.copyfile(self.folder.path / name, to.path / name)
        return given, RunForked(self.folder.id, self.folder.name, self.at, given.files, given.size)
