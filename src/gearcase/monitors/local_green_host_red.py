"""`local_green_host_red`: the agent's own tests pass and the check outside does not. Its tests test something else.

The snapshot that it names stood when both agreed last that the work is sound: what came later rests on those tests alone.
"""

from __future__ import annotations

from typing import Any

from gearcase.events import CheckRan, Rewound, TestsClaimed
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.monitors.totals import GIVEN, LEAD

GREEN, RED, GAP = 0.95, 0.50, 0.40
"""Share of the agent's tests that pass; score of the check below which it is red; or how far the two may lie apart."""
NOTE_AT, LATCH_AT = 2, 4
"""Times running, of one check."""


class LocalGreenHostRed(Detector):
    """See the module."""

    name = "local_green_host_red"
    acts = True
    kinds = (TestsClaimed, CheckRan, Rewound)
    needs = frozenset({"check", "tests"})
    rule = "tests inside pass 95 %, the check scores under 50 % (or 40 points less) and no better, twice running: note; 4 times: latch"

    def __init__(self) -> None:
        self._local: dict[str, tuple[float, TestsClaimed]] = {}
        self._running: dict[tuple[str, str], int] = {}
        self._best: dict[tuple[str, str], float] = {}
        self._agreed: dict[str, str] = {}  # check -> snapshot of the lead's files

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, Rewound):
            if event.by == "operator":  # those tests are gone; what it does now is counted anew
                self._local.pop(fact.agent, None)
                self._running = {key: count for key, count in self._running.items() if key[0] != fact.agent}
            return None
        if isinstance(event, TestsClaimed):
            total = event.passed + event.failed
            if total:
                self._local[fact.agent] = (event.passed / total, event)
            return None
        assert isinstance(event, CheckRan)
        if event.verdict == "skipped" or fact.agent not in self._local:
            return None
        local, claim = self._local[fact.agent]
        host = host_score(event)
        key = (fact.agent, event.name)
        apart = (local >= GREEN and host < RED) or local - host >= GAP
        if fact.agent == LEAD and host >= RED and not apart:
            self._agreed[event.name] = fact.run.snapshot()
        before, best = self._running.get(key, 0), self._best.get(key, host)
        better, self._best[key] = host > best, max(host, best)
        count = self._running[key] = (max(before, 1) if better else before + 1) if apart else 0
        if count < NOTE_AT or better:  # its work is what the check sees: that is touch, however far it has to go
            return None
        said = f"{claim.passed} of {claim.passed + claim.failed} tests pass inside ({claim.runner}), and check {event.name} "
        said += f"{event.verdict} with {host:.0%}, {count} times running"
        remedy = (
            f"the tests do not test what {event.name} does: run it against the real thing, without stand-ins, and read its output"
        )
        evidence: dict[str, Any] = {"local": round(local, 3), "host": round(host, 3), "running": count, "check": event.name}
        if fact.agent == LEAD:
            evidence["snapshot"] = fact.run.snapshot(self._agreed.get(event.name, GIVEN))
        return Alarm(self.name, "latch" if count >= LATCH_AT else "note", said, remedy, fact.agent, evidence)


def host_score(event: CheckRan) -> float:
    """What a check says, from 0 to 1. Without a score, its verdict."""
    if event.score is None or event.verdict == "passed":
        return 1.0 if event.verdict == "passed" else 0.0
    score = event.score / 100 if event.score > 1 else event.score
    return min(max(score, 0.0), 1.0)
