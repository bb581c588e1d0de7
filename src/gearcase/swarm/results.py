"""What the maps of a run have paid for, by content: the same question is never paid for twice.

The key is a hash of everything that an answer depends on (see `map.py`), never a position, so a map that is begun again, over the same
or other files, finds what is finished. It lies in the run's folder, outside every box. What was put in is on disk before it is
handed out, and before whoever asked for it asks for more; the kill of a process loses none of that.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from gearcase.errors import GearcaseError, RunError
from gearcase.swarm.learned import Learned

_TABLES = """
CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, answer TEXT NOT NULL, attempts INTEGER NOT NULL, cost INTEGER NOT NULL,
    prompt TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS learned (key BLOB PRIMARY KEY, prompts TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that fits, as JSON text; how often it was asked for, and what that cost in nano-dollars.

    `prompt`: the hash of the prompt that it was given to, where that is not the one of the question.
    """

    answer: str
    attempts: int
    cost: int
    prompt: str = ""


class Results:
    """A store of answers. Methods raise RunError `results_unwritable` when the disk refuses."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._open = 0

    def get(self, key: bytes) -> Kept | None:
        """What is kept under a key."""
        try:
            row = self._database().execute("SELECT answer, attempts, cost, prompt FROM results WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _unwritable(error) from error
        return Kept(*row) if row else None

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep an answer: on disk with the next `flush`, or at the next turn of the event loop, with all that were put in at this one."""
        try:
            database = self._database()
            if not self._open:
                database.execute("BEGIN")
                asyncio.get_running_loop().call_soon(self._flush_soon)
            database.execute(
                "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", (key, kept.answer, kept.attempts, kept.cost, kept.prompt)
            )
        except sqlite3.Error as error:
            raise _unwritable(error) from error
        self._open += 1

    def _flush_soon(self) -> None:
        with suppress(GearcaseError):  # it stays open: the next who flushes is told
            self.flush()

    def learn(self, key: bytes, learned: Learned) -> None:
        """Keep what a repair found for the map of this key, on disk at once."""
        try:
            self.flush()
            self._database().execute("INSERT OR REPLACE INTO learned VALUES (?, ?)", (key, learned.to_json()))
        except sqlite3.Error as error:
            raise _unwritable(error) from error

    def learned(self, key: bytes) -> Learned | None:
        """What the repair of an earlier map of this key found."""
        try:
            row = self._database().execute("SELECT prompts FROM learned WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _unwritable(error) from error
        return Learned.from_json(row[0]) if row else None

    def flush(self) -> None:
        """What was put in survives the kill of this process."""
        if not self._open:
            return
        try:
            self._database().execute("COMMIT")
        except sqlite3.Error as error:
            raise _unwritable(error) from error
        self._open = 0

    def close(self) -> None:
        """Flush and let go. Idempotent."""
        if self._connection is not None:
            self.flush()
            self._connection.close()
            self._connection = None

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._file, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_TABLES)
            self._connection = connection
        return self._connection


def take_over(source: Path, target: Path) -> int:
    """Copy the answers of a run that is over into the store of one that has not begun; returns how many. Raises as `Results` does."""
    try:
        with closing(sqlite3.connect(source)) as before, closing(sqlite3.connect(target)) as after:
            before.backup(after)
            after.executescript(_TABLES)  # it may have died before it made them
            (count,) = after.execute("SELECT count(*) FROM results").fetchone()
    except sqlite3.Error as error:
        raise _unwritable(error) from error
    return int(count)


def _unwritable(error: sqlite3.Error) -> RunError:
    return RunError(
        "results_unwritable",
        "the answers of a map cannot be kept",
        cause=str(error),
        remedy="see that the disk of the run's folder has room and is writable; what was kept before is found again",
    )
