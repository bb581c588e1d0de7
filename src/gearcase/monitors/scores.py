"""The scores of checks over time, as three detectors look at them."""

from __future__ import annotations

from gearcase.events import CheckRan


class Scores:
    """The best score of one check, and how it went since. A check without a score counts 1 where it passes, else 0."""

    def __init__(self) -> None:
        self.best = float("-inf")
        self.since = 0  # evaluations after the best one
        self.below = 0  # evaluations running that are under the best by `DROP` or more

    def add(self, score: float, drop: float) -> bool:
        """One more evaluation; whether it is the best so far."""
        if score > self.best:
            self.best, self.since, self.below = score, 0, 0
            return True
        self.since += 1
        self.below = self.below + 1 if self.best - score >= drop else 0
        return False


def points(event: CheckRan) -> float | None:
    """A score in points of a hundred; None where the check did not run."""
    if event.verdict == "skipped":
        return None
    if event.score is None:
        return 100.0 if event.verdict == "passed" else 0.0
    return event.score * 100 if 0 <= event.score <= 1 else event.score
