"""The launcher: a clean, single-threaded process that forks one child for every box, command and disk.

Why: forking the host process would copy its secrets, threads and descriptors next to a box. The launcher has an empty environment,
no descriptor but its socket, runs `python -I -S`, is not dumpable, and holds nothing that a box could want.
Invariants: it never waits for a child (a frozen one would hang it); a child that it did not fork itself is a box's command or pid 1,
and how it ended is told to the host; when the host is gone it thaws what it was told to, and ends, and every box ends with it.
Standard library only.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
from collections import deque
from types import FrameType
from typing import Any

from gearcase.sandbox import boxinit, disks, etcfiles, joiner, network, seccomp, syscalls
from gearcase.sandbox.channel import MESSAGE_BYTES, MOST_DESCRIPTORS, Wire, encode, read_all

SOCKET = 3
"""The descriptor on which the launcher finds its socket."""


def main(settings: dict[str, Any]) -> None:
    """Serve until the host is gone. `settings`: {socket, pin_processors}."""
    if settings["socket"] != SOCKET:
        os.dup2(settings["socket"], SOCKET, inheritable=False)
    syscalls.close_descriptors(SOCKET + 1)
    os.chdir("/")
    os.umask(0o022)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    launcher = _Launcher(socket.socket(fileno=SOCKET), seccomp.build(settings["pin_processors"]))
    gc.disable()
    gc.freeze()  # children share our pages as long as nobody counts them
    launcher.serve()


class _Launcher:
    def __init__(self, host: socket.socket, program: bytes) -> None:
        host.setblocking(False)
        self._host = host
        self._program = program
        self._seen = etcfiles.survey()
        self._own: set[int] = set()
        self._reports: deque[bytes] = deque()
        self._freezers: set[str] = set()
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _wake_up)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's business
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(host, select.POLLIN)

    def serve(self) -> None:
        """Requests and ended children, until the host closes its end."""
        self._report({"kind": "launched", "pid": os.getpid()})
        while True:
            ready = dict(self._poll.poll())
            if self._wake in ready:
                os.read(self._wake, 4096)
            self._reap()
            self._flush()
            if ready.get(SOCKET, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._take():
                break
        for path in self._freezers:
            _thaw(path)

    def _take(self) -> bool:
        """One request. False when the host is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._host, MESSAGE_BYTES, MOST_DESCRIPTORS)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        message: dict[str, Any] = json.loads(data)
        kind = message["kind"]
        if kind == "watch_freezer":
            self._freezers.add(message["path"])
        elif kind == "forget_freezer":
            self._freezers.discard(message["path"])
        else:
            child = os.fork()
            if child == 0:
                self._be_child(kind, descriptors)
            self._own.add(child)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _be_child(self, kind: str, descriptors: list[int]) -> None:
        """Descriptors: the child's own socket, its request in a memory file, then what the request speaks of. Never returns."""
        wire = Wire(descriptors[0])
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._host.close()
            request: dict[str, Any] = json.loads(read_all(descriptors[1]))
            os.close(descriptors[1])
            rest = descriptors[2:]
            if kind == "box":
                boxinit.run(request, wire, rest, self._program, self._seen)
            elif kind == "command":
                joiner.run(request, wire, self._program)
            elif kind == "listen":
                network.listen_within(request, wire, rest)
            else:
                disks.run(request, wire)
        except BaseException as error:
            wire.send(boxinit.failure(error))
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """Take note of every child that has ended, without waiting for any."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._own:
                self._own.discard(pid)
                continue
            self._report({"kind": "ended", "pid": pid, "status": status, "cpu": used.ru_utime + used.ru_stime})

    def _report(self, message: dict[str, Any]) -> None:
        self._reports.append(encode(message))
        self._flush()

    def _flush(self) -> None:
        """Send what is waiting as far as the host takes it."""
        while self._reports:
            try:
                self._host.send(self._reports[0])
            except BlockingIOError:
                break
            except ConnectionError:
                self._reports.clear()
                break
            self._reports.popleft()
        self._poll.modify(self._host, select.POLLIN | (select.POLLOUT if self._reports else 0))


def _thaw(path: str) -> None:
    """A process that a v1 freezer holds survives even SIGKILL until it is thawed."""
    try:
        with open(f"{path}/freezer.state", "w", encoding="ascii") as file:
            file.write("THAWED")
    except OSError:
        return  # the box is gone, and its cgroup with it


def _wake_up(number: int, frame: FrameType | None) -> None:
    """A handler is what makes the wake-up descriptor speak; there is nothing else to do."""
