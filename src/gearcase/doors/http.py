"""The http door: hosts outside, by name, and nothing else.

The box's resolver asks `find` for a name; if a rule covers it, listeners are born inside, at an address that no other name of the run
ever gets, and everything that connects there is passed on to that name. What the client says that it wants (TLS server name, HTTP Host)
must be that name, unless the operator allowed the port unread. The name is resolved once, outside, when somebody connects; the checked
address is the one that is dialled. Every connection is paid in bytes and on record.

Threat: names, addresses and parsers that lead somewhere else (see addresses.py, hello.py, webwatch.py); connections without end. So:
at most `MOST_NAMES` names and `MOST_CONNECTIONS` connections, deadlines for the first bytes and for connecting.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gearcase.box import doors as declaration
from gearcase.box.hosts import OWN, WEB_PORTS, HostRule, parse_place, parse_rule
from gearcase.doors.addresses import resolve
from gearcase.doors.hello import server_name
from gearcase.doors.metering import EgressMeter
from gearcase.doors.relay import Relay
from gearcase.doors.webwatch import WebWatch
from gearcase.errors import GearcaseError, Refused
from gearcase.events import ConnectionClosed, ConnectionOpened, DoorRefused
from gearcase.seams import Listener, Recorder

MOST_NAMES = 256
MOST_CONNECTIONS = 256
FIRST_BYTES_WITHIN = 30.0
CONNECT_WITHIN = 20.0
"""Seconds."""
_FIRST = 16 * 1024
_TLS = 22
_MOST_RECORDS = 2000

Listen = Callable[[Sequence[Listener]], Awaitable[Mapping[Listener, socket.socket]]]


@dataclass(frozen=True, slots=True)
class HttpRules:
    """What a box says of the outside. `hosts` maps a name to the place that it means, `private` may lead to this machine's networks."""

    allow: tuple[HostRule, ...] = ()
    private: frozenset[str] = frozenset()
    hosts: Mapping[str, str] = field(default_factory=dict[str, str])


class HttpDoor:
    """The http door of a run. Each agent's box has a `Seat` at it."""

    def __init__(self, rules: HttpRules, recorder: Recorder) -> None:
        self._rules = list(rules.allow)
        self._denied: list[HostRule] = []
        self._private = rules.private
        self._hosts = rules.hosts
        self.recorder = recorder
        self._seats: list[Seat] = []
        self._paused = False
        self._numbers = itertools.count(1)
        self.open = asyncio.Event()
        self.open.set()

    @property
    def rules(self) -> tuple[HostRule, ...]:
        """What may be reached now."""
        return tuple(self._rules)

    def seat(self, agent: str, meter: EgressMeter, listen: Listen) -> Seat:
        """The door as one agent's box has it. `listen` makes listening sockets inside."""
        seat = Seat(self, agent, meter, listen)
        self._seats.append(seat)
        return seat

    def allow(self, rule: HostRule) -> None:
        """One more rule, from now on."""
        self._denied = [one for one in self._denied if one != rule]
        if rule not in self._rules:
            self._rules.append(rule)

    def remove(self, rule: HostRule) -> int:
        """What a rule means may not be reached any more, also where a wider one allows it; returns how many connections were cut."""
        with contextlib.suppress(ValueError):
            self._rules.remove(rule)
        if rule not in self._denied:
            self._denied.append(rule)
        return sum(seat.cut_unruled() for seat in self._seats)

    def ports(self, name: str) -> frozenset[int]:
        """At which ports a name may be reached."""
        if name.endswith(OWN):
            return frozenset()
        allowed = frozenset(port for rule in self._rules if rule.covers(name) for port in rule.ports)
        return allowed - frozenset(port for rule in self._denied if rule.covers(name) for port in rule.ports)

    def is_raw(self, name: str, port: int) -> bool:
        """Whether what passes there is not read. Where two rules differ, it is read."""
        rules = [rule for rule in self._rules if rule.covers(name) and port in rule.ports]
        return bool(rules) and all(rule.raw for rule in rules)

    def latch(self) -> None:
        """Nothing new leaves; what is on its way back comes."""
        self.open.clear()
        for seat in self._seats:
            seat.pause()

    def unlatch(self) -> None:
        """Undo `latch`."""
        self.open.set()
        for seat in self._seats:
            seat.resume()

    async def connect(self, name: str, port: int) -> tuple[socket.socket, str]:
        """A connection to a name outside, and the address that it leads to. Raises Refused `unreachable` and what `resolve` does."""
        place, own_port = parse_place(self._hosts[name]) if name in self._hosts else (name, 0)
        addresses = await resolve(place, private=name in self._private or name in self._hosts)
        causes: list[str] = []
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_WITHIN / len(addresses)):
                    await asyncio.get_running_loop().sock_connect(sock, (address, own_port or port))
            except (OSError, TimeoutError) as error:
                sock.close()
                causes.append(f"{address}: {error or 'no answer in time'}")
                continue
            except BaseException:
                sock.close()
                raise
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, address
        remedy = "try again later; look outside of the box whether it answers"
        raise Refused("unreachable", f"{name}:{port} cannot be reached", cause="; ".join(causes), remedy=remedy)

    def number(self) -> int:
        """Of the next connection of the run."""
        return next(self._numbers)

    async def close(self) -> None:
        """Close every seat. Idempotent."""
        for seat in self._seats:
            await seat.close()


class Seat:
    """The http door in one box: its names, their addresses, its connections."""

    def __init__(self, door: HttpDoor, agent: str, meter: EgressMeter, listen: Listen) -> None:
        self._door = door
        self._agent = agent
        self._meter = meter
        self._listen = listen
        self._addresses: dict[str, str] = {}
        self._bound: set[tuple[str, int]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._next = itertools.count(256)  # 198.18.1.0 and up; below are the box's own doors
        self._turn = asyncio.Lock()
        self._refused: dict[tuple[str, str], int] = {}
        self._recorded = 0

    async def find(self, name: str) -> str | None:
        """The address inside of a name that may be reached, with its listeners; None for every other name."""
        ports = self._door.ports(name)
        if not ports:
            return None
        async with self._turn:
            if name not in self._addresses and len(self._addresses) >= MOST_NAMES:
                self._refuse(
                    name, Refused("too_many_names", f"the box has asked for {MOST_NAMES} names", remedy="allow fewer names")
                )
                return None
            address = self._addresses.get(name) or self._address()
            missing = [Listener(name, address, port) for port in sorted(ports) if (name, port) not in self._bound]
            if missing:
                sockets = await self._listen(missing)
                for listener in missing:
                    self._bound.add((name, listener.port))
                    sockets[listener].setblocking(False)
                    self._serving.append(asyncio.create_task(self._accept(sockets[listener], listener)))
            self._addresses[name] = address
            return address

    def _address(self) -> str:
        number = next(self._next)
        return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"

    async def _accept(self, listening: socket.socket, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._door.open.wait()
            while len(self._connections) >= MOST_CONNECTIONS:
                await asyncio.wait(self._connections, return_when=asyncio.FIRST_COMPLETED)
            inner, _ = await loop.sock_accept(listening)
            self.serve(inner, listener.name, listener.port)

    def serve(self, inner: socket.socket, name: str, port: int) -> None:
        """Pass one connection on to a name; the socket is ours from here."""
        inner.setblocking(False)
        inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(inner, name, port)
        task = asyncio.create_task(self._serve(connection))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _serve(self, connection: _Connection) -> None:
        try:
            await self._pass_on(connection)
        except GearcaseError as error:
            self._refuse(f"{connection.name}:{connection.port}", error)
            with contextlib.suppress(OSError):
                connection.inner.send(_told(connection.first, error))
        except (OSError, TimeoutError):
            return  # the client is gone, or never said what it wants
        finally:
            connection.close()

    async def _pass_on(self, connection: _Connection) -> None:
        name, port, door = connection.name, connection.port, self._door
        if port not in door.ports(name):
            remedy = "the operator took the rule away; ask for it: gear ask-for net"
            raise Refused("not_allowed", f"{name}:{port} may not be reached any more", remedy=remedy)
        watch = None
        if not door.is_raw(name, port):
            async with asyncio.timeout(FIRST_BYTES_WITHIN):
                watch = await self._read_first(connection)
        connection.outer, address = await door.connect(name, port)
        await door.open.wait()
        self._meter.take(len(connection.first))
        began, number = time.monotonic(), door.number()
        self._record(ConnectionOpened("http", number, name, port, address))
        relay = Relay(connection.inner, connection.outer, self._meter.take, watch.feed if watch else None)
        connection.relay, why = relay, "failed"
        try:
            await asyncio.get_running_loop().sock_sendall(connection.outer, connection.first)
            why = await relay.run()
        finally:
            sent, received = len(connection.first) + relay.out.passed, relay.back.passed
            self._record(
                ConnectionClosed("http", number, name, sent, received, round(time.monotonic() - began, 3), connection.why or why)
            )
        if why in ("wrong_host", "bad_request", "budget"):
            self._refuse(f"{name}:{port}", Refused(why, f"a connection to {name} was cut", remedy="see the journal"))

    async def _read_first(self, connection: _Connection) -> WebWatch | None:
        """What the client says that it wants must be the name. Returns what reads along with plain HTTP. Raises Refused."""
        name, port = connection.name, connection.port
        connection.first = await self._receive(connection)
        is_tls = connection.first[0] == _TLS
        if is_tls == (port == 80) and port in WEB_PORTS:
            wanted = "plain HTTP" if port == 80 else "TLS"
            remedy = f"let the operator allow it unread: tcp://{name}:{port}"
            raise Refused("wrong_protocol", f"port {port} is for {wanted}", remedy=remedy)
        if is_tls:
            while (said := server_name(connection.first)) is None:
                connection.first += await self._receive(connection)
            if said != name:
                remedy = f"connect to {said[:80]}; it must be allowed"
                raise Refused("wrong_host", f"the TLS hello names {said[:80]!r}, not {name}", remedy=remedy)
            return None
        watch = WebWatch(_is_host(name, port))
        passed = watch.feed(connection.first)
        while not passed:
            passed = watch.feed(await self._receive(connection))
        connection.first = passed
        return watch

    async def _receive(self, connection: _Connection) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(connection.inner, _FIRST)
        if not data:
            raise ConnectionError("the client says no more")
        return data

    def pause(self) -> None:
        """Nothing new leaves."""
        for connection in self._connections.values():
            if connection.relay is not None:
                connection.relay.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        for connection in self._connections.values():
            if connection.relay is not None:
                connection.relay.resume()

    def cut_unruled(self) -> int:
        """End every connection that no rule allows any more; returns how many those were."""
        unruled = [one for one in self._connections.values() if one.port not in self._door.ports(one.name)]
        for connection in unruled:
            connection.why = "not_allowed"
            connection.cut()
        return len(unruled)

    def _record(self, event: ConnectionOpened | ConnectionClosed) -> None:
        self._recorded += 1
        if self._recorded <= _MOST_RECORDS:
            self._door.recorder.append(event, self._agent)
        elif self._recorded == _MOST_RECORDS + 1:
            message = f"the agent has made {_MOST_RECORDS // 2} connections: further ones are metered, not recorded"
            self._door.recorder.append(DoorRefused("http", "too_many_records", message), self._agent)

    def _refuse(self, what: str, error: GearcaseError) -> None:
        """On record: the first time, then at powers of ten."""
        key = (what, error.code)
        if key not in self._refused and len(self._refused) >= MOST_NAMES:
            key = ("(more)", error.code)
        count = self._refused[key] = self._refused.get(key, 0) + 1
        if str(count).strip("0") == "1":
            context = {"to": key[0], "cause": error.cause, "count": count}
            self._door.recorder.append(DoorRefused("http", error.code, error.message, context), self._agent)

    async def close(self) -> None:
        """Stop serving and close every connection: each would keep the box's network alive. Idempotent."""
        tasks = [*self._serving, *self._connections]
        for connection in self._connections.values():
            connection.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    """One connection from inside, and the one that it leads to."""

    def __init__(self, inner: socket.socket, name: str, port: int) -> None:
        self.inner = inner
        self.name = name
        self.port = port
        self.outer: socket.socket | None = None
        self.relay: Relay | None = None
        self.first = b""
        self.why = ""

    def cut(self) -> None:
        """End it now, by a reset: an answer that ends with its connection must not look whole."""
        if self.inner.fileno() >= 0:
            self.inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self.relay is not None:
            self.relay.end("cut")

    def close(self) -> None:
        """Close both sockets."""
        self.inner.close()
        if self.outer is not None:
            self.outer.close()


def rules_of(declared: declaration.HttpDoor) -> HttpRules:
    """The rules of a box."""
    return HttpRules(tuple(map(parse_rule, declared.allow)), frozenset(declared.allow_private), dict(declared.hosts))


def _is_host(name: str, port: int) -> Callable[[str], bool]:
    """Whether a Host header means this place. The port may be left out only where it is the usual one; some clients always do."""
    return lambda host: host.removesuffix(f":{port}").removesuffix(".") == name


def _told(first: bytes, error: GearcaseError) -> bytes:
    """What a client hears in its own protocol: a TLS alert (unrecognized_name), or an answer."""
    if first[:1] == bytes([_TLS]):
        return bytes([21, 3, 1, 0, 2, 2, 112])
    body = f"gearcase: {error.message}. {error.remedy}\n".encode()
    status = b"502 Bad Gateway" if error.code in ("unreachable", "unresolved") else b"403 Forbidden"
    head = b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body
