"""`burn_rate`: money goes much faster than the budget is meant to last. Also marks how much of it is gone."""

from __future__ import annotations

from collections import deque

from gearcase.events import Cut, Settled
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.units import format_money

SHORT, LONG = 60.0, 300.0
"""Seconds of the two windows that must both be over: the long one that it is no moment, the short one that it still goes on."""
FAST, FASTEST = 6.0, 14.4
"""Times the pace (budget by time limit) that make a note and a latch: the multiples of error-budget alerting (SRE workbook)."""
LEAST = 0.02
"""Share of the budget that five minutes must have cost."""
BURST, CALLS = 0.10, 2
"""Share of the budget, and calls, in the last minute alone: at over 6 times the pace that is told without waiting for five minutes, in
which a budget may be gone. Once in a run, and as a note: a start that reads much is such a minute, and so is a map, but not for long."""
MARKS = (0.5, 0.8, 0.95)


class BurnRate(Detector):
    """See the module."""

    name = "burn_rate"
    acts = True
    kinds = (Settled, Cut)
    needs = frozenset({"budget", "time"})
    rule = (
        "spending over 6 times its pace for 1 and for 5 minutes, or for 1 with 10 % of it, once: note; 14.4 times for both: latch; "
        "50, 80, 95 % gone: on record"
    )

    def __init__(self) -> None:
        self._spent: deque[tuple[float, int]] = deque()
        self._long = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._short = 0
        self._total = 0
        self._marked = 0
        self._burst = False  # whether one was told

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        amount = fact.run.usd - self._total
        self._total = fact.run.usd
        self._slide(fact.at, amount)
        limit, wall = fact.run.usd_limit, fact.run.wall
        if not limit or not amount:
            return None
        return (self._pace(limit / wall, limit) if wall else None) or self._mark(limit)

    def _slide(self, at: float, amount: int) -> None:
        if amount:
            self._spent.append((at, amount))
            self._recent.append((at, amount))
        self._long += amount
        self._short += amount
        while self._spent and self._spent[0][0] <= at - LONG:
            self._long -= self._spent.popleft()[1]
        while self._recent and self._recent[0][0] <= at - SHORT:
            self._short -= self._recent.popleft()[1]

    def _pace(self, pace: float, limit: int) -> Alarm | None:
        short, long = self._short / (pace * SHORT), self._long / (pace * LONG)
        if min(short, long) > FAST and self._long > LEAST * limit:
            times, went = min(short, long), f"{format_money(self._long)} of {format_money(limit)} went in five minutes"
        elif short > FAST and self._short >= BURST * limit and len(self._recent) >= CALLS and not self._burst:
            self._burst = True
            times, went = short, f"{format_money(self._short)} of {format_money(limit)} went in one minute"
        else:
            return None
        said = f"{went}, {times:.1f} times the pace of this budget"
        remedy = "find what spends it; use a cheaper model or fewer calls, or hand in what there is"
        evidence = {"times": round(times, 1), "in_5_min": self._long, "in_1_min": self._short, "limit": limit}
        return Alarm(self.name, "latch" if min(short, long) > FASTEST else "note", said, remedy, evidence=evidence)

    def _mark(self, limit: int) -> Alarm | None:
        reached = sum(self._total >= mark * limit for mark in MARKS)
        if reached <= self._marked:
            return None
        self._marked = reached
        mark = MARKS[reached - 1]
        said = f"{mark:.0%} of the money is spent: {format_money(self._total)} of {format_money(limit)}"
        return Alarm(self.name, "shadow", said, "", evidence={"spent": self._total, "limit": limit}, key=f"{mark}")
