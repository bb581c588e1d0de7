"""What a sub-agent made comes back by copy into its parent's files, at the same paths, and nothing is overwritten unseen.

A file is copied where its parent left that path as it was when the sub-agent was forked; what the sub-agent did not change is left
alone. A path that the parent changed since is a conflict: the sub-agent's version is laid beside, below `conflicts/ID/`. What a check
did not pass lies below `rejected/ID/`, all of it.

Threat: both trees are agents'. What is copied are contents of the run's store by their digests; where they go is found by descriptors,
component by component, through no link. The caller holds the parent's box still.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.checks import CheckVerdict
from gearcase.doors.files import DeliveredFile, discard
from gearcase.errors import GearcaseError, RunError
from gearcase.events import ResultsCopied
from gearcase.run.handover import Acceptance
from gearcase.run.outcomes import MOST_NAMED
from gearcase.run.workspace import Workspace
from gearcase.sandbox.beneath import explaining, hand_over, make_directory, open_directory, printable, replacing, split_path
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Entry, Manifest
from gearcase.sandbox.threads import in_thread
from gearcase.sandbox.trees import Cursor
from gearcase.seams import Recorder

CONFLICTS, REJECTED = b"conflicts", b"rejected"


@dataclass(frozen=True, slots=True)
class Made:
    """A file that comes back: its path in the sub-agent's files, the digest under which the store keeps it, whether it is a program."""

    path: bytes
    digest: str
    executable: bool


@dataclass(slots=True)
class Returned:
    """What became of each. Paths are printable, in the parent's files."""

    copied: list[str] = field(default_factory=list[str])
    same: int = 0
    conflicts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # a path, and where the other version lies
    refused: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # a path, and why


def keep(staging: Path, files: Sequence[DeliveredFile], store: BlobStore) -> list[Made]:
    """Put staged files into the store. `staging` is the host's own. Raises RunError `disk_full`, `tree_changed`."""
    folder = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made: list[Made] = []
        for file in files:
            with explaining(file.path, "keeping"):
                descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    digest = store.put(descriptor, file.size)
                finally:
                    os.close(descriptor)
            made.append(Made(file.path, digest, bool(file.mode & stat.S_IXUSR)))
        return made
    finally:
        os.close(folder)


@dataclass(slots=True)
class Laying:
    """One return. `forked`: the sub-agent's files at its start, `before`: its parent's at that moment; `into`: a folder of the parent's.

    With `rejected` all is laid beside.
    """

    agent: str
    forked: Manifest
    before: Manifest
    store: BlobStore
    owner: tuple[int, int]
    into: bytes = b""
    rejected: bool = False
    returned: Returned = field(default_factory=Returned)

    def lay(self, root: int, now: Manifest, files: Sequence[Made]) -> Returned:
        """Copy into the files below `root`, which hold `now`. Where the disk is full the rest is refused, each with that reason."""
        full = ""
        for file in files:
            target = b"/".join(part for part in (self.into, file.path) if part)
            if full:
                self.returned.refused.append((printable(target), full))
                continue
            try:
                self._one(root, now, file, target)
            except RunError as error:
                self.returned.refused.append((printable(target), error.message))
                full = error.message if error.code == "disk_full" else ""
        return self.returned

    def _one(self, root: int, now: Manifest, file: Made, target: bytes) -> None:
        start, present = self.forked.find(file.path), now.find(target)
        if not self.rejected:
            if _is(present, file) or (not self.into and _is(start, file)):
                self.returned.same += 1
                return
            untouched = _same(present, self.before.find(target)) and (present is None or present.kind in ("file", "link"))
            if untouched and self._put(root, file, target):
                self.returned.copied.append(printable(target))
                return
        elif _is(start, file):
            return  # it was given so, and was not judged
        aside = b"/".join((REJECTED if self.rejected else CONFLICTS, self.agent.encode(), target))
        if now.find(aside) is not None or not self._put(root, file, aside):
            self.returned.refused.append((printable(target), f"{printable(aside)} is in the way"))
        else:
            self.returned.conflicts.append((printable(target), printable(aside)))

    def _put(self, root: int, file: Made, path: bytes) -> bool:
        """Write one file; False where something that is no folder is in its way. Raises RunError `disk_full`."""
        *folders, name = split_path(path)
        with explaining(path, "returning"), Cursor(root, need=0o700) as cursor:
            for folder in folders:
                with suppress(FileExistsError):
                    make_directory(cursor.fd, folder, 0o755, self.owner)
                if not _is_folder(cursor, folder):
                    return False
                cursor.enter(folder)
            if _is_folder(cursor, name):
                return False
            with replacing(cursor.fd, name) as descriptor:
                self.store.copy_to(file.digest, descriptor)
                hand_over(descriptor, 0o755 if file.executable else 0o644, self.owner)
        return True


def _is_folder(cursor: Cursor, name: bytes) -> bool:
    """Whether it is a folder of this very file system; a link to one is none."""
    with suppress(OSError):
        descriptor, _ = open_directory(cursor.fd, name, 0)
        os.close(descriptor)
        return True
    return False


def _is(entry: Entry | None, file: Made) -> bool:
    """Whether a path holds this file already."""
    if entry is None or entry.kind != "file":
        return False
    return entry.digest == file.digest and bool(entry.mode & stat.S_IXUSR) == file.executable


def _same(present: Entry | None, before: Entry | None) -> bool:
    if present is None or before is None:
        return present is before
    return present.same(before)


async def hand_back(
    acceptance: Acceptance, staging: Path, laying: Laying, workspace: Workspace, parent: str, recorder: Recorder
) -> tuple[Returned, CheckVerdict | None]:
    """Copy an agent's deliverables out, have them checked, lay them into its parent's workspace; on record.

    Returns what came back, and what its check said (None without one). What the parent's box cannot take is refused in the result.
    """
    try:
        delivery = await acceptance.stage(staging)
        verdicts = await acceptance.final(staging, delivery)
        made = await in_thread(keep, staging, delivery.files, laying.store)
    finally:
        if staging.exists():
            await in_thread(discard, staging)
    verdict = verdicts[0] if verdicts else None
    laying.rejected = verdict is not None and verdict.verdict != "passed"
    try:
        returned = await workspace.change(lambda root, now: laying.lay(root, now, made))
    except GearcaseError as error:
        returned = laying.returned
        returned.refused.append(("the rest", f"{error.message}; {error.remedy}"))
    returned.refused += [(printable(one.path), one.reason) for one in delivery.refused[:MOST_NAMED]]
    event = ResultsCopied(
        parent=parent,
        count=len(returned.copied),
        beside=len(returned.conflicts),
        copied=returned.copied[:MOST_NAMED],
        conflicts=[{"path": path, "beside": beside} for path, beside in returned.conflicts[:MOST_NAMED]],
        refused=[{"path": path, "reason": why} for path, why in returned.refused[:MOST_NAMED]],
    )
    recorder.append(event, laying.agent)
    return returned, verdict
