"""`gearcase door`: the metered model door alone, for programs outside any box."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Annotated

import typer
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err
from gearcase.cli.shapes import counted
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.run.door import DoorAlone, DoorOptions, open_door
from gearcase.run.record import EndRecord
from gearcase.units import format_duration, format_money


def door(
    file: o.BoxFile = None,
    usd: o.Usd = None,
    usd_per_minute: o.UsdPerMinute = None,
    tokens: o.Tokens = None,
    wall: Annotated[
        str | None, typer.Option("--wall", help="Close it after this time, such as 8h; default: never.", metavar="TIME")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="May be called: PROVIDER/MODEL.", metavar="MODEL")] = None,
    worker: Annotated[str | None, typer.Option("--worker", help="May be called as well.", metavar="MODEL")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="May be called as well, also a pattern: 'openai/gpt-5*' (repeat).", metavar="MODEL"),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port of 127.0.0.1; 0: any free one.", min=0, max=65535)] = 0,
    name: o.RunName = "",
    token_env: Annotated[
        str, typer.Option("--token-env", help="Environment variable that holds the token; default: a random one.", metavar="NAME")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line with url and token, as JSON.")] = False,
) -> None:
    """Serve the metered model door to programs outside any box.

    gearcase door --model anthropic/claude-haiku-4-5 --usd 5

    Same ledger, limits and journal as a run: ps, logs, report, freeze, resume and kill work on it. Ctrl-C ends it. Nothing is isolated.
    """
    typed = o.BoxOptions(
        file=file, allow=allow, usd=usd, usd_per_minute=usd_per_minute, tokens=tokens, wall=wall, model=model, worker=worker
    )
    options = DoorOptions(o.loaded(typed), name, port, _token(token_env))
    record = asyncio.run(_serve(options, as_json))
    _summary(record)
    raise typer.Exit(record.exit_code)


def _token(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise UsageError("no_token", f"the environment variable {variable} is empty", remedy=f"set {variable}, or leave it out")
    return os.environ[variable] if variable else ""


async def _serve(options: DoorOptions, as_json: bool) -> EndRecord:
    """The door until a signal or the brake ends it; everything in flight is settled."""
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, wanted.set)
    async with open_door(options) as opened:
        _announce(opened, options, as_json)
        ends = [asyncio.create_task(wanted.wait()), asyncio.create_task(opened.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    assert opened.record is not None
    return opened.record


def _announce(opened: DoorAlone, options: DoorOptions, as_json: bool) -> None:
    """The token is shown here and nowhere else. Lines to copy go to stdout, the rest to stderr."""
    folder, limits = opened.folder, options.box.box.limits
    if as_json:
        facts = {"run": folder.id, "name": folder.name, "pid": os.getpid(), "url": opened.url, "token": opened.token}
        print(json.dumps({**facts, "environment": opened.environment}), flush=True)
        return
    for variable, value in opened.environment.items():
        print(f"export {variable}={value}", flush=True)
    per_minute = f", {format_money(limits.usd_per_minute)} in any minute" if limits.usd_per_minute is not None else ""
    name = neutral(folder.name)
    told = Text.assemble((name, "bold"), f" is open at {opened.url}: at most {format_money(limits.usd)}{per_minute}. ")
    told.append(f"Ctrl-C ends it; gearcase freeze {name} stops it for a while.", "dim")
    err().print(told)


def _summary(record: EndRecord) -> None:
    calls = record.spent.get("calls", 0)
    text = f"gearcase: the door {neutral(record.name)} is closed: {format_money(record.spent.get('usd', 0))} in {counted(calls, 'call')}"
    limit = f", limit reached: {neutral(record.limit)}" if record.limit else ""
    how = f", {record.status}" if record.exit_code else ""
    after = f"    gearcase report {neutral(record.name)}"
    err().print(Text(f"{text}, {format_duration(record.seconds)}{limit}{how}{after}", "dim"), soft_wrap=True)
    if record.error:
        err().print(Text(f"gearcase: {neutral(record.error['message'])}: {neutral(record.error['remedy'])}", "red"))
