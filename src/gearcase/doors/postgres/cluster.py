"""A throw-away PostgreSQL server in a sandbox of its own, and what its superuser is asked to do.

The server listens at a Unix socket alone. It knows three roles: `postgres` and `restorer` are superusers whose password this process
made up and nobody else has, `agent` owns the one database and holds no other right.

Threat: SQL is code. Whoever becomes the superuser has the sandbox: no network, nothing of this machine but the programs, its own limits.
What it tells this process is text of limited length; what is read as facts is JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import orjson

from gearcase.doors.housed import Housed, failed, fetch, last_words
from gearcase.doors.keeping import Kept
from gearcase.doors.postgres import wire
from gearcase.doors.postgres.binaries import INSIDE, Binaries, missing_extension
from gearcase.doors.postgres.running import copy_files, lay
from gearcase.doors.postgres.stopped import Stopped, take_over
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Command, CommandResult, Housing, Limits, Mount

AGENT = "agent"
RESTORER = "restorer"
SOCKET = ".s.PGSQL.5432"
_SUPERUSER = "postgres"
_PROCESSES = 256
_STARTING = 60.0
"""Seconds."""
_POLL = 0.02
_NOT_YET = re.compile("the database system is (starting up|not yet accepting connections|in recovery mode)")
_ANSWER = 4 << 20
"""Bytes of an answer that are kept."""
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_directories": "/workspace",
    "max_connections": "100",
    "fsync": "off",  # a power cut ends the run, and the database with it
    "full_page_writes": "off",
    "synchronous_commit": "on",  # what was committed stands in the files, of which states are kept; nothing waits for a disk
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "1h",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",  # statements hold values, which belong nowhere
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_QUIETLY = "-c search_path=pg_catalog -c statement_timeout=0 -c track_counts=off"
"""How we ask: what we read, a snapshot of all tables for one, is not counted as contact."""
_MAKE = '"$@" && cd data && printf %s "$ACCESS" >pg_hba.conf && printf %s "$SETTINGS" >postgresql.conf'
_TAKE = 'cd data && printf %s "$ACCESS" >pg_hba.conf && : >pg_ident.conf && printf %s "$SETTINGS" >postgresql.conf && exec "$@"'
_ACCESS = f"local all {AGENT} trust\nlocal all all scram-sha-256\n"


class Cluster:
    """One server. Make it with `open`; `life` ends when the server does."""

    def __init__(self, housed: Housed, binaries: Binaries, database: str) -> None:
        self.housed = housed
        self.binaries = binaries
        self.database = database
        self.password = secrets.token_hex(16)
        """Of its superusers."""
        self.life: asyncio.Task[CommandResult] | None = None
        self.left_out: list[str] = []
        """What of its source it does not hold as it was, line by line."""

    @classmethod
    async def open(
        cls, housing: Housing, binaries: Binaries, database: str, memory: int, disk: int, mounts: tuple[Mount, ...] = ()
    ) -> Cluster:
        """A server with one empty database, owned by `agent`. Raises RunError `door_failed` and what the driver raises."""
        cluster = await cls._house(housing, binaries, database, memory, disk, mounts)
        try:
            await cluster._make(memory)
            await cluster._begin()
            await cluster._own()
        except BaseException:
            await cluster.close()
            raise
        return cluster

    @classmethod
    async def open_copy(cls, housing: Housing, stopped: Stopped, of: str, database: str, memory: int, disk: int) -> Cluster:
        """A server with a copy of a stopped cluster, whose database `of` is ours. Raises as `open` and `Stopped.copy_to`."""
        cluster = await cls._house(housing, stopped.binaries, database, memory, disk, ())
        try:
            sandbox = cluster.housed.sandbox
            await in_thread(stopped.copy_to, sandbox.workspace, sandbox.owner)
            await cluster._take(stopped, of, memory)
            await cluster._begin()
            await cluster._lacks()
        except BaseException:
            await cluster.close()
            raise
        return cluster

    @classmethod
    async def open_branch(cls, housing: Housing, of: Cluster, memory: int, disk: int) -> Cluster:
        """A server with a copy of what another one holds, of one moment; that one stands still while its files are copied.

        Raises RunError `door_failed`, and what the driver and the disk say.
        """
        cluster = await cls._house(housing, of.binaries, of.database, memory, disk, ())
        try:
            ours, theirs = cluster.housed.sandbox, of.housed.sandbox
            await of.ask("CHECKPOINT;")
            async with theirs.still():
                segment = await in_thread(copy_files, theirs.workspace, ours.workspace, ours.owner, of.database)
            await cluster._follow(of.password, segment, memory)
        except BaseException:
            await cluster.close()
            raise
        return cluster

    @classmethod
    async def open_state(
        cls, housing: Housing, binaries: Binaries, database: str, kept: Kept, store: BlobStore, memory: int, disk: int
    ) -> Cluster:
        """A server with what another one held when `kept` was. Raises RunError `door_failed`, and what the driver and the disk say."""
        cluster = await cls._house(housing, binaries, database, memory, disk, ())
        try:
            sandbox = cluster.housed.sandbox
            await in_thread(lay, kept.files, store, sandbox.workspace, sandbox.owner)
            await cluster._follow(kept.opens, kept.segment, memory)
        except BaseException:
            await cluster.close()
            raise
        return cluster

    @classmethod
    async def _house(
        cls, housing: Housing, binaries: Binaries, database: str, memory: int, disk: int, mounts: tuple[Mount, ...]
    ) -> Cluster:
        limits = Limits(memory=memory, cpus=2.0, disk=disk, processes=_PROCESSES)
        own = (Mount(binaries.root, INSIDE),) if binaries.bundled else ()
        housed = await Housed.open(housing, f"postgres-{database}", limits, (*own, *mounts))
        return cls(housed, binaries, database)

    async def _make(self, memory: int) -> None:
        options = "--auth=scram-sha-256 --no-sync --no-instructions --no-locale --encoding=UTF8 --wal-segsize=1".split()
        at = ("--pgdata=/workspace/data", f"--username={_SUPERUSER}", "--pwfile=/proc/self/fd/0")
        argv = ("/bin/sh", "-c", _MAKE, "sh", self._program("initdb"), *at, *options)
        made = await self.housed.run(Command(argv, environment=_told(memory), stdin=self.password.encode()))
        if made.exit_code != 0:
            raise failed(f"the database {self.database} could not be made", made)

    async def _take(self, stopped: Stopped, of: str, memory: int) -> None:
        """Make a copied cluster ours, before anything connects to it."""
        single = ("--single", "-j", "-c", "exit_on_error=on", "-c", "search_path=pg_catalog", "-D", "/workspace/data", of)
        argv = ("/bin/sh", "-c", _TAKE, "sh", self._program("postgres"), *single)
        sql = take_over(literal(of), literal(self.database), AGENT, RESTORER, self.password)
        done = await self.housed.run(
            Command(argv, environment=_told(memory, stopped.segment), stdin=sql.encode(), output_cap=8192)
        )
        if done.exit_code != 0 and f'database "{of}" does not exist' in last_words(done):
            remedy = "name one of its databases with `database`; without it, it is that of the door's name"
            raise UsageError("no_such_database", f"the cluster {stopped.folder} has no database {of}", remedy=remedy)
        if done.exit_code != 0:
            raise failed(f"the copy of {stopped.folder} could not be made ready", done)

    async def _follow(self, password: str, segment: int, memory: int) -> None:
        """Serve what was copied of another server, with a password that is not that one's, which is `password`."""
        settled = await self.housed.run(Command(("/bin/sh", "-c", _TAKE, "sh", "true"), environment=_told(memory, segment)))
        if settled.exit_code != 0:
            raise failed(f"the branch of {self.database} could not be made ready", settled)
        await self._begin()
        own, self.password = self.password, password
        await self.ask("".join(f"ALTER ROLE {role} PASSWORD '{own}';" for role in (_SUPERUSER, RESTORER)))
        self.password = own

    async def _begin(self) -> None:
        self.life = self.housed.start(Command((self._program("postgres"), "-D", "/workspace/data"), output_cap=8192))
        await self.housed.wait_for(SOCKET, _STARTING)

    async def _lacks(self) -> None:
        """Raises UsageError `missing_extension`."""
        names = await self.facts("SELECT coalesce(json_agg(extname), '[]') FROM pg_extension;")
        if missing := [name for name in names if not self.binaries.has_extension(name)]:
            raise missing_extension(missing, self.binaries.major)

    async def _own(self) -> None:
        """Of a new cluster: the roles, and the database."""
        by_files = " STRATEGY file_copy" if self.binaries.major >= 15 else ""  # without a log that nobody reads
        await self.ask(
            f"CREATE ROLE {RESTORER} SUPERUSER LOGIN PASSWORD '{self.password}';"
            f"CREATE ROLE {AGENT} LOGIN; REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;"
            f"CREATE DATABASE {quoted(self.database)} OWNER {AGENT} TEMPLATE template0{by_files};",
            database="postgres",
        )
        if self.binaries.major < 15:  # newer ones let the owner of a database make tables in it
            await self.ask(f"ALTER SCHEMA public OWNER TO {AGENT};")

    def _program(self, name: str) -> str:
        return f"{self.binaries.inside}/{name}"

    async def ask(self, sql: str, database: str = "") -> str:
        """Run SQL as the superuser; returns what it answers, unaligned. Raises RunError `door_failed`."""
        options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-")
        until = time.monotonic() + _STARTING
        while True:
            done = await self.run("psql", *options, f"--dbname={database or self.database}", stdin=sql.encode())
            if not _NOT_YET.search(done.stderr.text()) or time.monotonic() > until:
                break  # it listens before it serves, and lets nobody in meanwhile
            await asyncio.sleep(_POLL)
        if done.exit_code != 0:
            raise failed(f"the database {self.database} does not answer", done)
        return done.stdout.text()

    async def facts(self, sql: str) -> Any:
        """The one JSON value that a query answers with. Raises RunError `door_failed`."""
        text = await self.ask(sql)
        try:
            return orjson.loads(text or "null")
        except orjson.JSONDecodeError as error:
            remedy = "report this, with the version of the server"
            raise RunError("door_failed", "the database's facts cannot be read", cause=text[:200], remedy=remedy) from error

    async def run(
        self, program: str, *arguments: str, user: str = _SUPERUSER, stdin: bytes = b"", stdin_from: str = ""
    ) -> CommandResult:
        """Run one of PostgreSQL's programs beside the server, as a superuser of it. It reads `stdin`, or a file of the sandbox."""
        environment = {
            "PGHOST": "/workspace",
            "PGUSER": user,
            "PGPASSWORD": self.password,
            "PGOPTIONS": _QUIETLY,
            "PATH": "/usr/bin:/bin",
        }
        argv = (self._program(program), *arguments)
        if stdin_from:
            argv = ("/bin/sh", "-c", 'from=$1; shift; exec "$@" <"$from"', "sh", stdin_from, *argv)
        command = Command(argv, environment=environment, stdin=stdin, output_cap=_ANSWER, merge_stderr=False)
        return await self.housed.run(command)

    async def dump_to(self, target: Path) -> int:
        """Write what the database holds into a new file of this machine, in PostgreSQL's custom format; returns its bytes.

        Raises RunError `door_failed`, and OSError of this machine's disk.
        """
        inside = f"dump-{secrets.token_hex(8)}"
        options = ("--format=custom", "--compress=1", "--no-sync", "--no-owner", "--no-privileges", "--lock-wait-timeout=10s")
        try:
            done = await self.run("pg_dump", *options, f"--dbname={self.database}", f"--file=/workspace/{inside}")
            if done.exit_code != 0:
                raise failed(f"the database {self.database} could not be dumped", done)
            return await fetch(self.housed, inside, target)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(inside, dir_fd=self.housed.sandbox.workspace)

    async def connect(self) -> socket.socket:
        """A connection to the server, non-blocking, nothing said yet. Raises RunError `door_failed` where the server has ended."""
        try:
            return await self.housed.connect(SOCKET)
        except OSError as error:
            ended = self.life.result() if self.life is not None and self.life.done() else None
            raise failed(f"the database server of {self.database} has ended", ended) from error

    async def reach(self, start: wire.Start) -> socket.socket:
        """A session, begun. Raises RunError `door_failed`."""
        sock = await self.connect()
        try:
            await asyncio.get_running_loop().sock_sendall(sock, wire.write_start(start.code, start.values))
        except BaseException:
            sock.close()
            raise
        return sock

    async def cancel(self, key: bytes) -> None:
        """Cancel what the session with this key does. Raises RunError `door_failed`."""
        sock = await self.connect()
        try:
            length = (8 + len(key)).to_bytes(4, "big")
            await asyncio.get_running_loop().sock_sendall(sock, length + wire.CANCEL.to_bytes(4, "big") + key)
        finally:
            sock.close()

    async def close(self) -> None:
        """End the server and remove everything of it."""
        await self.housed.close()


def _told(memory: int, segment: int = 0) -> dict[str, str]:
    """What the server's files say."""
    settings = {**_SETTINGS, "shared_buffers": f"{memory // 4 >> 10}kB"}
    if 2 * segment > 80 << 20:  # the least that it takes
        settings |= {"min_wal_size": f"{2 * segment >> 20}MB", "max_wal_size": f"{max(256, 4 * segment >> 20)}MB"}
    return {"ACCESS": _ACCESS, "SETTINGS": "".join(f"{name} = '{value}'\n" for name, value in settings.items())}


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL takes it, whatever is in it."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
