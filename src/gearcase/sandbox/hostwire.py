"""The host's side of the launcher: start it, ask it, hear how children end.

Invariants: one launcher per driver, started lazily with an empty environment; each request has a socket of its own; what a child says
is length-capped JSON and is checked by who asked; the launcher's death is an event (`lost`), never a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearcase import errors
from gearcase.sandbox.channel import MESSAGE_BYTES, MOST_DESCRIPTORS, encode

_SOURCE = str(Path(__file__).resolve().parents[2])
_BOOTSTRAP = """import sys, json
sys.path.append(json.loads(sys.argv[1])["source"])
from gearcase.sandbox.launcher import main
main(json.loads(sys.argv[1]))"""
_START_DEADLINE = 20.0
_UNASKED = 1024
PATIENCE = 15.0
"""Seconds for one step of a set-up."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a child said, with the descriptors that it sent; whoever receives owns them."""

    body: Mapping[str, Any]
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: the status of wait(2), and the processor seconds of it and the children it waited for."""

    status: int
    cpu: float


def refusal(body: Mapping[str, Any]) -> errors.GearcaseError:
    """The error that a child of the launcher reported."""
    if "error" in body:
        return errors.unpack(body["error"])
    return errors.RunError(
        "sandbox_failed",
        "the sandbox could not be set up",
        cause=str(body.get("message", "")),
        remedy="run `gearcase doctor`; when everything there is fine, report this",
        errno=int(body.get("errno", 0)),
    )


def gone() -> errors.RunError:
    """The launcher, or a child of it, is not there any more."""
    return errors.RunError(
        "sandbox_lost",
        "the process that starts sandboxes has died",
        remedy="start the run again; look for an out-of-memory kill in the kernel's log",
    )


class HostWire:
    """The host's end of one child's socket."""

    def __init__(self) -> None:
        self._socket, self.child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)

    def handed_over(self) -> None:
        """The child has its end."""
        self.child.close()

    def send(self, body: Mapping[str, Any]) -> None:
        """Answer the child. A child that is gone is found out by `receive`."""
        with contextlib.suppress(ConnectionError):
            self._socket.send(encode(body))

    def send_request(self, kind: str, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Answer the child with something large. Descriptors stay the caller's."""
        with _in_memory(request) as memory, contextlib.suppress(ConnectionError):
            socket.send_fds(self._socket, [encode({"kind": kind})], [memory, *descriptors])

    def open(self) -> bool:
        """Whether the child, which has said all that was expected of it, still listens."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    async def receive(self, kind: str, patience: float) -> Message:
        """The next message, of this kind. Raises what the child reports, RunError when it is gone or silent for `patience` s."""
        message = await self.next(patience)
        if message is None:
            raise gone()
        if message.body.get("kind") != kind:
            for descriptor in message.descriptors:
                os.close(descriptor)
            raise refusal(message.body)
        return message

    async def next(self, patience: float) -> Message | None:
        """The next message of any kind, None at the end. Raises RunError `sandbox_slow`."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, MOST_DESCRIPTORS)
            except BlockingIOError:
                await self._readable(patience)
                continue
            except ConnectionError:
                return None
            return Message(json.loads(data), tuple(descriptors)) if data else None

    async def _readable(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, lambda: None if ready.done() else ready.set_result(None))
        try:
            async with asyncio.timeout(patience):
                await ready
        except TimeoutError:
            raise errors.RunError(
                "sandbox_slow",
                f"a sandbox process said nothing for {patience:g} s",
                remedy="the machine may be overloaded or the box frozen: look at `gearcase ps`, then try again",
            ) from None
        finally:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self.child.close()


@dataclass(slots=True)
class Launcher:
    """A running launcher. Make one with `start`."""

    _process: subprocess.Popen[bytes]
    _socket: socket.socket
    _loop: asyncio.AbstractEventLoop
    lost: asyncio.Future[None]
    _waiting: dict[int, asyncio.Future[Ended]] = field(default_factory=dict[int, "asyncio.Future[Ended]"])
    _unasked: OrderedDict[int, Ended] = field(default_factory=OrderedDict[int, Ended])
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    @classmethod
    async def start(cls, pin_processors: bool) -> Launcher:
        """Start the process and wait until it serves. Raises RunError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        settings = {"socket": theirs.fileno(), "pin_processors": pin_processors, "source": _SOURCE}
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns when the child has its program, within a millisecond
            [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, json.dumps(settings)],
            pass_fds=[theirs.fileno()],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        loop = asyncio.get_running_loop()
        launcher = cls(process, ours, loop, loop.create_future())
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(ours, lambda: None if ready.done() else ready.set_result(None))
        try:
            async with asyncio.timeout(_START_DEADLINE):
                await ready
        except TimeoutError:
            await launcher.close()
            raise gone() from None
        loop.remove_reader(ours)
        loop.add_reader(ours, launcher._hear)
        launcher._hear()
        return launcher

    def _hear(self) -> None:
        """Everything that the launcher has to say."""
        while True:
            try:
                data = self._socket.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._loop.remove_reader(self._socket)
                if not self.lost.done():
                    self.lost.set_result(None)
                return
            body = json.loads(data)
            if body["kind"] == "ended":
                self._note(body["pid"], Ended(body["status"], body["cpu"]))

    def _note(self, pid: int, ended: Ended) -> None:
        waiting = self._waiting.pop(pid, None)
        if waiting is None:
            self._unasked[pid] = ended
            while len(self._unasked) > _UNASKED:
                self._unasked.popitem(last=False)
        elif not waiting.done():
            waiting.set_result(ended)

    def ended(self, pid: int) -> asyncio.Future[Ended]:
        """How a command or pid 1 ends. Ask once for each, when its pid is told."""
        future: asyncio.Future[Ended] = self._loop.create_future()
        if pid in self._unasked:
            future.set_result(self._unasked.pop(pid))
        else:
            self._waiting[pid] = future
        return future

    def forget(self, pid: int) -> None:
        """Nobody waits for this process any more."""
        self._waiting.pop(pid, None)

    async def ask(self, kind: str, request: Mapping[str, Any], descriptors: Sequence[int]) -> HostWire:
        """Fork a child for a request; returns the wire to it. Descriptors stay the caller's."""
        wire = HostWire()
        try:
            with _in_memory(request) as memory:
                await self.tell({"kind": kind}, [wire.child.fileno(), memory, *descriptors])
        except BaseException:
            wire.close()
            raise
        wire.handed_over()
        return wire

    async def tell(self, body: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send the launcher itself a message. Raises RunError `sandbox_lost`."""
        async with self._turn:
            while True:
                try:
                    socket.send_fds(self._socket, [encode(body)], list(descriptors))
                    return
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                except OSError as error:
                    raise gone() from error

    async def close(self) -> None:
        """Hang up, which ends the launcher, and wait for its end. Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        for _ in range(500):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        else:
            self._process.kill()
            self._process.wait()
        if not self.lost.done():
            self.lost.cancel()


@contextlib.contextmanager
def _in_memory(request: Mapping[str, Any]) -> Generator[int]:
    """A memory file that holds the request, until the end of the block."""
    memory = os.memfd_create("request", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(encode(request))
        yield memory
    finally:
        os.close(memory)
