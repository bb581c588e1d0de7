"""Host paths in a box: `~` and `${VAR}` are expanded, relative ones start from a folder, what is named must exist.

`$${` stands for a literal `${`. Nothing is resolved through symbolic links here: what a link means is for who copies the tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gearcase.box.mistakes import nearest

_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}")


class PathMistake(Exception):
    """Why a path cannot be used, and the nearest one that exists."""

    def __init__(self, message: str, near: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.near = near


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`text` with `${VAR}` from the environment. Raises PathMistake for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "${"
        if name not in environment:
            raise PathMistake(f"names ${{{name}}}, which is not set in the environment", nearest(name, environment))
        return environment[name]

    return _VARIABLE.sub(value, text)


def escape(text: str) -> str:
    """The inverse of `expand` for a text that is meant literally."""
    return text.replace("${", "$${")


def absolute(text: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """The path that `text` means, started from `folder`. Raises PathMistake."""
    expanded = expand(text, environment)
    if not expanded.strip():
        raise PathMistake("is empty")
    if "\0" in expanded:
        raise PathMistake("holds a NUL character")
    try:
        expanded.encode()
    except UnicodeEncodeError:
        raise PathMistake(f"{os.fsencode(expanded)!r} is not UTF-8: name it by a link whose name is") from None
    if expanded == "~" or expanded.startswith("~/"):
        expanded = environment.get("HOME", str(Path.home())) + expanded[1:]
    return Path(os.path.normpath(folder / expanded))


def existing(path: Path, kind: str = "any") -> None:
    """Raise PathMistake, with the nearest name beside it, unless `path` is there. `kind` is any | file | folder."""
    found = {"any": path.exists, "file": path.is_file, "folder": path.is_dir}[kind]()
    if found:
        return
    if path.exists():
        raise PathMistake(f"{path} is not a {kind}")
    if path.is_symlink():
        raise PathMistake(f"{path} is a link to something that does not exist")
    parent = next(folder for folder in path.parents if folder.is_dir())
    missing = path.relative_to(parent).parts[0]
    try:
        near = nearest(missing, os.listdir(parent))  # noqa: PTH208 (names, not paths)
    except OSError:
        near = ""
    where = "" if parent == path.parent else f" ({parent / missing} does not)"
    raise PathMistake(f"{path} does not exist{where}", near)
