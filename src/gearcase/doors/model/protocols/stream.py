"""Reading a stream of server-sent events as it passes.

Bytes are cut into whole events whatever the chunking is, and only whole events are passed on, byte for byte: a stream that breaks off
in the middle of one can still be ended in its protocol. What cannot be an event (bytes without end) ends the stream: an upstream
that sends garbage costs no memory, and no client reads it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import orjson

from gearcase.doors.model.protocols.request import ModelRequest

MAX_EVENT = 8 * 1024 * 1024
_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4


class Event(NamedTuple):
    """One event: its bytes with the blank line that ends it, and its data."""

    whole: bytes
    data: bytes


class Events:
    """Feed bytes, get each event that is complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes. Raises ValueError when what has come cannot be an event."""
        buffer, at = self._rest + chunk, 0
        look = max(0, len(self._rest) - _LONGEST_END + 1)
        complete: list[Event] = []
        while end := _END.search(buffer, max(look, at)):
            whole = buffer[at : end.end()]
            complete.append(Event(whole, _data(whole)))
            at = end.end()
        self._rest = buffer[at:]
        if len(self._rest) > MAX_EVENT:
            raise ValueError(f"more than {MAX_EVENT} bytes without the end of an event")
        return complete

    def last(self) -> list[Event]:
        """An event that only lacks its blank line at the end of the stream; what was cut off is none."""
        rest, self._rest = self._rest.rstrip(), b""
        data = _data(rest)
        return [Event(rest + b"\n\n", data)] if data == b"[DONE]" or load(data) else []


def _data(whole: bytes) -> bytes:
    return b"\n".join(line[5:].strip() for line in whole.splitlines() if line.startswith(b"data:"))


class Following(ABC):
    """Follows one streamed answer, event by event: what every protocol's scanner has in common."""

    def __init__(self) -> None:
        self._events = Events()
        self.served = ""
        self.deltas = 0
        self.ended = False

    def feed(self, chunk: bytes, request: ModelRequest) -> bytes:
        """Read a chunk; returns the events that are passed on. Raises ValueError for what cannot be a stream of events."""
        return b"".join([event.whole for event in self._events.feed(chunk) if self.see(event.data, request)])

    def last(self, request: ModelRequest) -> bytes:
        """The upstream has ended: what it left without a blank line, if that is an event."""
        return b"".join([event.whole for event in self._events.last() if self.see(event.data, request)])

    @abstractmethod
    def see(self, data: bytes, request: ModelRequest) -> bool:
        """Read the data of one event; whether it is passed on."""


def load(data: bytes) -> dict[str, Any]:
    """The object of an event; empty when it is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return table(value)


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def count(value: object) -> int:
    """A count as a provider reports it: anything but a whole number from 0 up is 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def table(value: object) -> dict[str, Any]:
    """An object, or an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The items of an array; of anything else, none."""
    return cast("list[Any]", value) if isinstance(value, list) else []
