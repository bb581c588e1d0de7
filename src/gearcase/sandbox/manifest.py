"""What a tree held at one moment, and how two moments differ.

An `Entry` knows its folder and not its path, so a tree of any depth takes memory by its entries alone; `path` joins names when
asked. A manifest's `digest` is of names, kinds, modes, contents and link targets: equal digests mean equal trees, whenever and
wherever they were scanned. Times and inodes are hints for the next scan only. Set-id bits are not kept.

The JSON form carries a version. It is read back from disk with every name, order and reference checked, because `restore` acts on
it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from gearcase.errors import RunError

FORMAT = "gearcase-manifest/1"

_DIGEST = re.compile("b?[0-9a-f]{64}")

Kind = Literal["file", "directory", "link", "fifo", "socket", "device", "mount"]
_KINDS = frozenset(get_args(Kind))


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One name in a tree. Sizes in bytes, times in nanoseconds since 1970; `digest` is of a file's content, `target` a link's."""

    name: bytes
    parent: Entry | None = field(repr=False)
    kind: Kind
    mode: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = -1  # -1: the next scan reads the file again
    ino: int = 0
    digest: str = ""
    target: bytes = b""

    @property
    def path(self) -> bytes:
        """Relative to the root, joined by slashes."""
        names = [self.name]
        folder = self.parent
        while folder is not None:
            names.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed(names))

    def same(self, other: Entry) -> bool:
        """Whether both are the same thing, whatever their times and place."""
        return (self.kind, self.mode, self.digest, self.target) == (other.kind, other.mode, other.digest, other.target)


@dataclass(frozen=True, eq=False)
class Manifest:
    """Entries with every folder before what it holds, names in the order of their bytes. `scanned_ns`: when the scan began."""

    entries: tuple[Entry, ...] = ()
    scanned_ns: int = 0

    @functools.cached_property
    def _places(self) -> dict[tuple[int, bytes], Entry]:
        return {(id(entry.parent), entry.name): entry for entry in self.entries}

    def child(self, folder: Entry | None, name: bytes) -> Entry | None:
        """The entry of that name in a folder of this manifest (None: the root)."""
        return self._places.get((id(folder), name))

    def find(self, path: bytes) -> Entry | None:
        """The entry at a path relative to the root."""
        entry: Entry | None = None
        for name in path.split(b"/"):
            entry = self.child(entry, name)
            if entry is None:
                return None
        return entry

    def part(self, wanted: Callable[[Entry], bool]) -> Manifest:
        """The entries that are wanted, with the folders that they lie in."""
        kept: set[int] = set()
        for entry in self.entries:
            at: Entry | None = entry if wanted(entry) else None
            while at is not None and id(at) not in kept:
                kept.add(id(at))
                at = at.parent
        return Manifest(tuple(entry for entry in self.entries if id(entry) in kept), self.scanned_ns)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what the tree is, in hexadecimal."""
        state = hashlib.sha256(FORMAT.encode())
        numbers: dict[int, int] = {id(None): -1}
        for number, entry in enumerate(self.entries):
            numbers[id(entry)] = number
            fields = (numbers[id(entry.parent)], entry.kind, entry.mode, entry.digest, len(entry.name), len(entry.target))
            state.update(repr(fields).encode() + entry.name + entry.target)
        return state.hexdigest()

    @property
    def files(self) -> int:
        """How many regular files."""
        return sum(entry.kind == "file" for entry in self.entries)

    @property
    def size(self) -> int:
        """The sizes of all regular files."""
        return sum(entry.size for entry in self.entries if entry.kind == "file")

    def digests(self) -> Iterator[str]:
        """Of every file's content: what a store must keep."""
        return (entry.digest for entry in self.entries if entry.kind == "file")

    def to_json(self) -> bytes:
        """The versioned form; names that are not UTF-8 are written by surrogate escapes."""
        numbers: dict[int, int] = {id(None): -1}
        rows: list[list[Any]] = []
        for number, entry in enumerate(self.entries):
            numbers[id(entry)] = number
            hints = [entry.size, entry.mtime_ns, entry.ctime_ns, entry.ino]
            rows.append(
                [numbers[id(entry.parent)], _text(entry.name), entry.kind, entry.mode, *hints, entry.digest, _text(entry.target)]
            )
        form = {"format": FORMAT, "scanned_ns": self.scanned_ns, "digest": self.digest, "entries": rows}
        return json.dumps(form, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read `to_json`'s form. Raises RunError `bad_manifest` for anything else, an altered one included."""
        try:
            form = cast(dict[str, Any], json.loads(data))
            if form["format"] != FORMAT:
                raise ValueError(f"its format is {form['format']!r}, not {FORMAT!r}")
            entries: list[Entry] = []
            for row in form["entries"]:
                entries.append(_entry(row, entries))
            manifest = cls(tuple(entries), int(form["scanned_ns"]))
            if len(manifest._places) != len(entries):
                raise ValueError("a name stands twice in a folder")
            if manifest.digest != form["digest"]:
                raise ValueError("its content does not match its digest")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise RunError(
                "bad_manifest",
                f"a snapshot's manifest cannot be read: {error}",
                cause=str(error),
                remedy="use another snapshot of the run; this file is damaged, altered or of another version of gearcase",
            ) from error
        return manifest


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _entry(row: list[Any], before: list[Entry]) -> Entry:
    parent: int
    parent, name, kind, mode, size, mtime_ns, ctime_ns, ino, digest, target = row
    raw = cast(str, name).encode("utf-8", "surrogateescape")
    if raw in (b"", b".", b"..") or b"/" in raw or b"\0" in raw:
        raise ValueError(f"{raw!r} is no name")
    if kind not in _KINDS or {*map(type, (parent, mode, size, mtime_ns, ctime_ns, ino))} != {int}:
        raise ValueError("an entry has a field of the wrong kind")
    if not -1 <= parent < len(before) or (parent >= 0 and before[parent].kind != "directory"):
        raise ValueError("an entry has no folder")
    if kind == "file" and not is_digest(digest):
        raise ValueError("a file has no digest")
    folder = before[parent] if parent >= 0 else None
    link = cast(str, target).encode("utf-8", "surrogateescape")
    return Entry(raw, folder, kind, mode & 0o1777, size, mtime_ns, ctime_ns, ino, digest, link)


def row_of(entry: Entry) -> list[Any]:
    """An entry by its path, for `entries_of`: path, kind, mode, size, time of change, digest, target."""
    return [_text(entry.path), entry.kind, entry.mode, entry.size, entry.mtime_ns, entry.digest, _text(entry.target)]


def entries_of(tree: Mapping[str, list[Any]]) -> tuple[Entry, ...]:
    """The entries of a tree, by paths, in a manifest's order. Raises what `Manifest.from_json` is careful about, as Python says it."""
    places: dict[bytes, int] = {}
    before: list[Entry] = []
    named = {path.encode("utf-8", "surrogateescape"): row for path, row in tree.items()}
    for path in sorted(named, key=lambda one: one.split(b"/")):
        kind, mode, size, mtime_ns, digest, target = named[path]
        folder, _, name = path.rpartition(b"/")
        parent = places[folder] if folder else -1
        entry = _entry([parent, _text(name), kind, mode, size, mtime_ns, -1, 0, digest, target], before)
        places[path] = len(before)
        before.append(entry)
    return tuple(before)


def is_digest(text: object) -> bool:
    """Whether this is a digest of `content`: 64 hexadecimal digits, after a `b` for the block form."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


# --- difference ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing before and after."""

    before: Entry
    after: Entry


@dataclass(frozen=True, slots=True)
class Difference:
    """What happened between two manifests. A file whose content lives on at another path is `moved`, which is no loss."""

    added: tuple[Entry, ...] = ()
    changed: tuple[Pair, ...] = ()
    removed: tuple[Entry, ...] = ()
    moved: tuple[Pair, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.moved)

    def paths(self, limit: int) -> list[bytes]:
        """The first paths concerned, sorted."""
        first: list[Entry] = []
        for entries in (self.added, tuple(pair.after for pair in (*self.changed, *self.moved)), self.removed):
            first.extend(entries[:limit])
        return sorted(entry.path for entry in first)[:limit]

    @property
    def size(self) -> int:
        """Size of the files that were added or changed."""
        files = (*self.added, *(pair.after for pair in self.changed))
        return sum(entry.size for entry in files if entry.kind == "file")


def difference(before: Manifest, after: Manifest) -> Difference:
    """What changed from one to the other, in the order of the manifests; times alone are no change."""
    counterpart: dict[int, Entry | None] = {id(None): None}  # of a folder of `after`, where it has one in `before`
    met: set[int] = set()
    added: list[Entry] = []
    changed: list[Pair] = []
    for entry in after.entries:
        old = before.child(counterpart[id(entry.parent)], entry.name) if id(entry.parent) in counterpart else None
        if old is None:
            added.append(entry)
            continue
        met.add(id(old))
        if old.kind == entry.kind == "directory":
            counterpart[id(entry)] = old
        if not old.same(entry):
            changed.append(Pair(old, entry))
    removed = [entry for entry in before.entries if id(entry) not in met]
    moved = tuple(_moves(removed, added))
    gone, come = {id(pair.before) for pair in moved}, {id(pair.after) for pair in moved}
    return Difference(
        tuple(entry for entry in added if id(entry) not in come),
        tuple(changed),
        tuple(entry for entry in removed if id(entry) not in gone),
        moved,
    )


def _moves(removed: Iterable[Entry], added: Iterable[Entry]) -> Iterator[Pair]:
    """Removed files paired with added ones of the same content, the same name first."""
    homes: dict[str, list[Entry]] = {}
    for entry in reversed(tuple(added)):  # so that the first is taken from the end, at no cost
        if entry.kind == "file" and entry.size:
            homes.setdefault(entry.digest, []).append(entry)
    for entry in removed:
        candidates = homes.get(entry.digest, []) if entry.kind == "file" else []
        if candidates:
            places = range(len(candidates) - 1, max(-1, len(candidates) - 17), -1)
            yield Pair(entry, candidates.pop(next((place for place in places if candidates[place].name == entry.name), -1)))
