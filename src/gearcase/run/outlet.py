"""Where the operator sees what a program prints: a descriptor that may take its time, or take nothing at all.

A thread of its own writes, so that a pipe that nobody reads never holds up doors, clock and brake. What waits is bounded: beyond it the
program's own pipe is not read any more, and the program waits, as it would without a box.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from collections.abc import Awaitable

MOST = 1 << 20
"""Bytes that wait to be written before nothing more is read."""


class Outlet:
    """One descriptor. One that was closed by its reader takes everything, and nothing arrives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        threading.Thread(target=self._write, name="outlet", daemon=True).start()

    def __call__(self, data: bytes) -> Awaitable[None] | None:
        """Write it, soon. What is returned is to be waited for before more is read."""
        self._waiting += len(data)
        self._empty.clear()
        self._queue.put(data)
        if self._waiting <= MOST:
            return None
        self._room.clear()
        return self._until_room()

    async def flush(self) -> None:
        """Until all of it is written."""
        await self._empty.wait()

    async def _until_room(self) -> None:
        await self._room.wait()

    def _write(self) -> None:
        gone = False
        while True:
            data = self._queue.get()
            if not gone:
                gone = not _write_all(self._descriptor, data)
            try:
                self._loop.call_soon_threadsafe(self._wrote, len(data))
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _wrote(self, count: int) -> None:
        self._waiting -= count
        if self._waiting <= MOST // 2:
            self._room.set()
        if self._waiting == 0:
            self._empty.set()


def _write_all(descriptor: int, data: bytes) -> bool:
    """Whether somebody was there to take it."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # the operator's shell may have made it so
            select.select([], [descriptor], [])
        except OSError:
            return False
    return True
