"""One session of a program inside with the server: how it begins, and what passes.

The user's name is written by us: nobody inside can be anybody but the door's role, in the door's database. TLS is declined, since the
way to here leads through this machine's memory alone. A message that cancels is passed on where it means a session of this door.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gearcase.doors.postgres import wire
from gearcase.doors.postgres.gate import ClientReader, Gate
from gearcase.doors.postgres.record import WANTED, Record, Statements
from gearcase.doors.relay import Relay
from gearcase.errors import GearcaseError, Refused

START_WITHIN = 30.0
"""Seconds."""
_KEY = ord("K")
_GATE = "gate"
_REQUESTS = 3
"""First messages in a row: TLS, GSSAPI, and the one that counts."""
_STATES = {
    "wrong_user": "28000",
    "wrong_database": "3D000",
    "bad_protocol": "08P01",
    "door_failed": "57P03",
    "no_snapshot": "55000",
}


@dataclass(frozen=True, slots=True)
class Role:
    """Who a program inside is, and where."""

    user: str
    database: str


class Session:
    """Makes one session; `serve` lasts as long as it does."""

    def __init__(
        self,
        number: int,
        agent: str,
        inner: socket.socket,
        role: Role,
        record: Record,
        reach: Callable[[wire.Start], Awaitable[socket.socket]],
        pay: Callable[[int], None],
        gate: Gate | None,
    ) -> None:
        """`reach` makes a session with the server; `inner` is the client's connection."""
        self.number = number
        self.key = b""
        self.sent = self.received = 0
        self.refused: Refused | None = None
        self._inner = inner
        self._outer: socket.socket | None = None
        self._role = role
        self._reach = reach
        self._pay = pay
        self._statements = Statements(record, agent, number)
        self._walker = wire.Walker(WANTED + b"K", self._heard)
        self._relay: Relay | None = None
        self._held: set[str] = set()
        self._gate = gate
        self._reader = ClientReader()
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self) -> bytes:
        """The client's first messages; returns what it wants cancelled, empty where it begins a session. Raises Refused."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(START_WITHIN):
            for _ in range(_REQUESTS):
                length = await self._exactly(4)
                start = wire.read_start(length + await self._exactly(wire.start_length(length) - 4))
                if start.code not in (wire.SSL, wire.GSS):
                    break
                await loop.sock_sendall(self._inner, b"N")
            else:
                raise Refused("bad_protocol", "the client insists on TLS or GSSAPI", remedy="let it connect with sslmode=disable")
        if start.key:
            return start.key
        self._outer = await self._reach(wire.Start(start.code, self._admit(start.values)))
        return b""

    def _admit(self, values: Mapping[str, str]) -> dict[str, str]:
        role = self._role
        user, database = values.get("user", ""), values.get("database", "")
        if user not in ("", role.user):
            raise Refused(
                "wrong_user", f"there is no role {user[:80]!r} here", remedy=f"connect as {role.user}, with any password"
            )
        if database not in ("", role.user, role.database):
            raise Refused("wrong_database", f"there is no database {database[:80]!r} here", remedy=f"connect to {role.database}")
        if "replication" in values:
            remedy = "connect without the setting replication"
            raise Refused("wrong_database", "this door is not for replication", remedy=remedy)
        return {**values, "user": role.user, "database": role.database}

    async def pass_on(self) -> str:
        """Pass on what is said, both ways, until one side ends it; returns why."""
        assert self._outer is not None
        self._relay = Relay(self._inner, self._outer, self._pay, self._out, self._back)
        if self._held:
            self._relay.pause()
        try:
            return await self._relay.run()
        finally:
            if self._keeping is not None:
                self._keeping.cancel()
                await asyncio.wait({self._keeping})

    def _out(self, data: bytes) -> bytes:
        self.sent += len(data)
        self._statements.sent(data)
        if self._gate is None:
            return data
        if not self._gate.armed:
            return self._reader.take() + data
        passes, word = self._reader.feed(data)
        if word:
            self.hold(_GATE)
            self._keeping = asyncio.create_task(self._keep(self._gate, word))
        return passes

    async def _keep(self, gate: Gate, word: str) -> None:
        """What waits at the gate passes when the snapshot is made."""
        assert self._relay is not None
        try:
            await gate.keep(word)
        except (GearcaseError, OSError) as error:
            remedy = "let the operator see why: gearcase logs; give the database more disk"
            self.refused = Refused("no_snapshot", f"no snapshot could be made before {word}", cause=str(error), remedy=remedy)
            self._relay.end("no_snapshot")
            return
        self._relay.push(self._reader.take())
        self.release(_GATE)

    def _back(self, data: bytes) -> bytes:
        self.received += len(data)
        self._statements.received(len(data))
        self._walker.feed(data)
        return data

    def _heard(self, kind: int, body: bytes) -> None:
        if kind == _KEY:
            self.key = body
        else:
            self._statements.heard(kind, body)

    def hold(self, why: str) -> None:
        """Nothing new reaches the server until `why` is released."""
        self._held.add(why)
        if self._relay is not None:
            self._relay.pause()

    def release(self, why: str) -> None:
        """Undo `hold`."""
        self._held.discard(why)
        if self._relay is not None and not self._held:
            self._relay.resume()

    def cut(self, why: str) -> None:
        """End it now."""
        if self._relay is not None:
            self._relay.end(why)

    def tell(self, error: GearcaseError) -> None:
        """Say an error in the client's own protocol, as far as it takes it."""
        state = _STATES.get(error.code, "08006")
        with contextlib.suppress(OSError):
            self._inner.send(wire.error(state, f"gearcase: {error.message}", error.remedy))

    def close(self) -> None:
        """Close both connections."""
        self._inner.close()
        if self._outer is not None:
            self._outer.close()

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await asyncio.get_running_loop().sock_recv(self._inner, count - len(data))
            if not more:
                raise ConnectionError("the client says no more")
            data += more
        return data
