"""`gearcase snapshots`: the states of a run's files that were kept, to compare, to return to, to begin another run from."""

from __future__ import annotations

import time
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err, out, print_json
from gearcase.cli.text import first_line, neutral
from gearcase.events import CommandStarted
from gearcase.journal import read
from gearcase.runs import RunFolder, find
from gearcase.sandbox.states import State, States
from gearcase.units import format_bytes


def snapshots(run: o.RunReference = "", as_json: o.Json = False) -> None:
    """List the states of the files that are kept. s0 is what was given, s1 and so on were asked for, k1 and so on were kept after commands
    by themselves."""
    folder = find(run)
    states = States(folder.states)
    commands = _commands(folder) if states.states else {}
    if as_json:
        print_json([_facts(state, states, commands) for state in states.states.values()])
        return
    if not states.states:
        out().print(Text("no snapshot yet: the files are as they were given", "dim"))
        return
    console = out()
    console.print(_table(states, commands, narrow=console.width < 60))
    name = neutral(folder.name)
    latest = next((one for one in reversed(states.states) if states.kept(one)), "s0")
    hints = [f"compare: gearcase diff {name} s0 {latest}", f"another run: gearcase fork {name} GOAL --at {latest}"]
    if folder.owner_pid():
        hints.insert(1, f"return: gearcase rewind {name} --to {latest}")
    err().print(Text("    ".join(hints), "dim"), soft_wrap=True)


def _facts(state: State, states: States, commands: dict[int, str]) -> dict[str, Any]:
    return {
        "snapshot": state.name,
        "time": state.time,
        "note": state.note,
        "command": state.command,
        "running": state.running,
        "text": commands.get(state.command, ""),
        "files": state.files,
        "bytes": state.size,
        "added": state.added,
        "changed": state.changed,
        "removed": state.removed,
        "kept": states.kept(state.name),
        "held": state.held,
    }


def _table(states: States, commands: dict[int, str], narrow: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False, header_style="dim", padding=(0, 1))
    for heading in ("name", "at"):
        table.add_column(heading, no_wrap=True)
    for heading in ("changed",) if narrow else ("files", "size", "changed"):
        table.add_column(heading, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("after", ratio=1, no_wrap=True, overflow="ellipsis")
    for state in states.states.values():
        is_kept = states.kept(state.name)
        name = Text(neutral(state.name), "" if is_kept else "dim strike")
        changed = f"+{state.added} ~{state.changed} -{state.removed}" if state.name != "s0" else ""
        at = time.strftime("%H:%M:%S", time.localtime(state.time))
        if narrow:
            table.add_row(name, at, changed)
            continue
        what = Text(overflow="ellipsis", no_wrap=True)
        if not is_kept:
            what.append("not kept any more  " if state.name in states.gone else "too large to be kept  ", "yellow")
        what.append(first_line(_after(state, commands), 120))
        table.add_row(name, at, f"{state.files:,}", format_bytes(state.size), changed, what)
    return table


def _after(state: State, commands: dict[int, str]) -> str:
    if not state.command:
        return state.note
    return f"{'during' if state.running else 'after'} {state.command}  {commands.get(state.command, '')}"


def _commands(folder: RunFolder) -> dict[int, str]:
    """What the run's commands were, by their numbers."""
    return {one.event.command: one.event.text for one in read(folder.journal) if isinstance(one.event, CommandStarted)}
