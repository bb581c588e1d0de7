"""`gearcase report`: how a run ended, and what it did."""

from __future__ import annotations

from gearcase.cli import options as o
from gearcase.cli import summary
from gearcase.cli.console import out, print_json
from gearcase.cli.history import DIED, history
from gearcase.run.process import ending
from gearcase.runs import find


def report(run: o.RunReference = "", as_json: o.Json = False) -> None:
    """Show the report of a run, live or ended."""
    told = history(find(run))
    record = ending(told.folder) if told.view.ended is not None or told.state == DIED else None
    if as_json:
        print_json(summary.as_json(told, record))
    else:
        out().print(summary.report(told, record))
