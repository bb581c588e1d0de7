"""`gearcase recover`: a run whose process died goes on from what is kept of it, with what is left of its limits."""

from __future__ import annotations

import time

import typer
from rich.text import Text

from gearcase.cli import exec as program
from gearcase.cli import options as o
from gearcase.cli.console import err
from gearcase.cli.run import follow_run
from gearcase.cli.shapes import counted
from gearcase.cli.text import neutral
from gearcase.run.again import Dead, options_of
from gearcase.runs import find
from gearcase.units import format_money


def recover(run: o.RunReference = "", as_json: o.Json = False, quiet: program.Quiet = False) -> None:
    """Go on with a run whose process died.

    In a new box, on the last snapshot of its files. Its agent goes on with its conversation; a program begins again. What its maps have
    answered is found, not asked again. Both runs together keep to its limits.
    """
    folder = find(run)
    settings = options_of(folder)
    if not quiet and settings.continues is not None:
        dead = settings.continues
        left = format_money(settings.box.box.limits.usd)
        told = f"{neutral(folder.name)} died after {format_money(dead.spent.get('usd', 0))}; {left} is left"
        err().print(Text(f"gearcase: {told}; {_from(dead, bool(settings.program))}", "dim"), soft_wrap=True)
    if settings.program:
        program.follow_to_the_end(settings, as_json=as_json, quiet=quiet)
    raise typer.Exit(follow_run(settings, quiet or as_json, as_json).exit_code)


def _from(dead: Dead, is_program: bool) -> str:
    """From where it goes on."""
    if dead.state is None:
        files = "nothing of its files is kept: what was given is given again"
    else:
        at = time.strftime("%H:%M:%S", time.localtime(dead.state.time))
        files = f"its files are those of snapshot {dead.state.name}, kept at {at}"
    if is_program:
        return f"{files}; the program begins again"
    return (
        f"{files}; its agent goes on after {counted(dead.answers, 'answer')}"
        if dead.answers
        else f"{files}; its agent begins again"
    )
