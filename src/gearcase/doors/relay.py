"""Bytes between two sockets, both ways, as fast as this process can: read once, written once, nothing copied in between.

A judge sees every chunk of its way before it passes, and may hold, pass or refuse it. Memory of a connection is bounded: as long as a
sink has not taken a chunk, nothing more is read from its source.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import ClassVar

from gearcase.errors import Refused

CHUNK = 128 * 1024
"""Bytes read at once where somebody judges them, or where sinks are slow."""
BULK = 2 * 1024 * 1024
"""Bytes read at once elsewhere: waking up for each chunk is what costs."""
MOST_KEPT = 16
"""Buffers of that size that all relays together keep for slow sinks before none of them reads more than a chunk."""
_SPARE = 4  # large buffers that nobody uses
_TURNS = 4
"""Reads in a row before others have their turn."""

Judge = Callable[[bytes], bytes]
_chunk = memoryview(bytearray(CHUNK))  # used only between a read and the write that follows it, so all relays share it


class Buffers:
    """The large buffers of all relays of this process: `kept` of them hold what slow sinks have not taken, uncopied."""

    free: ClassVar[list[memoryview]] = []
    kept = 0

    @classmethod
    def next(cls) -> memoryview | None:
        """One to read into; None where too many are kept."""
        if cls.kept >= MOST_KEPT:
            return None
        if not cls.free:
            cls.free.append(memoryview(bytearray(BULK)))
        return cls.free[-1]

    @classmethod
    def keep(cls) -> memoryview:
        """Take the one that `next` gave away from all others."""
        cls.kept += 1
        return cls.free.pop()

    @classmethod
    def give_back(cls, buffer: memoryview) -> None:
        """What was kept in it has passed."""
        cls.kept -= 1
        if len(cls.free) < _SPARE:
            cls.free.append(buffer)


class Relay:
    """One pair of connected, non-blocking sockets. `meter` is told the bytes of every chunk and may raise Refused."""

    def __init__(
        self,
        inner: socket.socket,
        outer: socket.socket,
        meter: Callable[[int], None],
        judge: Judge | None,
        judge_back: Judge | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._meter = meter
        self.out = _Way(self, inner, outer, judge)
        self.back = _Way(self, outer, inner, judge_back)

    async def run(self) -> str:
        """Relay until both ways have ended; returns why it ended: `done`, or what broke it. Both sockets are the caller's to close."""
        for way in (self.out, self.back):
            way.go()
        try:
            return await self._ended
        finally:
            for way in (self.out, self.back):
                way.halt()

    def end(self, why: str) -> None:
        """End it, now."""
        if not self._ended.done():
            self._ended.set_result(why)

    def pause(self) -> None:
        """Nothing new leaves; what is on its way back comes."""
        self.out.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self.out.resume()

    def push(self, held: bytes) -> None:
        """Send out what the judge held back, before anything that comes after it. Only while paused."""
        self.out.push(held)

    def pay(self, count: int) -> None:
        """Pay for a chunk."""
        self._meter(count)

    def way_ended(self) -> None:
        """One way has nothing more to say."""
        if self.out.over and self.back.over:
            self.end("done")


class _Way:
    """One direction."""

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket, judge: Judge | None) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._judge = judge
        self._left = memoryview(b"")  # what the sink has not taken
        self._buffer: memoryview | None = None  # the large one that it lies in
        self._reading = self._writing = self._paused = False
        self.over = False
        self.passed = 0

    def go(self) -> None:
        if not (self._reading or self._paused or self._left or self.over):
            self._reading = True
            self._loop.add_reader(self._source, self._readable)

    def halt(self) -> None:
        self._let_go()
        self._rest()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sink)

    def pause(self) -> None:
        self._paused = True
        self._rest()

    def resume(self) -> None:
        self._paused = False
        self.go()

    def push(self, held: bytes) -> None:
        if self._left:
            left = memoryview(bytes(self._left) + held)
            self._let_go()
            self._left = left
        else:
            self._send(memoryview(held))

    def _rest(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._source)

    def _readable(self) -> None:
        try:
            for _ in range(_TURNS):
                large = Buffers.next() if self._judge is None else None
                buffer = _chunk if large is None else large
                count = self._source.recv_into(buffer)
                if count == 0:
                    return self._end()
                chunk = buffer[:count]
                if self._judge is not None:
                    chunk = memoryview(self._judge(bytes(chunk)))
                passed, refused = self._paid(chunk)
                whole = self._send(passed, large is not None)
                if refused is not None:
                    return self._relay.end(refused.code)
                if not whole or self._paused:
                    return None
            # uvloop tells of a socket that broke once and then watches it no more, though it may have had last words: so it is read
            # until it has nothing, and watched anew where its turn ends before.
            self._loop.call_soon(self._again)
        except BlockingIOError:
            return None
        except Refused as error:
            self._relay.end(error.code)
        except OSError as error:
            self._relay.end(type(error).__name__)

    def _again(self) -> None:
        if self._reading:
            self._rest()
            self.go()

    def _paid(self, chunk: memoryview) -> tuple[memoryview, Refused | None]:
        """As much of it as is paid for, and why not all."""
        for at in range(0, len(chunk), CHUNK):
            try:
                self._relay.pay(len(chunk[at : at + CHUNK]))
            except Refused as refused:
                return chunk[:at], refused
        return chunk, None

    def _send(self, chunk: memoryview, large: bool = False) -> bool:
        """Whether the sink took it all; else the rest is kept, in its `large` buffer, and nothing is read until it has."""
        try:
            sent = self._sink.send(chunk) if chunk else 0
        except BlockingIOError:
            sent = 0
        self.passed += sent
        if sent == len(chunk):
            return True
        if large:
            self._buffer, self._left = Buffers.keep(), chunk[sent:]
        else:
            self._left = memoryview(bytes(chunk[sent:]))
        self._rest()
        self._writing = True
        self._loop.add_writer(self._sink, self._writable)
        return False

    def _writable(self) -> None:
        try:
            sent = self._sink.send(self._left)
        except BlockingIOError:
            return
        except OSError as error:
            self._relay.end(type(error).__name__)
            return
        self.passed += sent
        self._left = self._left[sent:]
        if not self._left:
            self._let_go()
            self._writing = False
            self._loop.remove_writer(self._sink)
            self.go()

    def _let_go(self) -> None:
        self._left = memoryview(b"")
        if self._buffer is not None:
            Buffers.give_back(self._buffer)
            self._buffer = None

    def _end(self) -> None:
        """The source says no more: the sink is told, and the other way goes on."""
        self.over = True
        self._rest()
        with contextlib.suppress(OSError):  # the other side may be gone already
            self._sink.shutdown(socket.SHUT_WR)
        self._relay.way_ended()
