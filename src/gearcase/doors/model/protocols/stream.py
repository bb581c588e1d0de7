"""Reading a stream of server-sent events as it passes, without holding it up.

`Events` cuts bytes into whole events whatever the chunking is. What cannot be an event (a line without end) is given up on, not
kept: an upstream that sends garbage costs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson

MAX_EVENT = 8 * 1024 * 1024


class Events:
    """Feed bytes, get the data of each event that is complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The `data:` payloads of the events that this chunk completes."""
        self._rest += chunk
        if b"\n" not in chunk and len(self._rest) > MAX_EVENT:
            self._rest = b""
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


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
