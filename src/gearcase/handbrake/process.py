"""The process that holds the hand brake: `python3 -I -S process.py < SOCKET`.

It has the descriptors by which each box of the run is frozen, opened beforehand, and its memory is locked where that is allowed. So it
works when the run's own process is busy, stopped, or swapped out. It ends with the run's process.

    told by the run, over its socket, a message each:
        {"serve": true} and a listening socket         once, first: whoever connects there pulls
        {"hold": N, "how": HOW} and a descriptor       a box; what of, see `Box`
        {"let_go": N}                                  it is no more
    tells the run  {"pulled": REASON}
    a client says  {"reason": TEXT}, a line, and is answered {"boxes", "moving", "milliseconds"}, a line, when all stand still

Standard library only: it starts in 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Mapping

PATIENCE = 1.0
"""Seconds until what still moves is told as such."""
_HEARING = 1.0  # seconds for what a client has to say
_MESSAGE = 4096
_MCL_CURRENT, _MCL_FUTURE = 1, 2


class Box:
    """One box. `how` it is frozen, and a descriptor: by the v2 (`cgroup`) or v1 (`freezer`) cgroup of this folder, or by stopping the
    processes of this user namespace one by one (`namespace`)."""

    def __init__(self, how: str, descriptor: int) -> None:
        self._how = how
        self._descriptor = descriptor

    def freeze(self) -> bool:
        """Ask for it, again where it was asked for before. Whether everything in the box stands still. One that is gone moves no more."""
        try:
            match self._how:
                case "cgroup":
                    self._write("cgroup.freeze", b"1")
                    return "frozen 1" in self._read("cgroup.events") and self._stands("cgroup.threads", "RD")
                case "freezer":
                    self._write("freezer.state", b"FROZEN")
                    return self._read("freezer.state").strip() == "FROZEN" and self._stands("tasks", "R")
                case _:
                    return self._stop()
        except OSError:
            return True

    def _stands(self, name: str, moving: str) -> bool:
        """The kernel says so too early at times; see `BoxGroups.frozen`."""
        tasks = self._tasks(name)
        return not any(_state(task) in moving for task in tasks) and tasks == self._tasks(name)

    def _tasks(self, name: str) -> list[str]:
        tasks = self._read(name).split()
        for folder in [entry.name for entry in os.scandir(self._descriptor) if entry.is_dir()]:
            with contextlib.suppress(FileNotFoundError):  # of a command that has ended meanwhile
                tasks += self._read(f"{folder}/{name}").split()
        return tasks

    def _write(self, name: str, data: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> str:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptor), encoding="ascii") as file:
            return file.read()

    def _stop(self) -> bool:
        wanted = f"user:[{os.fstat(self._descriptor).st_ino}]"
        still = True
        for text in os.listdir("/proc"):
            if text.isdigit() and _namespace(text) == wanted and _state(text) not in "TtZX":
                still = False
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(text), signal.SIGSTOP)
        return still

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def _namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


def _state(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return "X"
    return chr(text[text.rindex(b")") + 2])


class Hand:
    """All boxes of the run, and who may pull."""

    def __init__(self, host: socket.socket, listener: socket.socket) -> None:
        self._host = host
        self._listener = listener
        self._boxes: dict[int, Box] = {}

    def serve(self) -> None:
        """Until the run's process is gone."""
        poll = select.poll()
        poll.register(self._host, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._host.fileno() in ready and not self._told():
                return
            if self._listener.fileno() in ready:
                with contextlib.suppress(OSError, ValueError):  # a client that went away, or spoke nonsense
                    self._hear(self._listener.accept()[0])

    def _told(self) -> bool:
        """One message of the run. False where its process is gone."""
        data, descriptors, _, _ = socket.recv_fds(self._host, _MESSAGE, 8)
        if not data:
            return False
        message = json.loads(data)
        if "hold" in message:
            self._boxes[int(message["hold"])] = Box(str(message["how"]), descriptors[0])
        elif (box := self._boxes.pop(int(message["let_go"]), None)) is not None:
            box.close()
        return True

    def _hear(self, client: socket.socket) -> None:
        with client:
            _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.getuid()):
                return
            client.settimeout(_HEARING)
            said = json.loads(client.recv(_MESSAGE))
            answer = self.pull()
            with contextlib.suppress(OSError):  # a run that has ended meanwhile needs no word
                self._host.send(json.dumps({"pulled": str(said["reason"])}).encode(), socket.MSG_DONTWAIT)
            client.sendall(json.dumps(answer).encode() + b"\n")

    def pull(self) -> Mapping[str, float]:
        """Freeze every box; returns what came of it."""
        began = time.monotonic()
        moving = list(self._boxes.values())
        while moving := [box for box in moving if not box.freeze()]:
            if time.monotonic() - began > PATIENCE:
                break
            time.sleep(0.001)
        return {"boxes": len(self._boxes), "moving": len(moving), "milliseconds": (time.monotonic() - began) * 1000}


def main() -> None:
    """Serve the run whose socket is standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where it is not allowed (RLIMIT_MEMLOCK), it works as well as a process can that may be swapped out.
    ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE)
    host = socket.socket(fileno=0)
    data, descriptors, _, _ = socket.recv_fds(host, _MESSAGE, 8)
    if data:
        Hand(host, socket.socket(fileno=descriptors[0])).serve()


if __name__ == "__main__":
    main()
