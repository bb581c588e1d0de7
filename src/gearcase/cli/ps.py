"""`gearcase ps`: the runs of this user."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.held import two_lines
from gearcase.cli.history import History, history
from gearcase.cli.shapes import counted, state_text, state_word
from gearcase.cli.text import first_line, neutral
from gearcase.runs import all_runs
from gearcase.units import format_duration, format_money

_RECENT = 10


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every run, not only the live and the ten latest.")] = False,
    as_json: o.Json = False,
) -> None:
    """List runs: the live ones and the latest."""
    folders = all_runs()
    shown = [folder for number, folder in enumerate(folders) if everything or number < _RECENT or folder.owner_pid()]
    runs = [history(folder) for folder in shown]
    if as_json:
        print_json([_facts(run) for run in runs])
    elif not runs:
        out().print(Text('no run yet: gearcase run "GOAL" --usd 2', "dim"))
    else:
        console = out()
        console.print(_table(runs, narrow=console.width < 60))
        for held in filter(None, (two_lines(run.view) for run in runs if run.owner)):
            console.print(Text.assemble((held[0], "bold red"), "\n", (held[1], "bold"), "\n"), soft_wrap=True)
        if len(folders) > len(shown):
            out().print(Text(f"{counted(len(folders) - len(shown), 'older run')}: gearcase ps --all", "dim"))


def _facts(run: History) -> dict[str, Any]:
    view = run.view
    return {
        "id": run.folder.id,
        "name": run.folder.name,
        "state": run.state,
        "kind": view.kind,
        "goal": run.folder.goal,
        "forked_from": run.view.forked_from[0] or None,
        "at": run.view.forked_from[1] or None,
        "model": view.model,
        "spent": view.spent,
        "limits": view.limits,
        "steps": view.steps,
        "held": two_lines(view),
        "seconds": round(view.elapsed(time.time()), 3),
        "created": run.folder.created,
        "pid": run.owner,
        "folder": str(run.folder.path),
    }


def _table(runs: list[History], narrow: bool = False) -> Table:
    """`narrow`: only what one looks for first."""
    now = time.time()
    table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False, header_style="dim", padding=(0, 1))
    for heading in ("name", "state") if narrow else ("name", "id", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("spent",) if narrow else ("spent", "took", "ago"):
        table.add_column(heading, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("goal", ratio=1, no_wrap=True, overflow="ellipsis")
    for run in runs:
        view = run.view
        until = now if run.owner else view.now
        state = state_text(state_word(run.state, view.kind))
        spent = format_money(view.spent.get("usd", 0))
        if narrow:
            table.add_row(neutral(run.folder.name), state, spent)
            continue
        table.add_row(
            neutral(run.folder.name),
            Text(run.folder.id, "dim"),
            state,
            spent,
            format_duration(view.elapsed(until)),
            Text(_ago(now - run.folder.created), "dim"),
            _goal(run),
        )
    return table


def _goal(run: History) -> str:
    name, snapshot = run.view.forked_from
    return first_line(f"{f'(from {name} at {snapshot}) ' if name else ''}{run.folder.goal}", 120)


def _ago(seconds: float) -> str:
    """Roughly how long ago: `12 s`, `40 m`, `5 h`, `3 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
