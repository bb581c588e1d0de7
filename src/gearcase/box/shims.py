"""Shims of version managers: a stand-in on PATH, which asks its manager at every start which program it stands for.

A stand-in is of no use in a box, where there is no manager: its manager is asked here for the program itself, as that folder of the
operator's would have it. Known are the links of mise and Volta, the scripts of asdf, pyenv and those made like it, and the scripts
in which pnpm names a program of node.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gearcase.box.paths import PathMistake

_HEAD = 4096
_SECONDS = 15.0
_LINKS = {"mise": "mise", "rtx": "rtx", "volta-shim": "volta"}
"""What a shim that is a link leads to, and the manager's command."""
_MANAGERS = "asdf|pyenv|nodenv|rbenv|goenv|jenv"
_ASKS = re.compile(rf'^\s*exec\s+"?(?P<manager>(?:[^\s"]*/)?(?:{_MANAGERS}))"?\s+exec\s', re.MULTILINE)
_NAMES = re.compile(r'^\s*exec\s+"?\$basedir/[^\s"]+"?\s+"\$basedir/(?P<program>[^"]+)"\s+"\$@"', re.MULTILINE)
_MOST_SHIMS = 3


@dataclass(frozen=True, slots=True)
class _Shim:
    """A stand-in: the command of its manager, or the program that it names itself."""

    manager: str = ""
    program: str = ""


def real_program(name: str, place: Path, environment: Mapping[str, str]) -> Path:
    """What `name` at `place` on PATH stands for; `place` itself where it is no shim. Raises PathMistake where that cannot be found."""
    for _ in range(_MOST_SHIMS):
        shim = _shim(name, place)
        if shim is None:
            return place
        if shim.program:
            place = place.parent / shim.program
            if not place.exists():
                raise PathMistake(f"{name!r} stands for {place}, which does not exist: install it anew")
            return place
        place = _asked(name, place, shim.manager, environment)
    raise PathMistake(f"{name!r} stands for one shim after another: put the folder of the program itself on PATH")


def _shim(name: str, place: Path) -> _Shim | None:
    program = place.resolve()
    if place.is_symlink() and program.name in _LINKS and program.name != name:
        command = _LINKS[program.name]
        beside = program.with_name(command)
        return _Shim(manager=str(beside) if beside.exists() else command)
    try:
        with program.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None  # who reads it next says so
    if not head.startswith(b"#!"):
        return None
    text = head.decode("utf-8", "replace")
    if (asks := _ASKS.search(text)) is not None:
        return _Shim(manager=asks["manager"])
    if (names := _NAMES.search(text)) is not None:
        return _Shim(program=names["program"])
    return None


def _asked(name: str, place: Path, manager: str, environment: Mapping[str, str]) -> Path:
    """The manager's own answer."""
    short = Path(manager).name
    command = shutil.which(manager, path=environment.get("PATH", ""))
    if command is None:
        raise _unknown(name, place, short, f"{manager} is not on PATH")
    try:
        told = subprocess.run(
            [command, "which", name],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unknown(name, place, short, str(error)) from None
    answer = Path(told.stdout.strip().rpartition("\n")[2])
    if told.returncode != 0 or not answer.is_absolute() or not answer.is_file():
        said = " ".join((told.stderr.strip() or told.stdout.strip()).split())[:200]
        raise _unknown(name, place, short, said or "it says nothing")
    return answer


def _unknown(name: str, place: Path, manager: str, why: str) -> PathMistake:
    return PathMistake(
        f"{name!r} at {place} is a shim of {manager}, which does not tell the program behind it ({why}): make "
        f"`{manager} which {name}` work in this folder, or put the folder of the program itself on PATH before the shims"
    )
