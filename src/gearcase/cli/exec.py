"""`gearcase exec`: any program, in a box, with the model door. Its exit code is the command's."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.cli import lines, terminal
from gearcase.cli import options as o
from gearcase.cli.console import err, print_json
from gearcase.cli.history import history
from gearcase.cli.shapes import denied
from gearcase.cli.text import neutral
from gearcase.control import command
from gearcase.errors import GearcaseError, UsageError
from gearcase.events import CommandStarted, DatabaseCopying, Giving
from gearcase.journal import follow
from gearcase.run.options import RunOptions
from gearcase.run.process import Started, ending, start
from gearcase.run.record import EndRecord
from gearcase.run.terminal import TerminalLink
from gearcase.units import format_duration, format_money

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No summary on stderr.")]
Tty = Annotated[
    bool | None,
    typer.Option("--tty/--no-tty", "-t/-T", help="A terminal for the program; default: where this is one.", show_default=False),
]


def execute(
    program: Annotated[
        list[str] | None, typer.Argument(metavar="-- PROGRAM [ARGUMENT]...", help="What to run.", show_default=False)
    ] = None,
    file: o.BoxFile = None,
    give: o.Give = None,
    see: o.See = None,
    take: o.Take = None,
    check: o.CheckOption = None,
    usd: o.Usd = None,
    tokens: o.Tokens = None,
    wall: o.Wall = None,
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
    quiet: Quiet = False,
    tty: Tty = None,
) -> None:
    """Run a program in a box.

    gearcase exec --usd 1 --model anthropic/claude-haiku-5-5 -- python3 agent.py

    Without -f, ./box.toml is used where there is one. Of a git repository that is given, changes come out (gearcase diff, apply).
    Inside, http://model.box speaks Anthropic's and http://model.box/v1 OpenAI's protocol; any key will do.
    """
    if not program:
        raise UsageError("no_program", "there is no program to run", remedy="gearcase exec [OPTIONS] -- PROGRAM [ARGUMENT]...")
    if file is None and Path("box.toml").is_file():
        file = Path("box.toml")
    if give and not take and file is None:
        take = [f"{Path(one).resolve().name}/**" for one in give if (Path(one) / ".git").exists()]
    typed = o.BoxOptions(file, "", give, see, take, check, allow, usd, tokens, wall, None, memory, cpus, disk, model, worker)
    link = terminal_link(tty, as_json)
    box = o.loaded(typed)
    o.warn_of_doubts(box)
    settings = RunOptions(
        box=box,
        out=output,
        force=force,
        name=name,
        record=record,
        program=tuple(program),
        program_output=2 if as_json else 1,  # with --json, stdout holds the record and nothing else
        program_environment=terminal.variables() if link else {},
        terminal=link,
    )
    if box.box.files.give and not box.box.files.take and not quiet:
        err().print(Text("gearcase: nothing may leave this box: name deliverables with --take 'out/**'", "yellow"))
    follow_to_the_end(settings, as_json=as_json, quiet=quiet)


def terminal_link(wanted: bool | None, as_json: bool) -> TerminalLink | None:
    """A terminal for the program, where there is one outside and nothing speaks against it. Raises UsageError `no_terminal`."""
    if wanted is False or (wanted is None and (as_json or not terminal.is_terminal())):
        return None
    if as_json or not terminal.is_terminal():
        why = "--json needs stdout for itself" if as_json else "stdin and stdout are not both a terminal"
        raise UsageError("no_terminal", f"there is no terminal to give to the program: {why}", remedy="leave --tty out")
    return TerminalLink.make(terminal.size())


def follow_to_the_end(settings: RunOptions, *, as_json: bool, quiet: bool) -> None:
    """Run it, say how it ended, and leave with its exit code."""
    started = start(settings)
    asyncio.run(_until_end(started, settings.terminal, quiet))
    ended = ending(started.folder)
    if as_json:
        print_json(ended.as_json())
    else:
        _complain(ended)
        if not quiet:
            _summary(ended, history(started.folder).view.denied)
    raise typer.Exit(ended.exit_code)


async def _until_end(started: Started, link: TerminalLink | None, quiet: bool) -> None:
    """Wait for the program. Ctrl-C and a request to end kill its box; what it did is still settled and recorded."""
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, wanted.set)
    telling = asyncio.create_task(_tell_arriving(started)) if not quiet else None
    if link is not None:
        await terminal.Attached(started, link).until_end(wanted)
    while not started.poll():
        if wanted.is_set():
            wanted.clear()
            try:
                await asyncio.to_thread(command, started.folder, "kill")
            except GearcaseError as error:
                if error.code != "not_running":
                    err().print(Text(neutral(error.message), "red"))
        await asyncio.sleep(0.02)
    if telling is not None:
        telling.cancel()


async def _tell_arriving(started: Started) -> None:
    """Say how far what the run begins with has come, until the program starts: from then on the screen is the program's."""
    async for record in follow(started.folder.journal):
        if isinstance(record.event, Giving | DatabaseCopying):
            err().print(Text(f"gearcase: {lines.arriving(record.event)}", "dim"), soft_wrap=True)
        elif isinstance(record.event, CommandStarted):
            return


def _complain(ended: EndRecord) -> None:
    """Why it failed, in any case: the exit code alone could be the program's own."""
    error = ended.error or {}
    for key, style in (("message", "red"), ("cause", ""), ("remedy", "")):
        if error.get(key):
            err().print(Text(f"gearcase: {neutral(error[key])}", style))


def _summary(ended: EndRecord, names: Mapping[str, int]) -> None:
    spent = format_money(ended.spent.get("usd", 0))
    calls = ended.spent.get("calls", 0)
    delivered = f", {len(ended.delivered)} files in {neutral(ended.out)}" if ended.delivered else ""
    limit = f", ended by its limit: {neutral(ended.limit)}" if ended.limit else ""
    text = f"gearcase: {neutral(ended.name)} exit {ended.exit_code}, {spent} in {calls} calls, {format_duration(ended.seconds)}"
    err().print(Text(f"{text}{delivered}{limit}", "dim"))
    if names:
        err().print(Text(f"gearcase: {denied(names)}", "dim"))
    for warning in ended.warnings:
        err().print(Text(f"gearcase: {neutral(warning)}", "yellow"))
