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
from gearcase.run.process import ending
from gearcase.run.supervisor import RunOptions
from gearcase.runs import RunFolder, find


def replay(
    run: o.RunReference = "",
    cassette: Annotated[Path | None, typer.Option("--cassette", help="Play this cassette instead of the run's own.")] = None,
    output: o.Out = None,
    force: o.Force = False,
    name: o.RunName = "",
    as_json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view.")] = False,
) -> None:
    """Run a run's box again with its recorded model traffic. No provider is asked; the verdict is compared."""
    folder = find(run)
    box = _box(folder, cassette or folder.cassette)
    before = ending(folder).status
    settings = RunOptions(box=box, out=output, force=force, name=name)
    code = follow_run(settings, quiet or as_json, as_json)
    after = ending(find(name)).status
    same = after == before
    told = f"the same verdict as {neutral(folder.name)}" if same else f"another verdict than {neutral(folder.name)} ({before})"
    err().print(Text(f"{after}: {told}", "green" if same else "yellow"))
    raise typer.Exit(code)


def _box(folder: RunFolder, cassette: Path) -> LoadedBox:
    if not cassette.is_file():
        raise UsageError(
            "no_cassette",
            f"run {folder.name} has no recorded model traffic",
            cause=f"{cassette} does not exist",
            remedy="name one with --cassette, or record the next run with --record FILE",
        )
    source = f"cassette:{cassette.resolve()}"
    return load_box(
        folder.box_file, [Override(("model", "lead"), source, "--cassette"), Override(("model", "worker"), source, "--cassette")]
    )
