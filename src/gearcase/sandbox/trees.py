"""Trees that an agent controls, walked, measured and removed by host code without ever leaving them.

A `Cursor` holds one descriptor however deep it is; it goes down by one component (`beneath`) and up by "..", which it believes
only where device and inode are those that it came down through.

Threat: the agent may be at work while we walk. It swaps directories for links or moves them, plants FIFOs, devices and sockets
where a file was, makes names of any bytes, 10,000 levels, 10^6 entries, modes that lock us out. What it can reach is a wrong
picture of its own tree or the error `tree_changed`, never a read, a write or a removal outside. Where the host user is the box's
own user (not root), directory modes that lock us out are widened on the opened directory itself and put back when it is left.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from gearcase.errors import Refused, RunError
from gearcase.sandbox.beneath import (
    DIRECTORY,
    explain,
    explaining,
    hand_over,
    identity,
    list_names,
    make_directory,
    open_directory,
    open_file,
    pinned,
    replacing,
    shown,
    split_path,
    too_many,
    tree_changed,
)
from gearcase.sandbox.content import ContentChanged, read_exactly, write_all

MAX_ENTRIES = 1_000_000
"""Most entries of one tree that host code looks at."""

_PASSES = 100  # how often a removal starts again when the tree changes under it


# --- going down and up -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Level:
    name: bytes
    parent: tuple[int, int]
    mode: int  # to put back when it is left; -1: as it was


class Cursor:
    """A place in a tree: `fd` is the directory it is in. `need`: owner bits that every directory must have (0: leave modes)."""

    def __init__(self, root: int, need: int = 0) -> None:
        self._root = root
        self._need = 0 if os.geteuid() == 0 else need
        self._levels: list[_Level] = []
        self._root_mode = _widen(root, self._need)
        self.fd = os.open(b".", DIRECTORY, dir_fd=root)
        self._here = identity(os.fstat(self.fd))

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return len(self._levels)

    @property
    def path(self) -> bytes:
        """Where it is, relative to the root."""
        return b"/".join(level.name for level in self._levels)

    @property
    def name(self) -> bytes:
        """The name of the current directory; empty at the root."""
        return self._levels[-1].name if self._levels else b""

    def below(self, name: bytes) -> bytes:
        """The path of an entry of the current directory."""
        return b"/".join([*(level.name for level in self._levels), name])

    def enter(self, name: bytes, expected: os.stat_result | None = None) -> None:
        """Go down one level. Raises OSError (ENOTDIR, ELOOP: no directory, or not the expected one; EXDEV: a mount)."""
        descriptor, mode = open_directory(self.fd, name, self._need)
        found = identity(os.fstat(descriptor))
        if expected is not None and found != identity(expected):
            os.close(descriptor)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        self._levels.append(_Level(name, self._here, mode))
        os.close(self.fd)
        self.fd, self._here = descriptor, found

    def leave(self) -> bytes:
        """Go up one level; returns the name of what was left. Raises RunError `tree_changed` when the way back is gone."""
        level = self._levels.pop()
        try:
            above = self._above(level)
        finally:
            if level.mode >= 0:
                os.fchmod(self.fd, level.mode)
        os.close(self.fd)
        self.fd, self._here = above, level.parent
        return level.name

    def _above(self, level: _Level) -> int:
        try:
            above = os.open(b"..", DIRECTORY, dir_fd=self.fd)
        except OSError:
            return self._again(level)
        if identity(os.fstat(above)) == level.parent:
            return above
        os.close(above)  # it was moved: what is above it now is none of our business
        return self._again(level)

    def _again(self, level: _Level) -> int:
        """The parent of `level`, found again from the root by the names and inodes we came down through."""
        descriptor = os.open(b".", DIRECTORY, dir_fd=self._root)
        wanted = [*(lower.parent for lower in self._levels), level.parent][1:]
        try:
            for lower, inode in zip(self._levels, wanted, strict=True):
                below, _ = open_directory(descriptor, lower.name, self._need)
                os.close(descriptor)
                descriptor = below
                if identity(os.fstat(descriptor)) != inode:
                    raise tree_changed(self.path)
        except (OSError, RunError) as error:
            os.close(descriptor)
            raise tree_changed(self.path) from error
        return descriptor

    def close(self) -> None:
        """Put back the modes of directories that were not left, let go of the descriptor."""
        if self.fd < 0:
            return
        with suppress(OSError, RunError):
            while any(level.mode >= 0 for level in self._levels):
                self.leave()
        os.close(self.fd)
        self.fd = -1
        if self._root_mode >= 0:
            os.chmod(pinned(self._root), self._root_mode)


def _widen(root: int, need: int) -> int:
    """Give a root directory of our own user the owner bits it needs; returns the mode to put back, -1 where nothing changed."""
    found = os.fstat(root)
    mode = stat.S_IMODE(found.st_mode)
    if mode & need == need or found.st_uid != os.geteuid():
        return -1
    os.chmod(pinned(root), mode | need)
    return mode


# --- walking ---------------------------------------------------------------------------------------------------------------

Happening = Literal["entry", "enter", "leave", "mount"]


@dataclass(frozen=True, slots=True)
class Step:
    """One happening of a walk. At `enter` and `leave` the cursor is inside the directory that is named."""

    happening: Happening
    name: bytes
    status: os.stat_result


def walk(cursor: Cursor, wanted: Callable[[bytes], bool] | None = None, limit: int = MAX_ENTRIES) -> Iterator[Step]:
    """Every entry below the cursor in the order of the bytes of names, a directory before what it holds.

    `wanted` says whether a directory of that name is entered (others are not reported). What vanishes between list and look was
    not there. Raises Refused `too_many_files`, RunError `tree_changed` or `unreadable`.
    """
    base, seen = cursor.depth, 0
    pending = [iter(_listed(cursor, limit))]
    statuses: list[os.stat_result] = []
    while pending:
        name = next(pending[-1], None)
        if name is None:
            pending.pop()
            if cursor.depth > base:
                yield Step("leave", cursor.name, statuses.pop())
                cursor.leave()
            continue
        status = _look(cursor, name)
        if status is None:
            continue
        seen += 1
        if seen > limit:
            raise too_many(limit)
        if not stat.S_ISDIR(status.st_mode):
            yield Step("entry", name, status)
        elif wanted is None or wanted(name):
            if not _enter(cursor, name, status):
                yield Step("mount", name, status)
                continue
            pending.append(iter(_listed(cursor, limit)))
            statuses.append(status)
            yield Step("enter", name, status)


def _listed(cursor: Cursor, limit: int) -> list[bytes]:
    with explaining(lambda: cursor.path, "listing"):
        return list_names(cursor.fd, limit)


def _look(cursor: Cursor, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=cursor.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, cursor.below(name), "looking at") from error


def _enter(cursor: Cursor, name: bytes, status: os.stat_result) -> bool:
    """Go into a directory that was seen; False for a mount."""
    try:
        cursor.enter(name, status)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        if error.errno == errno.ENOENT:
            raise tree_changed(cursor.below(name)) from error
        raise explain(error, cursor.below(name), "opening") from error
    return True


@dataclass(frozen=True, slots=True)
class Totals:
    """What a tree holds. `size` is what files claim, `stored` what they take on the disk, in bytes."""

    files: int
    directories: int
    others: int
    size: int
    stored: int


def measure(root: int, limit: int = MAX_ENTRIES) -> Totals:
    """Count a tree. Raises Refused `too_many_files` above `limit` entries."""
    files = directories = others = size = stored = 0
    with Cursor(root, need=0o500) as cursor:
        for step in walk(cursor, limit=limit):
            if step.happening == "leave":
                continue
            stored += step.status.st_blocks * 512
            if stat.S_ISREG(step.status.st_mode):
                files += 1
                size += step.status.st_size
            elif stat.S_ISDIR(step.status.st_mode):
                directories += 1
            else:
                others += 1
    return Totals(files, directories, others, size, stored)


# --- one file --------------------------------------------------------------------------------------------------------------


def read_file(root: int, path: bytes, limit: int) -> bytes:
    """The content of one regular file. Raises Refused `too_large` above `limit` bytes, RunError for what cannot be read."""
    *folders, name = split_path(path)
    with explaining(path, "reading"), Cursor(root, need=0o500) as cursor:
        for folder in folders:
            cursor.enter(folder)
        descriptor = open_file(cursor.fd, name)
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise Refused(
                    "too_large",
                    f"{shown(path)} has {size:,} bytes, more than the {limit:,} that are read",
                    remedy="make the file smaller, or split it",
                    path=shown(path),
                )
            return read_exactly(descriptor, size, 0)
        except ContentChanged:
            raise tree_changed(path) from None
        finally:
            os.close(descriptor)


def write_file(root: int, path: bytes, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Put a file at `path` in one step, replacing a file or link of that name; folders on the way are made.

    Raises RunError, and then nothing has changed but folders on the way.
    """
    *folders, name = split_path(path)
    with explaining(path, "writing"), Cursor(root, need=0o700) as cursor:
        for folder in folders:
            with suppress(FileExistsError):
                make_directory(cursor.fd, folder, 0o755, owner)
            cursor.enter(folder)
        with replacing(cursor.fd, name) as descriptor:
            write_all(descriptor, data)
            hand_over(descriptor, mode, owner)


# --- removal ---------------------------------------------------------------------------------------------------------------


def remove_tree(parent: int, name: bytes) -> None:
    """Remove whatever has this name, down to the last entry; nothing to do when it is not there.

    Raises RunError `not_removed` when something always comes back or the kernel refuses.
    """
    for _ in range(_PASSES):
        with explaining(name, "removing"):
            if _unlink(parent, name):
                return
            try:
                descriptor, _ = open_directory(parent, name, 0 if os.geteuid() == 0 else 0o700)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # it was swapped: look again
                raise
        try:
            remove_contents(descriptor)
        finally:
            os.close(descriptor)
        with suppress(OSError):
            os.rmdir(name, dir_fd=parent)
    raise _not_removed(name)


def remove_contents(root: int) -> None:
    """Remove every entry of a directory, to any depth, without following a link. Raises RunError `not_removed`."""
    for _ in range(_PASSES):
        with explaining(b"", "removing"), suppress(RunError), Cursor(root, need=0o700) as cursor:
            if not list_names(cursor.fd):
                return
            _empty(cursor)
    raise _not_removed(b"")


def _empty(cursor: Cursor) -> None:
    """One pass; what changes under it is left to the next."""
    pending = [list_names(cursor.fd)]
    while pending:
        if not pending[-1]:
            pending.pop()
            if cursor.depth:
                name = cursor.leave()
                with suppress(OSError):
                    os.rmdir(name, dir_fd=cursor.fd)
            continue
        name = pending[-1].pop()
        if not _unlink(cursor.fd, name):
            with suppress(OSError):
                cursor.enter(name)
                pending.append(list_names(cursor.fd))


def _unlink(parent: int, name: bytes) -> bool:
    """True when no entry of that name is left; False for a directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    except PermissionError:
        # EPERM is also what some file systems say of a directory
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            raise
        return False
    return True


def _not_removed(name: bytes) -> RunError:
    return RunError(
        "not_removed",
        f"{shown(name)} could not be removed: it is a mount, or something keeps putting files back",
        remedy="stop what writes there, unmount what is mounted there, then remove the folder",
        path=shown(name),
    )
