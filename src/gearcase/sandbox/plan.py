"""From what is asked for to what the launcher's children are told: sizes, limits, environment.

Pure: no file is opened here. The one place where a share of memory or disk is decided.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gearcase.errors import UsageError
from gearcase.sandbox.processes import mark
from gearcase.seams import Command, Limits, Mount, SandboxSpec

GUARDS = frozenset(
    "seccomp landlock netns pids memory cpu disk capabilities proc_masks dumpable readonly_usr cgroup1 cgroup2 oom".split()
)
"""What `NamespacesDriver(without=...)` may leave out, for the positive controls of the hostile tests and nothing else."""

_MIB = 1 << 20
_PER_INODE = 8192
_FEWEST_INODES = 16_384
_ENVIRONMENT = {
    "PATH": "/box/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/agent",
    "USER": "agent",
    "LOGNAME": "agent",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "dumb",
    "TMPDIR": "/tmp",
}
_RESERVED = 1
"""pid 1 is a process of the box that the agent did not ask for."""
STANDBYS = 2
"""So are, where a cgroup counts, the joiners that wait outside for the next command, and for one right after it."""
_ULIMIT_ABOVE_CGROUP = 16
"""Where a cgroup counts processes, the rlimit stands above it: the cgroup is the one that says that it struck."""

STANDBY = {"oom_score_adj": 700}
"""The request for a joiner that is to wait for its command."""


@dataclass(frozen=True, slots=True)
class Means:
    """What this machine has: does a cgroup count processes and memory, is there a range of ids, a real disk, which Landlock (0: none)."""

    pids_cgroup: bool
    memory_cgroup: bool
    ranged: bool
    disk: bool
    landlock: int


def check(spec: SandboxSpec) -> None:
    """Raises UsageError when the spec cannot be meant."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", spec.id):
        raise UsageError("bad_sandbox_id", f"{spec.id!r} is no safe id", remedy="use letters, digits, dots, dashes; at most 100")
    limits = spec.limits
    if (
        limits.memory < 16 * _MIB
        or limits.disk < 4 * _MIB
        or limits.processes < 4
        or limits.cpus < 0.01
        or limits.open_files < 32
    ):
        raise UsageError(
            "limits_too_small",
            "no box can live within these limits",
            remedy="at least memory 16MiB, disk 4MiB, 4 processes, 0.01 cpus, 32 open files",
        )
    for one in spec.mounts:
        if not re.fullmatch(r"(/[^/\0]+)+", one.target) or not one.target.startswith(("/given/", "/check/", "/opt/", "/mnt/")):
            raise UsageError("bad_mount", f"{one.target!r} is no place for a mount", remedy="mount below /given, /opt or /mnt")
        if {".", ".."} & set(one.target.split("/")):
            raise UsageError("bad_mount", f"{one.target!r} is no plain path", remedy="leave out . and ..")
    targets = [one.target for one in spec.mounts]
    if any(a == b or a.startswith(b + "/") for i, a in enumerate(targets) for j, b in enumerate(targets) if i != j):
        raise UsageError("bad_mount", "one mount lies inside another", remedy="give each its own folder below /given")


def memory_limit(limits: Limits, disk: bool) -> int:
    """Bytes for the memory cgroup: a workspace in memory is counted there, so it is added."""
    return limits.memory if disk else limits.memory + limits.disk


def tasks_limit(limits: Limits) -> int:
    """Tasks for the pids cgroup."""
    return limits.processes + _RESERVED + STANDBYS


def rlimits(limits: Limits, means: Means, without: frozenset[str]) -> dict[str, int]:
    """Limits of every process of the box. None is above what we have ourselves."""
    pids = limits.processes + (_ULIMIT_ABOVE_CGROUP if means.pids_cgroup else (0 if means.ranged else _RESERVED))
    wanted = {
        "RLIMIT_NPROC": pids,
        "RLIMIT_NOFILE": limits.open_files if means.ranged else min(limits.open_files, 1024),
        "RLIMIT_CORE": 1,  # 0 would not keep the kernel from starting the host's core handler
        "RLIMIT_MEMLOCK": 8 * _MIB,
        "RLIMIT_RTPRIO": 0,
        "RLIMIT_SIGPENDING": 8192,
        **({} if means.memory_cgroup or "memory" in without else {"RLIMIT_DATA": limits.memory}),
    }
    return {name: _at_most(name, value) for name, value in wanted.items()}


def _at_most(name: str, value: int) -> int:
    hard = resource.getrlimit(getattr(resource, name))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def command_mark(number: int) -> int:
    """The value of RLIMIT_MSGQUEUE that marks the tree of command `number`."""
    hard = resource.getrlimit(_MSGQUEUE)[1]
    return mark(number, hard if hard != resource.RLIM_INFINITY else 1 << 40)


_MSGQUEUE = 12


@dataclass(frozen=True, slots=True)
class StartKind:
    """What two boxes must have in common to be begun alike, and so before anybody asks for them."""

    limits: Limits
    executable: bool
    mounts: tuple[Mount, ...]


def start_kind(spec: SandboxSpec) -> StartKind:
    """How a box of this spec is begun."""
    return StartKind(spec.limits, spec.workspace_executable, tuple(spec.mounts))


def start(kind: StartKind, means: Means, ids: Mapping[str, Any], without: frozenset[str]) -> dict[str, Any]:
    """The request that begins a box. `ids`: caller, agent_before."""
    limits = kind.limits
    return {
        "ranged": means.ranged,
        "inner_agent": 1000,
        **ids,
        "mounts": [{"source": str(one.source), "target": one.target, "executable": one.executable} for one in kind.mounts],
        "workspace": {"bytes": limits.disk, "inodes": max(_FEWEST_INODES, limits.disk // _PER_INODE)},
        "workspace_executable": kind.executable,
        "sizes": {
            "tmp": min(limits.disk, limits.memory // 2),
            "home": min(limits.disk, limits.memory // 4),
            "shm": min(limits.memory // 4, 1024 * _MIB),
            "inodes": max(_FEWEST_INODES, limits.memory // 4 // _PER_INODE),
        },
        "rlimits": rlimits(limits, means, without),
        "user_limits": {
            **{f"max_{name}_namespaces": 0 for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")},
            "max_inotify_instances": 128,
            "max_inotify_watches": 65_536,
        },
        "oom_score_adj": 0 if "oom" in without else 200,
        "landlock": means.landlock,
        "without": sorted(without),
    }


def box(spec: SandboxSpec) -> dict[str, Any]:
    """The plan by which a box that was begun becomes that of `spec`."""
    return {
        "listeners": [{"address": one.address, "port": one.port, "kind": one.kind} for one in spec.listeners],
        "names": dict(spec.names),
        "authority": spec.authority,
    }


def command(asked: Command, spec: SandboxSpec, number: int, joined: list[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The request for a command. `settings`: ranged, rlimits, landlock, without, processors."""
    return {
        "argv": list(asked.argv),
        "environment": {**_ENVIRONMENT, **spec.environment, **asked.environment},
        "cwd": asked.cwd,
        "report": asked.report,
        "terminal": [asked.terminal.rows, asked.terminal.columns] if asked.terminal else [],
        "join": joined,
        "inner_uid": 1000,
        "setgroups": settings["ranged"],
        "rlimits": {**settings["rlimits"], "RLIMIT_MSGQUEUE": command_mark(number)},
        "landlock": settings["landlock"],
        "without": settings["without"],
        "processors": settings["processors"],
    }
