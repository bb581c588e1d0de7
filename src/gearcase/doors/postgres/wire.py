"""PostgreSQL's wire protocol, version 3: how a session begins, the messages that we write, and a reader that walks over the rest.

Threat: bytes that an agent chose. Only lengths and a few fixed fields are read, each within bounds, in one pass; what a statement says is
not read here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gearcase.errors import Refused

SSL = 80877103
GSS = 80877104
CANCEL = 80877102
_MOST_START = 10_000
"""Bytes of a first message, as the server itself holds it."""
_MOST_KEPT = 16 * 1024
"""Bytes of a message that we look into; of a longer one its beginning."""
HEAD = struct.Struct("!BI")
"""Of every message but the first: its kind, its length without the kind."""
_start = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class Start:
    """A session's first message. `values` are user, database and settings; of a cancelling one, `key` says which session is meant."""

    code: int
    values: Mapping[str, str]
    key: bytes = b""


def start_length(first: bytes) -> int:
    """The length of a first message whose first four bytes are these. Raises Refused `bad_protocol`."""
    length = int.from_bytes(first, "big")
    if not 8 <= length <= _MOST_START:
        raise _bad(f"a first message of {length} bytes")
    return length


def read_start(message: bytes) -> Start:
    """A first message. Raises Refused `bad_protocol`."""
    _length, code = _start.unpack_from(message)
    rest = message[_start.size :]
    if code in (SSL, GSS):
        return Start(code, {})
    if code == CANCEL:
        return Start(code, {}, rest)
    if code >> 16 != 3:
        raise _bad(f"protocol version {code >> 16}.{code & 0xFFFF}")
    words = rest.split(b"\0")
    if len(words) % 2 or words[-2:] != [b"", b""]:
        raise _bad("a first message whose settings do not end")
    texts = [word.decode("utf-8", "surrogateescape") for word in words[:-2]]
    return Start(code, dict(zip(texts[::2], texts[1::2], strict=True)))


def write_start(code: int, values: Mapping[str, str]) -> bytes:
    """A first message."""
    text = "".join(f"{name}\0{value}\0" for name, value in values.items()) + "\0"
    body = text.encode("utf-8", "surrogateescape")
    return _start.pack(len(body) + _start.size, code) + body


def message(kind: bytes, body: bytes) -> bytes:
    """Any later message."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def error(state: str, text: str, hint: str, severity: str = "FATAL") -> bytes:
    """What a client shows as an error."""
    fields = (("S", severity), ("V", severity), ("C", state), ("M", text), ("H", hint))
    body = b"".join(f"{name}{value}\0".encode("utf-8", "replace") for name, value in fields) + b"\0"
    return message(b"E", body)


def field_of(body: bytes, name: bytes) -> str:
    """A field of an error's body; empty where it has none."""
    for one in body.split(b"\0"):
        if one[:1] == name:
            return one[1:].decode("ascii", "replace")
    return ""


Heard = Callable[[int, bytes], None]
"""A kind of message, and its body (its beginning, where it is long)."""


class Walker:
    """Walks over a stream of messages as it passes, and tells of those that are wanted. What passes is not changed."""

    def __init__(self, wanted: bytes, heard: Heard) -> None:
        self._wanted = frozenset(wanted)
        self._heard = heard
        self._rest = b""
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises Refused `bad_protocol`."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end, wanted, unpack = self._skip, len(data), self._wanted, HEAD.unpack_from
        while at + 5 <= end:
            kind, length = unpack(data, at)
            if length < 4:
                raise _bad(f"a message of {length} bytes")
            if kind in wanted:
                if at + length >= end and end - at < _MOST_KEPT:
                    break  # its end, or enough of it, is still to come
                self._heard(kind, data[at + 5 : at + 1 + min(length, _MOST_KEPT)])
            at += length + 1
        self._skip = max(0, at - end)
        self._rest = data[at:] if at < end else b""


def _bad(what: str) -> Refused:
    remedy = "connect with a PostgreSQL client: psql, or a driver of your language"
    return Refused("bad_protocol", f"this is not PostgreSQL's protocol: {what}", remedy=remedy)
