"""The files of a server of ours that runs, copied while its sandbox stands still: for a branch of a branch, and for states to return to.

What is copied is what a crash would leave: every write that a server made, and none by halves, since nothing moves meanwhile and the
machine itself does not crash. The new server reads the log from the last checkpoint on, as after a crash: what was committed is there,
what was not is not. No statement runs anywhere to make the copy, so nothing that an agent defined can.

Threat: the server was taken over, and its files are of somebody's making. They are found by descriptors through no link, only regular
files are read, and what they cost is bounded by the disk of either sandbox. Settings and rules of who may connect are not among them.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Generator, Set
from contextlib import contextmanager
from pathlib import Path

from gearcase.doors.postgres.stopped import CONTROL, Control, is_needed, make_empty, outside
from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox.beneath import HANDLE, open_beneath, open_file, printable
from gearcase.sandbox.blobs import BlobStore, Keeps
from gearcase.sandbox.copying import copy_in
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.snapshots import restore, scan

_PAGE = struct.Struct("=HHIQ")
"""The beginning of each piece of a log: a magic number, flags, timeline, the place of its first byte in the log."""
_MOST_LOGS = 10_000
_DATA = b"data"


def copy_files(source: int, target: int, owner: tuple[int, int], database: str) -> int:
    """Copy `data` of one workspace to another's, for its owner; both are descriptors. Returns the bytes of a piece of its log.

    Raises RunError `door_failed`, and what the disk says.
    """
    with _data(source, database) as (folder, segment, logs):
        copied = copy_in(Path(f"/proc/self/fd/{folder}"), target, _DATA, owner, outside=lambda path: outside(path, logs))
        make_empty(target, owner)
    if missed := [one for one in copied.left_out if is_needed(one.reason)]:
        raise _unreadable(database, f"{os.fsdecode(missed[0].path)}: {missed[0].reason}")
    return segment


def look_at(source: int, keeps: Keeps, previous: Manifest, mapped: Set[int], database: str) -> tuple[Manifest, int]:
    """The files of `data` of a workspace, their contents kept as far as `keeps` keeps them; also the bytes of a piece of its log.

    `previous` and `mapped` are as `scan` says. Raises RunError `door_failed`, and what the disk says.
    """
    with _data(source, database) as (folder, segment, logs):
        files = scan(folder, keeps, previous, mapped=mapped, outside=lambda path: outside(path, logs))
    if odd := [one for one in files.entries if one.kind not in ("file", "directory")]:
        raise _unreadable(database, f"{printable(odd[0].path)} is a {odd[0].kind}")
    return files, segment


def lay(files: Manifest, store: BlobStore, target: int, owner: tuple[int, int]) -> None:
    """Make what was looked at the `data` of a fresh workspace. Raises RunError `blob_damaged`, and what the disk says."""
    os.mkdir(_DATA, 0o700, dir_fd=target)
    folder = open_beneath(target, _DATA, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchown(folder, *owner)
        restore(folder, files, store, owner, known=Manifest())
    finally:
        os.close(folder)
    make_empty(target, owner)


@contextmanager
def _data(source: int, database: str) -> Generator[tuple[int, int, frozenset[bytes]]]:
    """`data` of a workspace: its descriptor, the bytes of a piece of its log, and the pieces that are needed."""
    try:
        folder = open_beneath(source, _DATA, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            segment, logs = _logs(folder, Control.of(_read(folder, b"global", b"pg_control", CONTROL)))
            yield folder, segment, logs
        finally:
            os.close(folder)
    except (OSError, struct.error) as error:
        raise _unreadable(database, str(error)) from error
    except GearcaseError as error:
        if isinstance(error, RunError):
            raise
        raise _unreadable(database, error.message) from error


def _logs(folder: int, control: Control) -> tuple[int, frozenset[bytes]]:
    """The bytes of a piece of its log, and the pieces that a server reads on its start: those from the last checkpoint on.

    Beyond them lie pieces that are kept to be written anew. They hold what was at another place of the log.
    """
    within = open_beneath(folder, b"pg_wal", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = _names(within)
        size = max((os.stat(name, dir_fd=within, follow_symlinks=False).st_size for name in names), default=0)
        segment = size if size >= 1 << 20 and not size & (size - 1) else 1 << 20
        needed: set[bytes] = set()
        number = control.redo // segment
        while (name := control.log(segment, number)) in names and _begins_at(within, name) == number * segment:
            needed.add(name)
            number += 1
        return segment, frozenset(needed)
    finally:
        os.close(within)


def _names(folder: int) -> set[bytes]:
    with os.scandir(folder) as entries:
        return {os.fsencode(one.name) for one in itertools.islice(entries, _MOST_LOGS) if len(one.name) == 24}


def _begins_at(folder: int, name: bytes) -> int:
    descriptor = open_file(folder, name)
    try:
        return int(_PAGE.unpack(os.pread(descriptor, _PAGE.size, 0))[3])
    finally:
        os.close(descriptor)


def _read(folder: int, below: bytes, name: bytes, most: int) -> bytes:
    within = open_beneath(folder, below, HANDLE | os.O_DIRECTORY)
    try:
        descriptor = open_file(within, name)
        try:
            return os.pread(descriptor, most, 0)
        finally:
            os.close(descriptor)
    finally:
        os.close(within)


def _unreadable(database: str, cause: str) -> RunError:
    remedy = "go on without a branch of it: its server may have been taken over"
    return RunError("door_failed", f"the files of the database {database} cannot be copied", cause=cause, remedy=remedy)
