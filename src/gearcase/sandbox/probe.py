"""What this machine can enforce: probed once, each "no" with its remedy.

Only what was tried counts: a cgroup is made, a user namespace is made, a disk is made. Nothing is silently weaker: what is only watched
says by how much a limit can be overshot, what is absent says how to get it.
"""

from __future__ import annotations

import grp
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gearcase.errors import UnsafeError
from gearcase.sandbox import cgroups, landlock, syscalls
from gearcase.sandbox.disks import MKFS_PATHS
from gearcase.sandbox.mounts import UNMASK, proc_masked
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
    proc: str  # empty when a fresh /proc can be mounted in them, else what the kernel said


def probe(without: Iterable[str] = ()) -> Abilities:
    """Try everything. Costs some milliseconds; the driver keeps the answer."""
    left_out = set(without)
    namespaces, proc = _isolation_refused()
    return Abilities(
        root=os.getuid() == 0,
        groups=cgroups.probe(left_out & {"cgroup1", "cgroup2"}),
        landlock=0 if "landlock" in left_out else landlock.version(),
        disk=os.getuid() == 0 and "disk" not in left_out and _disk_possible(),
        namespaces=namespaces,
        proc=proc,
    )


def _disk_possible() -> bool:
    return shutil.which("mkfs.ext4", path=MKFS_PATHS) is not None and os.access("/dev/loop-control", os.R_OK | os.W_OK)


def _isolation_refused() -> tuple[str, str]:
    """Make namespaces in a child, and a /proc of their own in its child: what failed of each, empty when nothing did.

    The kernel mounts a new /proc in a user namespace only where the one that is there hides nothing.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            _isolate(writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    what, _, error = told.partition(" ")
    return (error, "") if what == "namespaces" else ("", error)


def _isolate(writing: int) -> None:
    """What a box does first, as far as the machine lets us; what failed is written."""
    ids = os.getuid(), os.getgid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    except OSError as error:
        os.write(writing, f"namespaces {error.strerror}".encode())
        return
    try:
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {ids[0]} 1"), ("gid_map", f"0 {ids[1]} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)
        first = os.fork()  # only the first process of a process namespace may mount its /proc
        if first:
            os.waitpid(first, 0)
        else:
            syscalls.mount("proc", "/proc", "proc")
    except OSError as error:
        os.write(writing, f"proc {error.strerror}".encode())


def require_namespaces(found: Abilities) -> None:
    """Raises UnsafeError `no_user_namespaces`, `proc_masked` with the remedy that fits this machine."""
    if found.namespaces:
        raise UnsafeError(
            "no_user_namespaces",
            "this machine does not let us make user namespaces, so no box can be isolated",
            cause=found.namespaces,
            remedy=_namespaces_remedy(),
        )
    if found.proc:
        raise proc_masked(found.proc)


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
    isolated = None
    if found.namespaces or found.proc:
        isolated = Guarantee("absent", "", _namespaces_remedy() if found.namespaces else UNMASK)
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
    if not found.root and (others := _other_groups()):
        notes.append(
            f"programs in a box keep your groups {', '.join(others)}: a file given with --see that only such a group may read or "
            "write is open to them (only root can take groups away); the rest of the disk is not inside anyway"
        )
    if not Path("/usr/bin/python3").exists():
        notes.append("there is no /usr/bin/python3, so `gear` does not run inside")
    return Profile("namespaces", guarantees, tuple(notes))


def _other_groups() -> list[str]:
    """The groups of this user beside their own, by name where there is one."""
    names: list[str] = []
    for number in sorted({*os.getgroups()} - {os.getegid()}):
        try:
            names.append(grp.getgrgid(number).gr_name)
        except KeyError:
            names.append(str(number))
    return names


def _grouped(means: str, otherwise: str, bound: str = _WATCH_BOUND) -> Guarantee:
    return Guarantee("enforced", means) if means else Guarantee("watched", otherwise, _DELEGATE, bound)
