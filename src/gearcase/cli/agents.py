"""`gearcase claude` and `gearcase codex`: the agent that the operator has installed, in a box that is given the current folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from gearcase.box import LoadedBox, Override, box_from_options, load_box
from gearcase.cli import options as o
from gearcase.cli import terminal
from gearcase.cli.exec import Quiet, Tty, follow_to_the_end, terminal_link
from gearcase.cli.presets import CLAUDE, CODEX, Preset
from gearcase.errors import UsageError
from gearcase.run.options import RunOptions

Arguments = Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="The agent's own.", show_default=False)]
BoxOption = Annotated[Path | None, typer.Option("--box", help="Box file whose limits, models and checks hold.")]
_VERSION_SECONDS = 30


def claude(
    arguments: Arguments = None,
    file: BoxOption = None,
    usd: o.Usd = None,
    wall: o.Wall = None,
    output: o.Out = None,
    as_json: o.Json = False,
    quiet: Quiet = False,
    tty: Tty = None,
) -> None:
    """Run Claude Code in a box with a copy of this folder.

    gearcase claude --usd 5 -p "mend the tests"

    Options of Gearcase come first; whatever follows is Claude Code's. What it makes is delivered to ./gearcase-out/NAME.
    """
    _run(CLAUDE, arguments or [], file, usd, wall, output, as_json=as_json, quiet=quiet, tty=tty)


def codex(
    arguments: Arguments = None,
    file: BoxOption = None,
    usd: o.Usd = None,
    wall: o.Wall = None,
    output: o.Out = None,
    as_json: o.Json = False,
    quiet: Quiet = False,
    tty: Tty = None,
) -> None:
    """Run Codex in a box with a copy of this folder.

    gearcase codex --usd 5 exec "mend the tests"

    Options of Gearcase come first; whatever follows is Codex's. What it makes is delivered to ./gearcase-out/NAME.
    """
    _run(CODEX, arguments or [], file, usd, wall, output, as_json=as_json, quiet=quiet, tty=tty)


def _run(
    preset: Preset,
    arguments: list[str],
    file: Path | None,
    usd: str | None,
    wall: str | None,
    output: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    tty: bool | None,
) -> None:
    loaded = _box(preset, file, usd, wall)
    _require(preset, loaded)
    folder = f"/workspace/{Path.cwd().name}"
    link = terminal_link(tty, as_json)
    settings = RunOptions(
        box=loaded,
        out=output,
        program=(preset.name, *preset.arguments, *arguments),
        program_output=2 if as_json else 1,
        program_folder=folder,
        program_environment={**preset.environment, **(terminal.variables() if link else {})},
        home=preset.home(folder),
        terminal=link,
    )
    follow_to_the_end(settings, as_json=as_json, quiet=quiet)


def _box(preset: Preset, file: Path | None, usd: str | None, wall: str | None) -> LoadedBox:
    """The box of the file where one is named, with the agent, the current folder and its provider's models added."""
    here, origin = Path.cwd(), f"gearcase {preset.name}"
    if Path.home().is_relative_to(here):
        raise UsageError(
            "whole_home",
            f"{here} holds your home: all of it would be copied into the box",
            remedy="go to the folder of a project first",
        )
    box = load_box(file).box if file is not None else None
    overrides = [Override(("sandbox", "tools"), preset.name, origin)]
    if box is None or here not in box.files.give:
        overrides.append(Override(("files", "give"), str(here).replace("${", "$${"), origin))
    if box is None or not box.files.take:
        overrides.append(Override(("files", "take"), f"{here.name}/**", origin))
    if box is None or not (box.model.lead or box.model.allow):
        overrides.append(Override(("model", "allow"), f"{preset.provider}/*", origin))
    for key, value in (("usd", usd), ("wall", wall)):
        if value is not None:
            overrides.append(Override(("limits", key), value, f"--{key}"))
    _installed(preset)
    return load_box(file, overrides) if file is not None else box_from_options(overrides)


def _installed(preset: Preset) -> None:
    """Raises UsageError `no_agent`, `old_agent`."""
    place = shutil.which(preset.name)
    if place is None:
        raise UsageError(
            "no_agent", f"{preset.title} is not on PATH", remedy=f"install it ({preset.install}), or add its folder to PATH"
        )
    try:
        environment = {**os.environ, **preset.environment}
        told = subprocess.run(
            [place, "--version"], capture_output=True, text=True, check=False, timeout=_VERSION_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            "no_agent", f"{preset.title} at {place} does not start", cause=str(error), remedy=f"install it anew: {preset.install}"
        ) from error
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", told.stdout)
    if found is None or told.returncode != 0:
        cause = (told.stderr or told.stdout).strip()[:500]
        raise UsageError(
            "no_agent", f"{place} does not tell its version", cause=cause, remedy=f"install it anew: {preset.install}"
        )
    if tuple(map(int, found.groups())) < preset.least:
        least = ".".join(map(str, preset.least))
        raise UsageError(
            "old_agent",
            f"{preset.title} {found[0]} is too old: a box needs {least}",
            remedy=f"bring it up to date: {preset.install}",
        )


def _require(preset: Preset, loaded: LoadedBox) -> None:
    """A key outside, without which the agent cannot work. Raises UsageError `login`."""
    from gearcase.doors.model.routing import Routing  # only here: most of it is loaded by the run's process anyway

    if loaded.box.model.lead is not None:
        return  # a model of the operator's choosing answers; its key is looked for when the run begins
    try:
        Routing(loaded.box.model).require_key(preset.provider)
    except UsageError as error:
        if error.code != "missing_key":
            raise
        raise UsageError(
            "login",
            f"{preset.title} in a box needs an API key outside of it: {error.message}",
            cause=f"{preset.login} is a login of your own client: it never crosses into a box, where it could be copied and spent "
            "without a limit",
            remedy=error.remedy,
        ) from error
