"""What a client asks of the box's proxy: `CONNECT name:port`, or a plain HTTP request for `http://name/...`.

Pure: bytes in, a place and the bytes that belong to it out. A plain request becomes what its server expects (a path, no proxy headers, one
request a connection), and is judged after that like any other (webwatch.py).

Threat: a head that two parsers read differently, and names that look like others. So: one strict grammar with CRLF alone, no folded
lines, a cap, no body of a CONNECT, one Host at most that must mean the same place, and names in their one canonical form or not at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gearcase.box.hosts import parse_name
from gearcase.errors import Refused, UsageError

MOST_HEAD = 16 * 1024
"""Bytes."""
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST = re.compile(rb"([A-Z]{3,20}) ([!-~]+) (HTTP/1\.[01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t -~\x80-\xff]*)")
_ABSOLUTE = re.compile(rb"http://([^/?#]*)([/?][^#]*)?", re.IGNORECASE)
_OF_THE_PROXY = frozenset(b"connection keep-alive proxy-connection proxy-authorization te trailer upgrade http2-settings".split())


@dataclass(frozen=True, slots=True)
class Asked:
    """A place, in the canonical form of its name, and what has come for it so far. `tunnel`: the client waits to hear `CONNECTED`."""

    name: str
    port: int
    tunnel: bool
    ahead: bytes


def read_head(data: bytes) -> Asked | None:
    """What is asked; None while the head is not complete. Raises Refused `bad_request`, `wrong_host`, `not_allowed`."""
    end = data.find(b"\r\n\r\n")
    if max(end, 0 if end >= 0 else len(data)) > MOST_HEAD:
        raise _bad("its head is too large")
    if end < 0:
        return None
    line, *fields = data[:end].split(b"\r\n")
    asked, rest = _REQUEST.fullmatch(line), data[end + 4 :]
    if asked is None:
        raise _bad("this is no request to a proxy")
    headers: list[tuple[bytes, bytes]] = []
    for field in fields:
        found = _FIELD.fullmatch(field)
        if found is None:
            raise _bad("one of its headers is malformed")
        headers.append((found[1].lower(), found[2].strip()))
    if asked[1] == b"CONNECT":
        return _tunnel(asked[2], headers, rest)
    kept = [field for (name, _), field in zip(headers, fields, strict=True) if name not in _OF_THE_PROXY]
    return _plain(asked, kept, rest)


def _tunnel(target: bytes, headers: list[tuple[bytes, bytes]], rest: bytes) -> Asked:
    name, port = _place(target, 0)
    hosts = [value for header, value in headers if header == b"host"]
    if len(hosts) > 1 or any(header in (b"content-length", b"transfer-encoding") for header, _ in headers):
        raise _bad("it can be read in two ways")
    if hosts and _place(hosts[0], port) != (name, port):
        raise Refused("wrong_host", f"CONNECT is for {name}:{port}, its Host is another", remedy="name the same place twice")
    return Asked(name, port, True, rest)


def _plain(asked: re.Match[bytes], kept: list[bytes], rest: bytes) -> Asked:
    found = _ABSOLUTE.fullmatch(asked[2])
    if found is None:
        raise _bad("a proxy is asked with CONNECT name:port, or for http://name/...")
    name, port = _place(found[1], 80)
    path = found[2] or b"/"
    line = b"%s %s%s %s" % (asked[1], b"/" * path.startswith(b"?"), path, asked[3])
    return Asked(name, port, False, b"\r\n".join([line, *kept, b"Connection: close", b"", rest]))


def _place(text: bytes, usual: int) -> tuple[str, int]:
    """Name and port; `usual` stands for a port that is left out, 0 for none."""
    host, colon, digits = text.partition(b":")
    if not colon and not usual:
        raise _bad("it names no port")
    if colon and (not re.fullmatch(rb"[0-9]{1,5}", digits) or not 0 < int(digits) < 65536):
        raise _bad("it names no place of the form name:port")
    try:
        name = parse_name(host.decode("latin-1"))
    except UsageError as error:
        remedy = "ask for a host by its name, as the box allows it: gear doors"
        raise Refused("not_allowed", f"the proxy leads to names only: {error.message}", remedy=remedy) from None
    return name, int(digits) if colon else usual


def _bad(why: str) -> Refused:
    return Refused("bad_request", f"the box's proxy cannot take it: {why}", remedy="use a plain HTTP/1.1 proxy client")
