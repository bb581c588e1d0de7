"""`volume_without_score`: ever more is written, and the check score does not move."""

from __future__ import annotations

from gearcase.events import CheckRan, FilesSeen
from gearcase.monitors.scores import Scores, points
from gearcase.monitors.seam import Alarm, Detector, Fact

LINE = 40
"""Bytes that count as a line."""
LINES, TREE = 400, 0.5
"""Lines written since the best score, or this share of all files' size where that is more."""
EVALUATIONS = 4


class VolumeWithoutScore(Detector):
    """See the module."""

    name = "volume_without_score"
    kinds = (FilesSeen, CheckRan)
    needs = frozenset({"check", "files"})
    rule = "400 lines or half the tree written since the best check score, and 4 evaluations without a better one: note"

    def __init__(self) -> None:
        self._scores: dict[tuple[str, str], Scores] = {}
        self._written: dict[str, int] = {}
        self._tree: dict[str, int] = {}

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, FilesSeen):
            self._written[fact.agent] = self._written.get(fact.agent, 0) + event.changed_bytes
            self._tree[fact.agent] = event.bytes
            return None
        assert isinstance(event, CheckRan)
        score = points(event)
        if score is None:
            return None
        scores = self._scores.setdefault((fact.agent, event.name), Scores())
        if scores.add(score, drop=0.0):
            self._written[fact.agent] = 0
        written = self._written.get(fact.agent, 0)
        if scores.since < EVALUATIONS or written <= max(LINES * LINE, TREE * self._tree.get(fact.agent, 0)):
            return None
        said = f"about {written // LINE:,} lines were written since check {event.name} had its best score, {scores.since} evaluations ago"
        remedy = "go back to the state of the best score and make one small change that the check sees"
        evidence = {"lines": written // LINE, "evaluations": scores.since, "best": scores.best}
        return Alarm(self.name, "note", said, remedy, fact.agent, evidence)
