"""What a run changed in a repository: the files that were given beside those that were staged, and what git would not take of it.

Compared are the manifest of the start and the delivery, by digest, so a change is the agent's alone and not what the user had
changed before. `.git` is never part of it. Links, being refused at the door, are neither added nor removed; one that the agent
made or turned elsewhere is named. A file that was given, that the patterns name and that is neither delivered nor refused, is
deleted.

What is ignored, and what git keeps in another form than the work tree's (LFS and other filters), is asked of git on a copy of the
given `.gitignore` and `.gitattributes` files alone, in a folder of ours that holds nothing else.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gearcase.doors.files import DeliveredFile, Delivery, link_reason
from gearcase.doors.git import Git
from gearcase.doors.patterns import Patterns
from gearcase.doors.repositories import Repository, is_git_name
from gearcase.sandbox.beneath import open_file
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.content import copy_content
from gearcase.sandbox.copying import Refusal
from gearcase.sandbox.manifest import Entry
from gearcase.sandbox.trees import Cursor, read_file

_RULES = (b".gitignore", b".gitattributes")
_MOST_RULES = 1 << 20
"""Largest file of rules in bytes that is read."""
_RULES_DEADLINE = 60.0
"""Seconds: a pattern can be made to take for ever, and a delivery waits for the answer."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One file before and after; None where it was not there. `path` is relative to the repository."""

    path: bytes
    before: Entry | None
    after: DeliveredFile | None

    @property
    def what(self) -> str:
        """added | deleted | changed | mode."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "deleted"
        return "changed" if self.before.digest != self.after.digest else "mode"

    @property
    def size(self) -> int:
        """Of the larger side, in bytes."""
        return max(self.before.size if self.before else 0, self.after.size if self.after else 0)


def changed(repository: Repository, delivery: Delivery, staging: Path, patterns: Patterns) -> Iterator[Changed]:
    """Every file of the repository that the run changed, in the order of paths."""
    prefix = repository.name + b"/"
    files = {file.path: file for file in delivery.files if file.path.startswith(prefix)}
    refused = {refusal.path for refusal in delivery.refused}
    entries = {
        path: entry for entry in repository.start.entries if entry.kind == "file" and (path := entry.path).startswith(prefix)
    }
    staged = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in sorted(files.keys() | entries.keys()):
            inside = path[len(prefix) :]
            if any(map(is_git_name, inside.split(b"/"))):
                continue
            before, after = entries.get(path), files.get(path)
            if after is None and (delivery.refused_more or not patterns.match(path) or _is_below(path, refused)):
                continue
            if before is None or after is None or not _same(before, after, staged):
                yield Changed(inside, before, after)
    finally:
        os.close(staged)


def stayed(repository: Repository, delivery: Delivery) -> Iterator[Refusal]:
    """What the door refused of the repository and the agent made or changed: links, special files, what was too large."""
    prefix = repository.name + b"/"
    for refusal in delivery.refused:
        inside = refusal.path.removeprefix(prefix)
        if inside == refusal.path or any(map(is_git_name, inside.split(b"/"))):
            continue
        start = repository.start.find(refusal.path)
        if start is None or start.kind != "link" or link_reason(start.target) != refusal.reason:
            yield Refusal(inside, refusal.reason)


def contents(change: Changed, store: BlobStore, staged: int, limit: int) -> tuple[bytes | None, bytes | None]:
    """The contents before and after; None for what is not there or longer than `limit` bytes."""
    old = store.read(change.before.digest, limit) if change.before else None
    new = read_file(staged, change.after.path, limit) if change.after and change.after.size <= limit else None
    return old, new


def _same(before: Entry, after: DeliveredFile, staged: int) -> bool:
    if before.size != after.size or (before.mode ^ after.mode) & 0o100:
        return False
    return before.digest in (after.digest, _digest(after, staged) if before.digest.startswith("b") else "")


def _digest(file: DeliveredFile, staged: int) -> str:
    """Of a large staged file, in the form that manifests have."""
    *folders, name = file.path.split(b"/")
    with Cursor(staged) as cursor:
        for folder in folders:
            cursor.enter(folder)
        descriptor = open_file(cursor.fd, name)
    try:
        return copy_content(descriptor, None, file.size)
    finally:
        os.close(descriptor)


def _is_below(path: bytes, roots: set[bytes]) -> bool:
    parts = path.split(b"/")
    return any(b"/".join(parts[:count]) in roots for count in range(1, len(parts) + 1))


# --- what git says of paths ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What the given rules say: paths that are ignored (whether or not they are tracked), and the filter of each that has one."""

    ignored: frozenset[bytes]
    filters: dict[bytes, str]


def told_by_rules(repository: Repository, store: BlobStore, paths: Iterable[bytes]) -> Told:
    """Ask git about paths by the rules that were given. Raises UsageError `no_git`, RunError `git_failed`."""
    asked = b"".join(b"./%b\0" % path for path in paths)  # so that a name never looks like an option or a pattern
    if not asked:
        return Told(frozenset(), {})
    with tempfile.TemporaryDirectory(prefix="gearcase-rules-") as name:
        top, home = Path(name, "tree"), Path(name, "home")
        home.mkdir()
        _lay_rules(repository, store, top)
        git = Git(top / ".git", home, work_tree=top, deadline=_RULES_DEADLINE)
        ignored = git.run("check-ignore", "--no-index", "--stdin", "-z", "-v", "-n", stdin=asked, fine=(0, 1))
        attributes = git.run("check-attr", "--stdin", "-z", "filter", "working-tree-encoding", stdin=asked)
    fields = ignored.split(b"\0")[:-1]
    found = (fields[place : place + 4] for place in range(0, len(fields), 4))
    ignores = frozenset(
        path.removeprefix(b"./") for _source, _line, pattern, path in found if pattern and not pattern.startswith(b"!")
    )
    fields = attributes.split(b"\0")[:-1]
    values = (fields[place : place + 3] for place in range(0, len(fields), 3))
    filters = {
        path.removeprefix(b"./"): os.fsdecode(value) for path, _name, value in values if value not in (b"unspecified", b"unset")
    }
    return Told(ignores, filters)


def _lay_rules(repository: Repository, store: BlobStore, top: Path) -> None:
    """A repository of ours, without a commit or a configuration, in which only the rules of the given one stand."""
    for folder in (".git/objects", ".git/refs", ".git/info"):
        (top / folder).mkdir(parents=True)
    (top / ".git/HEAD").write_text("ref: refs/heads/none\n")
    prefix = repository.name + b"/"
    for entry in repository.start.entries:
        if entry.kind != "file" or (entry.name not in _RULES and entry.name not in (b"exclude", b"attributes")):
            continue
        path = entry.path
        inside = path.removeprefix(prefix)
        if inside == path or not (entry.name in _RULES or inside.startswith(b".git/info/")):
            continue
        if (data := store.read(entry.digest, _MOST_RULES)) is None:
            continue
        target = top / os.fsdecode(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
