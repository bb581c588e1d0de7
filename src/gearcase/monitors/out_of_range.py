"""`out_of_range`: this run takes more than runs of this box that were accepted."""

from __future__ import annotations

from gearcase.events import AgentTurn, Baseline, Cut, Settled
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.units import format_money

LEAST_RUNS = 20
"""Accepted runs without which nothing is said."""
FAR = 3
"""Times the 95th percentile that make a latch."""


class OutOfRange(Detector):
    """See the module."""

    name = "out_of_range"
    kinds = (Baseline, Settled, Cut, AgentTurn)
    needs = frozenset({"baseline"})
    rule = "more money or steps than 95 % of at least 20 accepted runs of this box: note; three times that: latch"

    def __init__(self) -> None:
        self._base: Baseline | None = None

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        if isinstance(fact.event, Baseline):
            self._base = fact.event if fact.event.runs >= LEAST_RUNS else None
            return None
        if self._base is None:
            return None
        steps = sum(fact.run.steps.values())
        money = fact.run.usd / self._base.usd if self._base.usd else 0.0
        taken = steps / self._base.steps if self._base.steps else 0.0
        times = max(money, taken)
        if times <= 1:
            return None
        what = f"{format_money(fact.run.usd)}" if money >= taken else f"{steps} steps"
        usual = format_money(self._base.usd) if money >= taken else f"{self._base.steps}"
        said = f"{what} so far, and 95 % of {self._base.runs} accepted runs of this box took at most {usual}"
        evidence = {"times": round(times, 2), "usd": fact.run.usd, "steps": steps, "runs": self._base.runs}
        remedy = "bring it to an end: hand in what there is, or say what stands in the way"
        return Alarm(self.name, "latch" if times >= FAR else "note", said, remedy, evidence=evidence)
