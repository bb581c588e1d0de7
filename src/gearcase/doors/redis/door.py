"""The redis door: a database at NAME.box:6379, and what programs inside did with it, as its server counted it.

Bytes pass unread: what may be said is the server's own list (see `server`), and what was said is asked of it, every few seconds and at the
end. So the door adds a read and a write, and no opinion.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gearcase.box import doors as declaration
from gearcase.doors.housed import failed, fetch
from gearcase.doors.redis.content import Volume, check_dump, copy_of
from gearcase.doors.redis.server import DUMP, SOCKET, RedisServer
from gearcase.doors.relay import Relay
from gearcase.errors import GearcaseError, RunError
from gearcase.events import (
    Amounts,
    ConnectionClosed,
    ConnectionOpened,
    Contact,
    DatabaseOpened,
    DoorRefused,
    Failure,
    StatementsRan,
)
from gearcase.seams import Housing, Place
from gearcase.units import format_bytes

PORT = 6379
MOST_CONNECTIONS = 128
LOOK_EVERY = 5.0
"""Seconds between two looks at what was counted."""
_LAST_LOOK = 20.0
_MOST_RECORDS = 1000
_COUNTED = re.compile(
    r"^cmdstat_([a-z0-9_|.-]{1,60}):calls=(\d+),usec=(\d+)[^\r\n]*?rejected_calls=(\d+),failed_calls=(\d+)", re.MULTILINE
)


class RedisDoor:
    """One declared database; a `Door`. `alone`: it is the only one, so that REDIS_URL leads to it."""

    def __init__(self, name: str, declared: declaration.RedisDoor, volumes: Path, *, alone: bool) -> None:
        self.id = f"redis.{name}"
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
        self._told: dict[str, Amounts] = {}
        self._bytes = [0, 0]
        self._told_bytes = [0, 0]
        self._latched = False

    @property
    def environment(self) -> Mapping[str, str]:
        """See `Door`."""
        url = f"redis://{self.places[0].name}:{PORT}"
        named = {f"{self._name.upper().replace('-', '_')}_REDIS_URL": url}
        return {**named, "REDIS_URL": url} if self._alone else named

    async def open(self, housing: Housing) -> None:
        """Start the server with what it begins with. Raises UsageError `missing_extra`, `bad_dump`, `volume_in_use`, RunError."""
        began, declared = time.monotonic(), self._declared
        self._housing = housing
        copied: Path | None = None
        try:
            content, source = None, ""
            if declared.volume is not None:
                self._volume = Volume(self._volumes, declared.volume)
                content, source = self._volume.content(), f"volume {declared.volume}"
            elif declared.source is not None and declared.source.startswith("redis://"):
                source = declared.source
                password = os.environ.get(declared.password_env or "", "")
                content = copied = await copy_of(source, password, housing.folder / f"{self._name}.rdb", 2 * declared.memory)
            elif declared.source is not None:
                source = declared.source
                content = check_dump(Path(source))
            self._server = server = await RedisServer.open(housing, self._name, declared.memory, content)
        except BaseException:
            await self.close()
            raise
        finally:
            if copied is not None:
                copied.unlink(missing_ok=True)
        keys = int((await self._ask("DBSIZE"))[1:] or 0)
        size = content.stat().st_size if content is not None and content.exists() else 0
        seconds = round(time.monotonic() - began, 3)
        mode = "volume" if self._volume else "branch" if source else "fresh"
        housing.recorder.append(DatabaseOpened(self.id, mode, 0, source, rows=keys, bytes=size, seconds=seconds))
        assert server.life is not None
        server.life.add_done_callback(self._server_ended)
        self._serving.append(asyncio.create_task(self._watch()))

    async def serve(self, agent: str, place: Place, sock: socket.socket, pay: Callable[[int], None]) -> None:
        """See `Door`. What reaches a throw-away server has not left: nothing is paid."""
        sock.setblocking(False)
        self._serving.append(asyncio.create_task(self._accept(agent, sock)))

    async def _accept(self, agent: str, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._tasks) >= MOST_CONNECTIONS:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            inner, _ = await loop.sock_accept(listening)
            inner.setblocking(False)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._pass_on(agent, inner))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, agent: str, inner: socket.socket) -> None:
        assert self._housing is not None
        recorder, name = self._housing.recorder, self.places[0].name
        number, began, why, counts = next(self._numbers), time.monotonic(), "failed", [0, 0]
        with inner:
            try:
                if self._server is None:
                    return
                outer = await self._server.housed.connect(SOCKET)
            except OSError:
                remedy = "the operator finds its last words in the journal"
                inner.send(f"-ERR gearcase: the database {self._name} has ended; {remedy}\r\n".encode())
                recorder.append(DoorRefused(self.id, "door_failed", "the redis server has ended", {}), agent)
                return
            with outer:
                if number <= _MOST_RECORDS:
                    recorder.append(ConnectionOpened(self.id, number, name, PORT, ""), agent)
                relay = Relay(inner, outer, _free, self._counter(0, counts), self._counter(1, counts))
                self._relays.add(relay)
                if self._latched:
                    relay.pause()
                try:
                    why = await relay.run()
                finally:
                    self._relays.discard(relay)
                    if number <= _MOST_RECORDS:
                        seconds = round(time.monotonic() - began, 3)
                        recorder.append(ConnectionClosed(self.id, number, name, counts[0], counts[1], seconds, why), agent)

    def _counter(self, way: int, counts: list[int]) -> Callable[[bytes], bytes]:
        def count(data: bytes) -> bytes:
            counts[way] += len(data)
            self._bytes[way] += len(data)
            return data

        return count

    # --- what was counted --------------------------------------------------------------------------------------------------

    async def _ask(self, *words: str) -> str:
        assert self._server is not None
        return await self._server.ask(*words)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._bytes != self._told_bytes and self._server is not None and not self._server.housed.sandbox.frozen:
                await self._look()

    async def _look(self) -> None:
        """Put what was said since the last look on record, and how many keys were read and changed so far."""
        assert self._housing is not None and self._server is not None
        text, said = await self._ask("INFO", "everything"), self._server.said
        now: dict[str, Amounts] = {}
        for name, calls, spent, rejected, wrong in _COUNTED.findall(text):
            if (count := int(calls) - said[name]) > 0 or int(rejected):
                errors = int(rejected) + int(wrong)
                now[name.upper()] = {"count": count + int(rejected), "errors": errors, "milliseconds": int(spent) // 1000}
        before, self._told = self._told, now
        kinds = {name: {key: value - before.get(name, {}).get(key, 0) for key, value in one.items()} for name, one in now.items()}
        kinds = {name: one for name, one in kinds.items() if one["count"]}
        sent, received = (at - told for at, told in zip(self._bytes, self._told_bytes, strict=True))
        self._told_bytes = list(self._bytes)
        if kinds:
            self._housing.recorder.append(StatementsRan(self.id, kinds, sent, received))
            met = dict(re.findall(r"^(keyspace_hits|keyspace_misses|rdb_changes_since_last_save):(\d+)", text, re.MULTILINE))
            looked = int(met.get("keyspace_hits", 0)) + int(met.get("keyspace_misses", 0))
            written = int(met.get("rdb_changes_since_last_save", 0))
            self._housing.recorder.append(Contact(self.id, {"keys": {"read": looked, "written": written}}, []))

    def _server_ended(self, life: asyncio.Future[Any]) -> None:
        """A server that ends before it is told to, on record."""
        assert self._housing is not None
        if life.cancelled() or self._server is None:
            return
        error = life.exception()
        if not isinstance(error, GearcaseError):
            error = failed(f"the redis server of {self._name} has ended", life.result())
        self._housing.recorder.append(Failure(error.envelope()))

    def describe(self) -> Mapping[str, Any]:
        """See `Door`."""
        stays = f", kept as volume {self._declared.volume}" if self._declared.volume else ""
        return {
            "address": f"redis://{self.places[0].name}:{PORT}",
            "purpose": f"a Redis database, {format_bytes(self._declared.memory)}{stays}; no scripts, no settings",
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

    async def close(self) -> tuple[str, ...]:
        """See `Door`. What was counted is told, and a volume kept, before the server ends."""
        tasks = [*self._serving, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._serving.clear()
        server = self._server
        try:
            if server is not None and server.life is not None and not server.life.done() and not server.housed.sandbox.frozen:
                async with asyncio.timeout(_LAST_LOOK):
                    await self._look()
                    if self._volume is not None:
                        await self._keep(server, self._volume)
        except (GearcaseError, TimeoutError) as error:
            assert self._housing is not None
            if not isinstance(error, GearcaseError):
                remedy = "give the door less `memory`, or look at the disk"
                error = RunError("door_failed", f"the redis server of {self._name} did not answer in the end", remedy=remedy)
            self._housing.recorder.append(Failure(error.envelope()))
        finally:
            self._server = None
            if server is not None:
                await server.close()
            if self._volume is not None:
                self._volume.close()
        return ()

    async def _keep(self, server: RedisServer, volume: Volume) -> None:
        """Replace what the volume held, whole or not at all."""
        await self._ask("SAVE")
        part = volume.file.with_suffix(f".{os.getpid()}.part")
        try:
            await fetch(server.housed, DUMP, part)
            part.replace(volume.file)
        finally:
            part.unlink(missing_ok=True)


def _free(count: int) -> None:
    """What reaches a throw-away server has not left: nothing is paid."""
