"""`gearcase freeze`, `resume`, `kill`: the brake, from any terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from gearcase.brake import command
from gearcase.cli import options as o
from gearcase.cli.console import err, interactive, out, print_json
from gearcase.cli.shapes import state_text
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.runs import RunFolder, find


def freeze(
    run: o.RunReference = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; goes on record.")] = "",
    as_json: o.Json = False,
) -> None:
    """Stop a run where it is: no new call, no process runs, the clock stands. `gearcase resume` goes on."""
    folder = find(run)
    answer = command(folder, "freeze", by="operator", reason=reason)
    _show(folder, answer, as_json, f"go on: gearcase resume {folder.name}    end it: gearcase kill {folder.name}")


def resume(run: o.RunReference = "", as_json: o.Json = False) -> None:
    """Let a frozen run go on."""
    folder = find(run)
    answer = command(folder, "resume", by="operator")
    _show(folder, answer, as_json, f"watch it: gearcase logs -f {folder.name}")


def kill(
    run: o.RunReference = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the run's name.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes on record.")] = "",
    as_json: o.Json = False,
) -> None:
    """End a run for good. Naming it whole is the confirmation; else it is asked for."""
    folder = find(run)
    if not yes and run not in (folder.name, folder.id):
        _confirm(folder, as_json)
    answer = command(folder, "kill", by="operator", reason=reason)
    _show(folder, answer, as_json, f"what it did: gearcase report {folder.name}")


def _confirm(folder: RunFolder, as_json: bool) -> None:
    name = neutral(folder.name)
    if as_json or not interactive():
        raise UsageError("not_named", f"kill would end run {name}", remedy=f"name it whole: gearcase kill {name}, or add --yes")
    err().print(Text.assemble("kill ends run ", (name, "bold"), " for good. Type its name: "), end="")
    if sys.stdin.readline().strip() != folder.name:
        raise UsageError("not_named", "that is not its name; nothing was killed", remedy=f"gearcase kill {name}")


def _show(folder: RunFolder, answer: dict[str, Any], as_json: bool, then: str) -> None:
    if as_json:
        print_json({"run": folder.id, "name": folder.name, **answer})
        return
    took = f" in {float(answer['milliseconds']):.0f} ms" if "milliseconds" in answer else ""
    level = state_text(neutral(answer.get("level", "")))
    out().print(Text.assemble((neutral(folder.name), "bold"), " is ", level, took, (f"    {then}", "dim")))
