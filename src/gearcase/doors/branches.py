"""A change as a new branch of the user's repository, without touching its work tree, its index or what is checked out.

The branch starts at the commit that was HEAD when the repository was given. It holds one commit, the agent's change; where files
that are tracked, or that the agent changed, were given with uncommitted work in them, that work stands before it as a commit of
its own, so that the agent's can be read alone. Trees are built in an index of ours, contents go in as they are (no filter runs),
and the branch appears in one step that fails where a branch of that name is there. The same run makes the same commits each time.

Files that git keeps in another form than the work tree's (LFS, git-crypt, any `filter`) are left out with the reason, since making
that form would mean to run the filter. Lines that end in CR LF only in the work tree are written as the repository has them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.doors.changes import Changed, Told, told_by_rules
from gearcase.doors.delivery import staging_changed
from gearcase.doors.git import Git
from gearcase.doors.repositories import Repository
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.beneath import explaining, open_file, printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.content import ContentChanged, copy_content
from gearcase.sandbox.copying import Refusal
from gearcase.sandbox.manifest import Entry
from gearcase.sandbox.trees import Cursor

_WHOLE = 4 << 20
"""Files up to this many bytes are compared and converted in memory."""
_LINK, _SUBMODULE = "120000", "160000"


@dataclass(frozen=True, slots=True)
class Tracked:
    """One path of the commit that was given."""

    mode: str
    object: str


@dataclass(frozen=True, slots=True)
class Branch:
    """What was made. `uncommitted` is the commit of the user's own work, "" where none was needed."""

    name: str
    base: str
    uncommitted: str
    commit: str
    left_out: tuple[Refusal, ...]
    fresh: bool


def tracked(repository: Repository, scratch: Path) -> dict[bytes, Tracked]:
    """Every path of the commit that was given. Raises UsageError `repository_gone`, `no_commit`, `commit_gone`."""
    listed = _opened(repository, scratch).run("ls-tree", "-r", "-z", "--full-tree", repository.commit)
    found: dict[bytes, Tracked] = {}
    for row in listed.split(b"\0")[:-1]:
        facts, _, path = row.partition(b"\t")
        mode, _kind, number = facts.decode().split(" ")
        found[path] = Tracked(mode, number)
    return found


def submodule_of(path: bytes, known: dict[bytes, Tracked]) -> bytes | None:
    """The submodule that a path is or lies in."""
    parts = path.split(b"/")
    tops = (b"/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((top for top in tops if top in known and known[top].mode == _SUBMODULE), None)


def make_branch(
    repository: Repository,
    changes: Sequence[Changed],
    store: BlobStore,
    staging: Path,
    scratch: Path,
    *,
    name: str,
    title: str,
    body: str,
    run: str,
    at: float,
) -> Branch:
    """Make the branch; `at` is the time of its commits in unix seconds, `scratch` an empty folder.

    Raises UsageError `bad_branch`, `branch_exists`, `no_change` and those of `tracked`, RunError `staging_changed`, `git_failed`.
    """
    git = _opened(repository, scratch)
    if name.startswith("-") or git.ask("check-ref-format", "--branch", name) != name:
        raise UsageError(
            "bad_branch", f"{name!r} is no name of a branch", remedy="name one with --branch, such as --branch agent/fix"
        )
    making = _Making(repository, git, store, staging, scratch, tracked(repository, scratch))
    making.plan(changes)
    making.write_objects()
    index = scratch / "index"
    git.run("read-tree", repository.commit, index=index)
    parent = repository.commit
    uncommitted = ""
    if making.uncommitted:
        tree = making.tree(index, making.uncommitted)
        text = f"Uncommitted work, as it was given to gearcase run {run}\n\nBy you, not by the agent.\n"
        parent = uncommitted = making.commit(tree, parent, text, at)
    tree = making.tree(index, making.agents)
    if tree == git.run("rev-parse", f"{parent}^{{tree}}").decode().strip():
        reasons = "; ".join(f"{printable(one.path)}: {one.reason}" for one in making.left_out[:5])
        raise UsageError(
            "no_change",
            "the run changed nothing that a branch could hold",
            cause=reasons,
            remedy="see what it handed over: gearcase report, gearcase diff",
        )
    commit = making.commit(tree, parent, f"{title}\n\n{body}\n", at)
    fresh = _appear(git, name, commit)
    return Branch(name, repository.commit, uncommitted, commit, tuple(making.left_out), fresh)


def commits_since(repository: Repository, scratch: Path) -> int | None:
    """How many commits the branch that was checked out then is ahead of what was given; None where that commit is not in it."""
    git = _opened(repository, scratch)
    tip = f"refs/heads/{repository.branch}"
    if not repository.branch or git.ask("merge-base", "--is-ancestor", repository.commit, tip) is None:
        return None
    return int(git.run("rev-list", "--count", f"{repository.commit}..{tip}"))


def _opened(repository: Repository, scratch: Path) -> Git:
    """The repository with the commit that was given in it."""
    if not repository.git_dir.exists():
        raise UsageError(
            "repository_gone",
            f"there is no repository at {repository.path} any more",
            remedy="move it back; or write the change to a file with --patch FILE, and use `git apply` where the repository is now",
        )
    if not repository.commit:
        raise UsageError(
            "no_commit",
            f"{repository.path} was given without a commit to start a branch at",
            cause=repository.why,
            remedy="write the change to a file with --patch FILE; commit something before the next run",
        )
    git = Git(repository.git_dir, scratch)
    if git.ask("cat-file", "-e", f"{repository.commit}^{{tree}}") is None:
        raise UsageError(
            "commit_gone",
            f"{repository.path} no longer holds the commit that was given, {repository.commit[:12]}, or cannot be read",
            remedy="write the change to a file with --patch FILE, and use `git apply -3`",
        )
    return git


def _appear(git: Git, name: str, commit: str) -> bool:
    """Make the branch in one step; False where it stands there already, just so."""
    ref = f"refs/heads/{name}"
    standing = git.ask("rev-parse", "--verify", "--quiet", ref)
    if standing == commit:
        return False
    if standing is None:
        try:
            git.run("update-ref", "-m", "gearcase apply", "--no-deref", ref, commit, "0" * len(commit))
        except RunError as error:  # somebody made one meanwhile, or a branch stands where this one needs a folder
            raise _exists(name, error.cause) from None
        return True
    raise _exists(name, f"it is at {standing[:12]}")


def _exists(name: str, cause: str) -> UsageError:
    return UsageError(
        "branch_exists",
        f"there is a branch in the way of {name}, which is left as it is",
        cause=cause,
        remedy=f"choose another name with --branch; or remove it with `git branch -D {name}` and try again",
    )


@dataclass(frozen=True, slots=True)
class _Put:
    """A path and what it shall be; no source: it shall not be there."""

    path: bytes
    mode: str = "0"
    source: Entry | bytes | None = None  # what was given; or the path of a staged file, with its digest in `digest`
    digest: str = ""
    size: int = 0
    plain_lines: bool = False


@dataclass(slots=True)
class _Making:
    repository: Repository
    git: Git
    store: BlobStore
    staging: Path
    scratch: Path
    known: dict[bytes, Tracked]
    uncommitted: list[_Put] = field(default_factory=list[_Put])
    agents: list[_Put] = field(default_factory=list[_Put])
    left_out: list[Refusal] = field(default_factory=list[Refusal])
    _numbers: dict[int, str] = field(default_factory=dict[int, str])  # of a put's content, the object's name
    _sparse: bool = False
    _modes_count: bool = True

    def __post_init__(self) -> None:
        self._sparse = self.git.ask("config", "--type=bool", "--get", "core.sparseCheckout") == "true"
        self._modes_count = self.git.ask("config", "--type=bool", "--get", "core.fileMode") != "false"

    def plan(self, changes: Sequence[Changed]) -> None:
        """Decide for every path what goes into which commit."""
        given = self._given()
        unlike = {
            path for path, one in self.known.items() if one.mode != _SUBMODULE and not self._is_as_tracked(given.get(path), one)
        }
        touched = {change.path for change in changes}
        told = told_by_rules(self.repository, self.store, unlike | touched)
        plain = self._with_plain_lines(given, {path for path in unlike if path not in told.filters})
        for path in sorted(unlike - plain):
            if path not in told.filters:
                entry = given.get(path)
                self.uncommitted.append(_of_given(path, entry) if entry else _Put(path))
        for change in changes:
            if reason := self._cannot(change, told):
                self.left_out.append(Refusal(change.path, reason))
                continue
            if change.before and change.path not in self.known:
                self.uncommitted.append(_of_given(change.path, change.before))
            if change.after is None:
                self.agents.append(_Put(change.path))
            else:
                mode = "100755" if change.after.mode & 0o100 else "100644"
                staged = self.repository.name + b"/" + change.path
                lines = change.path in plain
                self.agents.append(_Put(change.path, mode, staged, change.after.digest, change.after.size, lines))

    def write_objects(self) -> None:
        """Put every content that is needed into the repository, each read through its digest."""
        folder = self.scratch / "contents"
        folder.mkdir()
        puts = [put for put in (*self.uncommitted, *self.agents) if put.source is not None]
        for number, put in enumerate(puts):
            with explaining(put.path, "copying"):
                descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    self._copy(put, descriptor)
                finally:
                    os.close(descriptor)
        listed = "".join(f"{folder / str(number)}\n" for number in range(len(puts)))
        names = self.git.run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=os.fsencode(listed)).decode().split()
        self._numbers = {id(put): name for put, name in zip(puts, names, strict=True)}

    def tree(self, index: Path, puts: Sequence[_Put]) -> str:
        """The tree that the index holds after these."""
        nothing = "0" * len(self.repository.commit)
        ordered = sorted(puts, key=lambda put: put.source is not None)  # what goes makes room for what comes
        rows = [b"%b %b\t%b\0" % (put.mode.encode(), self._numbers.get(id(put), nothing).encode(), put.path) for put in ordered]
        self.git.run("update-index", "--replace", "-z", "--index-info", stdin=b"".join(rows), index=index)
        return self.git.run("write-tree", index=index).decode().strip()

    def commit(self, tree: str, parent: str, text: str, at: float) -> str:
        """A commit that no branch names yet."""
        told = text.replace("\0", "").encode("utf-8", "replace")
        return self.git.run("commit-tree", tree, "-p", parent, "-F", "-", stdin=told, at=at).decode().strip()

    def _given(self) -> dict[bytes, Entry]:
        prefix = self.repository.name + b"/"
        entries = ((entry.path, entry) for entry in self.repository.start.entries if entry.kind in ("file", "link"))
        return {path.removeprefix(prefix): entry for path, entry in entries if path.startswith(prefix)}

    def _is_as_tracked(self, entry: Entry | None, one: Tracked) -> bool:
        """Whether what was given is, byte for byte, what the commit has."""
        if entry is None:  # links out of the tree stay outside, and a sparse work tree has not all of it
            return one.mode == _LINK or self._sparse
        if entry.kind == "link" or one.mode == _LINK:
            return entry.kind == "link" and one.mode == _LINK and self._number(entry) == one.object
        if self._modes_count and ("100755" if entry.mode & 0o100 else "100644") != one.mode:
            return False
        return self._number(entry) == one.object

    def _number(self, entry: Entry) -> str:
        """The name that git gives to a content that was given."""
        state = hashlib.new("sha256" if len(self.repository.commit) == 64 else "sha1", usedforsecurity=False)
        if entry.kind == "link":
            state.update(b"blob %d\0%b" % (len(entry.target), entry.target))
            return state.hexdigest()
        state.update(b"blob %d\0" % entry.size)
        data = self.store.read(entry.digest, _WHOLE)
        if data is not None:
            state.update(data)
            return state.hexdigest()
        with tempfile.TemporaryFile(dir=self.scratch) as file:
            self.store.copy_to(entry.digest, file.fileno())
            file.seek(0)
            while part := file.read(1 << 20):
                state.update(part)
        return state.hexdigest()

    def _with_plain_lines(self, given: dict[bytes, Entry], paths: set[bytes]) -> set[bytes]:
        """Paths whose only difference from the commit is that lines end in CR LF."""
        found: set[bytes] = set()
        for path in paths:
            entry = given.get(path)
            if (
                entry is None
                or entry.kind != "file"
                or (data := self.store.read(entry.digest, _WHOLE)) is None
                or b"\r\n" not in data
            ):
                continue
            plain = data.replace(b"\r\n", b"\n")
            state = hashlib.new("sha256" if len(self.repository.commit) == 64 else "sha1", usedforsecurity=False)
            state.update(b"blob %d\0%b" % (len(plain), plain))
            if state.hexdigest() == self.known[path].object:
                found.add(path)
        return found

    def _cannot(self, change: Changed, told: Told) -> str:
        """Why a change cannot be in the branch; empty when it can."""
        if (inside := submodule_of(change.path, self.known)) is not None:
            return f"in the submodule {printable(inside)}, a repository of its own: take the file from what was delivered"
        if change.path in told.filters:
            return (
                f"git keeps it through the filter {told.filters[change.path]}: take the file from what was delivered, and add it"
            )
        return ""

    def _copy(self, put: _Put, target: int) -> None:
        if isinstance(put.source, Entry):
            if put.source.kind == "link":
                os.write(target, put.source.target)
            else:
                self.store.copy_to(put.source.digest, target)
            return
        assert put.source is not None
        *folders, name = put.source.split(b"/")
        top = os.open(self.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with Cursor(top) as cursor:
                for folder in folders:
                    cursor.enter(folder)
                descriptor = open_file(cursor.fd, name)
        finally:
            os.close(top)
        try:
            same = copy_content(descriptor, target, put.size, plain=True) == put.digest
        except ContentChanged:
            same = False
        finally:
            os.close(descriptor)
        if not same:
            raise staging_changed(put.source)
        if put.plain_lines and put.size <= _WHOLE:
            plain = os.pread(target, put.size, 0).replace(b"\r\n", b"\n")
            os.ftruncate(target, 0)
            os.pwrite(target, plain, 0)


def _of_given(path: bytes, entry: Entry) -> _Put:
    mode = _LINK if entry.kind == "link" else "100755" if entry.mode & 0o100 else "100644"
    return _Put(path, mode, entry)
