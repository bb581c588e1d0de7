"""What a map holds: the items that wait, and the endings that nobody has taken yet. Each knows its bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gearcase.swarm.items import Ended, Waiting


class Line:
    """Items that wait to be asked about."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._waiting)

    def add(self, one: Waiting, *, first: bool = False) -> None:
        """At the end, or before all others."""
        (self._waiting.appendleft if first else self._waiting.append)(one)
        self.bytes += len(one.item.text)

    def next(self) -> Waiting:
        """The first; it waits no longer."""
        one = self._waiting.popleft()
        self.bytes -= len(one.item.text)
        return one

    def clear(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()
        self.bytes = 0


class Endings:
    """Endings, in the order in which they happened."""

    def __init__(self) -> None:
        self._ended: deque[Ended] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, ended: Ended) -> None:
        """One more."""
        self._ended.append(ended)
        self.bytes += ended.size

    def take(self, most_bytes: int) -> list[Ended]:
        """As many as fit, and one in any case."""
        taken: list[Ended] = []
        size = 0
        while self._ended and (not taken or size + self._ended[0].size <= most_bytes):
            ended = self._ended.popleft()
            self.bytes -= ended.size
            size += ended.size
            taken.append(ended)
        return taken
