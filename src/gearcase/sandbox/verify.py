"""What a box really is, read from outside before anybody uses it.

Invariant: a set-up that says that it succeeded is not believed. Threat: a kernel, container or defect of ours that silently leaves a
process more than it should have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gearcase.errors import UnsafeError

_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status as a table. Raises OSError when the process is gone."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def first_process(pid: int, plan: Mapping[str, Any], *, launcher: int, uid: int, uid_map: str) -> None:
    """Check pid 1 of a box. `uid` is the host id that it must have. Raises UnsafeError naming every difference."""
    seen = status(pid)
    without = set(plan["without"])
    wrong: list[str] = []

    def expect(what: str, found: str, wanted: str) -> None:
        if found != wanted:
            wrong.append(f"{what} is {found!r}, not {wanted!r}")

    expect("uid", seen["Uid"], "\t".join([str(uid)] * 4))
    expect("parent", seen["PPid"], str(launcher))
    if "capabilities" not in without:
        for name in _CAPABILITIES:
            expect(name, seen[name], "0" * 16)
    expect("NoNewPrivs", seen["NoNewPrivs"], "1")
    if "seccomp" not in without:
        expect("Seccomp", seen["Seccomp"], "2")
    with open(f"/proc/{pid}/uid_map", encoding="ascii") as file:
        expect("uid_map", " ".join(file.read().split()), " ".join(uid_map.split()))
    if "netns" not in without:
        expect("network devices", " ".join(_devices(pid)), "lo")
    limits = _limits(pid)
    for name, label in _LIMITS.items():
        if name in plan["rlimits"]:
            expect(label, limits[label], str(plan["rlimits"][name]))
    if wrong:
        raise UnsafeError(
            "not_as_asked",
            "the box is not as isolated as it must be: " + "; ".join(wrong),
            remedy="report this with the output of `gearcase doctor --json`: the box was not started",
        )


_LIMITS = {
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_DATA": "Max data size",
}


def _limits(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        return {line[:25].strip(): line[26:].split()[1] for line in file}


def _devices(pid: int) -> list[str]:
    with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
        return sorted(line.split(":")[0].strip() for line in file.readlines()[2:])
