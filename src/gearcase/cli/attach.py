"""`gearcase attach`: watch a run that was started elsewhere, as if it had been started here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from gearcase.cli import options as o
from gearcase.cli import watch
from gearcase.cli.run import left_frozen, show_ending
from gearcase.run.process import ending
from gearcase.runs import RunFolder, find


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A run whose process is not a child of ours."""

    folder: RunFolder

    def poll(self) -> bool:
        """Whether the run's process has ended."""
        return not self.folder.owner_pid()


def attach(
    run: o.RunReference = "",
    as_json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view.")] = False,
) -> None:
    """Watch a run to its end, and show its report. Ctrl-C freezes it and asks."""
    folder = find(run)
    ended = watch.watch(_Elsewhere(folder), quiet or as_json)
    record = ending(folder) if ended else left_frozen(folder)
    show_ending(folder, record, as_json)
    raise typer.Exit(record.exit_code)
