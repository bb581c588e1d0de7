"""The box's resolver: it knows the names of the box, and no query ever leaves.

Served from outside on the sockets that were born at the box's own 127.0.0.1:53. A name of the box has its address (A), and so has one
that the http door finds, which is resolved outside only when somebody connects; every other question about it is answered empty, so that
nothing falls back to a search elsewhere; every other name does not exist.

Threat: names as a way out (labels that carry data), parser confusion (NUL, case, trailing dot, pointers), floods. So: one question
a packet, strict letters-digits-hyphen names, no compression in questions, no recursion, counted and capped journal entries.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from gearcase.events import NameAsked
from gearcase.seams import Recorder

TTL = 30
"""Seconds that a client may remember an address; a fake address is never used twice in a run."""
MOST_NAMES = 10_000
MOST_CONNECTIONS = 32
MOST_PENDING = 256
"""Questions that are being answered at once; more are dropped, and a client asks again."""
DEADLINE = 5.0
"""Seconds in which a TCP client must send its query."""

_A, _IN, _ANY_CLASS = 1, 1, 255
_NO_ERROR, _FORMAT_ERROR, _NO_SUCH_NAME, _NOT_IMPLEMENTED = 0, 1, 3, 4
_LABEL = re.compile(rb"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_KINDS = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    64: "SVCB",
    65: "HTTPS",
    255: "ANY",
}


Find = Callable[[str], Awaitable[str | None]]


async def find_nothing(name: str) -> str | None:
    """The http door of a box that has none."""
    return None


class Resolver:
    """Answers for one box. `names` maps a lower-case name without a trailing dot to its IPv4 address; `find` knows the others."""

    def __init__(self, names: Mapping[str, str], recorder: Recorder, agent: str, find: Find = find_nothing) -> None:
        self._names = dict(names)
        self._find = find
        self._pending: set[asyncio.Task[None]] = set()
        self._recorder = recorder
        self._agent = agent
        self._counts: dict[tuple[str, str], int] = {}
        self._untold: dict[tuple[str, str], bool] = {}  # counts that are not on record yet, and whether the name is allowed
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(self, udp: socket.socket, tcp: socket.socket) -> None:
        """Serve on the box's sockets until `close`."""
        loop = asyncio.get_running_loop()
        udp.setblocking(False)
        tcp.setblocking(False)
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._server = await asyncio.start_server(self._stream, sock=tcp, limit=4096)

    async def close(self) -> None:
        """Stop serving and close every connection: each would keep the box's network alive. What was counted since a count was
        last put on record is told now. Idempotent."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._connections, *self._pending, return_exceptions=True)
        for key, allowed in self._untold.items():
            self._recorder.append(NameAsked(*key, allowed, self._counts[key]), self._agent)
        self._untold.clear()

    def ask(self, packet: bytes, send: Callable[[bytes], None]) -> None:
        """Answer one datagram, soon."""

        async def reply() -> None:
            if (message := await self.answer(packet)) is not None:
                send(message)

        if len(self._pending) < MOST_PENDING:
            task = asyncio.create_task(reply())
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def answer(self, packet: bytes) -> bytes | None:
        """The reply to one DNS message; None for what is no query at all and deserves none."""
        if len(packet) < 12 or packet[2] & 0x80:
            return None
        flags, questions = packet[2], struct.unpack_from(">H", packet, 4)[0]
        if flags & 0x78:
            return _reply(packet, _NOT_IMPLEMENTED)
        question = _question(packet) if questions == 1 else None
        if question is None:
            return _reply(packet, _FORMAT_ERROR)
        name, kind, where, end = question
        address = None
        if where in (_IN, _ANY_CLASS):
            address = self._names.get(name) or await self._find(name)
        self._count(name, kind, address is not None)
        if address is None:
            return _reply(packet, _NO_SUCH_NAME, packet[12:end])
        if kind != _A:
            return _reply(packet, _NO_ERROR, packet[12:end])
        record = b"\xc0\x0c" + struct.pack(">HHIH", _A, _IN, TTL, 4) + socket.inet_aton(address)
        return _reply(packet, _NO_ERROR, packet[12:end], record)

    def _count(self, name: str, kind: int, allowed: bool) -> None:
        key = (name, _KINDS.get(kind, str(kind)))
        if key not in self._counts and len(self._counts) >= MOST_NAMES:
            key = ("(more names)", "")
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if str(count).strip("0") == "1":
            self._untold.pop(key, None)
            self._recorder.append(NameAsked(*key, allowed, count), self._agent)
        else:
            self._untold[key] = allowed

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            while len(self._connections) <= MOST_CONNECTIONS:
                async with asyncio.timeout(DEADLINE):
                    length = struct.unpack(">H", await reader.readexactly(2))[0]
                    reply = await self.answer(await reader.readexactly(length))
                    if reply is None:
                        break
                    writer.write(struct.pack(">H", len(reply)) + reply)
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return  # a client that is slow, short or gone is simply closed
        finally:
            del self._connections[task]
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is no subclass of it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        transport = self._transport
        assert transport is not None
        self._resolver.ask(data, lambda reply: None if transport.is_closing() else transport.sendto(reply, addr))


def _question(packet: bytes) -> tuple[str, int, int, int] | None:
    """(name, type, class, end of the question); None when it is malformed or its name is not strict."""
    at, labels = 12, list[bytes]()
    while True:
        if at >= len(packet):
            return None
        length = packet[at]
        if length == 0:
            break
        label = packet[at + 1 : at + 1 + length].lower()
        if length > 63 or not _LABEL.match(label):
            return None
        labels.append(label)
        at += 1 + length
    if at + 5 > len(packet) or sum(len(label) + 1 for label in labels) > 254:
        return None
    kind, where = struct.unpack_from(">HH", packet, at + 1)
    return b".".join(labels).decode("ascii"), kind, where, at + 5


def _reply(query: bytes, code: int, question: bytes = b"", answer: bytes = b"") -> bytes:
    recursion = query[2] & 0x01
    header = struct.pack(">BBHHHH", 0x84 | recursion, 0x80 | code, 1 if question else 0, 1 if answer else 0, 0, 0)
    return query[:2] + header + question + answer
