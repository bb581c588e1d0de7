"""What two detectors call a loss of files: those of the start whose content is nowhere any more, within a while."""

from __future__ import annotations

from collections import deque

from gearcase.events import FilesSeen
from gearcase.monitors.totals import GIVEN


class Losses:
    """Losses of files within a window of `seconds`. `now` and `bytes`: files and bytes lost within it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])
        self.now = 0
        self.bytes = 0
        self.before = GIVEN
        """The snapshot that stood before the first of them."""

    def add(self, event: FilesSeen, at: float, stood: str) -> None:
        """One more look; `stood`: the snapshot before it. What has come back is no loss."""
        if not self.now:
            self.before = stood
        self._seen.append((at, event.lost, event.lost_bytes))
        while len(self._seen) > 1 and self._seen[1][0] <= at - self._seconds:
            self._seen.popleft()
        self.now = event.lost - min(lost for _at, lost, _size in self._seen)
        self.bytes = event.lost_bytes - min(size for _at, _lost, size in self._seen)
