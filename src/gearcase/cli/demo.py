"""`gearcase demo`: what a box does, in under a minute, without a key: real work, then five attacks."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gearcase.box import Override, load_box
from gearcase.cli import options as o
from gearcase.cli import watch
from gearcase.cli.console import err, out, print_json
from gearcase.cli.run import show_ending
from gearcase.cli.text import neutral
from gearcase.demo.attacks import ATTACKS, HERE, Outcome, attack
from gearcase.demo.endings import stopped_by
from gearcase.errors import UsageError
from gearcase.run.options import RunOptions
from gearcase.run.process import ending, start
from gearcase.run.record import EndRecord
from gearcase.runs import RunFolder

RUNAWAY = "runaway"


def demo(
    what: Annotated[
        str,
        typer.Argument(
            metavar=f"[{'|'.join([*ATTACKS, RUNAWAY])}]", help="Only this one; default: everything.", show_default=False
        ),
    ] = "",
    model: o.ModelOption = None,
    worker: Annotated[
        str | None, typer.Option("--worker", help="Answers `gear ask` live; default: as recorded, or the model.", metavar="MODEL")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="The same as --worker local: the model on this machine.")] = False,
    as_json: o.Json = False,
) -> None:
    """Show a box at work and under attack. No key, no account, nothing to pay.

    A recorded model makes an inventory of real package data; every command is really executed again. With --local its worker model is
    live on this machine (gearcase models pull small), with --model all is live.

    `runaway`: a model that is too small leads, by itself, in a box with a small budget, until something stops it. Not part of everything.
    """
    if what == RUNAWAY:
        _no_worker(worker, local)
        raise typer.Exit(_runaway(model or "local", as_json))
    if what and what not in ATTACKS:
        raise UsageError("unknown_attack", f"there is no attack {what!r}", remedy=f"one of: {', '.join([*ATTACKS, RUNAWAY])}")
    if what and (model or worker or local):
        raise UsageError("no_work", f"the attack {what} asks no model of yours", remedy="leave the model out, or the attack")
    if local and worker:
        raise UsageError("two_workers", "--local names the worker already", remedy="leave out --local or --worker")
    worker = "local" if local else worker
    ran = None if what else _work(model, worker, as_json)
    if not as_json:
        err().print(Text(f"{'A hostile program' if what else 'Now hostile programs'} in boxes of the same kind:", "bold"))
    outcomes: list[Outcome] = []
    for name in [what] if what else ATTACKS:
        outcomes.append(attack(name))
        if not as_json:
            err().print(_line(outcomes[-1]))
    held = all(outcome.held for outcome in outcomes)
    if as_json:
        attacks = [{"name": one.name, "held": one.held, "stopped_by": one.stopped_by, "run": one.run} for one in outcomes]
        print_json({"run": ran[1].as_json() if ran else None, "attacks": attacks})
    elif ran is not None:
        show_ending(*ran, as_json=False)
        if told := _of_worker(ran[1]):
            out().print(Text(f"The check, outside: {told}. A program in the box weighed each answer before it used it.", "bold"))
        told = "The work was checked outside and delivered; every attack was stopped; nothing is left behind."
        out().print(Text(told if held and not ran[1].exit_code else "Something did not go as it should: see above.", "bold"))
        rest = "run \"GOAL\" --give FOLDER --take 'out/**' --check COMMAND --usd 2 --model MODEL"
        out().print(Text(f"Next: {_command()} {rest}", "dim"), soft_wrap=True)
    raise typer.Exit(ran[1].exit_code if ran and ran[1].exit_code else 0 if held else 1)


def _no_worker(worker: str | None, local: bool) -> None:
    if worker or local:
        raise UsageError("no_worker", "the runaway has no worker", remedy="name who leads: --model local:base")


def _runaway(model: str, as_json: bool) -> int:
    """A small model in a box of its own until a monitor, the check or a limit ends it; 0 where one of these did."""
    if not as_json:
        said = f"{neutral(model)} leads by itself: 40 turns, 10 minutes and $0.10 at most. Nobody helps it."
        err().print(Text(said, "bold"))
    box = load_box(HERE / RUNAWAY / "box.toml", [Override(("model", "lead"), model, "--model")])
    started = start(RunOptions(box=box))
    watch.watch(started, as_json)
    record = ending(started.folder)
    show_ending(started.folder, record, as_json)
    by = stopped_by(record)
    if not as_json:
        out().print(Text(f"It was ended by {neutral(by)}." if by else "It ended by itself: see above.", "bold"))
    return 0 if by or record.status == "accepted" else 1


def _command() -> str:
    """How this command is typed here: by its name where that is on PATH."""
    return "gearcase" if shutil.which("gearcase") else sys.argv[0]


def _work(model: str | None, worker: str | None, quiet: bool) -> tuple[RunFolder, EndRecord]:
    """The inventory: by the recorded models, by the recorded lead with a live worker, or all live."""
    live = [Override(("model", key), name, f"--{key}") for key, name in (("lead", model), ("worker", worker)) if name]
    if not quiet:
        again = "every command is really executed again"
        whose = f"by recorded models; {again}"
        if model:
            whose = f"by {neutral(model)}"
        elif worker:
            whose = f"led by a recorded model, its worker {neutral(worker)} live; {again}"
        err().print(Text.assemble(("An inventory of 27 packages from four formats", "bold"), f", {whose}.", style=""))
    settings = RunOptions(
        box=load_box(HERE / "box.toml", live),
        cassette=None if model else HERE / "cassette.jsonl",
        live_worker=worker is not None and model is None,
    )
    started = start(settings)
    watch.watch(started, quiet)
    return started.folder, ending(started.folder)


def _of_worker(record: EndRecord) -> str:
    """What the check says of the worker's answers."""
    lines = [line for check in record.checks for line in str(check.get("output", "")).splitlines()]
    return next((neutral(line) for line in lines if line.startswith("the worker ")), "")


def _line(outcome: Outcome) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=10)
    table.add_column()
    mark = Text("✓", "green") if outcome.held else Text("✗", "bold red")
    told = Text.assemble(neutral(outcome.tried), "\n", (neutral(outcome.stopped_by), "dim"))
    table.add_row(mark, Text(outcome.name, "bold"), told)
    return table
