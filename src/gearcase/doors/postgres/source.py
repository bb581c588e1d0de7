"""The operator's own database, from which a branch is made: asked and dumped by PostgreSQL's programs, outside of every sandbox.

The password is read from the operator's environment or files and handed to these programs in theirs; it is in no argument, no file of
the run and no record. Nothing is written to the database: what reads it does so in one read-only transaction.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gearcase.box.dsn import Dsn
from gearcase.doors.postgres.binaries import Binaries
from gearcase.errors import GearcaseError, RunError, UsageError

ANSWER_WITHIN = 60.0
"""Seconds, to connect and to ask what there is."""
_MOST_SAID = 16 * 1024
_KEPT = ("HOME", "PGPASSFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSERVICEFILE", "KRB5CCNAME")

_ABOUT = r"""
SELECT json_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'user', current_user,
  'extensions', (SELECT coalesce(json_agg(extname), '[]') FROM pg_catalog.pg_extension),
  'tables', (SELECT coalesce(json_agg(json_build_object(
      'schema', n.nspname, 'name', c.relname, 'rows', greatest(c.reltuples, 0)::bigint,
      'bytes', pg_catalog.pg_total_relation_size(c.oid), 'kind', c.relkind, 'columns', (
        SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')) ORDER BY n.nspname, c.relname), '[]')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'));
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the source: its size in bytes, indexes included, its rows as last estimated, its columns that are written."""

    schema: str
    name: str
    rows: int
    bytes: int
    kind: str = "r"
    columns: Sequence[str] = ()

    @property
    def full_name(self) -> str:
        """SCHEMA.NAME."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class About:
    """What a source told of itself."""

    version: int
    user: str
    extensions: Sequence[str]
    tables: Sequence[Table]


def password_of(variable: str, file: Path | None, environment: Mapping[str, str]) -> str:
    """The password of a source; empty where libpq finds it by itself. Raises UsageError `missing_password`."""
    if file is not None:
        try:
            return file.read_text().strip()
        except OSError as error:
            remedy = "name a file that this user can read with `password_file`"
            raise UsageError("missing_password", f"{file} cannot be read", cause=str(error), remedy=remedy) from None
    if variable and variable not in environment:
        remedy = f"export {variable}=..., or use ~/.pgpass"
        raise UsageError("missing_password", f"{variable} is not set, and the box says that it holds a password", remedy=remedy)
    return environment.get(variable or "PGPASSWORD", "")


class Source:
    """One database, and how to reach it. `binaries`: whose programs ask."""

    def __init__(self, dsn: Dsn, password: str, binaries: Binaries) -> None:
        self.dsn = dsn
        self.binaries = binaries
        self._password = password

    def environment(self) -> dict[str, str]:
        """Of every program that reaches it."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        place = {"PGUSER": self.dsn.user, "PGHOST": self.dsn.host, "PGPORT": self.dsn.port, "PGPASSWORD": self._password}
        options = {
            f"PG{name.upper().replace('TARGET_SESSION_ATTRS', 'TARGETSESSIONATTRS')}": v for name, v in self.dsn.options.items()
        }
        return {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "LC_MESSAGES": "C",
            "PGCONNECT_TIMEOUT": "15",
            "PGAPPNAME": "gearcase",
            "PGDATABASE": self.dsn.database,
            **kept,
            **options,
            **{name: value for name, value in place.items() if value},
        }

    async def about(self) -> About:
        """What it tells of itself. Raises RunError `source_unreachable`, `source_refused`, `source_failed`."""
        options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1")
        async with asyncio.timeout(ANSWER_WITHIN):
            code, out, said = await self.run("psql", *options, "--command", _ABOUT)
        if code != 0:
            raise self.failed(said)
        told: dict[str, Any] = orjson.loads(out)
        tables = [Table(**one) for one in told["tables"]]
        return About(told["version"], told["user"], told["extensions"], tables)

    async def run(self, program: str, *arguments: str) -> tuple[int, bytes, str]:
        """Run one of the programs to its end; returns its code, output and last words. It ends when this is cancelled."""
        process = await asyncio.create_subprocess_exec(
            self.binaries.program(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
            cwd="/",
        )
        try:
            out, said = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, out, said[-_MOST_SAID:].decode("utf-8", "replace").strip()

    def failed(self, said: str) -> GearcaseError:
        """What is wrong with the source, by what a program of PostgreSQL said of it."""
        for pattern, code, message, remedy in _MEANINGS:
            if re.search(pattern, said):
                return RunError(code, f"{self.dsn} {message}", cause=said, remedy=remedy)
        remedy = f"see whether it works outside: pg_dump '{self.dsn}'"
        return RunError("source_failed", f"{self.dsn} cannot be copied", cause=said, remedy=remedy)


_MEANINGS = (
    (
        "password authentication failed|no password supplied|no pg_hba.conf entry|Peer authentication failed|role .* does not exist",
        "source_refused",
        "does not let us in",
        "name the user in the address, and what holds the password: `password_env`, `password_file` or ~/.pgpass",
    ),
    (
        'database ".*" does not exist',
        "source_refused",
        "does not exist",
        "look at the name at the end of the address; psql -l lists what there is",
    ),
    (
        "Connection refused|could not translate host|No such file or directory|timeout expired|No route|unreachable|closed the connection",
        "source_unreachable",
        "cannot be reached",
        "see whether it runs and is reachable from this machine; the address is `from` in the box",
    ),
    (
        "permission denied",
        "source_refused",
        "does not let us read all of it",
        "name a user who may read every table, or leave tables out with `exclude`",
    ),
)
