"""The door for files: what is given goes in as a copy, what may leave comes out as a copy.

`give` copies host paths into the workspace and returns the manifest they make: the start that every later difference is seen
against. `take` copies what the box's patterns name into a staging folder, once, hashing what it writes. That copy is what checks
read and what `delivery.deliver` hands over, so delivered bytes = checked bytes = hashed bytes. A database that was open when the box
stood still leaves with its log beside it, whatever the patterns say of the log: without it rows would be missing.

Threat: deliverables are the agent's data. No link leaves and none is followed; no FIFO, socket, device; no set-id bit, owner,
extended attribute or time; sizes and counts are limited; what is refused is listed with its reason. What a host tool would run by
itself is delivered as data, and flagged. The caller freezes the box; a change that happens all the same is `tree_changed`, and
then nothing is staged.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gearcase.doors.flags import OPEN_DATABASE, PART_OF_DATABASE, flags
from gearcase.doors.giving import Progress, require_room
from gearcase.doors.patterns import Patterns, State
from gearcase.doors.repositories import is_git_name, is_repository, stays_outside
from gearcase.errors import RunError, UsageError
from gearcase.events import Giving
from gearcase.sandbox.beneath import (
    CREATE,
    explain,
    explaining,
    hand_over,
    open_beneath,
    open_file,
    printable,
    shown,
    tree_changed,
)
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.content import ContentChanged, copy_content
from gearcase.sandbox.copying import Refusal, Weight, copy_in, everything, weigh
from gearcase.sandbox.databases import goes_with, kind_of
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.snapshots import kind_of as kind_of_entry
from gearcase.sandbox.snapshots import scan
from gearcase.sandbox.trees import Cursor, Step, remove_tree, walk
from gearcase.units import format_bytes

MAX_FILES = 10_000
"""Most files of a delivery."""

MAX_PATH = 2048
"""Longest path that may leave, in bytes: with the folder it is put in it must stay usable by ordinary programs (4096)."""

NO_GIT = "git's own folder: hooks and configuration in it would run on this machine"
"""Why `.git` never leaves."""

FORMAT = "gearcase-delivery/1"

_MAX_REFUSED = 1000


def link_reason(target: bytes) -> str:
    """Why a link does not leave."""
    return f"a link, to {shown(target)}"


@dataclass(frozen=True, slots=True)
class Given:
    """What was given: its names below /workspace, counts, bytes, what was left out, and the manifest of the start."""

    names: tuple[bytes, ...]
    files: int
    size: int
    left_out: tuple[Refusal, ...]
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class DeliveredFile:
    """A file as it is staged. `digest` is the plain SHA-256, `mode` 0o644 or 0o755."""

    path: bytes
    digest: str
    size: int
    mode: int
    flags: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For the journal and people: plain JSON, the path printable."""
        return {
            "path": printable(self.path),
            "sha256": self.digest,
            "size": self.size,
            "mode": f"{self.mode:o}",
            "flags": list(self.flags),
        }


@dataclass(frozen=True, slots=True)
class Delivery:
    """What may leave, in the order of paths. `refused` is cut at 1,000; `refused_more` counts the rest. `total` is bytes."""

    files: tuple[DeliveredFile, ...] = ()
    refused: tuple[Refusal, ...] = ()
    refused_more: int = 0

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def manifest_digest(self) -> str:
        """SHA-256 of paths, modes, sizes and digests."""
        state = hashlib.sha256(b"gearcase delivery 1\n")
        for file in self.files:
            state.update(b"%d:%b\0%o %d %b\n" % (len(file.path), file.path, file.mode, file.size, file.digest.encode()))
        return state.hexdigest()

    def record(self) -> dict[str, Any]:
        """For the journal and people: plain JSON."""
        return {
            "files": [file.record() for file in self.files],
            "refused": [{"path": printable(refusal.path), "reason": refusal.reason} for refusal in self.refused],
            "refused_more": self.refused_more,
            "manifest": self.manifest_digest,
            "total": self.total,
        }

    def to_json(self, head: str) -> bytes:
        """The manifest that lies beside a delivery: exact paths (surrogate escapes) and the head of the journal it belongs to."""
        form = self.record()
        for row, file in zip(form["files"], self.files, strict=True):
            row["path"] = os.fsdecode(file.path)
        for row, refusal in zip(form["refused"], self.refused, strict=True):
            row["path"] = os.fsdecode(refusal.path)
        return json.dumps({"format": FORMAT, "journal_head": head, **form}, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Delivery:
        """Read `to_json`'s form. Raises RunError `bad_delivery` for anything else, an altered one included."""
        try:
            form = cast("dict[str, Any]", json.loads(data))
            files = [
                DeliveredFile(os.fsencode(row["path"]), row["sha256"], row["size"], int(row["mode"], 8), tuple(row["flags"]))
                for row in form["files"]
            ]
            refused = [Refusal(os.fsencode(row["path"]), row["reason"]) for row in form["refused"]]
            delivery = cls(tuple(files), tuple(refused), form["refused_more"])
            if form["format"] != FORMAT or form["manifest"] != delivery.manifest_digest:
                raise ValueError("its content does not match its digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                "bad_delivery",
                f"what was noted of a delivery cannot be read: {error}",
                remedy="take the files that were delivered; the run's folder is damaged or of another version of gearcase",
            ) from error
        return delivery


def give(
    sources: Sequence[Path], root: int, owner: tuple[int, int], store: BlobStore, tell: Callable[[Giving], None] | None = None
) -> Given:
    """Copy each host path to /workspace (the descriptor `root`) under its own name, and scan the result into `store`.

    `tell` hears how far it has come. Raises UsageError `not_given`, RunError `too_large` before anything is copied, `unreadable`,
    `vanished`, `disk_full`; then nothing of any source stays.
    """
    names: list[bytes] = []
    along: set[Path] = set()  # what came with the database that it belongs to
    left_out: list[Refusal] = []
    files = size = 0
    outside = {source: stays_outside if is_repository(source) else everything for source in sources}
    whole, progress = Weight(), Progress(tell) if tell else None
    for source in sources:
        weigh(source, whole, outside=outside[source])
    require_room(root, whole)
    if progress:
        progress.begin("copying", whole)
    try:
        for source in sorted(sources, key=_name_of):  # a database before what belongs to it
            name = _name_of(source)
            if source.resolve() in along:
                continue
            copied = copy_in(source, root, name, owner, outside=outside[source], copied=progress.one if progress else None)
            names += [name, *copied.along]
            along |= {source.resolve().with_name(os.fsdecode(one)) for one in copied.along}
            files, size = files + copied.files, size + copied.size
            left_out += [Refusal(name + b"/" + refusal.path, refusal.reason) for refusal in copied.left_out]
        if progress:
            progress.begin("keeping", whole)
        manifest = scan(root, store, seen=progress.one if progress else None)
    except BaseException:
        for name in names:
            remove_tree(root, name)
        raise
    return Given(tuple(names), files, size, tuple(left_out), manifest)


def _name_of(source: Path) -> bytes:
    name = os.fsencode(Path(os.path.normpath(source.absolute())).name)
    if not name:
        raise UsageError("not_given", f"{source} has no name of its own", remedy="give a folder below it")
    return name


def unasked_git(sources: Iterable[Path], patterns: Iterable[str]) -> frozenset[bytes]:
    """Where the `.git` of a given repository lies inside: that it stays there is no news, unless a pattern asks for it by name."""
    if any(".git" in pattern.split("/") for pattern in patterns):
        return frozenset()
    return frozenset(_name_of(source) + b"/.git" for source in sources if is_repository(source))


def take(
    root: int,
    patterns: Iterable[str],
    staging: Path,
    *,
    most_bytes: int,
    most_files: int = MAX_FILES,
    unasked: frozenset[bytes] = frozenset(),
) -> Delivery:
    """Copy what the patterns name from /workspace (the descriptor `root`) into the new folder `staging`.

    A file that is special, or does not fit into what is left of `most_bytes` and `most_files`, is refused by itself. Raises
    UsageError `bad_pattern`, RunError `staging_exists`, `tree_changed`, `unreadable`, `disk_full`; then nothing is staged.
    Git's folders never leave; those that are `unasked` for are no refusals.
    """
    taking = _Take(Patterns(patterns), most_bytes, most_files, unasked)
    with explaining(os.fsencode(staging), "making"):
        staging.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            staging.mkdir()
        except FileExistsError:
            raise RunError("staging_exists", f"{staging} is there already", remedy="take into a folder of its own") from None
        folder = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Cursor(root, need=0o500) as source, Cursor(folder) as target:
            os.fchmod(target.fd, 0o755)
            for step in walk(source, wanted=lambda name: taking.wants(source, name)):
                taking.take(source, target, step)
    except BaseException:
        discard(staging)
        raise
    finally:
        os.close(folder)
    return Delivery(tuple(sorted(taking.files, key=lambda file: file.path)), tuple(taking.refused), taking.refused_more)


def discard(staging: Path) -> None:
    """Remove a staging folder. Idempotent."""
    with explaining(os.fsencode(staging), "removing"):
        parent = os.open(staging.absolute().parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(parent, os.fsencode(staging.name))
    finally:
        os.close(parent)


@dataclass(slots=True)
class _Take:
    """The state of one take: where the patterns stand in each folder it is in, and what has come so far."""

    patterns: Patterns
    most_bytes: int
    most_files: int
    unasked: frozenset[bytes]
    files: list[DeliveredFile] = field(default_factory=list[DeliveredFile])
    refused: list[Refusal] = field(default_factory=list[Refusal])
    refused_more: int = 0
    _total: int = 0
    _along: dict[bytes, str] = field(
        default_factory=dict[bytes, str]
    )  # files of databases; why they do not leave, if they do not
    _states: list[State] = field(default_factory=list[State])
    _lengths: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        self._states.append(self.patterns.start)

    def wants(self, source: Cursor, name: bytes) -> bool:
        if not self.patterns.is_open(self.patterns.below(self._states[-1], name)):
            return False
        if is_git_name(name):
            if source.below(name) not in self.unasked:
                self._refuse(source.below(name), NO_GIT)
            return False
        if self._lengths[-1] + len(name) + 1 > MAX_PATH:
            self._refuse(source.below(name), f"its path is longer than {MAX_PATH} bytes")
            return False
        return True

    def take(self, source: Cursor, target: Cursor, step: Step) -> None:
        if step.happening == "enter":
            self._states.append(self.patterns.below(self._states[-1], step.name))
            self._lengths.append(self._lengths[-1] + len(step.name) + 1)
            self._make(target, step.name)
        elif step.happening == "leave":
            self._states.pop()
            self._lengths.pop()
            self._leave(target)
        elif step.happening == "mount":
            self._refuse(source.below(step.name), "a mount")
        elif (why := self._along.get(source.below(step.name))) is not None:
            if why and self.patterns.matches(self._states[-1], step.name):
                self._refuse(source.below(step.name), why)
        elif self.patterns.matches(self._states[-1], step.name) and source.below(step.name) not in self.unasked:
            reason = self._reason(source, step)
            if reason:
                self._refuse(source.below(step.name), reason)
            else:
                self._take(source, target, step)

    def _reason(self, source: Cursor, step: Step) -> str:
        """Why this one may not leave; empty when it may."""
        if is_git_name(step.name):
            return NO_GIT
        kind = kind_of_entry(step.status)
        if kind == "link":
            with explaining(lambda: source.below(step.name), "reading"):
                return link_reason(os.readlink(step.name, dir_fd=source.fd))
        if kind != "file":
            return f"a {kind}"
        if self._lengths[-1] + len(step.name) > MAX_PATH:
            return f"its path is longer than {MAX_PATH} bytes"
        return self._too_much([step])

    def _too_much(self, steps: Sequence[Step]) -> str:
        """Why so many files do not fit any more; empty when they do."""
        if len(self.files) + len(steps) > self.most_files:
            return f"more than {self.most_files:,} files"
        more = sum(step.status.st_size for step in steps)
        if self._total + more > self.most_bytes:
            size, most = format_bytes(more), format_bytes(self.most_bytes)
            return f"{size} more is too much: {format_bytes(self._total)} of at most {most} are taken"
        return ""

    def _refuse(self, path: bytes, reason: str) -> None:
        if len(self.refused) < _MAX_REFUSED:
            self.refused.append(Refusal(path, reason))
        else:
            self.refused_more += 1

    def _make(self, target: Cursor, name: bytes) -> None:
        with explaining(lambda: target.below(name), "staging"):
            os.mkdir(name, 0o700, dir_fd=target.fd)
            target.enter(name)
            os.fchmod(target.fd, 0o755)

    def _leave(self, target: Cursor) -> None:
        """A folder that nothing came from is not delivered."""
        with explaining(lambda: target.path, "staging"), os.scandir(target.fd) as entries:
            empty = next(entries, None) is None
        name = target.leave()
        if empty:
            with explaining(lambda: target.below(name), "staging"):
                os.rmdir(name, dir_fd=target.fd)

    def _take(self, source: Cursor, target: Cursor, step: Step) -> None:
        """A file, and what belongs to it where it is a database: all of it or nothing."""
        parts = self._parts(source, step)
        reason = self._too_much([step, *parts])
        if reason:
            self._refuse(source.below(step.name), reason)
        else:
            self._copy(source, target, step, OPEN_DATABASE if parts else "")
        for part in parts:
            path = source.below(part.name)
            self._along[path] = f"it belongs to {shown(step.name)}, which does not leave" if reason else ""
            if not reason:
                self._copy(source, target, part, PART_OF_DATABASE)

    def _parts(self, source: Cursor, step: Step) -> list[Step]:
        """What holds content of a database beside it. What its programs make anew is noted, and stays."""
        with explaining(lambda: source.below(step.name), "reading"):
            descriptor = open_file(source.fd, step.name, step.status)
            try:
                kind = kind_of(descriptor)
            finally:
                os.close(descriptor)
        found: list[Step] = []
        for name in goes_with(step.name, kind) if kind else ():
            with explaining(lambda name=name: source.below(name), "looking at"), suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=source.fd, follow_symlinks=False)
                if kind and name.endswith(kind.made_anew or (b"\0",)):
                    self._along[source.below(name)] = f"{kind.name} makes it anew"
                elif stat.S_ISREG(status.st_mode) and status.st_size:
                    found.append(Step("entry", name, status))
        return found

    def _copy(self, source: Cursor, target: Cursor, step: Step, flag: str = "") -> None:
        path = source.below(step.name)
        try:
            descriptor = open_file(source.fd, step.name, step.status)
        except OSError as error:
            raise explain(error, path, "reading") from error
        mode = 0o755 if step.status.st_mode & stat.S_IXUSR else 0o644
        size = step.status.st_size
        try:
            with explaining(path, "staging"):
                copy = open_beneath(target.fd, step.name, CREATE, 0o600)
                try:
                    digest = copy_content(descriptor, copy, size, plain=True)
                    hand_over(copy, mode, None)
                finally:
                    os.close(copy)
        except ContentChanged:
            raise tree_changed(path) from None
        finally:
            os.close(descriptor)
        self._total += size
        found = flags(path, step.status.st_mode) + ((flag,) if flag else ())
        self.files.append(DeliveredFile(path, digest, size, mode, found))
