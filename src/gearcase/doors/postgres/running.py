"""A branch of a branch: the files of a server of ours that runs, copied while its sandbox stands still.

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
from pathlib import Path

from gearcase.doors.postgres.stopped import CONTROL, Control, is_needed, make_empty, outside
from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox.beneath import HANDLE, open_beneath, open_file
from gearcase.sandbox.copying import copy_in

_PAGE = struct.Struct("=HHIQ")
"""The beginning of each piece of a log: a magic number, flags, timeline, the place of its first byte in the log."""
_MOST_LOGS = 10_000
_DATA = b"data"


def copy_files(source: int, target: int, owner: tuple[int, int], database: str) -> int:
    """Copy `data` of one workspace to another's, for its owner; both are descriptors. Returns the bytes of a piece of its log.

    Raises RunError `door_failed`, and what the disk says.
    """
    try:
        folder = open_beneath(source, _DATA, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            control = Control.of(_read(folder, b"global", b"pg_control", CONTROL))
            segment, logs = _logs(folder, control)
            copied = copy_in(Path(f"/proc/self/fd/{folder}"), target, _DATA, owner, outside=lambda path: outside(path, logs))
        finally:
            os.close(folder)
        make_empty(target, owner)
    except (OSError, struct.error) as error:
        raise _unreadable(database, str(error)) from error
    except GearcaseError as error:
        if isinstance(error, RunError):
            raise
        raise _unreadable(database, error.message) from error
    if missed := [one for one in copied.left_out if is_needed(one.reason)]:
        raise _unreadable(database, f"{os.fsdecode(missed[0].path)}: {missed[0].reason}")
    return segment


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
