"""`gearcase replay`: a run again, its model played by the traffic that was recorded, every command really executed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.box import LoadedBox, Override, load_box
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view.")] = False,
) -> None:
    """Run a box again with recorded model traffic: no provider is asked, nothing is paid, every command is really executed.

    For a run, its verdict is compared with the new one.
    """
    beside = Path(run)
    if run and beside.is_file():
        box = _played(file or beside.with_name("box.toml"), beside)
        raise typer.Exit(follow_run(RunOptions(box=box, out=output, force=force, name=name), quiet or as_json, as_json))
    folder = find(run)
    box = _played(folder.box_file, cassette or _own(folder))
    before = ending(folder).status
    settings = RunOptions(box=box, out=output, force=force, name=name)
    code = follow_run(settings, quiet or as_json, as_json)
    after = ending(find(name)).status
    same = after == before
    told = f"the same verdict as {neutral(folder.name)}" if same else f"another verdict than {neutral(folder.name)} ({before})"
    err().print(Text(f"{after}: {told}", "green" if same else "yellow"))
    raise typer.Exit(code)


def _own(folder: RunFolder) -> Path:
    if not folder.cassette.is_file():
        raise UsageError(
            "no_cassette",
            f"run {folder.name} has no recorded model traffic",
            cause=f"{folder.cassette} does not exist",
            remedy="name one with --cassette, or record the next run with --record FILE",
        )
    return folder.cassette


def _played(file: Path, cassette: Path) -> LoadedBox:
    source = f"cassette:{cassette.resolve()}"
    keys = (("model", "lead"), ("model", "worker"))
    return load_box(file, [Override(key, source, "--cassette") for key in keys])
