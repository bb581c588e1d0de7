"""Proof, offline and without the writer, that a journal is what was written.

Each record carries the hash of the one before. So a record that was changed is found by its successor, one that is missing,
moved or doubled by its sequence number. The last record has no successor: only a head that one holds speaks for it. What was cut off the
end after that head, or rewritten there, nothing can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from gearcase.errors import UsageError
from gearcase.journal.lines import FIRST_PREV, lines_of, no_journal, segments

_LINK = 66  # of `<64 digits>"}` at the end of a line
_SHORTEST_HEAD = 16
_LINK_CHANGED = "its link to the record before was changed"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was proven. `records` and `head` are of the unbroken part; `first_bad` is the sequence of the first record that was
    changed, removed or moved, 0 when all is well; `reason` says what is wrong with it. `held` is the sequence of the record with the
    head that one holds, 0 where none is held or it was not found: what was cut off after it is not seen."""

    ok: bool
    records: int
    head: str
    first_bad: int
    reason: str
    held: int


class Broken(Exception):
    """A chain ends before its lines do, at the first bad sequence."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(seq, reason)
        self.seq = seq
        self.reason = reason


def verify(folder: Path, head: str = "", at: int = 0) -> Verification:
    """Check every record; with a `head` that one holds (at least 16 digits), that the record with it is there.

    `at`, the sequence of that head, lets a journal that was cut short be told from one whose last record was changed; without it,
    the record after the last one is named where that head is not found.
    Raises RunError `no_journal`, and UsageError `bad_head`.
    """
    if head and not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_HEAD},64}}", head):
        raise UsageError(
            "bad_head",
            f"{head!r} is not a head",
            remedy=f"give the head that was printed at the run's end: {_SHORTEST_HEAD} to 64 digits 0-9a-f",
        )
    paths = segments(folder)
    if not paths:
        raise no_journal(folder)
    chain = Chain(head, at)
    try:
        chain.walk(lines_of(paths))
    except Broken as broken:
        return Verification(False, chain.records, chain.head, broken.seq, broken.reason, chain.held)
    if head and not chain.held:
        gone = f"the head that you hold is not there: what came after record {chain.records} was removed, or that record changed"
        return Verification(False, chain.records, chain.head, chain.records + 1, gone, 0)
    return Verification(True, chain.records, chain.head, 0, "", chain.held)


class Chain:
    """A walk over lines that stops at the first that does not follow from those before.

    `records`, `head` and `size` (bytes, newlines included) describe the part that holds together; `held` is where the wanted head is.
    """

    def __init__(self, wanted: str = "", at: int = 0) -> None:
        self.records = 0
        self.head = FIRST_PREV
        self.size = 0
        self.held = 0
        self._wanted = wanted
        self._at = at
        self._before = FIRST_PREV  # the head one record earlier

    def walk(self, lines: Iterator[bytes]) -> None:
        """Raises `Broken` with the first bad sequence."""
        for line in lines:
            seq = self.records + 1
            self._check_shape(line, seq)
            body = line[:-1]
            digest = sha256(body).hexdigest()
            if body[-_LINK:-2] != self.head.encode():
                raise self._blame(seq, body, digest, next(lines, b""))
            if self._wanted and digest.startswith(self._wanted):
                self.held = seq
            elif seq == self._at and self._wanted:
                raise Broken(seq, "it was changed: it does not have the head that you hold")
            self.records, self._before, self.head = seq, self.head, digest
            self.size += len(line)

    def _check_shape(self, line: bytes, seq: int) -> None:
        if not line.endswith(b"\n"):
            raise Broken(seq, "the last line is incomplete: a crash left it, or it was cut")
        if not line.startswith(b'{"seq":%d,' % seq):
            raise Broken(seq, "another record, or none, stands in its place: it was removed, moved, doubled or changed")
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError:
            raise Broken(seq, "it is not a record any more: it was changed") from None

    def _blame(self, seq: int, body: bytes, digest: str, successor: bytes) -> Broken:
        """The link of `seq` is not the hash of the record before it: one of the two was changed. A record is intact that has the head that
        one holds, or of which its successor tells the hash. Where nothing speaks for either, a change of the one before is the likelier.
        """
        if seq == 1 or self.held == seq - 1:
            return Broken(seq, _LINK_CHANGED)
        intact = self._is_wanted(digest) or self._is_wanted(_link(body)) or (bool(successor) and _link(successor[:-1]) == digest)
        unspoken = not successor and (self.held > 0 or not self._wanted)
        if not intact and not unspoken:
            return Broken(seq, _LINK_CHANGED)
        self.records, self.head = self.records - 1, self._before
        return Broken(seq - 1, "it was changed: the record after it holds another hash")

    def _is_wanted(self, digest: str) -> bool:
        return bool(self._wanted) and digest.startswith(self._wanted)


def _link(body: bytes) -> str:
    """The hash that a record holds of the one before."""
    return body[-_LINK:-2].decode("ascii", "replace")
