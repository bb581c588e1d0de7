"""A delivery as a patch, where the tree that was given is a git repository: what `git apply` there makes of it is the delivery.

Computed here, without running git: its configuration, attributes and filters are programs, and the files are the agent's. Text goes
as hunks, anything else as a git binary patch. What counts as changed is for `changes.py` to say.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gearcase.doors.changes import Changed, contents
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import Refusal
from gearcase.sandbox.textdiff import hunks, is_text
from gearcase.units import format_bytes

MOST_FILE = 16 << 20
"""Largest file in bytes that a patch carries."""

MOST_PATCH = 64 << 20
"""Largest patch in bytes."""

_MOST_TEXT = 1 << 20
_NOTHING = "0" * 40


@dataclass(frozen=True, slots=True)
class Patch:
    """`data` is for `git apply` in the given repository; empty when nothing changed."""

    data: bytes
    left_out: tuple[Refusal, ...] = ()


def as_patch(changes: Iterable[Changed], store: BlobStore, staging: Path) -> Patch:
    """What changed, with paths relative to the repository.

    Raises RunError `blob_damaged`, or what reading the staged files says.
    """
    data: list[bytes] = []
    left_out: list[Refusal] = []
    size = 0
    staged = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for change in changes:
            if change.size > MOST_FILE or size + change.size > MOST_PATCH:
                left_out.append(Refusal(change.path, f"{format_bytes(change.size)} is too much for a patch"))
                continue
            old, new = contents(change, store, staged, MOST_FILE)
            before, after = change.before, change.after
            part = _file_patch(change.path, _Side(old, before.mode if before else 0), _Side(new, after.mode if after else 0))
            size += len(part)
            data.append(part)
    finally:
        os.close(staged)
    return Patch(b"".join(data), tuple(left_out))


@dataclass(frozen=True, slots=True)
class _Side:
    """A file before or after; no data: it is not there."""

    data: bytes | None
    raw_mode: int

    @property
    def mode(self) -> bytes:
        return b"100755" if self.raw_mode & 0o100 else b"100644"

    @property
    def number(self) -> bytes:
        """The object's name in git."""
        if self.data is None:
            return _NOTHING.encode()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data, usedforsecurity=False).hexdigest().encode()


def _file_patch(path: bytes, old: _Side, new: _Side) -> bytes:
    if old.data == new.data and old.mode == new.mode:
        return b""
    a, b = quoted(b"a/" + path), quoted(b"b/" + path)
    parts = [b"diff --git %b %b\n" % (a, b)]
    if old.data is None:
        parts.append(b"new file mode %b\n" % new.mode)
    elif new.data is None:
        parts.append(b"deleted file mode %b\n" % old.mode)
    elif old.mode != new.mode:
        parts.append(b"old mode %b\nnew mode %b\n" % (old.mode, new.mode))
    before, after = old.data or b"", new.data or b""
    if old.data == new.data:
        return b"".join(parts)
    same_mode = b" " + old.mode if old.data is not None and new.data is not None and old.mode == new.mode else b""
    parts.append(b"index %b..%b%b\n" % (old.number, new.number, same_mode))
    if before == after:  # an empty file came or went
        return b"".join(parts)
    if is_text(before) and is_text(after) and max(len(before), len(after)) <= _MOST_TEXT:
        parts.append(b"--- %b\n" % (b"/dev/null" if old.data is None else _titled(a)))
        parts.append(b"+++ %b\n" % (b"/dev/null" if new.data is None else _titled(b)))
        parts += hunks(before, after)
    else:
        parts += [b"GIT binary patch\n", _literal(after), _literal(before)]
    return b"".join(parts)


def quoted(path: bytes) -> bytes:
    """A path as git writes it: in quotes, with octal escapes, where a byte is not plain."""
    if all(0x20 <= byte < 0x7F and byte not in b'"\\' for byte in path):
        return path
    escapes = {0x22: b'\\"', 0x5C: b"\\\\", 0x09: b"\\t", 0x0A: b"\\n", 0x0D: b"\\r"}
    plain = (escapes.get(byte) or (bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%03o" % byte) for byte in path)
    return b'"' + b"".join(plain) + b'"'


def _titled(path: bytes) -> bytes:
    """A tab ends a name that holds a space."""
    return path + b"\t" if b" " in path and not path.startswith(b'"') else path


def _literal(data: bytes) -> bytes:
    """A whole content in git's binary form: its size, then deflated lines of 52 bytes in base 85."""
    lines = [b"literal %d\n" % len(data)]
    packed = zlib.compress(data)
    for start in range(0, len(packed), 52):
        line = packed[start : start + 52]
        count = bytes([ord("A") + len(line) - 1 if len(line) <= 26 else ord("a") + len(line) - 27])
        lines.append(count + base64.b85encode(line, pad=True) + b"\n")
    return b"".join([*lines, b"\n"])
