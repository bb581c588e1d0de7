"""`regression`: the work was better before, and goes on from a worse state."""

from __future__ import annotations

from gearcase.events import CheckRan, SnapshotTaken
from gearcase.monitors.scores import Scores, points
from gearcase.monitors.seam import Alarm, Detector, Fact

DROP, EVALUATIONS = 20.0, 3
"""Points under the best score, and evaluations running."""


class Regression(Detector):
    """See the module."""

    name = "regression"
    kinds = (CheckRan, SnapshotTaken)
    needs = frozenset({"check"})
    rule = "20 points under the best check score for 3 evaluations: a note that names the snapshot of the best"

    def __init__(self) -> None:
        self._scores: dict[tuple[str, str], tuple[Scores, str]] = {}
        self._snapshot: dict[str, str] = {}

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, SnapshotTaken):
            self._snapshot[fact.agent] = event.snapshot
            return None
        assert isinstance(event, CheckRan)
        score = points(event)
        if score is None:
            return None
        key = (fact.agent, event.name)
        scores, kept = self._scores.get(key, (Scores(), ""))
        if scores.add(score, DROP):
            kept = self._snapshot.get(fact.agent, "")
        self._scores[key] = (scores, kept)
        if scores.below < EVALUATIONS:
            return None
        said = f"check {event.name} had {scores.best:g} before, and {score:g} now, {scores.below} times running"
        remedy = (
            f"go back to the better state: gear rewind {kept}"
            if kept
            else "undo what made it worse; `gear snapshot` keeps a good state"
        )
        evidence = {"best": scores.best, "now": score, "running": scores.below, "snapshot": kept}
        return Alarm(self.name, "note", said, remedy, fact.agent, evidence)
