"""Where a running Redis server is: redis://[USER@]HOST[:PORT], rediss:// behind TLS; no password, nothing that could not be kept.

All databases of a server are copied, so an address names none; what it says beyond that would be dropped unheard, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gearcase.errors import UsageError

_FORM = "write redis://HOST:6379, redis://USER@HOST:6379, or rediss:// for one behind TLS"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """One server."""

    host: str
    port: int
    user: str = ""
    tls: bool = False

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.host}:{self.port}"


def parse_redis_source(text: str) -> str:
    """What a database begins with, as it was written: an address, or the path of a file. Raises UsageError `bad_redis_url`."""
    if "://" in text:
        parse_redis_url(text)
    return text


def parse_redis_url(text: str) -> RedisUrl:
    """Read it. Raises UsageError `bad_redis_url`, which never holds the password."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("bad_redis_url", "this is no address of a Redis server", remedy=_FORM) from None
    if parts.scheme not in ("redis", "rediss") or not host:
        raise UsageError("bad_redis_url", f"{parts.scheme}:// is no address of a Redis server", remedy=_FORM)
    if parts.password is not None:
        remedy = "leave it out; name a variable that holds it with `password_env`"
        raise UsageError("bad_redis_url", "the address holds a password, and a box is on record", remedy=remedy, secret=True)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError("bad_redis_url", "the address says more than where the server is: all of it is copied", remedy=_FORM)
    return RedisUrl(host, port or 6379, unquote(parts.username or ""), parts.scheme == "rediss")
