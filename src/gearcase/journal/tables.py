"""A journal as tables that SQL can ask: DuckDB in memory, with nothing but the journal in reach.

`events` has every record, and each type of event is a view with the fields of the catalogue as columns. A field that a record of an
older version lacks has its default, and a value that does not fit its column is NULL there: `events` has it as it stands.

The threat: text in a journal, or a query that somebody else wrote, that reads files or reaches the network. DuckDB's own access to
both is off before the first record is read, nothing can turn it on again, and one SELECT is all that runs. What was altered in the
journal is not asked: the tables end before the first record that does not follow from those before.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gearcase.errors import UsageError
from gearcase.events import Event
from gearcase.journal.lines import ENVELOPE, lines_of, no_journal, segments
from gearcase.journal.proof import Broken, Chain

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

EVENTS = "events"
_BATCH = 20_000
_SETTINGS = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "python_enable_replacements": False,  # else a name in SQL can be a variable of this process
    "temp_directory": "",  # nothing is swapped to the disk
}
_COLUMNS = {
    "str": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "float | None": "DOUBLE",
    "bool": "BOOLEAN",
    "Amounts": "MAP(VARCHAR, BIGINT)",
    "dict[str, int]": "MAP(VARCHAR, BIGINT)",
    "dict[str, str]": "MAP(VARCHAR, VARCHAR)",
    "list[str]": "VARCHAR[]",
    "list[int]": "BIGINT[]",
}
"""What a field's annotation becomes; every other one is JSON."""

_OF_EVERY_RECORD = {"seq": "BIGINT", "time": "DOUBLE", "boot": "DOUBLE", "agent": "VARCHAR"}
_MACROS = (
    "CREATE MACRO usd(nano) AS CAST(nano AS DECIMAL(28, 0)) * CAST(0.000000001 AS DECIMAL(10, 9))",
    "CREATE MACRO moment(seconds) AS make_timestamp(CAST(round(seconds * 1000000) AS BIGINT))",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query found: names and DuckDB's types of its columns, and its rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Tables:
    """A journal, loaded. `damaged` says what is wrong with the first record that was left out; empty when none was."""

    counts: dict[str, int]
    """How many records there are of each type."""
    damaged: str
    _connection: DuckDBPyConnection = field(repr=False)

    def ask(self, sql: str) -> Answer:
        """The answer to one SELECT. Raises UsageError `bad_query`."""
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise self._bad("a query is one SELECT: a journal is only read")
            found = self._connection.execute(statements[0])
            told = found.description or []
            return Answer(tuple(str(one[0]) for one in told), tuple(str(one[1]) for one in told), found.fetchall())
        except duckdb.Error as error:
            message, _, rest = str(error).partition("\n")
            hint = rest.startswith("Did you mean")  # a table of DuckDB's own
            raise self._bad(message.partition(": ")[2] or message, rest.partition("\n")[2] if hint else rest) from None

    def _bad(self, message: str, cause: str = "") -> UsageError:
        there = [EVENTS, *(name for name in views() if self.counts.get(name))]
        missing = re.match(r"Table with name (\S+) does not exist", message)
        near = difflib.get_close_matches(missing[1], [EVENTS, *views()], n=1) if missing else []
        meant = f"did you mean {near[0]}? " if near else ""
        remedy = f"{meant}this journal has {', '.join(there)}; every view with its columns: gearcase query"
        return UsageError("bad_query", message, cause=cause.strip("\n"), remedy=remedy, views=[EVENTS, *views()])


def views() -> dict[str, dict[str, str]]:
    """Columns of each type's view, with their types in SQL, beside those that every view has."""
    return {name: {one: _type(kind, one) for one in kind.fields} for name, kind in sorted(Event.catalogue.items())}


def columns_of_all() -> dict[str, dict[str, str]]:
    """Of every view, `events` first, all columns with their types."""
    every = {EVENTS: {**_OF_EVERY_RECORD, "type": "VARCHAR", "fields": "JSON"}}
    return every | {name: _OF_EVERY_RECORD | columns for name, columns in views().items()}


def load(folder: Path) -> Tables:
    """The tables of a journal, of a run that ended or still goes on. Raises RunError `no_journal`, UsageError `missing_extra`."""
    try:
        import duckdb
    except ImportError:
        message = "queries are answered by DuckDB, which is not installed"
        raise UsageError("missing_extra", message, remedy="pip install 'gearcase[query]'", extra="query") from None
    paths = segments(folder)
    if not paths:
        raise no_journal(folder)
    connection = duckdb.connect(":memory:", config=dict(_SETTINGS))
    connection.execute("SET lock_configuration = true")
    connection.execute("CREATE TABLE record (seq BIGINT, time DOUBLE, boot DOUBLE, agent VARCHAR, type VARCHAR, line JSON)")
    damaged = _fill(connection, paths)
    for macro in _MACROS:
        connection.execute(macro)
    for statement in _view_statements():
        connection.execute(statement)
    counted = connection.execute("SELECT type, count(*) FROM record GROUP BY ALL").fetchall()
    return Tables(dict(cast("list[tuple[str, int]]", counted)), damaged, connection)


def _fill(connection: DuckDBPyConnection, paths: Sequence[Path]) -> str:
    """Every record that follows from those before; returns what is wrong with the first that does not."""
    chain, damaged = Chain(), ""
    batch: list[str] = []

    def checked() -> Iterator[bytes]:
        for line in _whole_lines(paths):
            yield line
            batch.append(line.decode())  # whoever asks for the next found it in order
            if len(batch) == _BATCH:
                _insert(connection, batch)

    try:
        chain.walk(checked())
    except Broken as broken:
        damaged = f"record {broken.seq}: {broken.reason}"
    _insert(connection, batch)
    connection.execute("DELETE FROM record WHERE seq > ?", [chain.records])
    return damaged


def _whole_lines(paths: Sequence[Path]) -> Iterator[bytes]:
    """Without an incomplete last one: a run that goes on is writing it, or a crash has left it."""
    earlier = lines_of(paths[:-1])
    return itertools.chain(earlier, (line for line in lines_of(paths[-1:]) if line.endswith(b"\n")))


def _insert(connection: DuckDBPyConnection, batch: list[str]) -> None:
    columns = ", ".join(f"TRY_CAST(line ->> '$.{name}' AS {kind})" for name, kind in _OF_EVERY_RECORD.items())
    lines = "SELECT CAST(unnest(CAST(? AS VARCHAR[])) AS JSON) AS line"
    connection.execute(f"INSERT INTO record SELECT {columns}, line ->> '$.type', line FROM ({lines})", [batch])
    batch.clear()


def _view_statements() -> Iterator[str]:
    every = ", ".join(_OF_EVERY_RECORD)
    without = json.dumps(dict.fromkeys(ENVELOPE))  # as a merge patch, it takes these away
    yield f"CREATE VIEW {EVENTS} AS SELECT {every}, type, json_merge_patch(line, '{without}') AS fields FROM record"
    for name, columns in views().items():
        kind = Event.catalogue[name]
        told = ", ".join([every, *(_column(kind, one, sql) for one, sql in columns.items())])
        yield f"CREATE VIEW \"{name}\" AS SELECT {told} FROM record WHERE type = '{name}'"


def _column(kind: type[Event], name: str, sql: str) -> str:
    arrow = "->>" if sql == "VARCHAR" else "->"
    value = f"line {arrow} '$.\"{name}\"'"
    if name in kind.defaults:
        default = _default(kind, name)
        literal = default if isinstance(default, str) and sql == "VARCHAR" else json.dumps(default)
        value = f"coalesce({value}, '{literal}')"
    return f'TRY_CAST({value} AS {sql}) AS "{name}"'


def _default(kind: type[Event], name: str) -> Any:
    default = kind.defaults[name]
    return cast(Field[Any], default).default_factory() if isinstance(default, Field) else default  # type: ignore[misc]


def _type(kind: type[Event], name: str) -> str:
    return _COLUMNS.get(kind.__annotations__[name], "JSON")
