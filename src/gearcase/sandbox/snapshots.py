"""Scan a tree into a manifest and bring a tree back to one.

A scan costs a look at every file and a copy of what changed. What a look cannot tell is read: a file whose change time lies
within two ticks of the last scan or after it, and every file that a process had mapped writable and shared (`mapped`), because a
write through a mapping moves no time. `hash_all` reads everything.

`restore` makes the tree exactly the manifest: what is not in it goes, what differs is put in place under a new inode, so a hard
link or an open descriptor cannot carry a write over. Every content is read and compared, never taken from its times.

Threat: the tree is the agent's, maybe at this moment. All access is by `trees`; the caller freezes the box for a true picture,
and without that gets a picture of some mixture or `tree_changed`, never anything from outside. Sockets and devices cannot be made
again; restore says which.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gearcase.sandbox.beneath import (
    HANDLE,
    explain,
    explaining,
    hand_over,
    list_names,
    open_beneath,
    open_file,
    pinned,
    replacing,
    tree_changed,
)
from gearcase.sandbox.blobs import BlobStore, Keeps
from gearcase.sandbox.content import ContentChanged, copy_content
from gearcase.sandbox.manifest import Entry, Kind, Manifest
from gearcase.sandbox.textdiff import unified
from gearcase.sandbox.trees import MAX_ENTRIES, Cursor, Step, remove_tree, walk

TICKS_NS = 20_000_000
"""Two ticks of the slowest kernel clock (100 a second): how far a change time may lie behind the change."""

_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_TRIES = 3
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEXT_LIMIT = 1 << 20


def scan(
    root: int,
    store: Keeps,
    previous: Manifest | None = None,
    *,
    hash_all: bool = False,
    mapped: Set[int] = frozenset(),
    limit: int = MAX_ENTRIES,
    seen: Callable[[int], None] | None = None,
    outside: Callable[[bytes], str] | None = None,
) -> Manifest:
    """The tree below the descriptor `root`, its contents kept in `store`.

    `mapped`: inodes that a process of the box has mapped shared and writable (`shared_mappings`). `seen` is told each file's
    bytes; `outside` says of a path why it is no part of the tree, empty where it is. Raises Refused `too_many_files`, RunError
    `tree_changed`, `unreadable`, `disk_full`.
    """
    scanning = _Scan(store, previous or Manifest(), hash_all, mapped)
    begun = time.time_ns()
    with Cursor(root, need=0o500) as cursor:

        def wanted(name: bytes) -> bool:
            return outside is None or not outside(cursor.below(name))

        for step in walk(cursor, wanted if outside is not None else None, limit=limit):
            if step.happening == "entry" and not wanted(step.name):
                continue
            scanning.take(cursor, step)
            if seen is not None and step.happening == "entry":
                seen(step.status.st_size)
    return Manifest(tuple(scanning.entries), begun)


class _Scan:
    """The state of one scan: entries so far, the folders it is in, and their counterparts in the previous manifest."""

    def __init__(self, store: Keeps, previous: Manifest, hash_all: bool, mapped: Set[int]) -> None:
        self.entries: list[Entry] = []
        self._store, self._previous, self._hash_all, self._mapped = store, previous, hash_all, mapped
        self._folders: list[tuple[Entry, Entry | None]] = []
        self._trusted_ns = previous.scanned_ns - TICKS_NS

    def take(self, cursor: Cursor, step: Step) -> None:
        if step.happening == "leave":
            self._folders.pop()
            return
        parent, old_parent = self._folders[-1] if self._folders else (None, None)
        known = not self._folders or old_parent is not None
        old = self._previous.child(old_parent, step.name) if known else None
        entry = self._entry(cursor, step, parent, old)
        if entry is None:
            return
        self.entries.append(entry)
        if step.happening == "enter":
            self._folders.append((entry, old if old is not None and old.kind == "directory" else None))

    def _entry(self, cursor: Cursor, step: Step, parent: Entry | None, old: Entry | None) -> Entry | None:
        kind = "mount" if step.happening == "mount" else kind_of(step.status)
        if kind == "file":
            return self._file(cursor, step, parent, old)
        entry = _described(step.name, parent, kind, step.status)
        if kind != "link":
            return entry
        try:
            return replace(entry, target=os.readlink(step.name, dir_fd=cursor.fd))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise tree_changed(cursor.below(step.name)) from error

    def _file(self, cursor: Cursor, step: Step, parent: Entry | None, old: Entry | None) -> Entry | None:
        if old is not None and old.kind == "file" and self._unchanged(step.status, old):
            return _described(step.name, parent, "file", step.status, old.digest)
        for _ in range(_TRIES):
            try:
                descriptor = open_file(cursor.fd, step.name, step.status)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.EXDEV:
                    return replace(_described(step.name, parent, "file", step.status), kind="mount")
                raise explain(error, cursor.below(step.name), "reading") from error
            try:
                status = os.fstat(descriptor)  # widening a mode to open it moved the change time
                with explaining(lambda: cursor.below(step.name), "reading"):
                    digest = self._store.put(descriptor, status.st_size, old.digest if old else "")
            except ContentChanged:
                continue
            finally:
                os.close(descriptor)
            entry = _described(step.name, parent, "file", status, digest)
            return replace(entry, ctime_ns=-1) if entry.ino in self._mapped else entry
        raise tree_changed(cursor.below(step.name))

    def _unchanged(self, seen: os.stat_result, old: Entry) -> bool:
        """Whether a look is enough."""
        if self._hash_all or seen.st_ino in self._mapped or old.ctime_ns < 0 or old.ctime_ns >= self._trusted_ns:
            return False
        return (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns) == (old.ino, old.size, old.mtime_ns, old.ctime_ns)


def kind_of(status: os.stat_result) -> Kind:
    """What a status says a thing is."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "device")


def _described(name: bytes, parent: Entry | None, kind: Kind, status: os.stat_result, digest: str = "") -> Entry:
    size = status.st_size if kind == "file" else 0
    mode = status.st_mode & 0o1777
    return Entry(name, parent, kind, mode, size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest)


def shared_mappings(processes: Iterable[int]) -> frozenset[int]:
    """Inodes that these host processes have mapped shared and writable; a process that is gone has none."""
    inodes: set[int] = set()
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for line in Path(f"/proc/{process}/maps").read_bytes().splitlines():
                fields = line.split(maxsplit=5)
                if fields[1][1:2] == b"w" and fields[1][3:4] == b"s" and fields[4] != b"0":
                    inodes.add(int(fields[4]))
    return frozenset(inodes)


# --- back to a manifest ----------------------------------------------------------------------------------------------------


def restore(
    root: int, manifest: Manifest, store: BlobStore, owner: tuple[int, int] | None = None, *, known: Manifest | None = None
) -> tuple[bytes, ...]:
    """Make the tree below `root` exactly what the manifest says; returns paths of sockets, devices and mounts it cannot make.

    `owner` (uid, gid) is given to everything that is made. `known`: what it holds, where no process of an agent ever reached it:
    then only what differs is touched. Raises RunError `tree_changed`, `blob_damaged`, `disk_full`; the tree may then be half way, and
    restoring again (without `known`) goes on from there.
    """
    missing: list[bytes] = []
    children = _children(manifest)
    old = _Known(known)
    with Cursor(root, need=0o700) as cursor:
        _clear(cursor, children.get(id(None), []))
        pending = [iter(children.get(id(None), []))]
        folders: list[Entry] = []
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                if folders:
                    _finish(cursor, folders.pop(), owner)
            elif entry.kind == "directory":
                old.remember(entry)
                _go_into(cursor, entry)
                below = children.get(id(entry), [])
                _clear(cursor, below)
                folders.append(entry)
                pending.append(iter(below))
            elif old.holds(entry):
                continue
            elif entry.kind == "file" and old.lacks(entry):
                _write_fresh(cursor, entry, store, owner)
            elif not _put(cursor, entry, store, owner):
                missing.append(entry.path)
    return tuple(missing)


class _Known:
    """What a tree that nobody else reached is known to hold; nothing is known of any other."""

    def __init__(self, known: Manifest | None) -> None:
        self._known = known
        self._folders: dict[int, Entry | None] = {id(None): None}  # of the new tree, where the known one has it, too

    def remember(self, folder: Entry) -> None:
        """The walk comes to a folder."""
        found = self._find(folder)
        if found is not None and found.kind == "directory":
            self._folders[id(folder)] = found

    def holds(self, entry: Entry) -> bool:
        """Whether it is there already, as it is to be."""
        found = self._find(entry)
        return found is not None and found.kind in ("file", "link") and found.same(entry) and found.mtime_ns == entry.mtime_ns

    def lacks(self, entry: Entry) -> bool:
        """Whether nothing is there under its name."""
        return self._known is not None and self._find(entry) is None

    def _find(self, entry: Entry) -> Entry | None:
        if self._known is None or id(entry.parent) not in self._folders:
            return None
        return self._known.child(self._folders[id(entry.parent)], entry.name)


def _children(manifest: Manifest) -> dict[int, list[Entry]]:
    children: dict[int, list[Entry]] = {}
    for entry in manifest.entries:
        children.setdefault(id(entry.parent), []).append(entry)
    return children


def _clear(cursor: Cursor, wanted: list[Entry]) -> None:
    """Remove from the current folder what is not wanted there."""
    names = {entry.name for entry in wanted}
    with explaining(lambda: cursor.path, "listing"):
        found = list_names(cursor.fd)
    for name in found:
        if name not in names:
            remove_tree(cursor.fd, name)


def _go_into(cursor: Cursor, entry: Entry) -> None:
    with explaining(lambda: cursor.below(entry.name), "making"):
        found = _look(cursor, entry.name)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            remove_tree(cursor.fd, entry.name)
            found = None
        if found is None:
            os.mkdir(entry.name, 0o700, dir_fd=cursor.fd)
        cursor.enter(entry.name)


def _finish(cursor: Cursor, entry: Entry, owner: tuple[int, int] | None) -> None:
    """Owner, mode and time of a folder, once nothing in it will change any more."""
    with explaining(lambda: cursor.path, "setting the mode of"):
        inside = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=cursor.fd)
        try:
            cursor.leave()
            hand_over(inside, entry.mode, owner)
            os.utime(inside, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(inside)


def _put(cursor: Cursor, entry: Entry, store: BlobStore, owner: tuple[int, int] | None) -> bool:
    """Make one entry that is no folder; False for what cannot be made and is not there."""
    with explaining(lambda: cursor.below(entry.name), "restoring"):
        found = _look(cursor, entry.name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            if entry.kind == "mount":
                return True
            remove_tree(cursor.fd, entry.name)
            found = None
        if entry.kind == "file":
            if found is None or not _holds(cursor, entry, found, owner):
                _write(cursor, entry, store, owner)
            return True
        there = found is not None and _is(cursor, entry, found)
        if found is not None and not there:
            os.unlink(entry.name, dir_fd=cursor.fd)
        if entry.kind in ("link", "fifo"):
            if not there:
                _make_special(cursor, entry)
            _stamp(cursor, entry, owner)
            return True
        return there


def _holds(cursor: Cursor, entry: Entry, found: os.stat_result, owner: tuple[int, int] | None) -> bool:
    """Whether the file that is there has the content; then its owner, mode and time are set right as well."""
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size or found.st_nlink > 1:
        return False
    descriptor = open_file(cursor.fd, entry.name, found)
    try:
        if copy_content(descriptor, None, entry.size) != entry.digest:
            return False
        _set(descriptor, entry, owner)
    except ContentChanged:
        return False
    finally:
        os.close(descriptor)
    return True


def _write(cursor: Cursor, entry: Entry, store: BlobStore, owner: tuple[int, int] | None) -> None:
    with replacing(cursor.fd, entry.name) as descriptor:
        store.copy_to(entry.digest, descriptor)
        _set(descriptor, entry, owner)


def _write_fresh(cursor: Cursor, entry: Entry, store: BlobStore, owner: tuple[int, int] | None) -> None:
    """Into a tree that nobody else writes to: there is nothing to replace, and nothing that could be put in the way."""
    with explaining(lambda: cursor.below(entry.name), "restoring"):
        descriptor = os.open(entry.name, _FRESH, 0o600, dir_fd=cursor.fd)
        try:
            store.copy_to(entry.digest, descriptor)
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)


def _set(descriptor: int, entry: Entry, owner: tuple[int, int] | None) -> None:
    hand_over(descriptor, entry.mode, owner)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


def _is(cursor: Cursor, entry: Entry, found: os.stat_result) -> bool:
    """Whether the link or special file that is there is the one that is meant."""
    if entry.kind == "link":
        return stat.S_ISLNK(found.st_mode) and os.readlink(entry.name, dir_fd=cursor.fd) == entry.target
    return kind_of(found) == entry.kind and (entry.kind != "fifo" or found.st_mode & 0o1777 == entry.mode)


def _make_special(cursor: Cursor, entry: Entry) -> None:
    if entry.kind == "link":
        os.symlink(entry.target, entry.name, dir_fd=cursor.fd)
        return
    os.mkfifo(entry.name, 0o600, dir_fd=cursor.fd)
    handle = open_beneath(cursor.fd, entry.name, HANDLE)
    try:
        if not stat.S_ISFIFO(os.fstat(handle).st_mode):
            raise tree_changed(cursor.below(entry.name))
        os.chmod(pinned(handle), entry.mode)
    finally:
        os.close(handle)


def _stamp(cursor: Cursor, entry: Entry, owner: tuple[int, int] | None) -> None:
    """Owner and time of a link or FIFO itself."""
    made = os.stat(entry.name, dir_fd=cursor.fd, follow_symlinks=False)
    if owner is not None and (made.st_uid, made.st_gid) != owner:
        os.chown(entry.name, *owner, dir_fd=cursor.fd, follow_symlinks=False)
    os.utime(entry.name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=cursor.fd, follow_symlinks=False)


def _look(cursor: Cursor, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=cursor.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


# --- text ------------------------------------------------------------------------------------------------------------------


def text_difference(before: Entry | None, after: Entry | None, store: BlobStore) -> str:
    """A unified difference of two contents, safe to print; says so where they are long or no text."""
    return unified(_content(before, store), _content(after, store), _path(before), _path(after))


def _content(entry: Entry | None, store: BlobStore) -> bytes | None:
    if entry is None:
        return b""
    return store.read(entry.digest, _TEXT_LIMIT) if entry.kind == "file" else entry.target


def _path(entry: Entry | None) -> bytes:
    return b"" if entry is None else entry.path
