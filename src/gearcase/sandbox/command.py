"""One command in a live box, seen from outside: fresh pipes, caps, deadline, the end of its whole tree.

Invariants: a pipe is made for one stream of one command and belongs to the box's user; what a command prints costs the host a fixed
amount of memory; its end is the end of its first process, never the end of its pipes; a deadline or a cancellation kills everything
that it started, however often it forked away. Background children of a command that ended go on; what they still print is read and
thrown away, so that they do not die of a broken pipe. Threat: output without end, pipes held open, processes that will not die.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable

from gearcase.seams import OnOutput, Output

_CHUNK = 64 * 1024
_PIPE_BYTES = 256 * 1024
_MOST_DRAINED = 64
_AT_ONCE = 16


class Keeper:
    """Head and tail of a stream, and how long it was."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._total = 0

    def add(self, data: bytes) -> None:
        """More of the stream."""
        self._total += len(data)
        if (room := self._cap - len(self._head)) > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= self._cap:
            self._tail_bytes -= len(self._tail.popleft())

    def output(self) -> Output:
        """What was kept."""
        tail = b"".join(self._tail)
        return Output(bytes(self._head), tail[max(0, len(tail) - self._cap) :], self._total)


class Reader:
    """The host's end of one pipe out of a command."""

    def __init__(self, descriptor: int, cap: int, on_data: OnOutput | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._keeper = Keeper(cap)
        self._on_data = on_data
        self._pause: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.at_end = False
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            if self._pause is not None or not self._read_once():
                return

    def _read_once(self) -> bool:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.at_end = True
            self._loop.remove_reader(self._descriptor)
            return False
        self._keeper.add(data)
        later = self._on_data(data) if self._on_data is not None else None
        if later is not None and self._pause is None:
            self._loop.remove_reader(self._descriptor)
            self._pause = asyncio.create_task(self._go_on_after(later))
        return True

    async def _go_on_after(self, later: Awaitable[None]) -> None:
        await later
        self._pause = None
        self._loop.add_reader(self._descriptor, self._read)

    def finish(self) -> Output:
        """The command has ended: take what lies in the pipe, at most what a pipe can hold, and no more."""
        if not self.at_end:
            for _ in range(_PIPE_BYTES // _CHUNK + 1):
                if not self._read_once():
                    break
        return self._keeper.output()

    def release(self) -> int:
        """Stop reading; the descriptor is the caller's now, -1 when the stream has ended."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._descriptor)
        if self.at_end:
            os.close(self._descriptor)
            return -1
        return self._descriptor


class Writer:
    """Bytes for a command's standard input, written as it reads them; what it does not read is dropped at its end."""

    def __init__(self, descriptor: int, data: bytes) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._left = memoryview(data)
        self._loop = asyncio.get_running_loop()
        self._loop.add_writer(descriptor, self._write)
        self._open = True
        self._write()

    def _write(self) -> None:
        try:
            while self._left:
                self._left = self._left[os.write(self._descriptor, self._left[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = memoryview(b"")
        self.close()

    def close(self) -> None:
        """No more input. Idempotent."""
        if self._open:
            self._open = False
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)


class Drain:
    """Pipes that background children still hold: read to nowhere until the box closes. Beyond a number the oldest are closed."""

    def __init__(self) -> None:
        self._held: deque[int] = deque()
        self._loop = asyncio.get_running_loop()

    def add(self, descriptor: int) -> None:
        """Take over a pipe."""
        self._held.append(descriptor)
        self._loop.add_reader(descriptor, self._swallow, descriptor)
        while len(self._held) > _MOST_DRAINED:
            self._drop(self._held[0])

    def _swallow(self, descriptor: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(descriptor, _CHUNK):
                self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        self._held.remove(descriptor)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Let go of every pipe."""
        while self._held:
            self._drop(self._held[0])


class Pipe:
    """A fresh pipe of which a command gets one end. It belongs to the box's user, so that /dev/stdout can be opened inside."""

    def __init__(self, owner: tuple[int, int], to_box: bool) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self.theirs, self.ours = (reading, writing) if to_box else (writing, reading)
        if os.getuid() == 0:
            os.fchown(self.theirs, owner[0], owner[1])

    def handed_over(self) -> int:
        """The command has its end; returns ours, which is the caller's now."""
        os.close(self.theirs)
        return self.ours

    def close(self) -> None:
        """Both ends, where nothing was handed over."""
        os.close(self.theirs)
        os.close(self.ours)
