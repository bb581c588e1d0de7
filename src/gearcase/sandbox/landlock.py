"""Landlock as a second wall: even through a hole in the mount table, writing works below the box's own writable places only.

Invariants: everything may be read and executed that the mounts show, writing is named. No scope flags: a command could no longer
signal an earlier command's server. A ruleset is built once per box and applied by pid 1 and by every command.
Threat: a defect in the mount set-up; ptrace and memory access from one command into a process that is just being started.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from gearcase.sandbox import syscalls

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ALL_V1 = (1 << 13) - 1
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OLDEST = 2  # without REFER (ABI 1) no file could be renamed to another folder
_RULE_PATH_BENEATH = 1


def version() -> int:
    """The Landlock ABI of this kernel, 0 where there is none that we use."""
    try:
        abi = syscalls.call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0
    return abi if abi >= _OLDEST else 0


def ruleset(abi: int, writable: Sequence[str], devices: Sequence[str]) -> int:
    """A ruleset for the paths as they are seen here: `writable` trees, and `devices` whose files may be written."""
    handled = _ALL_V1 | _REFER | (_TRUNCATE if abi >= 3 else 0)
    descriptor = syscalls.call("landlock_create_ruleset", struct.pack("=Q", handled), 8, 0)
    _allow(descriptor, "/", _READ)
    for path in writable:
        _allow(descriptor, path, handled)
    for path in devices:
        _allow(descriptor, path, _READ | _WRITE_FILE | (handled & _TRUNCATE))
    return descriptor


def _allow(descriptor: int, path: str, access: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.call("landlock_add_rule", descriptor, _RULE_PATH_BENEATH, struct.pack("=Qi", access, beneath), 0, where=path)
    finally:
        os.close(beneath)


def apply(descriptor: int) -> None:
    """Put this process under the ruleset, for good. Needs no_new_privs."""
    syscalls.call("landlock_restrict_self", descriptor, 0)
