"""Plain HTTP on its way out: every request's Host is read and compared before a byte of it leaves.

Bytes pass as they are; a strict parser reads along. Threat: one connection that asks for several hosts, and requests that are smuggled
behind what two parsers read differently. So: the bytes of a request's head are held until it is complete and accepted; a request with
several Host or Content-Length headers, with both lengths, or with another transfer coding than chunked, is refused. After an upgrade to
WebSocket bytes are not read any more. The offer of another upgrade is taken out of the request: HTTP/2 names hosts where this reads none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import httptools

from gearcase.errors import Refused

MOST_HEAD = 64 * 1024
"""Bytes of a request's head, and so of what is held."""

_OFFER = re.compile(rb"\r\n(upgrade|connection|http2-settings):[^\r\n]*", re.IGNORECASE)


class WebWatch:
    """Reads along with one connection. `is_host` decides about the text of a Host header."""

    def __init__(self, is_host: Callable[[str], bool]) -> None:
        self._is_host = is_host
        self._parser = httptools.HttpRequestParser(self)
        self._held = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._in_head = self._between = self._complete = True
        self._begun = 0
        self._websocket = self._upgraded = False
        self.requests = 0

    def feed(self, data: bytes) -> bytes:
        """What may leave now that `data` has come. Raises Refused `bad_request`, `wrong_host`."""
        if self._upgraded:
            return data
        before, self._held = len(self._held), self._held + data
        try:
            self._parse(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._websocket:
                return self._without_offer(before + upgrade.args[0])
            self._upgraded = True
        if self._in_head and not self._upgraded:
            if len(self._held) > MOST_HEAD:
                raise _bad("the head of the request is too large")
            return b""
        passed, self._held = self._held, b""
        self._begun, self._between = 0, self._complete
        return passed

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Refused):
                raise error.__context__ from None
            raise
        except httptools.HttpParserUpgrade:
            raise
        except httptools.HttpParserError as error:
            raise _bad(f"this is no HTTP request ({error})") from None

    def _without_offer(self, end: int) -> bytes:
        """Begin anew with what is held, whose first `end` bytes are a head that offers another protocol, less that offer."""
        head = _OFFER.sub(b"", self._held[:end])
        if not self._between or self._begun != 1 or len(head) == end:
            raise _bad("the request wants to go on in another protocol")
        again, self._held, self._begun = head + self._held[end:], b"", 0
        self.requests -= 1
        self._parser = httptools.HttpRequestParser(self)
        return self.feed(again)

    # --- called by the parser ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._headers, self._target, self._in_head = [], b"", True
        self._complete = self._websocket = False
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Judge the head."""
        self._in_head = False
        self.requests += 1
        values: dict[bytes, list[bytes]] = {}
        for name, value in self._headers:
            values.setdefault(name, []).append(value)
        if sum(len(name) + len(value) for name, value in self._headers) > MOST_HEAD:
            raise _bad("the head of the request is too large")
        lengths, codings = values.get(b"content-length", []), values.get(b"transfer-encoding", [])
        if (
            len(lengths) > 1
            or len(codings) > 1
            or (lengths and codings)
            or (codings and codings[0].strip().lower() != b"chunked")
        ):
            raise _bad("the length of the request's body can be read in two ways")
        self._websocket = [value.strip().lower() for value in values.get(b"upgrade", [])] == [b"websocket"]
        hosts = values.get(b"host", [])
        if len(hosts) != 1:
            raise _bad("the request names no host" if not hosts else "the request names several hosts")
        host = hosts[0].decode("latin-1").strip().lower()
        if not self._is_host(host):
            raise Refused(
                "wrong_host", f"the request is for {host[:80]!r}", remedy="open a connection to that name; it must be allowed"
            )
        if not self._target.startswith(b"/") and self._target != b"*":
            raise _bad("the request's target is no path")

    def on_message_complete(self) -> None:
        """A request ends."""
        self._complete = True


def _bad(message: str) -> Refused:
    return Refused("bad_request", message, remedy="use a plain HTTP/1.1 client, or https")
