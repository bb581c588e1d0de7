"""What the maps of a run have paid for, by content: the same question is never paid for twice.

The key is a hash of everything that an answer depends on (see `map.py`), never a position, so a map that is begun again, over the same
or other files, finds what is finished. It lies in the run's folder, outside every box. What was put in is on disk before it is
handed out; the kill of a process loses none of that.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from gearcase.errors import RunError

_TOGETHER = 256


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
            raise self._failed(error) from error
        return Kept(*row) if row else None

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep an answer; durable with the next `flush`."""
        try:
            database = self._database()
            if not self._open:
                database.execute("BEGIN")
            database.execute(
                "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", (key, kept.answer, kept.attempts, kept.cost, kept.prompt)
            )
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._open += 1
        if self._open >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """What was put in survives the kill of this process."""
        if not self._open:
            return
        try:
            self._database().execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
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
            connection.execute(
                "CREATE TABLE IF NOT EXISTS results "
                "(key BLOB PRIMARY KEY, answer TEXT NOT NULL, attempts INTEGER NOT NULL, cost INTEGER NOT NULL, "
                "prompt TEXT NOT NULL) WITHOUT ROWID"
            )
            self._connection = connection
        return self._connection

    def _failed(self, error: sqlite3.Error) -> RunError:
        return RunError(
            "results_unwritable",
            "the answers of a map cannot be kept",
            cause=str(error),
            remedy="see that the disk of the run's folder has room and is writable; what was kept before is found again",
        )
