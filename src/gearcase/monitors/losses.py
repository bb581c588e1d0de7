"""What two detectors call a loss: files of the start whose content is nowhere any more, and statements that take data away."""

from __future__ import annotations

from collections import deque

from gearcase.events import DatabaseOpened, FilesSeen, StatementRan

_DROPS = frozenset({"DROP TABLE", "DROP SCHEMA", "DROP DATABASE", "DROP MATERIALIZED VIEW"})
_MAKES = frozenset({"CREATE TABLE", "CREATE TABLE AS", "SELECT INTO", "CREATE SCHEMA", "CREATE MATERIALIZED VIEW"})
HALF = 0.5
"""Share of a database's rows that one statement may not take or overwrite."""
FEW_ROWS = 100
"""Rows below which half of them are no loss."""


class Losses:
    """Losses of files within a window of `seconds`. `now` and `bytes`: files and bytes lost within it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])
        self.now = 0
        self.bytes = 0

    def add(self, event: FilesSeen, at: float) -> None:
        """One more look. What has come back is no loss."""
        self._seen.append((at, event.lost, event.lost_bytes))
        while len(self._seen) > 1 and self._seen[1][0] <= at - self._seconds:
            self._seen.popleft()
        self.now = event.lost - min(lost for _at, lost, _size in self._seen)
        self.bytes = event.lost_bytes - min(size for _at, _lost, size in self._seen)


class Statements:
    """What was taken from databases that began with something."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._made: dict[str, int] = {}

    def opened(self, event: DatabaseOpened) -> None:
        """Where a database began with tables, they are looked after."""
        if event.tables and event.mode != "fresh":
            self._rows[event.door] = event.rows

    def taken(self, event: StatementRan) -> str:
        """What a statement took away, in words; empty where it took nothing."""
        door, kind = event.door, event.kind
        if door not in self._rows or event.error:
            return ""
        if kind in _MAKES:
            self._made[door] = self._made.get(door, 0) + 1
        elif kind in _DROPS or kind == "TRUNCATE TABLE":
            if self._made.get(door, 0) > 0:  # perhaps its own
                self._made[door] -= kind in _DROPS
                return ""
            return f"{kind} in {door}"
        elif kind in ("DELETE", "UPDATE") and event.rows >= max(FEW_ROWS, HALF * self._rows[door]):
            return f"{kind} of {event.rows:,} of {self._rows[door]:,} rows in {door}"
        return ""
