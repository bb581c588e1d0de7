"""A server that a door starts, in a sandbox of its own: no network, limits of its own, frozen and thawed with the run.

It is reached by a Unix socket in its workspace alone. Threat: the server reads what an agent wrote, and may be taken over; what it could
reach then is its sandbox. So its socket is opened relative to a descriptor, as a socket and nothing else: a link in its place is never
followed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Command, CommandResult, Housing, Limits, Mount, Sandbox, SandboxSpec

_THAWED = 0.1
"""Seconds between two looks whether the run goes on."""
_POLL = 0.01
_PART = 1 << 20


class Housed:
    """A sandbox for one server. Make one with `open`."""

    def __init__(self, housing: Housing, sandbox: Sandbox, disk: int) -> None:
        self._housing = housing
        self.sandbox = sandbox
        self.disk = disk
        """Bytes: no file of it is larger."""
        self._life: asyncio.Task[CommandResult] | None = None
        self._sockets: dict[str, int] = {}

    @classmethod
    async def open(
        cls,
        housing: Housing,
        name: str,
        limits: Limits,
        mounts: Sequence[Mount] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Housed:
        """A sandbox under the run's brake, with nothing running in it yet. Raises what the driver raises."""
        identity = f"{name}-{os.getpid()}-{time.monotonic_ns()}"
        sandbox = await housing.driver.open(SandboxSpec(identity, limits, tuple(mounts), environment=environment or {}))
        try:
            await housing.adopt(sandbox)
        except BaseException:
            housing.release(sandbox, await sandbox.close())
            raise
        return cls(housing, sandbox, limits.disk)

    async def run(self, command: Command) -> CommandResult:
        """Run a command to its end; while the run stands frozen it is waited for."""
        while True:
            try:
                return await self.sandbox.run(command)
            except GearcaseError as error:
                if error.code != "frozen":
                    raise
                await asyncio.sleep(_THAWED)

    def start(self, command: Command) -> asyncio.Task[CommandResult]:
        """Run the server; the task ends with it."""
        self._life = asyncio.create_task(self.run(command))
        return self._life

    async def connect(self, path: str) -> socket.socket:
        """A non-blocking connection to its socket, `path` below /workspace. Raises OSError while there is none."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.path_of(path))
        except BaseException:
            sock.close()
            raise
        return sock

    def path_of(self, path: str) -> str:
        """A path of this machine that leads to its socket, and to nothing else. Raises OSError while there is none."""
        if path not in self._sockets:
            found = _open_beneath(self.sandbox.workspace, path)
            if not stat.S_ISSOCK(os.fstat(found).st_mode):
                os.close(found)
                raise OSError(f"{path} is no socket")
            self._sockets[path] = found
        return f"/proc/self/fd/{self._sockets[path]}"

    async def wait_for(self, path: str, seconds: float) -> None:
        """Until something listens there. Raises RunError `door_failed` when the server ends before, or takes longer."""
        until = time.monotonic() + seconds
        while True:
            try:
                (await self.connect(path)).close()
                return
            except OSError as error:
                if self._life is not None and self._life.done():
                    raise failed("the server ended before it served", self._life.result()) from error
                if time.monotonic() > until and not self.sandbox.frozen:
                    raise failed(f"the server does not answer after {seconds:g} s") from error
                self.forget(path)
            await asyncio.sleep(_POLL)

    def forget(self, path: str) -> None:
        """Look for the socket anew: a server that starts again makes another one."""
        if (found := self._sockets.pop(path, -1)) >= 0:
            os.close(found)

    async def close(self) -> None:
        """End the server and its sandbox; what stayed is told to the run. Idempotent."""
        for path in list(self._sockets):
            self.forget(path)
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        self._housing.release(self.sandbox, await self.sandbox.close())


def failed(message: str, ended: CommandResult | None = None) -> RunError:
    """What is wrong with a server, with its last words."""
    remedy = "give it more memory or disk in its table of the box"
    return RunError("door_failed", message, cause=last_words(ended) if ended else "", remedy=remedy)


def last_words(ended: CommandResult) -> str:
    """What a server said last, and how it ended."""
    struck = f", limits that struck: {', '.join(ended.limits)}" if ended.limits else ""
    return f"{(ended.stdout.text() + ended.stderr.text())[-4000:].strip()}\n{ended.ended} with {ended.exit_code}{struck}"


async def fetch(housed: Housed, name: str, target: Path) -> int:
    """Copy a file of a server's workspace into a new one of this machine; returns its bytes.

    Raises RunError `door_failed`, and OSError of this machine's disk; no part of it stays then.
    """
    return await in_thread(_fetch, housed.sandbox.workspace, name, target, housed.disk)


def _fetch(folder: int, name: str, target: Path, most: int) -> int:
    """Copy a file of a sandbox out, and nothing that only looks like one: no link, no FIFO, no hole without end."""
    remedy = "start the run again: its server may have been taken over"
    try:
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise RunError("door_failed", f"the server made no {name}", cause=error.strerror or "", remedy=remedy) from error
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise RunError("door_failed", f"{name} is no file", remedy=remedy)
    with os.fdopen(found, "rb") as source:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with target.open("xb") as sink:
            try:
                while part := source.read(_PART):
                    if sink.tell() + len(part) > most:
                        raise RunError("door_failed", f"{name} is larger than its server's disk", remedy=remedy)
                    sink.write(part)
                sink.flush()
                os.fsync(sink.fileno())
            except BaseException:
                target.unlink()
                raise
            return sink.tell()


def _open_beneath(folder: int, path: str) -> int:
    """A path descriptor of `path` below a folder; no component of it may be a link."""
    at = os.dup(folder)
    try:
        *folders, last = path.split("/")
        for name in folders:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)
