"""The redis door: a database at NAME.box:6379, and what programs inside did with it, as its server counted it.

Bytes pass unread: what may be said is the server's own list (see `server`), and what was said is asked of it, every few seconds and at the
end. So the door adds a read and a write, and no opinion. A volume is kept when the last program has gone, whatever the run came to; where
that fails, or the brake has killed the server, it stays as it was, and that is on record.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gearcase.box import doors as declaration
from gearcase.box.redis_url import parse_redis_url
from gearcase.doors.housed import failed
from gearcase.doors.leaving import end_tasks_of
from gearcase.doors.redis.counts import since
from gearcase.doors.redis.server import DUMP, SOCKET, RedisServer, patience
from gearcase.doors.redis.source import Content, from_file, from_server
from gearcase.doors.redis.volume import Volume
from gearcase.doors.relay import Relay
from gearcase.errors import GearcaseError, RunError, UsageError
from gearcase.events import (
    Amounts,
    ConnectionClosed,
    ConnectionOpened,
    Contact,
    DatabaseOpened,
    DoorRefused,
    Failure,
    StatementsRan,
    VolumeKept,
)
from gearcase.seams import Housing, Place
from gearcase.units import format_bytes

PORT = 6379
MOST_CONNECTIONS = 128
LOOK_EVERY = 5.0
"""Seconds between two looks at what was counted."""
_MOST_RECORDS = 1000


class RedisDoor:
    """One declared database; a `Door`. `alone`: it is the only one, so that REDIS_URL leads to it.

    `of`: it is a branch of what is behind that door, and `agent`'s.
    """

    def __init__(
        self,
        name: str,
        declared: declaration.RedisDoor,
        volumes: Path,
        *,
        alone: bool,
        of: RedisDoor | None = None,
        agent: str = "",
    ) -> None:
        self.id = f"redis.{name}"
        self._on_record = f"{self.id}@{agent}" if agent else self.id
        self._of = of
        self._agent = agent
        self._branches: set[str] = set()
        self.changes: Sequence[str] = ()
        """See `Branches`."""
        self.places = (Place(f"{name}.box", PORT),)
        self._name = name
        self._declared = declared
        self._alone = alone
        self._volumes = volumes
        self._volume: Volume | None = None
        self._server: RedisServer | None = None
        self._housing: Housing | None = None
        self._relays: set[Relay] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._numbers = itertools.count(1)
        self._refused = 0
        self._told: Mapping[str, Amounts] = {}
        self._gone = (0, 0)  # bytes of connections that have ended, out and in
        self._told_bytes = (0, 0)
        self._latched = False
        self.secrets: Sequence[str] = ()
        """What nothing that leaves may hold."""

    @property
    def environment(self) -> Mapping[str, str]:
        """See `Door`."""
        url = f"redis://{self.places[0].name}:{PORT}"
        named = {f"{self._name.upper().replace('-', '_')}_REDIS_URL": url}
        return {**named, "REDIS_URL": url} if self._alone else named

    async def open(self, housing: Housing) -> None:
        """Start the server with what it begins with.

        Raises UsageError `missing_extra`, `missing_password`, `bad_dump`, `volume_in_use`, and RunError.
        """
        began, declared = time.monotonic(), self._declared
        self._housing = housing
        try:
            content = self._content()
            server, size = await RedisServer.open(housing, self._name, declared.memory, content)
        except BaseException:
            if self._volume is not None:
                self._volume.close()
            raise
        self._server = server
        keys, version = await server.keys(), (await server.counts()).version
        mode = "volume" if declared.volume else "branch" if content else "fresh"
        source = self._of._on_record if self._of is not None else declared.volume or declared.source or ""
        seconds = round(time.monotonic() - began, 3)
        told = DatabaseOpened(self._on_record, mode, version, source, rows=keys, bytes=size, seconds=seconds)
        housing.recorder.append(told, self._agent)
        assert server.life is not None
        server.life.add_done_callback(self._server_ended)
        self._serving.append(asyncio.create_task(self._watch(server)))

    def _content(self) -> Content | None:
        """What it begins with; a volume belongs to this run from here on."""
        declared = self._declared
        if self._of is not None:
            self._of._branches.add(self._agent)
            return self._of.standing().content(self._of._on_record)
        if declared.volume is not None:
            self._volume = Volume(self._volumes, declared.volume)
            return self._volume.content()
        if declared.source is None:
            return None
        if "://" not in declared.source:
            return from_file(Path(declared.source))
        variable = declared.password_env
        if variable is not None and variable not in os.environ:
            message, remedy = f"{variable} is not set, and the box says that it holds a password", f"export {variable}=..."
            raise UsageError("missing_password", message, remedy=remedy)
        password = os.environ[variable] if variable else ""
        self.secrets = (password,) if password else ()
        return from_server(parse_redis_url(declared.source), password)

    def branch(self, agent: str) -> RedisDoor:
        """See `Branches`."""
        declared = declaration.RedisDoor(memory=self._declared.memory)
        return RedisDoor(self._name, declared, self._volumes, alone=self._alone, of=self, agent=agent)

    def standing(self) -> RedisServer:
        """Its server. Raises RunError `door_failed` where it has ended."""
        if self._server is None:
            raise failed(f"the redis server of {self._name} has ended")
        return self._server

    async def serve(self, agent: str, place: Place, sock: socket.socket, pay: Callable[[int], None]) -> None:
        """See `Door`. What reaches a throw-away server has not left: nothing is paid."""
        sock.setblocking(False)
        self._serving.append(asyncio.create_task(self._accept(agent, sock), name=agent))

    async def leave(self, agent: str) -> None:
        """See `Door`."""
        await end_tasks_of(agent, [*self._serving, *self._tasks])
        self._serving = [task for task in self._serving if not task.done()]

    async def _accept(self, agent: str, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._tasks) >= MOST_CONNECTIONS:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            inner, _ = await loop.sock_accept(listening)
            inner.setblocking(False)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._serve(agent, inner), name=agent)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, agent: str, inner: socket.socket) -> None:
        assert self._server is not None
        with inner:
            try:
                outer = await self._server.housed.connect(SOCKET)
            except OSError:
                return self._refuse(agent, inner)
            with outer:
                return await self._pass_on(agent, inner, outer)

    async def _pass_on(self, agent: str, inner: socket.socket, outer: socket.socket) -> None:
        assert self._housing is not None
        recorder, name, number = self._housing.recorder, self.places[0].name, next(self._numbers)
        began, why = time.monotonic(), "failed"
        is_recorded = number <= _MOST_RECORDS
        if is_recorded:
            recorder.append(ConnectionOpened(self._on_record, number, name, PORT, ""), agent)
        relay = Relay(inner, outer, _free, None)
        self._relays.add(relay)
        if self._latched:
            relay.pause()
        try:
            why = await relay.run()
        finally:
            self._relays.discard(relay)
            sent, received = relay.out.passed, relay.back.passed
            self._gone = (self._gone[0] + sent, self._gone[1] + received)
            if is_recorded:
                seconds = round(time.monotonic() - began, 3)
                recorder.append(ConnectionClosed(self._on_record, number, name, sent, received, seconds, why), agent)

    def _refuse(self, agent: str, inner: socket.socket) -> None:
        """Tell a program that the server has ended, in its own protocol, as far as it takes it."""
        assert self._housing is not None
        with contextlib.suppress(OSError):
            inner.send(f"-ERR gearcase: the database {self._name} has ended; the operator finds why in the journal\r\n".encode())
        self._refused += 1
        if str(self._refused).strip("0") == "1":  # 1, 10, 100, ...
            refused = DoorRefused(self._on_record, "door_failed", "the redis server has ended", {"count": self._refused})
            self._housing.recorder.append(refused, agent)

    # --- what was counted --------------------------------------------------------------------------------------------------

    def _bytes(self) -> tuple[int, int]:
        """Out and in, so far."""
        sent = sum(relay.out.passed for relay in self._relays)
        received = sum(relay.back.passed for relay in self._relays)
        return self._gone[0] + sent, self._gone[1] + received

    async def _watch(self, server: RedisServer) -> None:
        """Tell what was done, while it goes on. A server that does not answer is on record once, and asked again in the end."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._bytes() == self._told_bytes or server.housed.sandbox.frozen:
                continue
            try:
                await self._look(server)
            except GearcaseError as error:
                if server.housed.sandbox.frozen:
                    continue  # it was stopped while it was asked
                if not self._has_ended(server):
                    self._record(error)
                return

    async def _look(self, server: RedisServer) -> None:
        """Put what was done since the last look on record, and how many keys were looked up and changed so far."""
        assert self._housing is not None
        passed, counts = self._bytes(), await server.counts()
        kinds, self._told = since(self._told, counts.kinds), counts.kinds
        if kinds:
            sent, received = (at - told for at, told in zip(passed, self._told_bytes, strict=True))
            self._housing.recorder.append(StatementsRan(self._on_record, kinds, sent, received), self._agent)
            keys = {"read": counts.read, "written": counts.written}
            self._housing.recorder.append(Contact(self._on_record, {"keys": keys}, []), self._agent)
            self.changes = [f"changed  keys ({counts.written:,} times)"] if counts.written else ()
        self._told_bytes = passed

    def _record(self, error: GearcaseError) -> None:
        assert self._housing is not None
        self._housing.recorder.append(Failure(error.envelope()), self._agent)

    @staticmethod
    def _has_ended(server: RedisServer) -> bool:
        return server.life is None or server.life.done()

    def _server_ended(self, life: asyncio.Task[Any]) -> None:
        """A server that ends before it is told to, on record."""
        if life.cancelled() or self._server is None:
            return
        error = life.exception()
        if not isinstance(error, GearcaseError):
            error = failed(f"the redis server of {self._name} has ended", life.result())
        self._record(error)

    def describe(self) -> Mapping[str, Any]:
        """See `Door`."""
        declared = self._declared
        whose = f" (a branch of {self._of._on_record})" if self._of is not None else ""
        beside = f"; sub-agents with a branch of it: {', '.join(sorted(self._branches))}" if self._branches else ""
        stays = f"; the next run finds what it holds (volume {declared.volume})" if declared.volume else ""
        return {
            "address": f"redis://{self.places[0].name}:{PORT}",
            "purpose": f"a Redis database{whose} of {format_bytes(declared.memory)}, without scripts and settings{stays}{beside}",
        }

    def latch(self) -> None:
        """See `Door`."""
        self._latched = True
        for relay in self._relays:
            relay.pause()

    def unlatch(self) -> None:
        """See `Door`."""
        self._latched = False
        for relay in self._relays:
            relay.resume()

    # --- the end -----------------------------------------------------------------------------------------------------------

    async def close(self) -> tuple[str, ...]:
        """See `Door`. What was done is told, and a volume kept, before the server ends."""
        tasks = [*self._serving, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._serving.clear()
        server, self._server = self._server, None
        if self._of is not None:
            self._of._branches.discard(self._agent)
        try:
            if server is not None:
                await self._finish(server)
        finally:
            if server is not None:
                await server.close()
            if self._volume is not None:
                self._volume.close()
        return ()

    async def _finish(self, server: RedisServer) -> None:
        """The last look, and the volume. Of a server that has ended or stands frozen for good, it is what is known."""
        stopped = "it had ended" if self._has_ended(server) else "it stood frozen" if server.housed.sandbox.frozen else ""
        if not stopped:
            try:
                await self._look(server)
            except GearcaseError as error:
                self._record(error)
        if self._volume is not None:
            try:
                if stopped:
                    raise failed(stopped)
                await self._keep(server, self._volume)
            except (GearcaseError, OSError, TimeoutError) as error:
                message = f"the volume {self._volume.name} stays as it was before this run"
                remedy = "let the run end without killing it, and see that there is room on the disk"
                cause = str(error) or "it took too long"
                self._record(RunError("volume_not_kept", message, cause=cause, remedy=remedy))

    async def _keep(self, server: RedisServer, volume: Volume) -> None:
        assert self._housing is not None
        began = time.monotonic()
        async with asyncio.timeout(patience(2 * self._declared.memory)):
            keys = await server.keys()
            await server.save()
            size = await volume.keep(server.housed, DUMP)
        self._housing.recorder.append(VolumeKept(self.id, volume.name, keys, size, round(time.monotonic() - began, 3)))


def _free(count: int) -> None:
    """What reaches a throw-away server has not left: nothing is paid."""
