"""`gearcase query`: SQL over the record of a run."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, cast

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err, out, print_json
from gearcase.cli.journal import journal_of
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.journal.tables import Answer, columns_of_all, load

_SHOWN = 500
"""Rows that a person is shown; programs get all."""
_FOLDED = 24
"""To how many characters a longer cell may be folded before rows stand below each other instead."""
_NUMBERS = ("BIGINT", "HUGEINT", "INTEGER", "UBIGINT", "DOUBLE", "FLOAT", "DECIMAL")


def query(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Id, name or prefix of a run; default: the latest.", show_default=False)
    ] = "",
    sql: Annotated[str, typer.Argument(metavar="[SQL]", help="One SELECT; without it, the views are listed.")] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: o.Json = False,
) -> None:
    """Ask the record of a run in SQL. Its views: gearcase query."""
    if as_csv and as_json:
        raise UsageError("two_forms", "--csv and --json exclude each other", remedy="leave one out")
    if not sql and len(run.split()) > 1:
        run, sql = "", run  # what has a space is no run
    if not sql and not run:
        return _list(columns_of_all(), as_json)
    tables = load(journal_of(run))
    if tables.damaged:
        left = Text(f"the journal is damaged: {neutral(tables.damaged)}; what follows is left out", "yellow")
        err().print(left, soft_wrap=True)
    if not sql:
        return _list(
            {name: told for name, told in columns_of_all().items() if name == "events" or tables.counts.get(name)}, as_json
        )
    answer = tables.ask(sql)
    if as_json:
        print_json([dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows])
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(answer.columns)
        writer.writerows([[_cell(value) for value in row] for row in answer.rows])
    else:
        _show(answer)
    return None


def _list(views: Mapping[str, Mapping[str, str]], as_json: bool) -> None:
    if as_json:
        return print_json(views)
    for name, columns in views.items():
        told = ", ".join(f"{one} {kind}" for one, kind in columns.items())
        out().print(Text.assemble((name, "bold"), "  ", (told, "dim")))
    every = 'usd(NANO) gives dollars, moment(time) a time of day (UTC); names such as "limit" and "to" want their quotes'
    return out().print(Text(every))


def _show(answer: Answer) -> None:
    shown = answer.rows[:_SHOWN]
    cells = [[neutral(_cell(value)) for value in row] for row in shown]
    numbers = [one.startswith(_NUMBERS) and not one.endswith("]") for one in answer.types]
    widths = [max(map(len, column)) for column in zip(answer.columns, *cells, strict=True)]
    if sum(min(width, _FOLDED) + 2 for width in widths) <= out().width:
        out().print(_table(answer.columns, cells, numbers))
    else:
        _in_full(answer.columns, cells)
    if len(answer.rows) > len(shown):
        out().print(Text(f"the first {_SHOWN} of {len(answer.rows):,} rows; all: --csv or --json", "dim"))
    elif not answer.rows:
        out().print(Text("no rows", "dim"))


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]], numbers: Sequence[bool]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1), header_style="dim")
    for name, number in zip(columns, numbers, strict=True):
        table.add_column(neutral(name), justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def _in_full(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """A row below the other, where they would not stand beside each other."""
    for number, row in enumerate(cells, 1):
        out().print(Text(f"row {number}", "bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", max_width=24, overflow="fold")
        table.add_column(overflow="fold")
        for name, cell in zip(columns, row, strict=True):
            table.add_row(neutral(name), cell)
        out().print(table)


def _cell(value: Any) -> str:
    """As text: dollars without needless zeros, lists and maps as JSON, nothing where nothing is."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, list | dict):
        return json.dumps(_plain(value), ensure_ascii=False, default=str)
    return str(value)


def _plain(value: Any) -> Any:
    """In what JSON can hold; an exact number as the nearest that JSON has."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(one) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in cast("dict[Any, Any]", value).items()}
    return value
