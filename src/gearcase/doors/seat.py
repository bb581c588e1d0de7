"""The http door in one box: its names, their addresses, its connections, and its proxy for programs that want one.

What a client says that it wants (TLS server name, HTTP Host) must be the name that it connected to, or that it asked the proxy for. A
proxied connection is judged like a direct one: by the same rules, from the same first bytes, on the same record.

Threat: see http.py; connections without end, and first bytes that never come. So: at most `MOST_NAMES` names and `MOST_CONNECTIONS`
connections, and a deadline for the first bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from gearcase.box.hosts import WEB_PORTS
from gearcase.doors.hello import server_name
from gearcase.doors.metering import EgressMeter
from gearcase.doors.proxying import CONNECTED, read_head
from gearcase.doors.relay import Relay
from gearcase.doors.webwatch import WebWatch
from gearcase.errors import GearcaseError, Refused
from gearcase.events import ConnectionClosed, ConnectionOpened, DoorRefused, NameAsked
from gearcase.seams import Listener

if TYPE_CHECKING:
    from gearcase.doors.http import HttpDoor

MOST_NAMES = 256
MOST_CONNECTIONS = 256
FIRST_BYTES_WITHIN = 30.0
"""Seconds."""
WAITING = 512 * 1024
"""Bytes that may wait in the kernel for a client inside: it is near, and more would be cold by the time it is read."""
_FIRST = 16 * 1024
_TLS = 22
_MOST_RECORDS = 2000

Listen = Callable[[Sequence[Listener]], Awaitable[Mapping[Listener, socket.socket]]]
Within = Callable[[str, int], bool]


def everywhere(name: str, port: int) -> bool:
    """No place is kept from a box beside what the door's rules say."""
    return True


class Seat:
    """The http door in one box: its names, their addresses, its connections."""

    def __init__(
        self,
        door: HttpDoor,
        agent: str,
        meter: EgressMeter,
        listen: Listen,
        within: Within = everywhere,
        secrets: Collection[str] | None = None,
    ) -> None:
        """`secrets`: those that are put in for this box; None for all."""
        self._door = door
        self._secrets = secrets
        self.agent = agent
        self._within = within
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
        ports = self._ports(name)
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

    def _ports(self, name: str) -> frozenset[int]:
        """At which ports this box may reach a name."""
        return frozenset(port for port in self._door.ports(name) if self._within(name, port))

    def _address(self) -> str:
        number = next(self._next)
        return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"

    def serve_proxy(self, listening: socket.socket) -> None:
        """Be the box's proxy on a socket that was born inside."""
        listening.setblocking(False)
        self._serving.append(asyncio.create_task(self._accept(listening)))

    async def _accept(self, listening: socket.socket, listener: Listener | None = None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._door.open.wait()
            while len(self._connections) >= MOST_CONNECTIONS:
                await asyncio.wait(self._connections, return_when=asyncio.FIRST_COMPLETED)
            inner, _ = await loop.sock_accept(listening)
            self.serve(inner, listener.name if listener else "", listener.port if listener else 0)

    def serve(self, inner: socket.socket, name: str = "", port: int = 0) -> None:
        """Pass one connection on to a name, or to what it asks for as a proxy's client; the socket is ours from here."""
        inner.setblocking(False)
        inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(inner, name, port)
        task = asyncio.create_task(self._serve(connection))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _serve(self, connection: _Connection) -> None:
        try:
            if not connection.name:
                await self._hear_proxied(connection)
            await self._pass_on(connection)
        except GearcaseError as error:
            count = self._refuse(f"{connection.name}:{connection.port}" if connection.name else "proxy", error)
            if count and "unlisted" in error.context:  # as the resolver has such a name on record
                self._door.recorder.append(NameAsked(error.context["unlisted"], "CONNECT", False, count), self.agent)
            with contextlib.suppress(OSError):
                connection.inner.send(_told(connection.first, error))
        except (OSError, TimeoutError):
            return  # the client is gone, or never said what it wants
        finally:
            connection.close()

    async def _hear_proxied(self, connection: _Connection) -> None:
        """Learn where a proxy's client wants to go. Raises Refused."""
        async with asyncio.timeout(FIRST_BYTES_WITHIN):
            head = await self._receive(connection)
            while (asked := read_head(head)) is None:
                head += await self._receive(connection)
        ports = self._ports(asked.name)
        if asked.port not in ports:
            context = {} if ports else {"unlisted": asked.name}
            remedy = "`gear doors` lists what may be reached; ask for more: gear ask-for net"
            raise Refused("not_allowed", f"{asked.name}:{asked.port} may not be reached", remedy=remedy, **context)
        connection.name, connection.port, connection.ahead = asked.name, asked.port, asked.ahead
        if asked.tunnel:
            await asyncio.get_running_loop().sock_sendall(connection.inner, CONNECTED)

    async def _pass_on(self, connection: _Connection) -> None:
        name, port, door = connection.name, connection.port, self._door
        if port not in self._ports(name):
            remedy = "the operator took the rule away; ask for it: gear ask-for net"
            raise Refused("not_allowed", f"{name}:{port} may not be reached any more", remedy=remedy)
        watch = None
        if door.is_raw(name, port):
            connection.first = connection.ahead
        else:
            async with asyncio.timeout(FIRST_BYTES_WITHIN):
                watch = await self._read_first(connection)
        opened, pay = door.opened if door.opens(name, port) else None, self._meter.take
        if opened is not None:  # what goes on from there is paid there
            connection.outer = await opened.enter(self.agent, name, port, self._meter.take, self._secrets)
            address, pay = "", _unpaid
        else:
            connection.outer, address = await door.connect(name, port)
        await door.open.wait()
        pay(len(connection.first))
        began, number = time.monotonic(), door.number()
        self._record(ConnectionOpened("http", number, name, port, address))
        connection.inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WAITING)
        relay = Relay(connection.inner, connection.outer, pay, watch.feed if watch else None)
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
        if is_tls == (port == 80) and (port in WEB_PORTS or self._door.opens(name, port)):
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
        data, connection.ahead = connection.ahead, b""
        data = data or await asyncio.get_running_loop().sock_recv(connection.inner, _FIRST)
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
        unruled = [one for one in self._connections.values() if one.name and one.port not in self._ports(one.name)]
        for connection in unruled:
            connection.why = "not_allowed"
            connection.cut()
        return len(unruled)

    def _record(self, event: ConnectionOpened | ConnectionClosed) -> None:
        self._recorded += 1
        if self._recorded <= _MOST_RECORDS:
            self._door.recorder.append(event, self.agent)
        elif self._recorded == _MOST_RECORDS + 1:
            message = f"the agent has made {_MOST_RECORDS // 2} connections: further ones are metered, not recorded"
            self._door.recorder.append(DoorRefused("http", "too_many_records", message), self.agent)

    def _refuse(self, what: str, error: GearcaseError) -> int:
        """On record: the first time, then at powers of ten. Returns how often it was then, 0 where it is not on record."""
        key = (what, error.code)
        if key not in self._refused and len(self._refused) >= MOST_NAMES:
            key = ("(more)", error.code)
        count = self._refused[key] = self._refused.get(key, 0) + 1
        if str(count).strip("0") != "1":
            return 0
        context = {"to": key[0], "cause": error.cause, "count": count}
        self._door.recorder.append(DoorRefused("http", error.code, error.message, context), self.agent)
        return count

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
        self.ahead = b""  # has come, and is not read yet
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


def _unpaid(count: int) -> None:
    """Bytes that go no further than this process."""


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
