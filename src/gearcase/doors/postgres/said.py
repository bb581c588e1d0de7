"""What a client said, for the record of a door that was asked for it: the text of each statement, and the values of its parameters.

Threat: messages that an agent chose. Of a message its first 16 KiB are looked at; texts, values, names and what waits for its answer are
held up to fixed counts, and only written down. What cannot be read is left out: the record is no proof of what a server was told.
"""

from __future__ import annotations

import struct
from collections import deque
from itertools import islice
from typing import TypeVar

from gearcase.doors.postgres.wire import Walker

T = TypeVar("T")
MOST_TEXT = 2000
MOST_VALUE = 200
MOST_VALUES = 50
_MOST_NAMES = 500
_MOST_WAITING = 1000
_QUERY, _PARSE, _BIND, _SYNC = b"QPBS"
_short, _long = struct.Struct("!H"), struct.Struct("!i")


class Said:
    """Of one session. Statements end in the order in which they were sent."""

    def __init__(self) -> None:
        self._walker = Walker(b"QPBES", self._heard)
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, tuple[str, list[str]]] = {}
        self._waiting: deque[tuple[str, list[str], bool]] = deque(maxlen=_MOST_WAITING)

    def feed(self, data: bytes) -> None:
        """The next bytes of the client."""
        self._walker.feed(data)

    def ended(self) -> tuple[str, list[str]]:
        """What the statement said that ends now. A text of several statements stays until the server is ready."""
        while self._waiting and self._waiting[0][0] == "":
            self._waiting.popleft()
        if not self._waiting:
            return "", []
        text, values, is_query = self._waiting[0]
        if not is_query:
            self._waiting.popleft()
        return text, values

    def ready(self) -> None:
        """The server takes the next request: what was said up to here has ended."""
        while self._waiting:
            text, _, is_query = self._waiting.popleft()
            if is_query or not text:
                break

    def _heard(self, kind: int, body: bytes) -> None:
        if kind == _QUERY:
            self._waiting.append((_shown(body.rstrip(b"\0"), MOST_TEXT) or " ", [], True))
        elif kind == _SYNC:
            self._waiting.append(("", [], False))
        elif kind == _PARSE:
            name, text, *_ = [*body.split(b"\0", 2), b""]
            _put(self._prepared, name, _shown(text, MOST_TEXT))
        elif kind == _BIND:
            portal, name, rest = [*body.split(b"\0", 2), b"", b""][:3]
            _put(self._portals, portal, (self._prepared.get(name, ""), _values(rest)))
        else:
            text, values = self._portals.get(body.partition(b"\0")[0], ("", []))
            self._waiting.append((text or " ", values, False))


def _put(held: dict[bytes, T], name: bytes, value: T) -> None:
    held[name] = value
    for old in list(islice(held, max(0, len(held) - _MOST_NAMES))):
        del held[old]


def _values(rest: bytes) -> list[str]:
    """The values of a binding, as far as they can be read."""
    values: list[str] = []
    try:
        at = 2 + 2 * _short.unpack_from(rest)[0]
        count = _short.unpack_from(rest, at)[0]
        at += 2
        for _ in range(min(count, MOST_VALUES)):
            length = _long.unpack_from(rest, at)[0]
            at += 4
            values.append("NULL" if length < 0 else _shown(rest[at : at + length], MOST_VALUE))
            at += max(0, length)
    except struct.error:
        pass  # longer than what is looked at
    return values


def _shown(data: bytes, most: int) -> str:
    """A text as a record holds it, cut short."""
    text = data[: 4 * most].decode("utf-8", "backslashreplace").replace("\0", "\\0")
    return text if len(text) <= most else text[:most] + "…"
