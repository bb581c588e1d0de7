"""`gearcase recover`: a run whose process died goes on, with what its maps have paid for and what is left of its limits."""

from __future__ import annotations

import typer
from rich.text import Text

from gearcase.cli import exec as program
from gearcase.cli import options as o
from gearcase.cli.console import err
from gearcase.cli.run import follow_run
from gearcase.cli.text import neutral
from gearcase.run.again import options_of
from gearcase.runs import find
from gearcase.units import format_money


def recover(run: o.RunReference = "", as_json: o.Json = False, quiet: program.Quiet = False) -> None:
    """Go on with a run whose process died.

    Its goal or program begins again in a new box. What its maps have answered is found, not asked again. Both runs together keep to its
    limits.
    """
    folder = find(run)
    settings = options_of(folder)
    if not quiet:
        spent = settings.continues.spent.get("usd", 0) if settings.continues else 0
        told = f"{neutral(folder.name)} died after {format_money(spent)}; {format_money(settings.box.box.limits.usd)} is left"
        err().print(Text(f"gearcase: {told}", "dim"), soft_wrap=True)
    if settings.program:
        program.follow_to_the_end(settings, as_json=as_json, quiet=quiet)
    raise typer.Exit(follow_run(settings, quiet or as_json, as_json).exit_code)
