"""The live database, for reading: each session of a program inside is one of the operator's role there, which cannot write.

What keeps the data as it is, is that role's own rights, looked at before the door opens: a role that may write anything is refused.
Transactions are read-only besides. The name and the password of the role stay outside; inside, everybody is `agent`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from gearcase.doors.addresses import resolve
from gearcase.doors.postgres import wire
from gearcase.doors.postgres.scram import Scram, md5_answer
from gearcase.doors.postgres.source import About, Source
from gearcase.errors import Refused, RunError

CONNECT_WITHIN = 15.0
"""Seconds, until the role is let in."""
_CHUNK = 128 * 1024
_OK, _CLEAR, _MD5, _SASL, _SASL_GOES_ON, _SASL_ENDS = 0, 3, 5, 10, 11, 12
_KEPT = frozenset(("application_name", "client_encoding", "datestyle", "timezone", "extra_float_digits", "intervalstyle"))
"""Settings of a client's first message that are passed on."""
_POWERS = r"""
SELECT json_build_object('powers', (
  SELECT coalesce(json_agg(power), '[]') FROM (
    SELECT 'is ' || power AS power FROM pg_catalog.pg_roles r, LATERAL (VALUES
        ('a superuser', rolsuper), ('allowed to make roles', rolcreaterole), ('allowed to make databases', rolcreatedb),
        ('allowed to replicate', rolreplication)) AS v(power, has) WHERE r.rolname = current_user AND has
    UNION ALL SELECT 'is a member of ' || rolname FROM pg_catalog.pg_roles
      WHERE rolname LIKE 'pg\_%' AND rolname NOT IN ('pg_read_all_data', 'pg_read_all_settings', 'pg_read_all_stats', 'pg_monitor',
        'pg_stat_scan_tables', 'pg_database_owner') AND pg_catalog.pg_has_role(current_user, oid, 'MEMBER')
    UNION ALL (SELECT 'may write ' || c.oid::regclass FROM pg_catalog.pg_class c
      WHERE c.relkind IN ('r', 'p', 'v', 'f', 'm') AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
        AND c.relnamespace::regnamespace::text NOT LIKE 'pg\_%'
        AND (pg_catalog.has_table_privilege(c.oid, 'INSERT,UPDATE,DELETE,TRUNCATE')
             OR pg_catalog.has_any_column_privilege(c.oid, 'INSERT,UPDATE')) ORDER BY 1 LIMIT 5)
    UNION ALL (SELECT 'may change ' || c.oid::regclass FROM pg_catalog.pg_class c
      WHERE CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'USAGE,UPDATE') ELSE false END ORDER BY 1 LIMIT 5)
    UNION ALL (SELECT 'may make things in ' || nspname FROM pg_catalog.pg_namespace
      WHERE nspname NOT LIKE 'pg\_%' AND pg_catalog.has_schema_privilege(oid, 'CREATE') ORDER BY 1 LIMIT 5)
    UNION ALL SELECT 'may make schemas' WHERE pg_catalog.has_database_privilege(current_database(), 'CREATE')
  ) found));
"""


class Live:
    """One live database. `open` looks at the role, `reach` makes a session."""

    def __init__(self, source: Source, password: str) -> None:
        self._source = source
        self._dsn = source.dsn
        self._password = password
        self._bridges: set[asyncio.Task[None]] = set()

    async def open(self) -> About:
        """What is there. Raises what `Source.about` does, and RunError `powerful_role` for a role that may write."""
        about = await self._source.about()
        options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1")
        code, out, said = await self._source.run("psql", *options, "--command", _POWERS)
        if code != 0:
            raise self._source.failed(said)
        powers: list[Any] = orjson.loads(out)["powers"]
        if powers:
            told = "; ".join(str(one) for one in powers[:5])
            remedy = (
                "make one that may only read, and name it in `from`: CREATE ROLE reader LOGIN PASSWORD '...'; "
                "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
            )
            raise RunError("powerful_role", f"{about.user} may do more than read: {told}", remedy=remedy)
        return about

    async def reach(self, start: wire.Start) -> socket.socket:
        """A session of the operator's role, let in: what follows is for the client. Raises Refused `unreachable`, `source_refused`."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                reader, writer = await self._connect()
                try:
                    await self._log_in(reader, writer, start)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            remedy = "try again; let the operator see whether the database runs"
            raise Refused("unreachable", "the live database cannot be reached", cause=str(error), remedy=remedy) from error
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setblocking(False)
        bridge = asyncio.create_task(_bridge(reader, writer, theirs))
        self._bridges.add(bridge)
        bridge.add_done_callback(self._bridges.discard)
        return ours

    async def cancel(self, key: bytes) -> None:
        """Cancel what a session does; its key is the live server's own."""
        _, writer = await self._connect()
        writer.write((8 + len(key)).to_bytes(4, "big") + wire.CANCEL.to_bytes(4, "big") + key)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._dsn.host or "localhost", self._dsn.port or "5432"
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        address = (await resolve(host, private=True))[0]
        reader, writer = await asyncio.open_connection(address, int(port))
        mode = self._dsn.options.get("sslmode", "prefer")
        if mode in ("disable", "allow"):
            return reader, writer
        writer.write((8).to_bytes(4, "big") + wire.SSL.to_bytes(4, "big"))
        if await reader.readexactly(1) == b"S":
            await writer.start_tls(self._context(mode), server_hostname=host)
        elif mode != "prefer":
            writer.close()
            remedy = "let it speak TLS, or say sslmode=disable in `from` where the way to it is safe"
            raise Refused("unreachable", f"the live database speaks no TLS, and sslmode is {mode}", remedy=remedy)
        return reader, writer

    def _context(self, mode: str) -> ssl.SSLContext:
        """As libpq does: what is not verified is encrypted only."""
        options = self._dsn.options
        root = options.get("sslrootcert", "")
        context = ssl.create_default_context(cafile=root or None)
        context.check_hostname = mode == "verify-full"
        if mode not in ("verify-ca", "verify-full") and not root:
            context.verify_mode = ssl.CERT_NONE
        if cert := options.get("sslcert"):
            context.load_cert_chain(cert, options.get("sslkey"))
        return context

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: wire.Start) -> None:
        """Until the server says that the role is let in; the client hears of that what it would hear of any server."""
        kept = {name: value for name, value in start.values.items() if name.lower() in _KEPT}
        user = self._dsn.user
        settings = {"user": user, "database": self._dsn.database, "options": "-c default_transaction_read_only=on", **kept}
        writer.write(wire.write_start(3 << 16, settings))
        scram = Scram(self._password)
        while True:
            kind, body = await _message(reader)
            if kind == b"E":
                told = wire.field_of(body, b"M")
                raise Refused(
                    "source_refused", "the live database does not let us in", cause=told, remedy="let the operator look"
                )
            if kind != b"R":
                continue  # a notice, or a version that is negotiated
            asked, rest = int.from_bytes(body[:4], "big"), body[4:]
            if asked == _OK:
                return
            writer.write(self._answer(asked, rest, user, scram, writer))

    def _answer(self, asked: int, rest: bytes, user: str, scram: Scram, writer: asyncio.StreamWriter) -> bytes:
        if asked == _CLEAR and writer.get_extra_info("ssl_object") is not None:
            return wire.message(b"p", self._password.encode() + b"\0")
        if asked == _MD5:
            return wire.message(b"p", md5_answer(user, self._password, rest[:4]))
        if asked == _SASL and b"SCRAM-SHA-256" in rest.split(b"\0"):
            first = scram.first()
            return wire.message(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first)
        if asked == _SASL_GOES_ON:
            return wire.message(b"p", scram.final(rest))
        if asked == _SASL_ENDS:
            scram.verify(rest)
            return b""
        remedy = "let the role log in with a password: scram-sha-256"
        raise Refused("source_refused", f"the live database asks for a proof that we have not (kind {asked})", remedy=remedy)

    async def close(self) -> None:
        """End every session. Idempotent."""
        tasks = list(self._bridges)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = wire.HEAD.unpack(await reader.readexactly(wire.HEAD.size))
    if not 4 <= length <= 64 * 1024:
        raise Refused("bad_protocol", "the live server speaks no PostgreSQL", remedy="let the operator look at `from` in the box")
    return bytes([kind]), await reader.readexactly(length - 4)


async def _bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sock: socket.socket) -> None:
    """Between the live server and a socket of ours, until one of them ends."""
    loop = asyncio.get_running_loop()

    async def inward() -> None:
        await loop.sock_sendall(sock, wire.message(b"R", bytes(4)))  # let in
        while data := await reader.read(_CHUNK):
            await loop.sock_sendall(sock, data)

    async def outward() -> None:
        while data := await loop.sock_recv(sock, _CHUNK):
            writer.write(data)
            await writer.drain()

    tasks = {asyncio.create_task(inward()), asyncio.create_task(outward())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sock.close()
        writer.close()


def password_from_file(source: Source, environment: Mapping[str, str]) -> str:
    """What libpq's own file says of the password; empty where it says nothing."""
    file = Path(environment.get("PGPASSFILE", "") or Path.home() / ".pgpass")
    dsn = source.dsn
    wanted = (dsn.host or "localhost", dsn.port or "5432", dsn.database, dsn.user)
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        *fields, password = line.split(":", 4)
        if len(fields) == 4 and all(field in ("*", value) for field, value in zip(fields, wanted, strict=True)):
            return password
    return ""
