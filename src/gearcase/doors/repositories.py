"""A given tree that is a git repository: what of it stays outside, and what is remembered of it for the change that comes out.

What crosses over is the folder as it stands, uncommitted work, ignored files and history included, so that the agent can build,
test and read the log. What stays outside of `.git`: its configuration, since addresses with tokens and helpers stand there, its
hooks, and files of running programs; and `gearcase-out`, which earlier runs delivered.

Remembered in the run's folder, at the start: the commit that HEAD was, the branch, and the manifest of what was given without what
is below `.git`. So `gearcase diff` and `gearcase apply` need neither the box nor the state in which the repository is by then.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gearcase.doors.git import Git
from gearcase.errors import GearcaseError
from gearcase.sandbox.beneath import explaining
from gearcase.sandbox.manifest import Entry, Manifest

FORMAT = "gearcase-repositories/1"
OUTPUTS = "gearcase-out"
"""Folder, beside which the user works, of what runs deliver."""

_UNSEEN = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
FACTS = "repositories.json"
START = "start.json"
_KEPT = {b".git", b".git/info", b".git/info/exclude", b".git/info/attributes"}
"""Of `.git`, what the manifest keeps: what is ignored and how files are kept is told there too."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as it was given. `commit` is "" where there was none, and `why` says so; `branch` is "" on a detached head."""

    path: Path
    name: bytes
    commit: str
    branch: str
    why: str
    start: Manifest

    @property
    def git_dir(self) -> Path:
        """Its `.git`."""
        return self.path / ".git"


def is_repository(path: Path) -> bool:
    """Whether a host folder is the top of a git work tree."""
    return os.path.lexists(path / ".git")


def is_git_name(name: bytes) -> bool:
    """Whether some file system or git would take a name for `.git`: by its case, a short name, a stream, or what is not seen."""
    plain = name.decode("utf-8", "replace").translate(_UNSEEN).lower().partition(":")[0].rstrip(". ")
    return plain in (".git", "git~1")


def stays_outside(path: bytes) -> str:
    """Why a path of a given repository, relative to its top, is not copied; empty when it is."""
    if path == OUTPUTS.encode():
        return "what earlier runs delivered"
    parts = path.split(b"/")
    if b".git" not in parts[:-1]:
        return ""
    inside = parts[parts.index(b".git") + 1 :]
    if inside[-1] in (b"config", b"config.worktree", b"credentials"):
        return "git's configuration may hold keys"
    if inside == [b"hooks"] or (inside[0] == b"modules" and inside[-1] == b"hooks"):
        return "git's hooks run on this machine"
    if inside[-1].startswith(b"fsmonitor--daemon") or inside[-1].endswith(b".lock"):
        return "it belongs to a running git"
    return ""


def remember(folder: Path, given: Iterable[Path], start: Manifest) -> None:
    """Note in a run's folder which of the given paths are repositories, and how they stood. Nothing when none is."""
    repositories = [path for path in given if path.is_dir() and is_repository(path)]
    if not repositories:
        return
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="git-", dir=folder) as scratch:
        for path in repositories:
            commit, branch, why = _head(Git(path / ".git", Path(scratch)))
            rows.append({"path": str(path), "name": path.name, "commit": commit, "branch": branch, "why": why})
    names = {os.fsencode(path.name) for path in repositories}
    with explaining(os.fsencode(folder), "writing to"):
        (folder / START).write_bytes(_reduced(start, names).to_json())
        (folder / FACTS).write_text(
            json.dumps({"format": FORMAT, "repositories": rows}, indent=1)
        )  # last: with it, both are whole


def recall(folder: Path) -> list[Repository]:
    """The repositories that were given to a run. Raises RunError `bad_manifest` when what was noted is damaged."""
    try:
        facts = cast("dict[str, Any]", json.loads((folder / FACTS).read_bytes()))
    except FileNotFoundError:
        return []
    start = Manifest.from_json((folder / START).read_bytes())
    return [
        Repository(Path(row["path"]), os.fsencode(row["name"]), row["commit"], row["branch"], row["why"], start)
        for row in facts["repositories"]
    ]


def where_given(folder: Path) -> list[Path]:
    """Where the repositories that were given to a run are; nothing is said of what they held."""
    try:
        return [Path(row["path"]) for row in json.loads((folder / FACTS).read_bytes())["repositories"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []  # whoever looks at the change itself hears what is damaged


def has_change(folder: Path) -> bool:
    """Whether a repository was given to a run, so that there may be a change to look at."""
    return (folder / FACTS).exists()


def _head(git: Git) -> tuple[str, str, str]:
    """(commit, branch, why there is no commit). A repository that cannot be read is still a folder that can be given."""
    try:
        commit = git.ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}") or ""
        branch = (git.ask("symbolic-ref", "--quiet", "HEAD") or "").removeprefix("refs/heads/")
    except GearcaseError as error:
        return "", "", error.message
    return commit, branch, "" if commit else "it had no commit yet, or git could not read it"


def _reduced(start: Manifest, names: set[bytes]) -> Manifest:
    """The entries of these trees, without what is below their `.git`."""
    kept: list[Entry] = []
    inside: dict[int, bytes] = {}  # of kept folders, the path below the given tree; of a tree itself b""
    for entry in start.entries:
        if entry.parent is None:
            if entry.name in names:
                kept.append(entry)
                inside[id(entry)] = b""
            continue
        if (folder := inside.get(id(entry.parent))) is None:
            continue
        path = folder + b"/" + entry.name if folder else entry.name
        if path.startswith(b".git/") and path not in _KEPT:
            continue
        kept.append(entry)
        inside[id(entry)] = path
    return Manifest(tuple(kept), start.scanned_ns)
