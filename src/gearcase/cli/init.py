"""`gearcase init`: a first box for the repository in this folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.box import load_box
from gearcase.box.inside import has_module, how_to_get
from gearcase.box.project import Project, look_at
from gearcase.box.starting import first_box
from gearcase.cli import options as o
from gearcase.cli.console import err, out, print_json
from gearcase.cli.text import neutral
from gearcase.doors.repositories import is_repository
from gearcase.errors import UsageError
from gearcase.runs import write_atomically
from gearcase.sandbox.beneath import explaining

BOX = "box.toml"


def init(
    force: Annotated[bool, typer.Option("--force", help="Replace the box.toml that is here.")] = False, as_json: o.Json = False
) -> None:
    """Write box.toml for the git repository in this folder. Its tests are the checks, its packages' hosts and databases remarks."""
    top = Path.cwd()
    _demand(top, force)
    project = look_at(top)
    _write(top, first_box(project))
    box = load_box(top / BOX)
    if as_json:
        print_json(_as_json(project, top))
        return
    shown = f"{len(box.box.checks)} check{'' if len(box.box.checks) == 1 else 's'}"
    out().print(Text.assemble(("✓ ", "green"), (BOX, "bold"), f" is a box with {shown}"))
    for line in _told(project):
        out().print(Text(f"  {neutral(line)}", "dim"), soft_wrap=True)
    for module in _lacking(project):
        told = f"! {module} is not seen inside a box, and a run does not start without it: {how_to_get(module)}, then gearcase init --force"
        err().print(Text(told, "yellow"))
    out().print(Text('  next      gearcase run "WHAT SHALL BE DONE" -f box.toml --model PROVIDER/MODEL', "dim"), soft_wrap=True)


def _demand(top: Path, force: bool) -> None:
    if not is_repository(top):
        above = next((folder for folder in top.parents if is_repository(folder)), None)
        remedy = f"go to its top: cd {above}" if above else "go to the top folder of one, or make one: git init"
        raise UsageError("no_repository", f"{top} is not the top of a git repository", remedy=remedy)
    try:
        top.name.encode()
    except UnicodeEncodeError:
        raise UsageError("bad_name", f"the name of {neutral(top)} is not UTF-8", remedy="rename the folder") from None
    if os.path.lexists(top / BOX) and not force:
        raise UsageError(
            "exists", f"there is a {BOX} here already", remedy="look at it: gearcase box show; or replace it: --force"
        )


def _write(top: Path, text: str) -> None:
    with explaining(os.fsencode(top / BOX), "writing"):
        write_atomically(top / BOX, text.encode())
        (top / BOX).chmod(0o644)


def _told(project: Project) -> list[str]:
    lines = [f"check     {test.name}: by {test.told_by}" for test in project.tests]
    lines += [
        f"hosts     {', '.join(lock.hosts)} by {lock.file}: a remark, open [doors.http] to reach them" for lock in project.locks
    ]
    lines += [
        f"database  {key} in {file}: a remark, open its [doors.postgres] for a throw-away copy" for file, key in project.databases
    ]
    return lines + [f"given     {name} too: move it away first if it holds keys" for name in project.secrets]


def _lacking(project: Project) -> list[str]:
    """Modules that the checks need and no box of this machine has."""
    return [module for module in dict.fromkeys(test.module for test in project.tests) if module and not has_module(module)]


def _as_json(project: Project, top: Path) -> dict[str, object]:
    return {
        "file": str(top / BOX),
        "checks": [{"name": test.name, "run": test.run, "told_by": test.told_by} for test in project.tests],
        "hosts": {lock.file: list(lock.hosts) for lock in project.locks},
        "databases": [{"file": file, "key": key} for file, key in project.databases],
        "secrets": list(project.secrets),
        "lacking": _lacking(project),
    }
