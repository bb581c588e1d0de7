"""`gearcase doctor`: what this machine enforces, by what, and how to get what it does not."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gearcase import __version__
from gearcase.box import Sandbox, box_from_options
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.shapes import STRENGTH_STYLE, counted, grid, section
from gearcase.cli.text import neutral
from gearcase.errors import GearcaseError
from gearcase.run.room import sandbox_limits
from gearcase.runs import state_folder
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Profile, SandboxSpec
from gearcase.units import format_bytes

_KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY", "OPENROUTER_API_KEY", "GROQ_API_KEY")
_LEAST_SPACE = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Fact:
    """Something beside the sandbox that a run needs. `ok` is false where it must be mended before any run."""

    name: str
    ok: bool
    text: str
    remedy: str = ""


def doctor(
    as_json: o.Json = False,
    need: Annotated[list[str] | None, typer.Option("--need", help="An aspect that must be enforced (repeat).")] = None,
) -> None:
    """Say what is enforced on this machine, and by what. With the remedy for each "no"; then start a box. Exit 3 when none can start."""
    profile, box = asyncio.run(_tried())
    facts = [*_facts(), box]
    needed = tuple(need or Sandbox().need)
    lacking = [
        aspect for aspect in needed if aspect not in profile.guarantees or profile.guarantees[aspect].strength != "enforced"
    ]
    if as_json:
        print_json(
            {
                "ok": not lacking and all(fact.ok for fact in facts),
                "user": _user(),
                "driver": profile.driver,
                "needed": needed,
                "lacking": lacking,
                "guarantees": {name: dataclasses.asdict(guarantee) for name, guarantee in profile.guarantees.items()},
                "notes": profile.notes,
                "facts": [dataclasses.asdict(fact) for fact in facts],
            }
        )
    else:
        out().print(page(profile, facts, needed, lacking, _user()))
    raise typer.Exit(3 if lacking or not all(fact.ok for fact in facts) else 0)


async def _tried() -> tuple[Profile, Fact]:
    """What was probed, and what came of a real box."""
    driver = NamespacesDriver()
    try:
        return await driver.profile(), await _box(driver)
    finally:
        await driver.close()


async def _box(driver: NamespacesDriver) -> Fact:
    """Start a box as a run would, run `true` in it and tear it down. The first box of a process also starts its launcher."""
    spec = SandboxSpec(id=secrets.token_hex(6), limits=sandbox_limits(box_from_options(()).box))
    before = time.monotonic()
    try:
        sandbox = await driver.open(spec)
        try:
            ended = await sandbox.run(Command(("/usr/bin/true",)))
        finally:
            residue = await sandbox.close()
    except GearcaseError as error:
        return Fact(
            "a box", False, f"none could be started: {error.message}{f' ({error.cause})' if error.cause else ''}", error.remedy
        )
    took = f"{(time.monotonic() - before) * 1000:.0f} ms"
    if ended.exit_code or residue:
        left = ", ".join(residue) or "none"
        told = f"was started, `true` {ended.ended} with {ended.exit_code}; residue: {left}"
        return Fact("a box", False, told, "report this with the output of gearcase doctor --json")
    return Fact("a box", True, f"was started and ended in {took}, left behind: nothing")


def page(profile: Profile, facts: list[Fact], needed: tuple[str, ...], lacking: list[str], user: str) -> RenderableType:
    """What doctor shows."""
    parts: list[RenderableType] = [
        Text(),
        Text.assemble(("gearcase ", "bold"), __version__, (f"   {platform.system()} {platform.release()}, as {user}", "dim")),
        _guarantees(profile, needed),
    ]
    remedies = dict.fromkeys(guarantee.remedy for guarantee in profile.guarantees.values() if guarantee.remedy)
    for remedy in remedies:
        helped = ", ".join(aspect for aspect, guarantee in profile.guarantees.items() if guarantee.remedy == remedy)
        parts.append(section(f"To get more of {neutral(helped)}", Text(neutral(remedy), "yellow")))
    table = grid(None, None, 1)
    for fact in facts:
        mark, style = ("✗", "red") if not fact.ok else ("–", "yellow") if fact.remedy else ("✓", "green")
        table.add_row(Text(mark, style), neutral(fact.name), neutral(fact.text))
        if fact.remedy:
            table.add_row("", Text("→", "green"), neutral(fact.remedy))
    parts.append(section("Around it", table))
    parts += [Text(f"· {neutral(note)}", "dim") for note in profile.notes]
    parts.append(_verdict(facts, needed, lacking))
    return Group(*parts)


def _guarantees(profile: Profile, needed: tuple[str, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", expand=True)
    table.add_column("aspect", no_wrap=True)
    table.add_column("strength", no_wrap=True)
    table.add_column("by", ratio=1, overflow="fold")
    for aspect, guarantee in profile.guarantees.items():
        strength = Text(guarantee.strength, STRENGTH_STYLE[guarantee.strength])
        bound = f"\novershoot: {neutral(guarantee.bound)}" if guarantee.bound else ""
        mark = " *" if aspect in needed else ""
        table.add_row(f"{neutral(aspect)}{mark}", strength, f"{neutral(guarantee.by)}{bound}")
    return table


def _verdict(facts: list[Fact], needed: tuple[str, ...], lacking: list[str]) -> Text:
    if lacking:
        return Text(f"A box does not start here: {', '.join(lacking)} cannot be enforced (* needed by default).", "bold red")
    broken = [fact for fact in facts if not fact.ok]
    if broken:
        return Text(f"{counted(len(broken), 'thing')} to mend before a run.", "bold red")
    return Text(f"Boxes start here: what they need (* {', '.join(needed)}) is enforced.", "bold green")


def _ray() -> str:
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return "is not installed (for maps on several machines: pip install 'gearcase[ray]')"


def _user() -> str:
    return "root" if os.geteuid() == 0 else f"an ordinary user (uid {os.geteuid()})"


def _facts() -> Iterator[Fact]:
    yield Fact("python", sys.version_info >= (3, 11), f"{platform.python_version()}")
    inside = Path("/usr/bin/python3")
    yield Fact(
        "gear",
        inside.exists(),
        "the command inside boxes runs on /usr/bin/python3" if inside.exists() else "/usr/bin/python3 is missing",
        "" if inside.exists() else "install the distribution's python3: the box shows the host's /usr",
    )
    try:
        folder = state_folder()
        free = shutil.disk_usage(folder).free
        enough = free >= _LEAST_SPACE
        remedy = "" if enough else f"free some space, or point XDG_STATE_HOME elsewhere: {format_bytes(_LEAST_SPACE)} are wanted"
        yield Fact("runs", enough, f"{folder}, {format_bytes(free)} free", remedy)
    except GearcaseError as error:
        yield Fact("runs", False, error.message, error.remedy)
    yield Fact("engines", True, f"local; ray {_ray()}")
    keys = [name for name in _KEYS if os.environ.get(name)]
    yield Fact(
        "keys",
        True,
        f"found {', '.join(keys)}" if keys else "no provider's key in the environment",
        "" if keys else "export ANTHROPIC_API_KEY or another, or name key_file under [model.providers.NAME]",
    )
