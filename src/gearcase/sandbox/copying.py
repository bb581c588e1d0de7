"""Copy a file or folder of the host into a sandbox's tree.

Invariants: the original is only read, never touched (no mode is widened to read it). The copy belongs to the box's user and keeps
times and modes, but for set-id bits and folders that their owner could not use. When anything goes wrong nothing of it stays.

Threat: a socket, FIFO or device in a given tree would be a line out of the box, so such a tree is refused with the path. Mounts
below it are not followed. A link that is absolute or leads out of the given tree would be dangling or mean something else inside:
it is left out and reported. Only /usr is the same inside, so that a virtual environment finds its Python. A database file is copied
with the files that belong to it, as they were at one moment (`databases`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.errors import GearcaseError, UsageError
from gearcase.sandbox.beneath import (
    CREATE,
    HANDLE,
    explain,
    explaining,
    hand_over,
    open_beneath,
    open_file,
    pinned,
    printable,
    shown,
    tree_changed,
)
from gearcase.sandbox.content import ContentChanged, copy_content, send_content
from gearcase.sandbox.databases import Kind, Moment, goes_with, kind_of, moments
from gearcase.sandbox.trees import MAX_ENTRIES, Cursor, Step, remove_tree, walk

_BLOCK = 4096
_SPECIAL = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A path that stayed behind, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Copied:
    """What came in: counts, bytes, what was left out with its path from the given folder on, and names that came along."""

    files: int
    size: int
    left_out: tuple[Refusal, ...]
    along: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Weight:
    """What would come in: regular files and their bytes, all entries, and bytes on a disk (blocks are whole, holes cost nothing)."""

    files: int = 0
    size: int = 0
    entries: int = 0
    disk: int = 0

    def add(self, status: os.stat_result) -> None:
        """Take one entry into it."""
        self.entries += 1
        if stat.S_ISREG(status.st_mode):
            self.files += 1
            self.size += status.st_size
            self.disk += min(-(-status.st_size // _BLOCK) * _BLOCK, status.st_blocks * 512)
        else:
            self.disk += _BLOCK


def weigh(source: Path, whole: Weight, limit: int = MAX_ENTRIES, outside: Callable[[bytes], str] | None = None) -> None:
    """Add what `copy_in` would copy of a file or folder to `whole`. Raises RunError, Refused as `copy_in` does."""
    leave_out = outside or everything
    with explaining(os.fsencode(source), "opening"):
        handle = os.open(source, os.O_PATH | os.O_CLOEXEC)
        try:
            found = os.fstat(handle)
            whole.add(found)
            if not stat.S_ISDIR(found.st_mode):
                return
            with Cursor(handle) as cursor:
                for step in walk(cursor, lambda name: not leave_out(cursor.below(name)), limit=limit):
                    if step.happening == "enter" or (step.happening == "entry" and not leave_out(cursor.below(step.name))):
                        whole.add(step.status)
        finally:
            os.close(handle)


def everything(path: bytes) -> str:
    """No path stays outside."""
    return ""


def copy_in(
    source: Path,
    root: int,
    name: bytes,
    owner: tuple[int, int],
    limit: int = MAX_ENTRIES,
    outside: Callable[[bytes], str] = everything,
    copied: Callable[[int], None] | None = None,
) -> Copied:
    """Copy the file or folder `source` to `name` below the descriptor `root`.

    `outside` says of a path below a folder why it is left out; empty where it is copied. `copied` is told each file's bytes.

    Raises UsageError `not_given` (a special file, a taken name), Refused `too_many_files`, RunError for what the disk says.
    """
    with explaining(os.fsencode(source), "opening"):
        handle = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        if _exists(root, name):
            raise UsageError(
                "not_given",
                f"two things that are given are both called {shown(name)}",
                remedy="rename one of them, or give a folder that holds both",
            )
        copying = _Copy(source, owner, outside, copied)
        with _whole(root, name):
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                copying.folder(handle, root, name, found, limit)
            elif stat.S_ISREG(found.st_mode):
                copying.single(handle, root, name, found)
            else:
                raise _special(os.fsencode(source), found)
    finally:
        os.close(handle)
    return Copied(copying.files, copying.size, tuple(copying.left_out), tuple(copying.beside))


@contextmanager
def _whole(root: int, name: bytes) -> Generator[None]:
    try:
        yield
    except BaseException:
        remove_tree(root, name)
        raise


@dataclass(slots=True)
class _Copy:
    source: Path
    owner: tuple[int, int]
    outside: Callable[[bytes], str]
    copied: Callable[[int], None] | None = None
    files: int = 0
    size: int = 0
    left_out: list[Refusal] = field(default_factory=list[Refusal])
    beside: list[bytes] = field(default_factory=list[bytes])  # of a single file, what came along under names of its own
    _along: set[bytes] = field(default_factory=set[bytes])  # paths that came, or stay away, with the database that they belong to

    def single(self, handle: int, root: int, name: bytes, found: os.stat_result) -> None:
        path = os.fsencode(self.source)
        with explaining(path, "reading"):
            descriptor = os.open(pinned(handle), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with explaining(path, "reading"):
                kind = kind_of(descriptor)
            if kind is None:
                self._file(descriptor, root, name, found, path)
                return
            real = os.fsencode(os.path.realpath(self.source))  # where a program that follows the link has its other files
            with explaining(path, "opening"):
                folder = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.beside = self._database(kind, folder, os.path.basename(real), descriptor, root, name, path)
            finally:
                os.close(folder)
        finally:
            os.close(descriptor)

    def folder(self, handle: int, root: int, name: bytes, found: os.stat_result, limit: int) -> None:
        with Cursor(root, need=0o700) as target, self._opened(handle) as source:
            self._make(target, name)
            for step in walk(source, lambda name: self._enters(source, name), limit=limit):
                self._step(source, target, step)
            self._finish(target, found)

    @contextmanager
    def _opened(self, handle: int) -> Generator[Cursor]:
        with explaining(os.fsencode(self.source), "opening"):
            cursor = Cursor(handle)
        with cursor:
            yield cursor

    def _enters(self, source: Cursor, name: bytes) -> bool:
        """Whether something is copied; what stays outside is noted."""
        path = source.below(name)
        if reason := self.outside(path):
            self.left_out.append(Refusal(path, reason))
        return not reason

    def _step(self, source: Cursor, target: Cursor, step: Step) -> None:
        if step.happening == "entry" and (source.below(step.name) in self._along or not self._enters(source, step.name)):
            return
        if step.happening == "enter":
            self._make(target, step.name)
        elif step.happening == "leave":
            self._finish(target, step.status)
        elif step.happening == "mount":
            self.left_out.append(Refusal(source.below(step.name), "a mount: give what is mounted there by itself"))
        elif stat.S_ISLNK(step.status.st_mode):
            self._link(source, target, step)
        elif stat.S_ISREG(step.status.st_mode):
            self._open_and_copy(source, target, step)
        else:
            raise _special(os.path.join(os.fsencode(self.source), source.below(step.name)), step.status)

    def _make(self, target: Cursor, name: bytes) -> None:
        with explaining(lambda: target.below(name), "copying"):
            os.mkdir(name, 0o700, dir_fd=target.fd)
            target.enter(name)

    def _finish(self, target: Cursor, status: os.stat_result) -> None:
        with explaining(lambda: target.path, "copying"):
            hand_over(target.fd, status.st_mode | 0o700, self.owner)
            os.utime(target.fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
            target.leave()

    def _open_and_copy(self, source: Cursor, target: Cursor, step: Step) -> None:
        try:
            descriptor = open_file(source.fd, step.name, step.status, widen=False)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self.left_out.append(Refusal(source.below(step.name), "a mount: give what is mounted there by itself"))
                return
            raise explain(error, os.path.join(os.fsencode(self.source), source.below(step.name)), "reading") from error
        path = source.below(step.name)
        try:
            with explaining(path, "reading"):
                kind = kind_of(descriptor) if step.status.st_size else None
            if kind is None:
                self._file(descriptor, target.fd, step.name, step.status, path)
            else:
                self._database(kind, source.fd, step.name, descriptor, target.fd, step.name, path)
                self._along.update(source.below(one) for one in goes_with(step.name, kind))
        finally:
            os.close(descriptor)

    def _database(
        self, kind: Kind, source: int, name: bytes, descriptor: int, directory: int, target: bytes, path: bytes
    ) -> list[bytes]:
        """All files of a database, of one moment, as `target` in a directory, and what goes with it: the names of these."""
        with explaining(path, "copying"):
            for moment in moments(source, name, descriptor, kind, path):
                with moment:
                    names = [target + part.name.removeprefix(name) for part in moment.parts]
                    if self._parts(moment, directory, names):
                        for part in moment.parts:
                            self._count(part.size)
                        return names[1:]
        raise AssertionError("moments end with an error")

    def _parts(self, moment: Moment, directory: int, names: list[bytes]) -> bool:
        """Copy them; what is not of one moment is removed again."""
        held = False
        try:
            for part, name in zip(moment.parts, names, strict=True):
                self._write(part.descriptor, directory, name, part.status, grows=True)
            held = moment.held()
        except ContentChanged:
            held = False
        finally:
            if not held:
                for name in names:
                    remove_tree(directory, name)
        return held

    def _file(self, descriptor: int, directory: int, name: bytes, status: os.stat_result, path: bytes) -> None:
        with explaining(path, "copying"):
            try:
                self._write(descriptor, directory, name, status)
            except ContentChanged:
                raise tree_changed(path) from None
        self._count(status.st_size)

    def _write(self, descriptor: int, directory: int, name: bytes, status: os.stat_result, *, grows: bool = False) -> None:
        """Raises ContentChanged, OSError."""
        copy = open_beneath(directory, name, CREATE, 0o600)
        try:
            if grows:
                copy_content(descriptor, copy, status.st_size, grows=True)
            else:
                send_content(descriptor, copy, status.st_size)
            hand_over(copy, status.st_mode, self.owner)
            os.utime(copy, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(copy)

    def _count(self, size: int) -> None:
        self.files += 1
        self.size += size
        if self.copied is not None:
            self.copied(size)

    def _link(self, source: Cursor, target: Cursor, step: Step) -> None:
        with explaining(lambda: source.below(step.name), "copying"):
            leads_to = os.readlink(step.name, dir_fd=source.fd)
            if not (stays_inside(source.depth, leads_to) or _is_system(leads_to)):
                reason = f"a link out of what is given, to {printable(leads_to)}"
                self.left_out.append(Refusal(source.below(step.name), reason))
                return
            os.symlink(leads_to, step.name, dir_fd=target.fd)
            os.chown(step.name, *self.owner, dir_fd=target.fd, follow_symlinks=False)
            times = (step.status.st_mtime_ns, step.status.st_mtime_ns)
            os.utime(step.name, ns=times, dir_fd=target.fd, follow_symlinks=False)


def _is_system(target: bytes) -> bool:
    """Whether a link leads, by its text, to a file of /usr, which a box sees as it is here."""
    return target.startswith(b"/usr/") and b".." not in target.split(b"/")


def stays_inside(depth: int, target: bytes) -> bool:
    """Whether a link that stands `depth` folders below a root is relative and, by its text, never climbs above it."""
    if target.startswith(b"/"):
        return False
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return False
    return True


def _exists(root: int, name: bytes) -> bool:
    try:
        os.close(open_beneath(root, name, HANDLE))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV):
            raise explain(error, name, "opening") from error
    return True


def _special(path: bytes, status: os.stat_result) -> GearcaseError:
    what = _SPECIAL.get(stat.S_IFMT(status.st_mode), "no file or folder")
    return UsageError(
        "not_given",
        f"{shown(path)} is {what}: what is given holds files, folders and links only",
        remedy=f"remove {shown(path)}, or give only the folders that you mean",
        path=shown(path),
    )
