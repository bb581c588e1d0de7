"""`gearcase db psql`: look into a run's database, in a copy of it.

A run that lives is asked for a copy of what its database holds now; of one that ended there is what it delivered (`take`), or what its
branch held before the first destructive statement. The copy is opened in a box of its own: an agent wrote it, and a dump is code.
Whatever is done to it there, the run does not notice: neither its database nor its contact with it changes.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from gearcase.box import load_box
from gearcase.cli import options as o
from gearcase.cli import terminal
from gearcase.cli.exec import follow_to_the_end, terminal_link
from gearcase.control import command
from gearcase.doors.postgres.binaries import choose
from gearcase.doors.postgres.difference import DATABASES
from gearcase.errors import UsageError
from gearcase.run.options import RunOptions
from gearcase.runs import RunFolder, find

COPY_WITHIN = 600.0
"""Seconds that a run that lives has to make a copy."""
_OPEN = (
    'bin=$1; dump=$2; shift 2; "$bin/pg_restore" --no-owner --no-privileges -d "$PGDATABASE" "$dump"; exec "$bin/psql" -X "$@"'
)


def psql(
    run: o.RunReference = "",
    name: Annotated[str, typer.Option("--name", help="One database of it, as the box calls it.")] = "",
    commands: Annotated[list[str] | None, typer.Option("-c", "--command", help="SQL to run instead of a prompt.")] = None,
    before: Annotated[bool, typer.Option("--before", help="As it was before the first destructive statement.")] = False,
) -> None:
    """Open a copy of a run's database with psql. What is done there reaches neither the run nor the source."""
    folder = find(run)
    name = _only(folder, name)
    with tempfile.TemporaryDirectory(prefix="gearcase-") as text:
        given = Path(text) / f"{name}.dump"
        kept = _dump(folder, name, before)
        try:
            shutil.copyfile(kept, given)
        finally:
            if kept.name.endswith("-now.dump"):
                kept.unlink()
        binaries = choose()
        box = Path(text) / "box.toml"
        see = f'see = ["{binaries.root}"]\n' if binaries.bundled else ""
        box.write_text(f'[files]\ngive = ["{given.name}"]\n{see}[doors.postgres.{name.partition("@")[0]}]\n')
        programs = f"/given/{binaries.root.name}/bin" if binaries.bundled else binaries.inside
        arguments = [word for one in commands or () for word in ("-c", one)]
        link = None if commands else terminal_link(None, False)
        settings = RunOptions(
            box=load_box(box),
            program=("/bin/sh", "-c", _OPEN, "sh", programs, given.name, *arguments),
            program_environment=terminal.variables() if link else {},
            terminal=link,
        )
        follow_to_the_end(settings, as_json=False, quiet=True)


def _only(folder: RunFolder, name: str) -> str:
    """The database that is meant. Raises UsageError `no_database`."""
    doors: dict[str, Any] = tomllib.loads(folder.box_file.read_text()).get("doors", {}).get("postgres", {})
    names = [one for one in doors if doors[one].get("mode", "fresh") != "read_only"]
    if name.partition("@")[0] in names or (not name and len(names) == 1):  # or a sub-agent's branch of it
        return name or names[0]
    remedy = f"name one with --name: {', '.join(names)}" if names else "a read_only database is yours: open it yourself"
    raise UsageError(
        "no_database", f"run {folder.name} has no database of its own {name!r}" if name else "which one?", remedy=remedy
    )


def _dump(folder: RunFolder, name: str, before: bool) -> Path:
    """A file that holds what the database holds, or held. Raises UsageError `no_database`, and what the run answers."""
    first = folder.path / DATABASES / f"{name}-before.dump"
    if before and first.is_file():
        return first
    if not before and folder.owner_pid():
        return Path(command(folder, "copy_database", timeout=COPY_WITHIN, name=name)["path"])
    delivered = folder.delivered / f"{name}.dump"
    if not before and delivered.is_file():
        return delivered
    kept = "; --before opens what it held before the first destructive statement" if first.is_file() else ""
    raise UsageError(
        "no_database",
        f"nothing of the database {name} is kept of run {folder.name}",
        remedy=f'it is gone with its run: take = ["postgres:{name}"] keeps it{kept}',
    )
