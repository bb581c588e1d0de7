"""`no_progress`: money and steps go, and the best check score stays where it is."""

from __future__ import annotations

from gearcase.events import CheckRan
from gearcase.monitors.scores import Scores, points
from gearcase.monitors.seam import Alarm, Detector, Fact

NOTE_AT, LATCH_AT = 0.15, 0.30
"""Share of the budget since the best score."""
EVALUATIONS, STEPS = 3, 20


class NoProgress(Detector):
    """See the module."""

    name = "no_progress"
    kinds = (CheckRan,)
    needs = frozenset({"check", "budget"})
    rule = "no better check score for 15 % of the budget, 3 evaluations and 20 steps: note; 30 %: latch"

    def __init__(self) -> None:
        self._scores: dict[tuple[str, str], tuple[Scores, float, int]] = {}

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        assert isinstance(event, CheckRan)
        score = points(event)
        if score is None:
            return None
        key, share = (fact.agent, event.name), fact.run.share(fact.at)
        scores, at, step = self._scores.get(key, (Scores(), share, fact.step))
        if scores.add(score, drop=0.0):
            at, step = share, fact.step
        self._scores[key] = (scores, at, step)
        used, steps = share - at, fact.step - step
        if scores.since < EVALUATIONS or steps < STEPS or used < NOTE_AT or event.verdict == "passed":
            return None
        said = f"check {event.name} is at {scores.best:g} since {steps} steps, {scores.since} evaluations and {used:.0%} of the budget"
        remedy = "try another way than the last ones, or hand in the best state: `gear rewind` lists what is kept"
        evidence = {"best": scores.best, "evaluations": scores.since, "steps": steps, "share": round(used, 3)}
        return Alarm(self.name, "latch" if used >= LATCH_AT else "note", said, remedy, fact.agent, evidence)
