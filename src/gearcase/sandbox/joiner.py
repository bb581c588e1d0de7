"""Starting one command in a live box, from outside: join, give everything up, execute.

Runs in a child of the launcher that may have waited long for its command, outside of the box. The order is the point. Threat: between
joining and execve a process of the box could open this process's executable or memory, steal its descriptors, or trace it. So it is not
dumpable, holds no descriptor but the command's own and two that close on execve, is already in the box's cgroups, and the half that the
box can see starts after one fork, in the box's pid namespace, under Landlock and seccomp before any byte of the box's choice is executed.
Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import Any

from gearcase.sandbox import landlock, seccomp, syscalls
from gearcase.sandbox.channel import Wire
from gearcase.sandbox.syscalls import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS

_WIRE, _RULES = 10, 11
"""Where the two descriptors of ours stand while we set up; both close on execve."""


def run(asked: Mapping[str, Any], wire: Wire, program: bytes) -> None:
    """Wait for the command, then start it. Descriptors that come with it: those to join, then stdin, stdout, stderr, then one for a
    report and the Landlock ruleset where there are."""
    raise_oom_score(asked["oom_score_adj"])
    reset_signals()
    # One that waits in a frozen box hears no end of its wire: it dies with the launcher. Set before it may be put into the box's cgroups.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    wire.send({"kind": "joiner", "pid": os.getpid()})
    request, descriptors = wire.await_request("join")
    if request["processors"]:
        os.sched_setaffinity(0, request["processors"])
    count = len(request["join"])
    for descriptor, flags in zip(descriptors[:count], request["join"], strict=True):
        syscalls.setns(descriptor, flags)
        os.close(descriptor)
    # What can be given up before the fork is: this half is not yet in the box's pid namespace, where its processes could see it.
    syscalls.prctl(PR_SET_DUMPABLE, 0 if "dumpable" not in request["without"] else 1)  # joining may have changed it
    _only_descriptors(wire, descriptors[count:], request["report"])
    os.umask(0o022)
    if "capabilities" not in request["without"]:
        syscalls.drop_bounding_set()  # it needs a capability
    child = os.fork()
    if child == 0:
        _become(request, wire, program)
    wire.send({"kind": "command", "pid": child}, [os.pidfd_open(child)])
    os._exit(0)


def raise_oom_score(value: int) -> None:
    """Let the kernel prefer this process and what it starts over the box's pid 1 when memory is short."""
    syscalls.prctl(PR_SET_DUMPABLE, 1)  # a file of one's own in /proc belongs to root otherwise; nobody can see us yet
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(value))
    syscalls.prctl(PR_SET_DUMPABLE, 0)


def _become(request: Mapping[str, Any], wire: Wire, program: bytes) -> None:
    """In the box: give up everything, then be the command. Never returns."""
    try:
        _give_up(request, bool(request["landlock"]), program)
        if request["terminal"]:
            _take_terminal(wire, *request["terminal"])
    except BaseException as error:
        wire.send({"kind": "error", "message": f"{type(error).__name__}: {error}"})
        os._exit(125)
    _execute(request)


def _only_descriptors(wire: Wire, streams: Sequence[int], report: bool) -> None:
    """0, 1, 2 (and 3 for a report) for the command; `_WIRE` and `_RULES` for us until execve; nothing else."""
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 64) for one in [wire.socket.fileno(), *streams]]
    wire.socket.detach()  # else it is closed with the object
    kept = 4 if report else 3
    for target, one in enumerate(high[1 : 1 + kept]):
        os.dup2(one, target, inheritable=True)
    os.dup2(high[0], _WIRE, inheritable=False)
    rules = high[1 + kept :]
    if rules:
        os.dup2(rules[0], _RULES, inheritable=False)
    syscalls.close_descriptors(kept, _WIRE - 1)
    syscalls.close_descriptors(_RULES + 1 if rules else _WIRE + 1)
    wire.socket = socket.socket(fileno=_WIRE)


def _give_up(request: Mapping[str, Any], ruled: bool, program: bytes) -> None:
    without = request["without"]
    os.setsid()
    syscalls.new_session_keyring()
    limit(request["rlimits"])
    become_nobody_special(request["inner_uid"], request["setgroups"], "capabilities" not in without)
    syscalls.prctl(PR_SET_DUMPABLE, 0 if "dumpable" not in without else 1)  # changing ids may have changed it
    syscalls.prctl(PR_SET_NO_NEW_PRIVS, 1)
    if ruled:
        landlock.apply(_RULES)
    if "seccomp" not in without:
        seccomp.apply(program)


def _take_terminal(wire: Wire, rows: int, columns: int) -> None:
    """A new terminal of the box's own, as what the command reads, writes and is controlled by; its other end goes to the host.

    Made by the box's own user in the box's own devpts, so nothing of the operator's terminal is ever inside.
    """
    ours = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(ours, _TIOCSPTLCK, struct.pack("i", 0))
    theirs = fcntl.ioctl(ours, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    wire.send({"kind": "terminal"}, [ours])
    for target in range(3):
        os.dup2(theirs, target, inheritable=True)
    os.close(theirs)
    os.close(ours)


_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441


def limit(rlimits: Mapping[str, int]) -> None:
    """Take the box's limits, for what is executed too."""
    for name, value in rlimits.items():
        resource.setrlimit(getattr(resource, name, _RLIMITS.get(name, -1)), (value, value))


def become_nobody_special(uid: int, may_set_groups: bool, drop: bool) -> None:
    """Take the box's uid, and no capability at all."""
    if may_set_groups:
        os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if drop:
        syscalls.drop_capabilities()


_RLIMITS = {"RLIMIT_MSGQUEUE": 12, "RLIMIT_RTPRIO": 14, "RLIMIT_NICE": 13, "RLIMIT_SIGPENDING": 11}
"""Those that this Python may have no name for."""


def reset_signals() -> None:
    """Every signal does what it does by default, and none is blocked."""
    for one in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(one, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _execute(request: Mapping[str, Any]) -> None:
    """Be the command, or say like a shell why not: 127 not found, 126 not possible."""
    argv = [os.fsencode(part) for part in request["argv"]]
    environment = {os.fsencode(key): os.fsencode(value) for key, value in request["environment"].items()}
    what = os.fsencode(request["cwd"])
    try:
        os.chdir(what)
        what = argv[0]
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        os.write(2, b"gearcase: " + what + b": " + (error.strerror or "").encode() + b"\n")
        os._exit(127 if error.errno == 2 and what is argv[0] else 126)
