"""`gearcase replay`: a run again, its model played by the traffic that was recorded, every command really executed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.box import load_box
from gearcase.cli import options as o
from gearcase.cli.console import err
from gearcase.cli.run import follow_run
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.run.options import RunOptions
from gearcase.run.process import ending
from gearcase.runs import RunFolder, find


def replay(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN|CASSETTE]", help="A run, or a cassette's file; default: the latest run.", show_default=False
        ),
    ] = "",
    cassette: Annotated[Path | None, typer.Option("--cassette", help="Play this cassette instead of the run's own.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Box of a cassette's file; default: box.toml beside it.")
    ] = None,
    output: o.Out = None,
    force: o.Force = False,
    name: o.RunName = "",
    as_json: o.Json = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="End at the first call that is not as recorded, and show the difference.")
    ] = False,
    require_checks: o.RequireChecks = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view.")] = False,
) -> None:
    """Run a box again with recorded model traffic. No provider is asked, nothing is paid, every command is really executed.

    For a run, its verdict is compared with the new one. Calls that differ from the recorded ones are counted in the report.
    """
    beside = Path(run)
    if run and beside.is_file():
        if cassette is not None:
            raise UsageError(
                "two_cassettes", f"{run} is a cassette itself", remedy="name one cassette, or a run and --cassette FILE"
            )
        folder, box, played = None, load_box(file or beside.with_name("box.toml")), beside
    else:
        if file is not None:
            raise UsageError("box_of_a_run", "a run has its box", remedy="leave -f out, or name a cassette's file")
        folder = find(run)
        box, played = load_box(folder.box_file), cassette or _own(folder)
    settings = RunOptions(
        box=box, out=output, force=force, name=name, cassette=played.resolve(), strict=strict, require_checks=require_checks
    )
    settings.require_complete()
    before = ending(folder).status if folder else ""
    record = follow_run(settings, quiet or as_json, as_json)
    if folder is not None:
        same = record.status == before
        told = (
            f"the same verdict as {neutral(folder.name)}" if same else f"another verdict than {neutral(folder.name)} ({before})"
        )
        err().print(Text(f"{record.status}: {told}", "green" if same else "yellow"), soft_wrap=True)
    raise typer.Exit(record.exit_code)


def _own(folder: RunFolder) -> Path:
    if not folder.cassette.is_file():
        raise UsageError(
            "no_cassette",
            f"run {folder.name} has no recorded model traffic",
            cause=f"{folder.cassette} does not exist",
            remedy="name what was recorded with --cassette FILE",
        )
    return folder.cassette
