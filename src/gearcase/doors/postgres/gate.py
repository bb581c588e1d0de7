"""The statement gate of a branch: before the first statement that may destroy something, what the branch holds is kept, once.

The statement waits until the snapshot lies in the run's folder, as a dump in PostgreSQL's custom format. Where it cannot be made, the
statement is not run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from gearcase.doors.postgres.cluster import Cluster
from gearcase.doors.postgres.statements import LONG, MOST, destructive
from gearcase.doors.postgres.wire import HEAD
from gearcase.events import DatabaseSnapshot
from gearcase.seams import Recorder

_QUERY, _PARSE = b"QP"


class Gate:
    """Of one door. `first` is called before the snapshot is made."""

    def __init__(
        self, door: str, cluster: Cluster, target: Path, recorder: Recorder, first: Callable[[], Awaitable[None]]
    ) -> None:
        self.armed = True
        self.cluster = cluster
        """Of what the snapshot is made."""
        self._door = door
        self._target = target
        self._recorder = recorder
        self._first = first
        self._turn = asyncio.Lock()

    async def keep(self, word: str) -> None:
        """Make the snapshot, unless it is made. Raises RunError `door_failed`, `too_large`."""
        async with self._turn:
            if not self.armed:
                return
            began = time.monotonic()
            await self._first()
            size = await self.cluster.dump_to(self._target)
            self.armed = False
            seconds = round(time.monotonic() - began, 3)
            self._recorder.append(DatabaseSnapshot(self._door, word, self._target.name, size, seconds))


class ClientReader:
    """Reads what a client says, message by message, while a gate is armed."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0

    def feed(self, data: bytes) -> tuple[bytes, str]:
        """What may pass now, and the word for which what comes after it must wait; the rest is kept."""
        data, self._rest = self._rest + data, b""
        at, end = self._skip, len(data)
        while at + HEAD.size <= end:
            kind, length = HEAD.unpack_from(data, at)
            if kind in (_QUERY, _PARSE):
                if length > MOST:
                    return self._stop(data, at, LONG)
                if at + 1 + length > end:
                    break
                body = data[at + HEAD.size : at + 1 + length]
                text = body if kind == _QUERY else body.partition(b"\0")[2]
                if word := destructive(text):
                    return self._stop(data, at, word)
            at += 1 + max(length, 4)
        self._skip = max(0, at - end)
        self._rest = data[at:] if at < end else b""
        return data[: min(at, end)], ""

    def take(self) -> bytes:
        """What was kept back, whole; it is empty then."""
        rest, self._rest, self._skip = self._rest, b"", 0
        return rest

    def _stop(self, data: bytes, at: int, word: str) -> tuple[bytes, str]:
        self._rest, self._skip = data[at:], 0
        return data[:at], word
