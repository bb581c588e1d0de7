"""The hand brake's other sides: the run that gives it its boxes, and whoever pulls it.

Invariants: it is there as long as the run has a box; the run's process never waits for it; when it was pulled the run hears of it as soon
as it hears anything, and makes the freeze its own; where it dies another one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from gearcase.errors import RunError
from gearcase.handbrake import process
from gearcase.runs import RunFolder, short_path
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Grip

HAND = "hand brake"
"""Who has frozen, where it was the hand brake."""
SOCKET = "handbrake.sock"
_EXIT = 2.0


class HandBrake:
    """The hand brake of one run. `pulled` hears of a pull, with its reason. Of use within an event loop."""

    def __init__(self, folder: RunFolder, pulled: Callable[[str], None]) -> None:
        self._folder = folder
        self._pulled = pulled
        self._numbers = itertools.count()
        self._held: dict[Hashable, tuple[int, Callable[[], Grip | None]]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._listener: socket.socket | None = None

    def hold(self, box: Hashable, grip: Callable[[], Grip | None]) -> None:
        """From now on it freezes this box, with what `grip` opens; nothing where that is None."""
        if (opened := grip()) is None:
            return
        self._held[box] = number, _ = next(self._numbers), grip
        if self._process is None:
            os.close(opened.descriptor)
            self._start()
        else:
            self._give(number, opened)

    def let_go(self, box: Hashable) -> None:
        """A box that is torn down. Idempotent."""
        if (held := self._held.pop(box, None)) is not None:
            self._tell({"let_go": held[0]})

    async def close(self) -> None:
        """End it; nothing of it is left."""
        if self._listener is not None:
            self._listener.close()
            (self._folder.path / SOCKET).unlink(missing_ok=True)
        if self._process is not None:
            self._hang_up()
            try:
                await in_thread(self._process.wait, _EXIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await in_thread(self._process.wait)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(process.__file__))],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the run's own process
        )
        theirs.close()
        self._socket = ours
        if self._listener is None:
            self._listener = _listen(self._folder)
        socket.send_fds(ours, [json.dumps({"serve": True}).encode()], [self._listener.fileno()])
        asyncio.get_running_loop().add_reader(ours, self._hear, ours)
        for number, open_grip in self._held.values():
            if (grip := open_grip()) is not None:
                self._give(number, grip)

    def _give(self, number: int, grip: Grip) -> None:
        try:
            self._tell({"hold": number, "how": grip.how}, grip.descriptor)
        finally:
            os.close(grip.descriptor)

    def _tell(self, message: Mapping[str, Any], *descriptors: int) -> None:
        if self._socket is None:
            return
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], list(descriptors))
        except OSError:  # it is gone, or does not listen
            self._start_anew()

    def _hear(self, ours: socket.socket) -> None:
        try:
            data = ours.recv(4096)
        except OSError:
            data = b""
        if data:
            self._pulled(str(json.loads(data)["pulled"]))
        elif ours is self._socket:
            self._start_anew()

    def _start_anew(self) -> None:
        self._hang_up()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._start()

    def _hang_up(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None


def _listen(folder: RunFolder) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_path(folder.path, SOCKET) as path:
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        Path(path).chmod(0o600)
    listener.listen(16)
    return listener


def pull(folder: RunFolder, reason: str, timeout: float = 5.0) -> dict[str, Any] | None:
    """Freeze the boxes of a run without its own process; returns {level, milliseconds, by}. None where it has none, or it is not heard.

    Raises RunError `not_frozen` where something still moves.
    """
    with contextlib.suppress(FileNotFoundError, ConnectionError, TimeoutError, ValueError):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_path(folder.path, SOCKET) as path:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(json.dumps({"reason": reason}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
        if answer["moving"]:
            raise RunError(
                "not_frozen",
                f"{answer['moving']} of {answer['boxes']} boxes could not be stopped",
                remedy=f"they wait for a device; end the run: gearcase kill {folder.name}",
            )
        return {"level": "frozen", "milliseconds": round(answer["milliseconds"], 1), "by": HAND}
    return None
