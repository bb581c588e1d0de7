"""Setting up a box: from a child of the launcher to the box's pid 1.

Two processes. The *maker* joins cgroups, makes namespaces and network, forks pid 1 and leaves. *Pid 1* builds what every box sees,
waits for the plan of this one, opens its sockets, builds the rest, gives up every right, tells the host, and then waits for one
thing: the end of a pipe whose other end only the host has. So a start can be prepared before anybody asks for a box.
Invariants: any failure is told to the host and ends the process, and with it everything in the box; pid 1 holds no capability, is
not dumpable, reaps orphans without being asked, and executes nothing. Standard library only.

Threat: a box that outlives its host (pipe, and PDEATHSIG armed only after the host has seen that the launcher is pid 1's parent),
and a pid 1 that its own agent attacks (another uid inside where the box has a range of ids, signals ignored, not traceable).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from gearcase.sandbox import joiner, landlock, mounts, network, seccomp, syscalls
from gearcase.sandbox.channel import Wire
from gearcase.sandbox.etcfiles import AGENT_ID, Seen
from gearcase.sandbox.syscalls import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, PR_SET_DUMPABLE

_LIFELINE = 10
_WRITABLE = ("/workspace", "/tmp", "/home/agent", "/dev/shm", "/dev/pts")
_WRITABLE_FILES = ("/dev", "/proc")


def run(start: Mapping[str, Any], wire: Wire, descriptors: Sequence[int], program: bytes, seen: Sequence[Seen]) -> None:
    """Begin a box as `start` says. Descriptors: the lifeline's reading end, then the workspace's disk where there is one."""
    wire.send({"kind": "maker", "pid": os.getpid()})
    wire.receive("go")
    joiner.raise_oom_score(start["oom_score_adj"])
    lifeline, disk = descriptors[0], (descriptors[1] if len(descriptors) > 1 else -1)
    ranged = start["ranged"]
    sources = _sources(start, disk) if ranged else None
    _own_ids(wire, ranged, start["caller"])
    others = syscalls.NAMESPACES.copy()
    del others["user"]
    if "netns" in start["without"]:
        del others["net"]  # a positive control's hole
    syscalls.unshare(sum(others.values()))
    if "net" in others:
        network.bring_up()
    if sources is None:
        sources = _sources(start, disk)
    child = os.fork()
    if child == 0:
        _be_first(start, wire, lifeline, sources, program, seen)
    wire.send({"kind": "first", "pid": child}, [os.pidfd_open(child)])
    os._exit(0)


def _own_ids(wire: Wire, ranged: bool, caller: Sequence[int]) -> None:
    """A user namespace. Its maps are written by the host for a range; the single one of an ordinary user we may write ourselves."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    if ranged:
        wire.send({"kind": "map"})
        wire.receive("mapped")
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    else:
        syscalls.prctl(PR_SET_DUMPABLE, 1)  # our own files in /proc belong to root otherwise
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{AGENT_ID} {caller[0]} 1"),
            ("gid_map", f"{AGENT_ID} {caller[1]} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    syscalls.prctl(PR_SET_DUMPABLE, 0)


def _sources(start: Mapping[str, Any], disk: int) -> mounts.Sources:
    """Filesystems that the host writes into as itself: made before a range is mapped, because root is no id of such a box."""
    given = mounts.open_given(start["mounts"])
    attributes = ATTR_NOSUID | ATTR_NODEV
    quick = attributes | (0 if start["workspace_executable"] else ATTR_NOEXEC)
    owner = start["agent_before"]
    if disk < 0:
        size = start["workspace"]
        options = {"mode": "0750", "size": str(size["bytes"]), "nr_inodes": str(size["inodes"])}
        workspace = syscalls.new_mount("tmpfs", options, quick)
    else:
        workspace = disk
        syscalls.set_mount_attributes(disk, "", quick)
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=workspace)
    os.fchown(root, owner[0], owner[1])
    os.fchmod(root, 0o750)
    os.close(root)
    box = syscalls.new_mount("tmpfs", {"mode": "0755", "size": "64m", "nr_inodes": "32k"}, attributes)
    return mounts.Sources(workspace, box, given)


def _be_first(
    start: Mapping[str, Any], wire: Wire, lifeline: int, sources: mounts.Sources, program: bytes, seen: Sequence[Seen]
) -> None:
    """Pid 1 of the box: what all boxes have in common, then what the host's plan says. Never returns."""
    try:
        os.setsid()
        os.umask(0o022)
        if "capabilities" not in start["without"]:
            syscalls.drop_bounding_set()
        joiner.reset_signals()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are reaped by the kernel
        syscalls.set_hostname("box")
        expected = mounts.begin(start, sources, seen)
        handed = [_folder("/workspace"), _writable_box(sources.box)]
        joined: list[int] = []
        if not start["ranged"]:  # the host may not look into a process of ours that is not dumpable
            joined = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _namespaces(start)]
        handed += [*joined, os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)]
        rules = -1
        if start["landlock"]:
            rules = landlock.ruleset(start["landlock"], _WRITABLE, _WRITABLE_FILES)
            handed.append(rules)
        joiner.limit(start["rlimits"])
        syscalls.new_session_keyring()
        plan, _ = wire.await_request("plan")
        listeners = network.listen(plan["listeners"])
        wire.send({"kind": "listening"}, [one.fileno() for one in listeners])
        for one in listeners:
            one.close()
        mounts.finish(plan["names"], plan["authority"], expected)
        _give_up(start, rules, program)
        wire.send({"kind": "ready", "namespaces": _namespaces(start), "joined": len(joined)}, handed)
        wire.receive("arm")
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    except BaseException as error:
        wire.send(failure(error))
        os._exit(1)
    _wait_for_the_end(wire, lifeline)


def failure(error: BaseException) -> dict[str, Any]:
    """What the host is told about an error: its envelope where it has one."""
    from gearcase.errors import GearcaseError

    if isinstance(error, GearcaseError):
        return {"kind": "error", "error": error.packed()}
    errno = error.errno if isinstance(error, OSError) else 0
    return {"kind": "error", "message": f"{type(error).__name__}: {error}", "errno": errno}


def _namespaces(start: Mapping[str, Any]) -> list[str]:
    return [name for name in syscalls.NAMESPACES if not (name == "net" and "netns" in start["without"])]


def _folder(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _writable_box(mounted: int) -> int:
    """The folder /box through the mount below the read-only one."""
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)


def _give_up(start: Mapping[str, Any], rules: int, program: bytes) -> None:
    without = start["without"]
    uid = 0 if start["ranged"] else AGENT_ID
    joiner.become_nobody_special(uid, start["ranged"], "capabilities" not in without)
    syscalls.prctl(PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if rules >= 0:
        landlock.apply(rules)
    if "seccomp" not in without:
        seccomp.apply(program)


def _wait_for_the_end(wire: Wire, lifeline: int) -> None:
    """Hold nothing but the lifeline, and leave when its other end is gone."""
    os.dup2(lifeline, _LIFELINE, inheritable=False)
    wire.socket.detach()
    syscalls.close_descriptors(0, _LIFELINE - 1)
    syscalls.close_descriptors(_LIFELINE + 1)
    poll = select.poll()
    poll.register(_LIFELINE, select.POLLIN | select.POLLHUP)
    poll.poll()
    os._exit(0)
