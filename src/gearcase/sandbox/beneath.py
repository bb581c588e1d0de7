"""One path component at a time below a directory descriptor: the only way host code opens what an agent controls.

Invariants: no link is followed, no mount is crossed, nothing but a regular file is opened for reading and nothing blocks; what
the kernel says becomes an error that names the path and what to do. Paths are bytes; `printable` shows them.

Threat: between looking at a name and opening it the agent may put a link, FIFO, device or socket there, or a mode that locks us
out.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import secrets
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from gearcase.errors import GearcaseError, Refused, RunError

_BASE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _BASE
HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | _BASE
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BASE

_OPENAT2 = 437
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH


# --- names and errors ------------------------------------------------------------------------------------------------------


def printable(path: bytes) -> str:
    """A path as unambiguous text that is safe on a terminal and in JSON: what is not printable UTF-8 becomes `\\xNN`."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def shown(path: bytes) -> str:
    """`printable`, shortened for a message."""
    text = printable(path) or "."
    return text if len(text) <= 300 else f"{text[:200]}[... {len(text) - 280} characters ...]{text[-80:]}"


def tree_changed(path: bytes) -> RunError:
    """Someone moved or replaced what we were walking through."""
    return RunError(
        "tree_changed",
        f"the tree changed while it was read, at {shown(path)}",
        remedy="freeze the box (gearcase freeze) and try again",
        path=shown(path),
    )


def explain(error: OSError, path: bytes, doing: str) -> GearcaseError:
    """The error that a user sees for what the kernel said about one path."""
    name, reason = shown(path), os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        code, remedy = "disk_full", "free space where it is written to, or raise the box's disk limit, and try again"
    elif error.errno in (errno.EACCES, errno.EPERM):
        code, remedy = "unreadable", f"make {name} accessible to the user that runs gearcase, or leave it out"
    elif error.errno in (errno.ENOENT, errno.ESTALE):
        code, remedy = "vanished", f"see that nothing removes {name} meanwhile, and try again"
    elif error.errno in (errno.ELOOP, errno.ENOTDIR):
        code, remedy = "tree_changed", "freeze the box (gearcase freeze) and try again"
    else:
        code, remedy = "file_failed", f"look at {name} and at the disk it is on, then try again"
    return RunError(code, f"{doing} {name}: {reason}", cause=reason, remedy=remedy, path=name)


@contextmanager
def explaining(path: bytes | Callable[[], bytes], doing: str) -> Generator[None]:
    """Turn an OSError of the block into the error that a user sees. A path that is costly to join is given as a function."""
    try:
        yield
    except OSError as error:
        raise explain(error, path if isinstance(path, bytes) else path(), doing) from error


def split_path(path: bytes) -> list[bytes]:
    """The components of a path below a root; raises Refused `bad_path` for one that is empty, absolute or has `..`."""
    parts = path.split(b"/")
    if not all(_is_component(part) for part in parts):
        raise Refused(
            "bad_path",
            f"{shown(path)} is not a path inside the tree",
            remedy="give a relative path without '.', '..', empty parts or NUL",
        )
    return parts


def _is_component(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


# --- opening one component -------------------------------------------------------------------------------------------------


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@functools.cache
def _syscall() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_long
    return function


def _openat2(directory: int, name: bytes, flags: int, mode: int) -> int:
    how = _How(flags, mode, _RESOLVE)
    while True:
        descriptor = _syscall()(_OPENAT2, directory, name, ctypes.addressof(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), name)


@functools.cache
def _has_openat2() -> bool:
    """Old kernels and some container filters do not know the call."""
    here = os.open("/", HANDLE | os.O_DIRECTORY)
    try:
        os.close(_openat2(here, b".", HANDLE | os.O_DIRECTORY, 0))
    except OSError:
        return False
    finally:
        os.close(here)
    return True


def open_beneath(directory: int, name: bytes, flags: int, mode: int = 0) -> int:
    """Open one component below a directory descriptor: no link is followed, no mount is crossed (OSError EXDEV).

    Without openat2 a mount is told by its device, which misses a bind mount of the same file system.
    """
    if not _is_component(name):
        raise Refused("bad_path", f"{shown(name)} is not one path component", remedy="open one component at a time")
    if _has_openat2():
        return _openat2(directory, name, flags, mode)
    descriptor = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode) and found.st_dev != os.fstat(directory).st_dev:
        os.close(descriptor)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return descriptor


def open_file(directory: int, name: bytes, expected: os.stat_result | None = None, *, widen: bool = True) -> int:
    """A regular file for reading, and no other thing; with `expected`, the very inode that was seen.

    `widen`: get past a mode that locks its own user out. Raises OSError ELOOP for what is not a regular file, or another by now.
    """
    try:
        descriptor = open_beneath(directory, name, _READ)
    except PermissionError:
        if not widen:
            raise
        descriptor = _open_locked(directory, name, os.O_RDONLY | os.O_NONBLOCK, 0o400)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (expected is not None and identity(found) != identity(expected)):
        os.close(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return descriptor


def _open_locked(directory: int, name: bytes, flags: int, need: int) -> int:
    """Open a file of our own user whose mode locks its owner out. The mode is as before when this returns."""
    handle = open_beneath(directory, name, HANDLE)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        os.chmod(pinned(handle), stat.S_IMODE(found.st_mode) | need)
        try:
            return os.open(pinned(handle), flags | os.O_CLOEXEC | os.O_NOCTTY)
        finally:
            os.chmod(pinned(handle), stat.S_IMODE(found.st_mode))
    finally:
        os.close(handle)


def pinned(descriptor: int) -> str:
    """A path that is the opened inode itself, whatever its name leads to by now."""
    return f"/proc/self/fd/{descriptor}"


def identity(status: os.stat_result) -> tuple[int, int]:
    """Device and inode."""
    return status.st_dev, status.st_ino


def list_names(directory: int, limit: int = 0) -> list[bytes]:
    """Names in a directory, sorted by their bytes. Raises Refused `too_many_files` above `limit` (0: no limit)."""
    names: list[bytes] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            names.append(os.fsencode(entry.name))
            if limit and len(names) > limit:
                raise too_many(limit)
    names.sort()
    return names


def too_many(limit: int) -> Refused:
    """The tree has more entries than host code is ready to look at."""
    return Refused(
        "too_many_files",
        f"the tree holds more than {limit:,} files and folders",
        remedy="have it pack or remove files, or give a smaller tree",
        limit=limit,
    )


def open_directory(parent: int, name: bytes, need: int) -> tuple[int, int]:
    """A directory below `parent` and the mode to put back (-1: none was changed)."""
    if not need:
        return open_beneath(parent, name, DIRECTORY), -1
    handle = open_beneath(parent, name, HANDLE | os.O_DIRECTORY)
    try:
        found = os.fstat(handle)
        mode = stat.S_IMODE(found.st_mode)
        if mode & need == need or found.st_uid != os.geteuid():
            return os.open(b".", DIRECTORY, dir_fd=handle), -1
        os.chmod(pinned(handle), mode | need)
        return os.open(b".", DIRECTORY, dir_fd=handle), mode
    finally:
        os.close(handle)


# --- making ----------------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(directory: int, name: bytes, mode: int = 0o600) -> Generator[int]:
    """A new file under a name of its own, which takes the place of `name` when the block ends well and goes when it does not."""
    temporary = b".gearcase-" + secrets.token_hex(8).encode()
    descriptor = open_beneath(directory, temporary, CREATE, mode)
    try:
        yield descriptor
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def make_directory(parent: int, name: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """A new directory with owner and mode set on itself, not on its name. Raises FileExistsError."""
    os.mkdir(name, 0o700, dir_fd=parent)
    descriptor = open_beneath(parent, name, DIRECTORY)
    try:
        hand_over(descriptor, mode, owner)
    finally:
        os.close(descriptor)


def hand_over(descriptor: int, mode: int, owner: tuple[int, int] | None) -> None:
    """Give an opened file or directory its owner (None: as it is) and its mode, without set-id bits."""
    if owner is not None:
        found = os.fstat(descriptor)
        if (found.st_uid, found.st_gid) != owner:
            os.fchown(descriptor, *owner)
    os.fchmod(descriptor, mode & 0o1777)
