"""`gearcase spend`: what was spent, by day, run, agent or model, from the journals; to lay beside a provider's invoice."""

from __future__ import annotations

import calendar
import csv
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gearcase.allowance import today
from gearcase.cli import options as o
from gearcase.cli.console import err, out, print_json
from gearcase.cli.text import neutral
from gearcase.doors.model.leases import LEASE
from gearcase.errors import RunError, UsageError
from gearcase.journal import Record, read
from gearcase.run.recovery import recover
from gearcase.runs import RunFolder, all_runs
from gearcase.units import NANO, format_money, parse_duration

_SUMMED = ("calls", "input", "cache_read", "cache_write", "output", "usd", "certain")
_TOKENS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")


class By(StrEnum):
    """What the rows are."""

    DAY = "day"
    RUN = "run"
    AGENT = "agent"
    MODEL = "model"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Spent:
    """One call, or the sum of several. `usd` is nano-dollars; `certain` is the part of it that the provider itself reported."""

    day: str
    run: str
    agent: str
    model: str
    calls: int
    input: int
    cache_read: int
    cache_write: int
    output: int
    usd: int
    certain: int

    def plus(self, other: Spent) -> Spent:
        """Both together, under this one's names."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return replace(self, **sums)


def spend(
    since: Annotated[
        str, typer.Option("--since", help="How far back: 24h, 7d, or a day such as 2026-11-01 (UTC).", metavar="TIME")
    ] = "7d",
    by: Annotated[By, typer.Option("--by", help="What the rows are.")] = By.DAY,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print comma-separated values; --by call has a line for each call.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Show what was spent, as billed. Calls of a person, a cassette or a script cost nothing and are left out."""
    first = _first_moment(since)
    rows = list(_grouped(_all_calls(first), by))
    if as_csv:
        _write_csv(rows)
    elif as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        out().print(_table(rows, by))
    else:
        out().print(Text(f"no provider was paid since {today(first)} (a person, a cassette, a script send no invoice)", "dim"))


def _first_moment(since: str) -> float:
    try:
        return calendar.timegm(time.strptime(since, "%Y-%m-%d"))
    except ValueError:
        pass
    try:
        return time.time() - (86400 * int(since[:-1]) if since[-1:] == "d" else parse_duration(since))
    except (ValueError, UsageError):
        remedy = "write how far back, such as 24h or 7d, or a day such as 2026-11-01"
        raise UsageError("bad_time", f"{since!r} is no time to look back to", remedy=remedy) from None


def _all_calls(first: float) -> Iterator[Spent]:
    for folder in all_runs():
        if any(segment.stat().st_mtime >= first for segment in folder.journal.glob("*.jsonl")):
            if not folder.owner_pid():
                with suppress(RunError):  # what it spent is told as far as it stands there
                    recover(folder)
            yield from _calls(folder, first)


def _calls(folder: RunFolder, first: float) -> Iterator[Spent]:
    """The billed calls of one run. One that was at the provider when the run was killed counts whole, as it does for every limit."""
    held: dict[int, Record] = {}
    cost: dict[int, tuple[int, bool]] = {}
    told: set[int] = set()
    drawn: dict[int, int] = {}
    try:
        for record in read(folder.journal):
            raw = record.raw
            match record.type:
                case "held":
                    held[raw["hold"]] = record
                case "settled":
                    usd = raw["amounts"].get("usd", 0)
                    cost[raw["hold"]] = (usd, True)
                    if lease := raw.get("lease", 0):
                        drawn[lease] = drawn.get(lease, 0) + usd
                case "cut" if raw["hold"] in held:
                    whole = held[raw["hold"]].raw["amounts"].get("usd", 0)
                    cost[raw["hold"]] = (max(0, whole - drawn.get(raw["hold"], 0)), False)
                case "model_called":
                    told.add(raw["hold"])
                    if not raw.get("billed", True) or record.time < first:
                        continue
                    usd, certain = cost.get(raw["hold"], (0, True))
                    used: dict[str, int] = raw["usage"]
                    tokens = [used.get(name, 0) for name in _TOKENS]
                    writes = tokens[2] + tokens[3]
                    sums = (1, tokens[0], tokens[1], writes, tokens[4], usd, usd if certain else 0)
                    yield Spent(today(record.time), folder.name, record.agent, raw["served"] or raw["model"], *sums)
                case _:
                    continue
    except RunError as error:
        err().print(Text(f"{neutral(folder.name)}: {neutral(error.message)}; what comes after is missing here", "yellow"))
    for number in cost.keys() & held.keys() - told:
        record, (usd, certain) = held[number], cost[number]
        if not usd and record.raw.get("purpose", "").startswith(LEASE):
            continue  # it was given back: what was drawn on it stands at its calls
        _provider, _, model = record.raw.get("billed_by", "").partition("/")
        if model and record.time >= first:
            yield Spent(today(record.time), folder.name, record.agent, model, 1, 0, 0, 0, 0, usd, usd if certain else 0)


def _grouped(calls: Iterable[Spent], by: By) -> Iterator[Spent]:
    """Sums over what is not asked about, in the order of days."""
    if by is By.CALL:
        yield from calls
        return
    kept = {By.DAY: ("day",), By.RUN: ("day", "run"), By.AGENT: ("day", "run", "agent"), By.MODEL: ("day", "model")}[by]
    groups: dict[tuple[str, ...], Spent] = {}
    for call in calls:
        key = tuple(getattr(call, name) for name in kept)
        one = replace(call, **dict.fromkeys({"run", "agent", "model"} - set(kept), ""))
        groups[key] = groups[key].plus(one) if key in groups else one
    for key in sorted(groups):
        yield groups[key]


def _write_csv(rows: list[Spent]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(
        ["day", "run", "agent", "model", "calls", "input", "cache_read", "cache_write", "output", "usd", "usd_reported"]
    )
    for row in rows:
        facts: dict[str, Any] = asdict(row)
        for name in ("usd", "certain"):
            facts[name] = f"{facts[name] // NANO}.{facts[name] % NANO:09d}"
        writer.writerow(facts.values())


def _table(rows: list[Spent], by: By) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_footer=True)
    named = [name for name in ("day", "run", "agent", "model") if any(getattr(row, name) for row in rows)]
    for name in named:
        table.add_column(name, "all" if name == named[0] else "", no_wrap=name != "model", overflow="fold")
    whole = [
        sum(values)
        for values in zip(*((r.calls, r.input, r.cache_read, r.cache_write, r.output, r.usd) for r in rows), strict=True)
    ]
    for heading, value in zip(("calls", "input", "cached", "written", "output"), whole, strict=False):
        table.add_column(heading, f"{value:,}", justify="right", no_wrap=True)
    table.add_column("spent", format_money(whole[-1]), justify="right", no_wrap=True)
    for row in rows:
        counts = (row.calls, row.input, row.cache_read, row.cache_write, row.output)
        cells = [neutral(getattr(row, name)) for name in named]
        table.add_row(*cells, *(f"{count:,}" for count in counts), format_money(row.usd))
    if sum(row.certain for row in rows) < whole[-1]:
        uncertain = whole[-1] - sum(row.certain for row in rows)
        table.caption = f"{format_money(uncertain)} of it is the worst case of calls whose cost was not reported"
    return table
