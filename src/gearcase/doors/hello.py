"""The server name in a TLS ClientHello, read from the first bytes of a connection (RFC 8446 section 4.1.2, RFC 6066 section 3).

Threat: a client that says one name to us and another to the server. So: TLS records may be split anywhere, but the hello has one size
and time limit; exactly one name of kind host_name; no NUL, no other spelling; anything malformed is refused. What is inside TLS
afterwards is not seen: other tenants of a server behind the allowed name stay reachable.
"""

from __future__ import annotations

from gearcase.errors import Refused

MOST_BYTES = 64 * 1024
"""Of a hello: post-quantum key shares make it some kilobytes."""

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


def server_name(data: bytes) -> str | None:
    """The name in lower case; None while the hello is not complete. Raises Refused `no_server_name` for what is none or names none."""
    message = _handshake(data)
    if message is None:
        return None
    try:
        return _name(_Reader(message))
    except (IndexError, UnicodeDecodeError):
        raise _refused("the TLS hello is malformed") from None


def _handshake(data: bytes) -> bytes | None:
    """The ClientHello message, put together from records; None while bytes are missing."""
    message, at = bytearray(), 0
    while True:
        if len(data) > at and data[at] != _HANDSHAKE:
            raise _refused("this is not TLS")
        if len(data) < at + 5:
            break
        size = int.from_bytes(data[at + 3 : at + 5])
        if data[at + 1] != 3 or not 0 < size <= 16384:
            raise _refused("the TLS record is malformed")
        if len(data) < at + 5 + size:
            break
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if message[0] != _CLIENT_HELLO:
            raise _refused("TLS does not begin with a hello")
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4]):
            return bytes(message[4 : 4 + int.from_bytes(message[1:4])])
    if len(data) > MOST_BYTES:
        raise _refused("the TLS hello is too large")
    return None


class _Reader:
    """Takes length-prefixed pieces. IndexError where there are not enough bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise IndexError(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def vector(self, size_bytes: int) -> _Reader:
        return _Reader(self.take(int.from_bytes(self.take(size_bytes))))


def _name(hello: _Reader) -> str:
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    names: list[bytes] = []
    extensions = hello.vector(2) if hello.left else hello
    while extensions.left:
        kind = int.from_bytes(extensions.take(2))
        body = extensions.vector(2)
        if kind != _SERVER_NAME:
            continue
        listed = body.vector(2)
        while listed.left:
            kind_of_name = listed.take(1)[0]
            name = listed.vector(2)
            if kind_of_name == _HOST_NAME:
                names.append(name.rest())
    if len(names) != 1:
        raise _refused("the TLS hello names no server" if not names else "the TLS hello names several servers")
    return names[0].decode("ascii").lower()


def _refused(message: str) -> Refused:
    remedy = "use a client that sends the server's name (SNI), or let the operator allow the port unread: tcp://NAME:PORT"
    return Refused("no_server_name", message, remedy=remedy)
