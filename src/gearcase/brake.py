"""The brake: freeze, resume and kill a run, from outside, at any moment.

A level, not an edge: `running < latched < frozen < killed`. It is persisted before processes are touched, and is idempotent. Each
source (operator, budget, sandbox) has a level of its own and the highest one holds: resuming clears one's own only.

Order of a freeze: the doors take nothing new (at once, in memory), the level is made durable, the processes are frozen. Calls in
flight finish upstream, are settled, and their answers wait in the frozen box's sockets.

Threat: an agent that will not stop, and an operator who needs it to. Nothing in a box can reach the control socket: it is a path
of the host, in a folder of mode 0700, and the peer's uid is checked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

from gearcase.errors import GearcaseError, RunError, UsageError, unpack
from gearcase.events import BrakeChanged
from gearcase.handbrake import HandBrake, pull
from gearcase.runs import RunFolder, short_path, write_atomically
from gearcase.seams import Grip, Recorder

KILL_PATIENCE = 5.0
"""Seconds for a run's process to answer before it is killed itself."""
FREEZE_PATIENCE = 1.0
"""... before the hand brake is pulled."""


class Level(IntEnum):
    """How far the brake is pulled."""

    RUNNING = 0
    LATCHED = 1
    FROZEN = 2
    KILLED = 3


class Latch(Protocol):
    """A door that can be told to take nothing new."""

    def latch(self) -> None:
        """Refuse new requests from now on; those in flight finish."""
        ...

    def unlatch(self) -> None:
        """Take requests again."""
        ...


class Freezes(Protocol):
    """What stands still while the run is frozen: a sandbox, or all that a run has on other machines."""

    async def freeze(self) -> Any:
        """Stop. Idempotent."""
        ...

    async def thaw(self) -> None:
        """Undo `freeze`. Idempotent."""
        ...

    def grip(self) -> Grip | None:
        """What another process freezes it with; None where that is not on this machine."""
        ...


class BoxClock:
    """Seconds of box time: CLOCK_BOOTTIME less the time that the run stood frozen."""

    def __init__(self) -> None:
        self._start = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._frozen_since: float | None = None
        self._frozen = 0.0

    def stop(self) -> None:
        """The clock stands still from now on."""
        if self._frozen_since is None:
            self._frozen_since = time.clock_gettime(time.CLOCK_BOOTTIME)

    def go(self) -> None:
        """The clock runs again."""
        if self._frozen_since is not None:
            self._frozen += time.clock_gettime(time.CLOCK_BOOTTIME) - self._frozen_since
            self._frozen_since = None

    def now(self) -> float:
        """Seconds since the start."""
        until = time.clock_gettime(time.CLOCK_BOOTTIME) if self._frozen_since is None else self._frozen_since
        return until - self._start - self._frozen


class Brake:
    """The brake of one run. Doors and sandboxes are added as they come to life and obey the level at once."""

    def __init__(self, folder: RunFolder, recorder: Recorder, clock: BoxClock) -> None:
        self._hand = HandBrake(folder, self._pulled)
        self._pulling: set[asyncio.Task[float]] = set()
        self._folder = folder
        self._recorder = recorder
        self._clock = clock
        self._sources: dict[str, Level] = {}
        self._doors: list[Latch] = []
        self._sandboxes: list[Freezes] = []
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    @property
    def level(self) -> Level:
        """The level that holds: the highest of all sources."""
        return max(self._sources.values(), default=Level.RUNNING)

    def add_door(self, door: Latch) -> None:
        """From now on this door obeys the brake."""
        self._doors.append(door)
        if self.level > Level.RUNNING:
            door.latch()

    def remove_door(self, door: Latch) -> None:
        """A door that is closed obeys nothing. Idempotent."""
        if door in self._doors:
            self._doors.remove(door)

    async def add_sandbox(self, sandbox: Freezes) -> None:
        """From now on this sandbox obeys the brake."""
        self._sandboxes.append(sandbox)
        self._hand.hold(sandbox, sandbox.grip)
        if self.level >= Level.FROZEN:
            await sandbox.freeze()

    def remove_sandbox(self, sandbox: Freezes) -> None:
        """A sandbox that is torn down needs no brake. Idempotent."""
        self._hand.let_go(sandbox)
        if sandbox in self._sandboxes:
            self._sandboxes.remove(sandbox)

    async def close(self) -> None:
        """The run is over: the hand brake, too."""
        await self._hand.close()

    async def pull(self, level: Level, by: str, reason: str = "", also: Sequence[str] = ()) -> float:
        """Set the level of one source; returns the milliseconds until it was in force. Raises RunError when a process resists.

        `also`: sources whose level ends with this, because it answers what they asked.
        """
        began = time.perf_counter()
        if level > Level.RUNNING:
            for door in self._doors:
                door.latch()
        async with self._turn:
            before = self.level
            for source in also:
                self._sources.pop(source, None)
            self._sources[by] = level
            if level is Level.RUNNING:
                del self._sources[by]
            after = self.level
            unwritten = self._persist()
            await self._enforce(before, after)
            milliseconds = (time.perf_counter() - began) * 1000
            event = BrakeChanged(level=after.name.lower(), by=by, reason=reason, milliseconds=round(milliseconds, 2))
            self._recorder.append(event)
            if unwritten is None:
                self._recorder.flush()
        async with self._changed:
            self._changed.notify_all()
        if unwritten is not None:  # said after it is in force: a full disk must not keep anybody from braking
            raise RunError(
                "level_not_written",
                f"the run is {after.name.lower()}, and that could not be written down",
                cause=str(unwritten),
                remedy="see that the disk of the run's folder has room and is writable, then say it again",
            )
        return milliseconds

    def _pulled(self, reason: str) -> None:
        """By hand, while this process was not heard: from now on it is a freeze like any other."""
        pulling = asyncio.create_task(self.pull(Level.FROZEN, "operator", reason))
        self._pulling.add(pulling)
        pulling.add_done_callback(self._pulling.discard)

    async def wait_for(self, wanted: Callable[[Level], bool]) -> Level:
        """Wait until the level is as wanted; returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: wanted(self.level))
            return self.level

    async def _enforce(self, before: Level, after: Level) -> None:
        if after > Level.RUNNING:
            for door in self._doors:  # again: one who resumed meanwhile may have opened them
                door.latch()
        if after >= Level.FROZEN:
            self._clock.stop()
            await asyncio.gather(*(_braked(sandbox.freeze(), after is Level.KILLED) for sandbox in self._sandboxes))
        elif before >= Level.FROZEN:
            await asyncio.gather(*(_braked(sandbox.thaw()) for sandbox in self._sandboxes))
            self._clock.go()
        if after is Level.RUNNING:
            for door in self._doors:
                door.unlatch()

    def _persist(self) -> OSError | None:
        """Write the level down; returns what stood in the way."""
        levels = {source: level.name.lower() for source, level in self._sources.items()}
        try:
            write_atomically(self._folder.path / "level", json.dumps(levels).encode())
        except OSError as error:
            return error
        return None


async def _braked(braking: Awaitable[Any], killed: bool = False) -> None:
    try:
        await braking
    except RunError as error:
        # One that is being torn down at this moment moves no more; what cannot be stopped before a kill is ended by it.
        if error.code != "sandbox_lost" and not (killed and error.code == "not_frozen"):
            raise


# --- the control socket ----------------------------------------------------------------------------------------------------

Verb = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


_FINISHING = 5.0
"""Seconds for what is being done when a run ends."""


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

    Where it does not answer, a `freeze` is pulled by hand after a second, and a `kill` kills the process itself after five: its boxes die
    with it.
    """
    request = {"verb": verb, **arguments}
    try:
        if verb != "freeze":
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
