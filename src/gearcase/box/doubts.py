"""What is right as a box and still looks like a mistake: told before money is spent, and never refused."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from gearcase.box.declaration import Box, Check
from gearcase.box.inside import brings_module, has_module, how_to_get
from gearcase.box.mistakes import nearest

_PYTHONS = ("python3", "/usr/bin/python3")
_WHERE = "DELIVERED"
_MOST_FILES, _MOST_BYTES = 200, 1 << 20
_SCRIPT = re.compile(r"[\w.@+-]+(/[\w.@+-]+)*\.(py|sh|js|mjs|cjs|ts|rb|pl|R|jl|sql)")


def doubts(box: Box, folder: Path) -> list[str]:
    """Sentences for the box's owner. `folder` is the one that relative words of the box's commands are looked up in."""
    return [*_of_engine(box), *(doubt for check in box.checks for doubt in _of_check(check, box, folder))]


def _of_engine(box: Box) -> Iterator[str]:
    if box.swarm.engine == "ray" and importlib.util.find_spec("ray") is None:
        yield "[swarm] engine is ray, which is not installed here: pip install 'gearcase[ray]'"


def _of_check(check: Check, box: Box, folder: Path) -> Iterator[str]:
    """A check that looks elsewhere; a script that is nowhere. An agent that cannot know of it fails for ever."""
    if not _looks_at_deliverables(check, folder):
        told = "what is delivered lies there, and not in the folder that the check runs in"
        yield f"check {check.name} does not mention $DELIVERED: {told}"
    try:
        words = shlex.split(check.run)
    except ValueError:
        return
    places = [
        folder,
        *(file.parent for file in check.files),
        *check.files,
        *box.files.give,
        *(one.parent for one in box.files.give),
    ]
    for module in _modules(words):
        brought = any(brings_module(place, module) for place in (*check.files, *box.files.give) if place.is_dir())
        if not brought and f"python3:{module}" not in box.sandbox.packages and not has_module(module):
            yield f"check {check.name} runs python3 -m {module}, which is not inside; unless the agent delivers it, {how_to_get(module)}"
    for word in words:
        if not _SCRIPT.fullmatch(word) or any((place / word).exists() for place in places):
            continue
        above, name = (folder / word).parent, Path(word).name
        near = nearest(name, (one.name for one in above.iterdir())) if above.is_dir() else ""
        mended = f": did you mean `{Path(word).parent / near}`?" if near else ", unless the agent writes it"
        yield f"check {check.name} runs {word}, which is not there{mended}"


def _modules(words: list[str]) -> list[str]:
    """Which modules of the box's own Python are run as programs."""
    pairs = zip(words, words[1:], words[2:], strict=False)
    return list(dict.fromkeys(name.partition(".")[0] for program, flag, name in pairs if program in _PYTHONS and flag == "-m"))


def _looks_at_deliverables(check: Check, folder: Path) -> bool:
    """Whether the command, or a file that it has, names them; what cannot be read, or is too much to read, is taken to do so."""
    if _WHERE in check.run:
        return True
    try:
        words = shlex.split(check.run)
    except ValueError:
        return True
    named = [folder / word for word in words if _SCRIPT.fullmatch(word) and (folder / word).is_file()]
    for count, file in enumerate(_files([*check.files, *named])):
        try:
            if count > _MOST_FILES or file.stat().st_size > _MOST_BYTES or _WHERE.encode() in file.read_bytes():
                return True
        except OSError:
            return True
    return False


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (one for one in path.rglob("*") if one.is_file())
        else:
            yield path
