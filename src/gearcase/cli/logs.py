"""`gearcase logs`: what happened in a run, a line an event."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Annotated

import typer

from gearcase.cli import lines
from gearcase.cli import options as o
from gearcase.cli.console import err, out
from gearcase.cli.text import neutral
from gearcase.errors import RunError
from gearcase.journal import Record, follow, read
from gearcase.runs import RunFolder, find


def logs(
    run: o.RunReference = "",
    following: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the run ends.")] = False,
    output: Annotated[bool, typer.Option("--output", help="Show what each command printed.")] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every event, with its fields.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as in the journal.")] = False,
) -> None:
    """Show what happened in a run."""
    folder = find(run)

    def show(record: Record) -> None:
        if as_json:
            print(_json(record), flush=following)
        elif everything:
            out().print(lines.detail(record), soft_wrap=True)
        else:
            _show(record, output)

    _recovered(folder)
    if not following:
        for record in read(folder.journal):
            show(record)
        return
    asyncio.run(_follow(folder, show))


def _recovered(folder: RunFolder) -> None:
    """The log of a run whose process died tells that, too. Where it cannot be written, the rest is shown all the same."""
    if folder.owner_pid():
        return
    from gearcase.run.recovery import recover

    try:
        recover(folder)
    except RunError as error:
        err().print(neutral(f"{error.message}: {error.remedy}"), style="yellow", soft_wrap=True)


def _show(record: Record, output: bool) -> None:
    said = lines.line(record)
    if said is not None:
        out().print(said, soft_wrap=True)
    if output and record.type == "command_ended":
        for part in (record.raw.get("head", ""), record.raw.get("tail", "")):
            for text in neutral(part, lines=True).splitlines():
                out().print(f"          │ {text}", style="dim", soft_wrap=True)


def _json(record: Record) -> str:
    return json.dumps(record.raw, ensure_ascii=True)


async def _follow(folder: RunFolder, show: Callable[[Record], None]) -> None:
    """Until the ending is on record, or the process that drives the run is gone and nothing more came."""
    seen = 0

    async def pump() -> None:
        nonlocal seen
        async for record in follow(folder.journal):
            seen = record.seq
            show(record)
            if record.type == "run_ended":
                return

    task = asyncio.create_task(pump())
    while not task.done():
        alive, before = folder.owner_pid() != 0, seen
        await asyncio.wait({task}, timeout=0.5)
        if not alive and seen == before:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    if not task.cancelled():
        task.result()
