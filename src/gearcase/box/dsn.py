"""The address of a PostgreSQL database, as libpq writes it: `postgresql://USER@HOST:PORT/DATABASE?sslmode=require`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from gearcase.errors import UsageError

OPTIONS = ("host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "target_session_attrs")
_EXAMPLE = "write postgresql://USER@HOST:5432/DATABASE"


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where a database is. `host` may be a folder of a Unix socket; what is empty is libpq's own default."""

    user: str
    host: str
    port: str
    database: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        """As a person writes it."""
        host, options = self.host, dict(self.options)
        if host.startswith("/"):
            host, options = "", {"host": host, **options}
        at = f"{quote(self.user, safe='')}@" if self.user else ""
        place = f"[{host}]" if ":" in host else host
        place += f":{self.port}" if self.port else ""
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in options.items())
        return f"postgresql://{at}{place}/{quote(self.database, safe='')}" + (f"?{query}" if query else "")


def parse_dsn(text: str) -> Dsn:
    """An address from what people write. Raises UsageError `bad_dsn`: also for a password, which belongs elsewhere."""
    try:
        parts = urlsplit(text)
        port, password = parts.port, parts.password
    except ValueError as error:
        raise UsageError("bad_dsn", "this is no address of a database", cause=str(error), remedy=_EXAMPLE) from None
    if parts.scheme not in ("postgresql", "postgres") or parts.fragment:
        raise UsageError("bad_dsn", f"{text[:80]!r} is no address of a PostgreSQL database", remedy=_EXAMPLE)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if password is not None or "password" in options:
        remedy = "leave it out; name a variable that holds it with `password_env`, or use ~/.pgpass"
        raise UsageError("bad_dsn", "the address holds a password, and a box is on record", remedy=remedy, secret=True)
    if unknown := [name for name in options if name not in OPTIONS]:
        raise UsageError("bad_dsn", f"the address has a setting {unknown[0][:80]!r}", remedy=f"use only: {', '.join(OPTIONS)}")
    host = options.pop("host", "") or unquote(parts.hostname or "")
    number = options.pop("port", "") or str(port or "")
    database = unquote(parts.path.removeprefix("/"))
    if not database or any("\0" in one or "\n" in one for one in (host, database, parts.username or "")):
        raise UsageError("bad_dsn", f"{text[:80]!r} names no database", remedy=_EXAMPLE)
    return Dsn(unquote(parts.username or ""), host, number, database, options)
