"""`gearcase freeze`, `resume`, `grant`, `kill`: the brake, and more money, from any terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err, interactive, out, print_json
from gearcase.cli.shapes import state_text
from gearcase.cli.text import neutral
from gearcase.control import command
from gearcase.errors import GearcaseError, UsageError
from gearcase.handbrake import HAND
from gearcase.runs import RunFolder, all_runs, find
from gearcase.units import format_money, parse_money

Everything = Annotated[bool, typer.Option("--all", help="Every run of yours that lives.")]
AgentId = Annotated[str, typer.Option("--agent", help="This sub-agent alone, with those below it.", metavar="ID")]
AddUsd = Annotated[str | None, typer.Option("--add-usd", help="Raise its limit of money first.", metavar="DOLLARS")]


def freeze(
    run: o.RunReference = "",
    everything: Everything = False,
    agent: AgentId = "",
    latch: Annotated[bool, typer.Option("--latch", help="Only shut its doors: what runs goes on, no new call is taken.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes on record.")] = "",
    as_json: o.Json = False,
) -> None:
    """Stop a run where it is, nothing is lost. Without RUN: all that live. No new call, no process runs, the clock stands, until
    `gearcase resume`."""
    if agent and (latch or everything):
        raise UsageError(
            "not_for_one", "--latch and --all are about whole runs", remedy="freeze it: gearcase freeze RUN --agent ID"
        )
    everything = everything or (not run and not agent and len(_living()) > 1)
    then = "go on: gearcase resume {name}    end it: gearcase kill {name}"
    if agent:
        then = f"go on: gearcase resume {{name}} --agent {neutral(agent)}"
    _pull(_meant(run, everything), "freeze", as_json, then, everything, reason=reason, latch=latch, agent=agent)


def resume(
    run: o.RunReference = "",
    everything: Everything = False,
    agent: AgentId = "",
    add_usd: AddUsd = None,
    as_json: o.Json = False,
) -> None:
    """Let a frozen run go on. One that asked for more money and gets none hands in."""
    if agent and (everything or add_usd):
        raise UsageError(
            "not_for_one", "--all and --add-usd are about whole runs", remedy="let it go on: gearcase resume RUN --agent ID"
        )
    added = {} if add_usd is None else {"add_usd": parse_money(add_usd)}
    _pull(_meant(run, everything), "resume", as_json, "watch it: gearcase attach {name}", everything, agent=agent, **added)


def grant(
    run: o.RunReference = "",
    usd: Annotated[str, typer.Option("--usd", help="How much more the run may spend.", metavar="DOLLARS")] = "",
    as_json: o.Json = False,
) -> None:
    """Give a run that lives more money. The day's limit stays (gearcase limits)."""
    if not usd:
        raise UsageError("no_amount", "no amount is named", remedy="gearcase grant RUN --usd 5")
    folder = find(run)
    answer = command(folder, "grant", by="operator", usd=parse_money(usd))
    if as_json:
        print_json({"run": folder.id, "name": folder.name, **answer})
    else:
        out().print(Text.assemble((neutral(folder.name), "bold"), f" may spend {format_money(int(answer['usd']))} in all"))


def kill(
    run: o.RunReference = "",
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the run's name.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes on record.")] = "",
    as_json: o.Json = False,
) -> None:
    """End a run for good. Naming it whole is the confirmation; else it is asked for."""
    folders = _meant(run, everything)
    if everything and not yes:
        raise UsageError("not_named", "kill --all would end every run", remedy="say so: gearcase kill --all --yes")
    if not yes and run not in (folders[0].name, folders[0].id):
        _confirm(folders[0], as_json)
    _pull(folders, "kill", as_json, "what it did: gearcase report {name}", everything, reason=reason)


def _meant(run: str, everything: bool) -> list[RunFolder]:
    if everything and run:
        raise UsageError("both_named", f"{run!r} and --all are named", remedy="name a run, or every one with --all")
    if run or not all_runs():
        return [find(run)]
    living = _living()
    if not living and not everything:
        raise UsageError("nothing_lives", "no run lives", remedy="see how the last ones ended: gearcase ps")
    return living if everything else living[:1]


def _living() -> list[RunFolder]:
    return [folder for folder in all_runs() if folder.owner_pid()]


def _pull(folders: list[RunFolder], verb: str, as_json: bool, then: str, everything: bool, **arguments: Any) -> None:
    """Do the same to each run, to all of them even where one resists; then raise what the first of those said."""
    answers: list[dict[str, Any]] = []
    failed: GearcaseError | None = None
    for folder in folders:
        try:
            answer = command(folder, verb, by="operator", **arguments)
        except GearcaseError as error:
            if everything and error.code == "not_running":
                continue  # it ended meanwhile
            failed = failed or error
            continue
        answers.append({"run": folder.id, "name": folder.name, **answer})
        if not as_json:
            _show(answers[-1], then.format(name=folder.name))
    if as_json and (answers or not failed):
        print_json(answers if everything else answers[0])
    elif everything and not answers and not failed:
        out().print(Text("no run lives", "dim"))
    if failed:
        raise failed


def _confirm(folder: RunFolder, as_json: bool) -> None:
    name = neutral(folder.name)
    if as_json or not interactive():
        raise UsageError("not_named", f"kill would end run {name}", remedy=f"name it whole: gearcase kill {name}, or add --yes")
    err().print(Text.assemble("kill ends run ", (name, "bold"), " for good. Type its name: "), end="")
    if sys.stdin.readline().strip() != folder.name:
        raise UsageError("not_named", "that is not its name; nothing was killed", remedy=f"gearcase kill {name}")


def _show(answer: dict[str, Any], then: str) -> None:
    took = f" in {float(answer['milliseconds']):.0f} ms" if "milliseconds" in answer else ""
    if answer.get("by") == HAND:
        took += " by hand: its own process does not answer. What it had begun with a model may still end"
    level = state_text(neutral(answer.get("level", "")))
    who = f"{neutral(answer['agent'])} of {neutral(answer['name'])}" if answer.get("agent") else neutral(answer["name"])
    out().print(Text.assemble((who, "bold"), " is ", level, took, (f"    {neutral(then)}", "dim")))
