"""A branch with a part of the rows of large tables: what is in between a copy of the definitions and of what holds them together.

Small tables come whole. Of a large one the source itself draws the rows (`TABLESAMPLE BERNOULLI`), and sends no others.

Foreign keys are made
when all rows are there; one that the sample breaks is made NOT VALID: it holds for what is written from then on, and is told by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from gearcase.doors.housed import failed
from gearcase.doors.postgres.cluster import RESTORER, Cluster, quoted
from gearcase.doors.postgres.source import Source, Table
from gearcase.errors import RunError
from gearcase.seams import CommandResult

LARGE = 1 << 20
"""Bytes, indexes included, from which on a table is sampled."""
_KEYS = """
SELECT coalesce(json_agg(json_build_array(n.nspname, c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid))), '[]')
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0;
"""
_BROKEN = re.compile(
    r"pg_restore: error: could not execute query: ERROR:  insert or update on table .* violates foreign key constraint"
)


def large(tables: Sequence[Table], exclude: Sequence[str]) -> list[Table]:
    """The tables that are sampled."""
    return [one for one in tables if one.kind == "r" and one.bytes >= LARGE and one.full_name not in exclude]


def pattern(table: Table) -> str:
    """A table as pg_dump's options take it, whatever is in its name."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


async def draw(source: Source, table: Table, percent: float, path: str) -> tuple[int, bytes, str]:
    """Write a sample of a table's rows to a file, as COPY does."""
    columns = ", ".join(map(quoted, table.columns))
    query = f"COPY (SELECT {columns} FROM ONLY {pattern(table)} TABLESAMPLE BERNOULLI ({percent:g})) TO STDOUT"
    options = ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--output={path}")
    return await source.run("psql", *options, "--command", query)


async def take(cluster: Cluster, table: Table, path: str) -> CommandResult:
    """Read them into the branch."""
    columns = ", ".join(map(quoted, table.columns))
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={cluster.database}")
    query = f"COPY {pattern(table)} ({columns}) FROM STDIN"
    return await cluster.run("psql", *options, "--command", query, user=RESTORER, stdin_from=path)


def check(restored: CommandResult) -> None:
    """Raises RunError `door_failed` where more than foreign keys could not be made."""
    said = restored.stderr.text()
    if said.count("pg_restore: error:") > len(_BROKEN.findall(said)):
        raise failed("the sample could not be put together", restored)


async def keys_of(source: Source) -> list[list[str]]:
    """The foreign keys of a source: schema, table, name, definition."""
    options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1")
    qualified = "SET search_path = ''"  # definitions name schemas then
    code, out, said = await source.run("psql", *options, "--command", qualified, "--command", _KEYS)
    if code != 0:
        raise source.failed(said)
    return orjson.loads(out)


async def mend(cluster: Cluster, keys: Sequence[Sequence[str]]) -> list[str]:
    """Make the foreign keys that are missing NOT VALID, or leave them out where that cannot be; returns a line for each."""
    here = {tuple(one[:3]) for one in await cluster.facts(_KEYS)}
    lines: list[str] = []
    for schema, table, name, definition in keys:
        if (schema, table, name) in here:
            continue
        text = definition.removesuffix(" NOT VALID")
        sql = f"ALTER TABLE {quoted(schema)}.{quoted(table)} ADD CONSTRAINT {quoted(name)} {text} NOT VALID;"
        try:
            await cluster.ask(sql)
        except RunError:
            lines.append(f"{schema}.{table}: {name} is left out")
        else:
            lines.append(f"{schema}.{table}: {name} is not valid for the rows that are there")
    return lines
