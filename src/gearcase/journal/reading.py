"""Records of a journal: those that are there (`read`), and those that come (`follow`). Neither proves anything: see `verify`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from gearcase.errors import RunError
from gearcase.journal.lines import Record, decode, lines_of, no_journal, segment, segments

_POLL = 0.05  # seconds
_CHUNK = 1024 * 1024
_TURN = 256  # records after which other tasks get their turn


def read(folder: Path) -> Iterator[Record]:
    """Every complete record, from the first. An incomplete last line is not a record.

    Raises RunError `no_journal` where there is none, `journal_damaged` at a line that is no record.
    """
    paths = segments(folder)
    if not paths:
        raise no_journal(folder)
    return _records(folder, paths)


def _records(folder: Path, paths: list[Path]) -> Iterator[Record]:
    for number, line in enumerate(lines_of(paths), 1):
        if not line.endswith(b"\n"):
            return
        yield _decoded(folder, line[:-1], number)


async def follow(folder: Path, after: int = 0) -> AsyncIterator[Record]:
    """Records with a sequence above `after`, as they are written, by this process or another; never ends by itself.

    Waits for a journal that does not exist yet. Raises RunError `journal_damaged` at a line that is no record.
    """
    number, offset, seen = 1, 0, 0
    while True:
        path = segment(folder, number)
        # Whether the next segment exists is asked before reading: its existence means that this one is complete.
        complete = segment(folder, number + 1).exists()
        chunk = _from(path, offset)
        end = chunk.rfind(b"\n") + 1
        for line in chunk[: end - 1].split(b"\n") if end else ():
            seen += 1
            record = _decoded(folder, line, seen)
            if record.seq > after:
                yield record
            if seen % _TURN == 0:
                await asyncio.sleep(0)
        offset += end
        if end:
            continue
        if complete:
            number, offset = number + 1, 0
        else:
            await asyncio.sleep(_POLL)


def _from(path: Path, offset: int) -> bytes:
    """What stands in a file from an offset on: at least a whole line where there is one. An incomplete line is read again
    each time, because a writer that comes back after a crash cuts it."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(_CHUNK)
            return chunk if b"\n" in chunk else chunk + file.read(_CHUNK)
    except FileNotFoundError:
        return b""


def _decoded(folder: Path, line: bytes, number: int) -> Record:
    try:
        return decode(line)
    except ValueError as error:
        raise RunError(
            "journal_damaged",
            f"record {number} in {os.fspath(folder)} cannot be read",
            cause=str(error),
            remedy="find the first bad record with: gearcase journal verify",
            seq=number,
        ) from None
