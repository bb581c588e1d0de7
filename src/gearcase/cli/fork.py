"""`gearcase fork`: another run from a snapshot of one, with another goal."""

from __future__ import annotations

from typing import Annotated

import typer

from gearcase.box import load_box
from gearcase.cli import compared
from gearcase.cli import options as o
from gearcase.cli.console import interactive
from gearcase.cli.run import begin, follow_run
from gearcase.run.forking import Fork
from gearcase.run.options import RunOptions
from gearcase.runs import find


def fork(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id, name, or a unique prefix of one.", show_default=False)],
    goal: Annotated[str, typer.Argument(metavar="GOAL", help="What the new agent shall reach.", show_default=False)],
    at: Annotated[
        str, typer.Option("--at", help="The snapshot; `gearcase snapshots` lists them.", metavar="SNAPSHOT")
    ] = compared.NOW,
    take: o.Take = None,
    check: o.CheckOption = None,
    usd: o.Usd = None,
    tokens: o.Tokens = None,
    wall: o.Wall = None,
    steps: o.Steps = None,
    model: o.ModelOption = None,
    worker: o.Worker = None,
    output: o.Out = None,
    force: o.Force = False,
    name: o.RunName = "",
    as_json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not watch: `gearcase attach` does, later.")] = False,
) -> None:
    """Begin another run from a snapshot of a run. Same box, another goal; options replace or add to the box's values.

    The other run is left as it is. Money, databases and what its agent remembers do not come along.
    """
    folder = find(run)
    fork = Fork(folder, compared.resolve(folder, at))
    fork.require()
    typed = o.BoxOptions(
        goal=goal, take=take, check=check, usd=usd, tokens=tokens, wall=wall, steps=steps, model=model, worker=worker
    )
    box = load_box(folder.box_file, list(o.overrides(typed)), without_gone=True)
    answered = detach or (interactive() and not as_json)
    settings = RunOptions(box=box, out=output, force=force, name=name, answered=answered, forks=fork)
    settings.require_complete()
    if detach:
        begin(settings, as_json)
        return
    raise typer.Exit(follow_run(settings, quiet or as_json, as_json).exit_code)
