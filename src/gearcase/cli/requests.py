"""`gearcase requests`, `allow`, `deny`: what agents ask their operator for, and the answers; hosts, allowed and taken away."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gearcase import events
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.text import neutral
from gearcase.control import command
from gearcase.errors import UsageError
from gearcase.journal import read
from gearcase.runs import RunFolder, all_runs, find
from gearcase.units import parse_duration

Run = Annotated[str, typer.Argument(metavar="RUN", help="Id, name, or a unique prefix of one.", show_default=False)]
Number = Annotated[int, typer.Argument(metavar="[N]", help="Number of the request.", show_default=False)]
Net = Annotated[str, typer.Option("--net", help="A host, asked for or not: NAME, NAME:PORT, *.NAME.", metavar="HOST")]


def requests(run: o.RunReference = "", as_json: o.Json = False) -> None:
    """Show what the agents of a run ask for. Without RUN: the open requests of every run that lives."""
    folders = [find(run)] if run else [folder for folder in all_runs() if folder.owner_pid()]
    told = [{"run": folder.name, **one} for folder in folders for one in _recorded(folder) if run or one["state"] == "open"]
    if as_json:
        print_json(told)
    elif not told:
        out().print(Text("nothing is asked for", "dim"))
    else:
        _show(told)


def allow(
    run: Run,
    number: Number = 0,
    net: Net = "",
    time: Annotated[str, typer.Option("--for", help="A host for so long only, such as 1h.", metavar="TIME")] = "",
    as_json: o.Json = False,
) -> None:
    """Give what a run asks for. Or a host that it did not ask for: applied at once."""
    seconds = parse_duration(time) if time else 0.0
    _answer(run, "allow", _meant(run, "allow", number, net), as_json, seconds=seconds)


def deny(
    run: Run,
    number: Number = 0,
    net: Net = "",
    say: Annotated[str, typer.Option("--say", help="What the agent is told.", metavar="TEXT")] = "",
    as_json: o.Json = False,
) -> None:
    """Deny what a run asks for, or take a host away. Its open connections are cut."""
    _answer(run, "deny", _meant(run, "deny", number, net), as_json, say=say)


def _meant(run: str, verb: str, number: int, net: str) -> dict[str, Any]:
    if bool(number) == bool(net):
        example = f"gearcase {verb} {run} 1, or gearcase {verb} {run} --net packages.example.org"
        raise UsageError("no_request", "name one request, or one host", remedy=f"{example}; see gearcase requests {run}")
    return {"number": number} if number else {"host": net}


def _answer(run: str, verb: str, meant: dict[str, Any], as_json: bool, **more: Any) -> None:
    folder = find(run)
    answer = command(folder, verb, by="operator", **meant, **more)
    if as_json:
        print_json({"run": folder.id, "name": folder.name, **answer})
        return
    what = answer.get("host") or f"{answer.get('kind')} {answer.get('what')}"
    cut = f", {answer['cut']} connections cut" if answer.get("cut") else ""
    out().print(Text.assemble((neutral(folder.name), "bold"), f" {neutral(what)} is {neutral(answer['state'])}{cut}"))


def _recorded(folder: RunFolder) -> list[dict[str, Any]]:
    """The requests of a run from its journal, so that those of a run that ended are told, too."""
    found: dict[int, dict[str, Any]] = {}
    for record in read(folder.journal):
        event = record.event
        if isinstance(event, events.RequestMade):
            asked = {"kind": event.kind, "what": event.what, "why": event.why}
            found[event.request] = {"request": event.request, **asked, "state": "open", "said": "", "asked": record.time}
        elif isinstance(event, events.RequestAnswered) and event.request in found:
            found[event.request] |= {"state": event.answer, "said": event.said}
    return list(found.values())


def _show(told: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "no", "asks for", "why", "state"):
        table.add_column(heading, overflow="fold", header_style="dim")
    for one in told:
        state = f"{one['state']}: {one['said']}" if one["said"] else str(one["state"])
        cells = (one["run"], str(one["request"]), f"{one['kind']} {one['what']}", one["why"], state)
        table.add_row(*(Text(neutral(cell)) for cell in cells))
    out().print(table)
    if opened := next((one for one in told if one["state"] == "open"), None):
        hint = (
            f"gearcase allow {opened['run']} {opened['request']}    gearcase deny {opened['run']} {opened['request']} --say TEXT"
        )
        out().print(Text(neutral(hint), "dim"))
