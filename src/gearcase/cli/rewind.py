"""`gearcase rewind`: a run's files and databases go back to a snapshot, once a person has seen what that undoes."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from rich.text import Text

from gearcase.cli import compared
from gearcase.cli import options as o
from gearcase.cli.console import err, interactive, out, print_json
from gearcase.cli.shapes import counted
from gearcase.cli.text import neutral
from gearcase.control import command
from gearcase.errors import UsageError
from gearcase.runs import RunFolder, find
from gearcase.sandbox.states import States

_SHOWN = 40
_LOOK_WITHIN, _DONE_WITHIN = 180.0, 300.0
"""Seconds: states of databases are opened, and their rows counted."""


def rewind(
    run: o.RunReference = "",
    to: Annotated[str, typer.Option("--to", help="The snapshot; `gearcase snapshots` lists them.", metavar="SNAPSHOT")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    children: Annotated[
        str, typer.Option("--children", help="stop: end the sub-agents that live; what they made does not come back.")
    ] = "",
    files_only: Annotated[bool, typer.Option("--files-only", help="Databases stay as they are.")] = False,
    as_json: o.Json = False,
) -> None:
    """Return a run's files and its databases to a snapshot. It is frozen first, what would be undone is shown, and it stays
    frozen until `gearcase resume`.

    What ran in its box is ended, its agents are told, and what it had is kept as a snapshot, too. Refused where a database was not kept.
    """
    folder = find(run)
    if not to:
        raise UsageError("no_snapshot", "no snapshot is named", remedy=f"gearcase snapshots {folder.name}, then --to NAME")
    if children not in ("", "stop"):
        raise UsageError("wrong_call", f"--children {children} is not known", remedy="say --children stop, or leave it out")
    if not yes and (as_json or not interactive()):
        remedy = f"look first: gearcase diff {folder.name} {to}; then add --yes"
        raise UsageError("not_confirmed", f"rewind would undo what the run did since {to}", remedy=remedy)
    States(folder.states).require(to)
    plan = command(folder, "rewind_plan", to=to, files_only=files_only, timeout=_LOOK_WITHIN)
    found = compared.compare(folder, to, str(plan["now"]))
    if not as_json:
        _show(folder, found, plan, children)
    if not yes:
        _confirm(folder, to)
    done = command(folder, "rewind", to=to, children=children, files_only=files_only, timeout=_DONE_WITHIN)
    if as_json:
        undone = compared.as_json(found, texts=False)
        told = {**done, "undone": undone, "of_databases": plan["databases"], "doors": plan["doors"]}
        print_json({"run": folder.id, "name": folder.name, **told})
        return
    name = neutral(folder.name)
    also = f", {', '.join(map(neutral, done['databases']))} with it" if done["databases"] else ""
    told = f" is back at {to}{also}; what it had is snapshot {done['kept']}; it stands frozen"
    out().print(Text.assemble((name, "bold"), told, (f"    go on: gearcase resume {name}", "dim")), soft_wrap=True)
    if done["missing"]:
        err().print(Text(f"sockets and devices cannot be made again: {neutral(', '.join(done['missing']))}", "yellow"))


def _show(folder: RunFolder, found: compared.Compared, plan: dict[str, Any], children: str) -> None:
    """What a return would undo, and what it would not."""
    console = err()
    what = counted(len(found.files), "path") if found.files else "nothing"
    console.print(Text.assemble((neutral(folder.name), "bold"), f" is frozen; since {found.before} it changed {what}:"))
    console.print(compared.table(found, _SHOWN))
    for line in compared.rest(found, _SHOWN):
        console.print(line)
    agents = ", ".join(f"{one['agent']} ({neutral(one['name'])})" for one in plan["agents"])
    if agents and children:
        console.print(Text(f"ends, and what they made does not come back: {agents}", "yellow"), soft_wrap=True)
    elif agents:
        console.print(Text(f"lives on, and hands in later: {agents}; --children stop ends them", "yellow"), soft_wrap=True)
    for one in plan["databases"]:
        _show_database(one, found.before)
    for one in plan["doors"]:
        kept = f"; what it held before its first destructive statement is in {neutral(one['kept'])}" if one["kept"] else ""
        console.print(Text(f"is not rewound: {neutral(one['door'])}{kept}", "yellow"), soft_wrap=True)


def _show_database(one: dict[str, Any], to: str) -> None:
    """What a return would mean for a database."""
    name = neutral(one["door"])
    if not one["returns"]:
        err().print(Text(f"stays as it is: {name}: {neutral(one['why'])}", "yellow"), soft_wrap=True)
        return
    at = time.strftime("%H:%M:%S", time.localtime(one["of"]))
    if "unknown" in one:
        err().print(
            Text(f"{name} goes back to {to} ({at}); how it differs is not known: {neutral(one['unknown'])}"), soft_wrap=True
        )
        return
    changes, lost = one["changes"], one["lost"]
    what = f"since then {counted(len(changes), 'change')}" if changes else "its tables and their numbers of rows are the same"
    err().print(Text.assemble((name, "bold"), f" goes back to {to} ({at}), sessions with it end; {what}"), soft_wrap=True)
    for change in changes[:_SHOWN]:
        err().print(Text(f"  {neutral(change)}"), soft_wrap=True)
    if len(changes) > _SHOWN:
        err().print(Text(f"  and {len(changes) - _SHOWN} more", "dim"))
    for line in lost:
        err().print(Text(f"  comes back without {neutral(line)}", "yellow"), soft_wrap=True)


def _confirm(folder: RunFolder, to: str) -> None:
    err().print(f"Undo this, and return to {to}? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        remedy = f"it stands frozen: gearcase resume {folder.name}"
        raise UsageError("not_confirmed", "nothing was undone", remedy=remedy)
