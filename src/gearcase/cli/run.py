"""`gearcase run`: a goal, in a box, to its end."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.box import LoadedBox, effective_toml
from gearcase.cli import options as o
from gearcase.cli.console import err, interactive, out, print_json
from gearcase.run.options import RunOptions
from gearcase.run.record import EndRecord
from gearcase.runs import RunFolder
from gearcase.units import format_bytes, format_duration, format_money, parse_duration


class Unanswered(StrEnum):
    """What holds when nobody answers."""

    WIND_DOWN = "wind-down"
    DENY = "deny"


def run(
    goal: Annotated[str, typer.Argument(metavar="[GOAL]", help="What the agent shall reach.", show_default=False)] = "",
    file: o.BoxFile = None,
    give: o.Give = None,
    see: o.See = None,
    take: o.Take = None,
    check: o.CheckOption = None,
    usd: o.Usd = None,
    tokens: o.Tokens = None,
    wall: o.Wall = None,
    steps: o.Steps = None,
    memory: o.Memory = None,
    cpus: o.Cpus = None,
    disk: o.Disk = None,
    model: o.ModelOption = None,
    worker: o.Worker = None,
    allow: o.Allow = None,
    output: o.Out = None,
    force: o.Force = False,
    name: o.RunName = "",
    record: o.Record = None,
    as_json: o.Json = False,
    require_checks: o.RequireChecks = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the effective box and its worst case; start nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not watch: `gearcase attach` does, later.")] = False,
    unanswered: Annotated[
        Unanswered | None, typer.Option("--unanswered", help="What holds when nobody answers for more money; then it asks.")
    ] = None,
    after: Annotated[str, typer.Option("--after", help="How long it waits for an answer.", metavar="TIME")] = "30m",
) -> None:
    """Give an agent a goal and a box; watch it; take what it made.

    Without a goal and without -f, ./box.toml is used.
    """
    if not goal and file is None and Path("box.toml").is_file():
        file = Path("box.toml")
    typed = o.BoxOptions(file, goal, give, see, take, check, allow, usd, tokens, wall, steps, memory, cpus, disk, model, worker)
    box = o.loaded(typed)
    settings = RunOptions(
        box=box,
        out=output,
        force=force,
        name=name,
        record=record,
        require_checks=require_checks,
        answered=unanswered is not None or detach or (interactive() and not as_json),
        unanswered="deny" if unanswered is Unanswered.DENY else "wind-down",
        after=parse_duration(after),
    )
    settings.require_complete()
    if not box.box.files.take:
        err().print(Text("nothing may leave this box: name deliverables with --take 'out/**'", "yellow"))
    o.warn_of_doubts(box)
    if dry_run:
        _show_plan(box, as_json)
        return
    if detach:
        begin(settings, as_json)
        return
    raise typer.Exit(follow_run(settings, quiet or as_json, as_json).exit_code)


def begin(settings: RunOptions, as_json: bool) -> None:
    """Start a run and leave it."""
    from gearcase.run.process import start

    folder = start(settings).folder
    if as_json:
        print_json({"run": folder.id, "name": folder.name, "folder": str(folder.path)})
    else:
        hint = f"    watch it: gearcase attach {folder.name}    stop it: gearcase freeze {folder.name}"
        out().print(Text.assemble((folder.name, "bold"), " runs", (hint, "dim")))


def follow_run(settings: RunOptions, quiet: bool, as_json: bool) -> EndRecord:
    """Start a run, watch it to its end, show the report."""
    from gearcase.run.process import ending, start

    started = start(settings)
    from gearcase.cli import watch  # after the run began: what shows it loads while the run makes its box

    if not quiet:
        from gearcase.monitors.able import told

        err().print(Text(told(settings.box.box, "program" if settings.program else "agent"), "dim"), soft_wrap=True)
    ended = watch.watch(started, quiet)
    record = ending(started.folder) if ended else left_frozen(started.folder)
    show_ending(started.folder, record, as_json)
    return record


def show_ending(folder: RunFolder, record: EndRecord, as_json: bool) -> None:
    """Print the report of a run with its ending's record."""
    from gearcase.cli import summary
    from gearcase.cli.history import history

    if as_json:
        print_json(record.as_json())
    elif record.status != "frozen":
        out().print(summary.report(history(folder), record))


def left_frozen(folder: RunFolder) -> EndRecord:
    """The record of a run that was left frozen: it has no ending yet."""
    from gearcase.cli.history import history

    view = history(folder).view
    resume = f"gearcase resume {folder.name}"
    return EndRecord(folder.id, folder.name, "frozen", spent=view.spent, journal_head=view.head, how_to_resume=resume)


def _show_plan(box: LoadedBox, as_json: bool) -> None:
    limits = box.box.limits
    worst = {
        "usd": format_money(limits.usd),
        "wall": format_duration(limits.wall),
        "steps": f"{limits.steps}",
        "memory": format_bytes(limits.memory),
        "cpus": f"{limits.cpus:g}",
        "disk": format_bytes(limits.disk),
        "leaves": f"{format_bytes(box.box.files.take_max)} by {', '.join(box.box.files.take)}"
        if box.box.files.take
        else "nothing",
    }
    if as_json:
        print_json({"box": effective_toml(box.box), "sources": dict(box.sources), "worst_case": worst})
        return
    out().print(Text(effective_toml(box.box, box.source)))
    out().print(Text("Worst case", "bold"))
    for key, value in worst.items():
        out().print(Text(f"  {key:<8} {value}"))
