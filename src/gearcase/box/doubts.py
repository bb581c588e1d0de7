"""What is right as a box and still looks like a mistake: told before money is spent, and never refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from gearcase.box.declaration import Box, Check
from gearcase.box.mistakes import nearest

_SCRIPT = re.compile(r"[\w.@+-]+(/[\w.@+-]+)*\.(py|sh|js|mjs|cjs|ts|rb|pl|R|jl|sql)")


def doubts(box: Box, folder: Path) -> list[str]:
    """Sentences for the box's owner. `folder` is the one that relative words of the box's commands are looked up in."""
    return [doubt for check in box.checks for doubt in _of_check(check, box, folder)]


def _of_check(check: Check, box: Box, folder: Path) -> Iterator[str]:
    """A script that is nowhere: an agent that does not write it fails for ever."""
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
    for word in words:
        if not _SCRIPT.fullmatch(word) or any((place / word).exists() for place in places):
            continue
        above, name = (folder / word).parent, Path(word).name
        near = nearest(name, (one.name for one in above.iterdir())) if above.is_dir() else ""
        mended = f": did you mean `{Path(word).parent / near}`?" if near else ", unless the agent writes it"
        yield f"check {check.name} runs {word}, which is not there{mended}"
