"""What this machine can enforce: probed once, each "no" with its remedy.

Only what was tried counts: a cgroup is made, a user namespace is made, a disk is made. Nothing is silently weaker: what is only watched
says by how much a limit can be overshot, what is absent says how to get it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gearcase.errors import UnsafeError
from gearcase.sandbox import cgroups, landlock
from gearcase.sandbox.disks import MKFS_PATHS
from gearcase.seams import Guarantee, Profile

_DELEGATE = "run under systemd with Delegate=yes (systemd-run --user --scope -p Delegate=yes gearcase ...), or as root"
_WATCH_BOUND = "what is taken within 0.1 s"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What was found."""

    root: bool
    groups: cgroups.Machine
    landlock: int
    disk: bool
    namespaces: str  # empty when they work, else what the kernel said


def probe(without: Iterable[str] = ()) -> Abilities:
    """Try everything. Costs some milliseconds; the driver keeps the answer."""
    left_out = set(without)
    return Abilities(
        root=os.getuid() == 0,
        groups=cgroups.probe(left_out & {"cgroup1", "cgroup2"}),
        landlock=0 if "landlock" in left_out else landlock.version(),
        disk=os.getuid() == 0 and "disk" not in left_out and _disk_possible(),
        namespaces=_namespaces_refused(),
    )


def _disk_possible() -> bool:
    return shutil.which("mkfs.ext4", path=MKFS_PATHS) is not None and os.access("/dev/loop-control", os.R_OK | os.W_OK)


def _namespaces_refused() -> str:
    """Make a user namespace with a network in a child; what failed, empty when nothing did."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.unshare(0x10000000 | 0x40000000 | 0x20000) != 0
        if failed:
            os.write(writing, os.strerror(ctypes.get_errno()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told


def require_namespaces(found: Abilities) -> None:
    """Raises UnsafeError `no_user_namespaces` with the remedy that fits this machine."""
    if found.namespaces:
        raise UnsafeError(
            "no_user_namespaces",
            "this machine does not let us make user namespaces, so no box can be isolated",
            cause=found.namespaces,
            remedy=_namespaces_remedy(),
        )


def _namespaces_remedy() -> str:
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    }
    for path, (bad, remedy) in switches.items():
        if Path(path).exists() and Path(path).read_text().strip() == bad:
            return f"as root: {remedy}"
    return (
        "in a container: allow the system calls unshare, clone with namespace flags, mount and pivot_root "
        "(--security-opt seccomp=FILE with them allowed), never --privileged"
    )


def profile(found: Abilities, without: Iterable[str] = ()) -> Profile:
    """What the driver `namespaces` enforces with these abilities."""
    isolated = Guarantee("absent", "", _namespaces_remedy()) if found.namespaces else None
    groups = found.groups
    freezer = "cgroup2" if groups.unified else "cgroup1" if "freezer" in groups.legacy else ""
    guarantees = {
        "filesystem": isolated or Guarantee("enforced", "mount namespace" + (", landlock" if found.landlock else "")),
        "network": isolated or Guarantee("enforced", "network namespace, seccomp"),
        "processes": isolated or Guarantee("enforced", groups.means("pids") or "rlimit in a user namespace"),
        "memory": _grouped(groups.means("memory"), "watchdog"),
        "cpu": _grouped(groups.means("cpu"), "affinity and nice", "whole cores, not shares"),
        "disk": Guarantee("enforced", "disk image" if found.disk else "sized tmpfs"),
        "freeze": Guarantee("enforced", freezer) if freezer else Guarantee("watched", "signal sweep", _DELEGATE, "up to 700 ms"),
        "syscalls": isolated or Guarantee("enforced", "seccomp"),
    }
    notes = [f"positive control: {name} is off" for name in sorted(without)]
    if not found.root and (groups_of := os.getgroups()):
        notes.append(f"supplementary groups cannot be dropped: {', '.join(map(str, groups_of))}")
    if not Path("/usr/bin/python3").exists():
        notes.append("there is no /usr/bin/python3, so `gear` does not run inside")
    return Profile("namespaces", guarantees, tuple(notes))


def _grouped(means: str, otherwise: str, bound: str = _WATCH_BOUND) -> Guarantee:
    return Guarantee("enforced", means) if means else Guarantee("watched", otherwise, _DELEGATE, bound)
