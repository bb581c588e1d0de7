"""`fan_out`: an agent spawns more than it can use: too fast, the same again, or without reading what comes back."""

from __future__ import annotations

from collections import deque

from gearcase.events import AgentReturned, AgentSpawned, GearUsed, Watching
from gearcase.monitors.seam import Alarm, Detector, Fact

WINDOW, SPAWNS = 60.0, 10
"""Seconds, and sub-agents spawned in them."""
TIMES = 2
"""Times what may be at work at once, as the box declares."""
UNREAD, READ = 6, 0.5
"""Sub-agents that have ended, and the least share of them whose result was looked at."""
ALIKE = 3
"""Sub-agents of one parent with the same goal."""
HOLD = 60.0
"""Seconds in which nothing more is spawned."""


class FanOut(Detector):
    """See the module."""

    name = "fan_out"
    acts = True
    kinds = (Watching, AgentSpawned, AgentReturned, GearUsed)
    needs = frozenset({"spawn"})
    rule = "over 10 spawns a minute and twice what may be at work: spawning waits; 6 results of which half are unread, 3 equal goals: note"

    def __init__(self) -> None:
        self._live = 8
        self._spawned: dict[str, deque[float]] = {}
        self._goals: dict[str, dict[str, int]] = {}
        self._ended: dict[str, set[str]] = {}
        self._read: dict[str, set[str]] = {}
        self._names: dict[str, str] = {}

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        match event:
            case Watching():
                self._live = event.declared.get("live", self._live)
            case AgentSpawned():
                return self._spawn(event, fact)
            case AgentReturned():
                return self._returned(event, fact)
            case GearUsed():
                self._looked(event, fact.agent)
            case _:
                pass
        return None

    def _spawn(self, event: AgentSpawned, fact: Fact) -> Alarm | None:
        self._names[event.name or fact.agent] = fact.agent
        spawned = self._spawned.setdefault(event.parent, deque())
        spawned.append(fact.at)
        while spawned[0] <= fact.at - WINDOW:
            spawned.popleft()
        if len(spawned) > SPAWNS and len(spawned) > TIMES * self._live:
            said = f"{len(spawned)} sub-agents were spawned in a minute, and {self._live} may be at work at once"
            remedy = f"wait for some to end (`gear wait`), or use `gear map`; spawning goes on after {HOLD:.0f} s"
            return Alarm(self.name, "deny", said, remedy, event.parent, {"spawns": len(spawned), "seconds": HOLD})
        goal = " ".join(event.goal.lower().split())
        goals = self._goals.setdefault(event.parent, {})
        count = goals[goal] = goals.get(goal, 0) + 1
        if count < ALIKE or event.again:
            return None
        said = f"{count} sub-agents have the same goal: {event.goal[:120]}"
        return Alarm(
            self.name, "note", said, "give each a part of its own, or one of them the whole", event.parent, {"alike": count}
        )

    def _returned(self, event: AgentReturned, fact: Fact) -> Alarm | None:
        ended = self._ended.setdefault(event.parent, set())
        ended.add(fact.agent)
        read = len(self._read.get(event.parent, set()) & ended)
        if len(ended) < UNREAD or read >= READ * len(ended):
            return None
        said = f"{len(ended)} sub-agents have ended, and the results of {read} were looked at"
        remedy = "read what they made (`gear wait`, `gear result ID`) before spawning more"
        return Alarm(self.name, "note", said, remedy, event.parent, {"ended": len(ended), "read": read})

    def _looked(self, event: GearUsed, agent: str) -> None:
        if not event.ok:
            return
        if event.operation == "result":
            named = str(event.detail.get("agent", ""))
            self._read.setdefault(agent, set()).add(self._names.get(named, named))
        elif event.operation == "wait":
            self._read.setdefault(agent, set()).update(self._ended.get(agent, ()))
