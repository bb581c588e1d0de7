"""The control socket of a run: what an operator's commands ask of the process that drives it, and where that does not answer.

Threat: nothing in a box can reach the socket: it is a path of the host, in a folder of mode 0700, and the peer's uid is checked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from gearcase.errors import GearcaseError, RunError, UsageError, unpack
from gearcase.handbrake import pull
from gearcase.runs import RunFolder, short_path

KILL_PATIENCE = 5.0
"""Seconds for a run's process to answer before it is killed itself."""
FREEZE_PATIENCE = 1.0
"""... before the hand brake is pulled."""
_FINISHING = 5.0
"""Seconds for what is being done when a run ends."""

Verb = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """Serves `control.sock` of a run: one JSON line in, one JSON line out, for processes of the same user or root."""

    def __init__(self, folder: RunFolder, verbs: Mapping[str, Verb]) -> None:
        self._folder = folder
        self._verbs = verbs
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen. The path may be longer than a socket address allows, so it is bound through its folder's descriptor."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_path(self._folder.path, "control.sock") as path:
            Path(path).unlink(missing_ok=True)
            listener.bind(path)
            Path(path).chmod(0o600)
        listener.listen(16)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def close(self) -> None:
        """Remove the socket and stop listening; what is being done is finished and answered. Idempotent."""
        if self._server is None:
            return
        (self._folder.path / "control.sock").unlink(missing_ok=True)
        self._server.close()
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=_FINISHING)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer: socket.socket = writer.get_extra_info("socket")
            _pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid in (0, os.getuid()):
                async with asyncio.timeout(5):
                    request = json.loads(await reader.readline())
                self._note_serving()
                writer.write(json.dumps(await self._answer(request)).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            return  # a client that went away or spoke nonsense is answered by the closed connection
        finally:
            writer.close()

    def _note_serving(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        verb = self._verbs.get(str(request.get("verb")))
        try:
            if verb is None:
                raise UsageError(
                    "unknown_verb", f"a run has no verb {request.get('verb')!r}", remedy=f"one of: {', '.join(self._verbs)}"
                )
            return {"ok": await verb(request)}
        except GearcaseError as error:
            return {"error": error.packed()}


def command(folder: RunFolder, verb: str, *, timeout: float = 30.0, **arguments: Any) -> dict[str, Any]:
    """Ask the process that drives a run to do something. Raises RunError `not_running`, or what that process answers.

    Where it does not answer, a `freeze` of a whole run is pulled by hand after a second, and a `kill` kills the process itself after five:
    its boxes die with it.
    """
    request = {"verb": verb, **arguments}
    try:
        if verb != "freeze" or arguments.get("agent") or arguments.get("latch"):
            return _ask(folder, request, KILL_PATIENCE if verb == "kill" else timeout)
        try:
            return _ask(folder, request, FREEZE_PATIENCE)
        except TimeoutError:
            return pull(folder, str(arguments.get("reason") or "")) or _ask(folder, request, timeout)
    except (FileNotFoundError, ConnectionRefusedError):
        raise _not_running(folder) from None
    except (TimeoutError, ValueError, ConnectionError) as error:
        if not (folder.path / "control.sock").exists():
            raise _not_running(folder) from None  # it ended while it was asked
        pid = folder.owner_pid()
        if verb == "kill" and pid:
            os.kill(pid, signal.SIGKILL)
            return {"level": "killed", "by": "signal"}
        raise RunError(
            "no_answer",
            f"the process that drives run {folder.name} (pid {pid}) does not answer",
            cause=str(error),
            remedy=f"end it, with its boxes: gearcase kill {folder.name}",
        ) from error


def _ask(folder: RunFolder, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_path(folder.path, "control.sock") as path:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            answer = json.loads(stream.readline())
    if "error" in answer:
        raise unpack(answer["error"])
    return answer["ok"]


def _not_running(folder: RunFolder) -> RunError:
    return RunError("not_running", f"run {folder.name} is not running", remedy=f"see how it ended: gearcase report {folder.name}")
