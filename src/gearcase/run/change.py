"""The change that a run made in the repository that was given to it, read from the run's folder after its end."""

from __future__ import annotations

import stat
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gearcase.doors.branches import Tracked, tracked
from gearcase.doors.changes import Changed, changed, stayed, told_by_rules
from gearcase.doors.files import Delivery
from gearcase.doors.flags import REASONS, flags
from gearcase.doors.patterns import Patterns
from gearcase.doors.repositories import Repository, recall, where_given
from gearcase.errors import GearcaseError, RunError, UsageError
from gearcase.journal import read
from gearcase.run.process import ending
from gearcase.run.record import EndRecord
from gearcase.runs import RunFolder, all_runs, find, write_atomically
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import Refusal

DELIVERED = frozenset({"accepted", "unverified", "exhausted"})
"""Endings whose files were delivered."""

_DELIVERY = "delivery.json"


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to look at before the change is used."""

    path: bytes
    flag: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """What changed (`files`), what did not come along (`left_out`), and how many changed files git ignores there."""

    folder: RunFolder
    record: EndRecord
    repository: Repository
    files: tuple[Changed, ...]
    left_out: tuple[Refusal, ...]
    ignored: int
    remarks: tuple[Remark, ...]

    @property
    def store(self) -> BlobStore:
        """Contents as they were given."""
        return BlobStore(self.folder.blobs)


def note_delivery(folder: RunFolder, delivery: Delivery) -> None:
    """Keep what was staged, with exact paths."""
    write_atomically(folder.path / _DELIVERY, delivery.to_json(""))


def noted_delivery(folder: Path) -> Delivery | None:
    """What was staged, all of it: a line of the journal has room for a thousand files. None where nothing was, or it cannot be read."""
    try:
        return Delivery.from_json((folder / _DELIVERY).read_bytes())
    except (OSError, GearcaseError):
        return None


def run_with_change(reference: str, here: Path) -> RunFolder:
    """The run that is meant where a change is looked for: without a name the latest one of the repository that `here` is in."""
    if not reference:
        of_this = (run for run in all_runs() if any(here.is_relative_to(path) for path in where_given(run.path)))
        if (latest := next(of_this, None)) is not None:
            return latest
    return find(reference)


def change_of(folder: RunFolder) -> Change:
    """The change of a run that ended.

    Raises UsageError `not_ended`, `no_repository`, `which_repository`, `nothing_handed_over`.
    """
    record = _ended(folder)
    repositories = recall(folder.path)
    if not repositories:
        remedy = "give the top folder of a work tree: gearcase run ... --give . (it holds .git)"
        raise UsageError("no_repository", f"no git repository was given to run {folder.name}", remedy=remedy)
    if len(repositories) > 1:
        names = ", ".join(printable(one.name) for one in repositories)
        remedy = f"take the files from {record.out or folder.delivered}; give one repository to a run"
        raise UsageError(
            "which_repository", f"{len(repositories)} repositories were given to run {folder.name}: {names}", remedy=remedy
        )
    try:
        delivery = Delivery.from_json((folder.path / _DELIVERY).read_bytes())
    except FileNotFoundError:
        raise UsageError(
            "nothing_handed_over",
            f"run {folder.name} ended before anything was taken from its box ({record.status})",
            remedy=f"see why: gearcase report {folder.name}; then run the goal again",
        ) from None
    take = tomllib.loads(folder.box_file.read_text()).get("files", {}).get("take", [])
    files, ignored = selected(repositories[0], delivery, folder.delivered, Patterns(take), BlobStore(folder.blobs), folder.path)
    left_out = tuple(stayed(repositories[0], delivery))
    return Change(folder, record, repositories[0], files, left_out, ignored, tuple(remarks(files, left_out, repositories[0])))


def selected(
    repository: Repository, delivery: Delivery, staging: Path, patterns: Patterns, store: BlobStore, near: Path
) -> tuple[tuple[Changed, ...], int]:
    """The changed files less those that git ignores and does not track, and how many these are.

    Where the repository is gone, what was given counts as tracked; without git nothing is ignored. `near` is where to work.
    """
    found = tuple(changed(repository, delivery, staging, patterns))
    try:
        ignored = told_by_rules(repository, store, [one.path for one in found]).ignored
    except GearcaseError:  # a delivery must not fail of it; `apply` asks again, and says what is wrong
        return found, 0
    known = _known(repository, near)
    kept = tuple(
        one for one in found if one.path not in ignored or (one.before is not None if known is None else one.path in known)
    )
    return kept, len(found) - len(kept)


def remarks(files: Sequence[Changed], left_out: Sequence[Refusal], repository: Repository) -> list[Remark]:
    """What deserves a look: what runs by itself, names that deceive, links, nested repositories."""
    found: list[Remark] = []
    links = {entry.path for entry in repository.start.entries if entry.kind == "link"}
    nested = {entry.parent.path for entry in repository.start.entries if entry.name == b".git" and entry.parent is not None}
    prefix = repository.name + b"/"
    for one in files:
        for flag in (*flags(one.path, _new_mode(one)), *_by_content(one)):
            found.append(Remark(one.path, flag, REASONS.get(flag, "look at it before you use it")))
        if prefix + one.path in links:
            found.append(Remark(one.path, "link", "was a link, and is a file now"))
        parents = [prefix + one.path[:place] for place, byte in enumerate(one.path) if byte == 0x2F]
        if any(parent in nested for parent in parents):
            found.append(
                Remark(one.path, "submodule", "lies in a repository of its own, which a branch of this one does not hold")
            )
    for refusal in left_out:
        flag = "link" if refusal.reason.startswith("a link") else "left out"
        found.append(Remark(refusal.path, flag, f"{refusal.reason}: it did not leave the box"))
    return found


def _by_content(one: Changed) -> tuple[str, ...]:
    """Flags that do not come from a name or a mode."""
    named = flags(one.path, 0o755)
    return tuple(flag for flag in one.after.flags if flag not in named) if one.after is not None else ()


def _new_mode(one: Changed) -> int:
    """Of a delivered file, in which the executable bit stands only where the agent set it."""
    if one.after is None:
        return 0
    was = one.before.mode if one.before else 0
    return one.after.mode & ~(was & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))


def _known(repository: Repository, near: Path) -> dict[bytes, Tracked] | None:
    try:
        with tempfile.TemporaryDirectory(prefix="git-", dir=near) as scratch:
            return tracked(repository, Path(scratch))
    except GearcaseError:  # `apply` says what is wrong with it; what changed can be told without it
        return None


def _ended(folder: RunFolder) -> EndRecord:
    """How the run ended. Raises UsageError `not_ended` while it goes on."""
    driven = folder.owner_pid()  # before the journal: a run that ends meanwhile is seen as ended
    try:
        ended = any(record.type == "run_ended" for record in read(folder.journal))
    except RunError:
        ended = False
    if driven and not ended:
        raise UsageError(
            "not_ended",
            f"run {folder.name} has not ended: its change is handed over at its end",
            remedy=f"watch it with `gearcase logs -f {folder.name}`, or end it with `gearcase kill {folder.name}`",
        )
    return ending(folder)
