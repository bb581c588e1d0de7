"""`fan_out`: an agent spawns more than it can use: too fast, the same again, or without reading what comes back."""

from __future__ import annotations

from collections import deque

from gearcase.events import AgentReturned, AgentSpawned, AgentTurn, GearUsed, Watching
from gearcase.monitors.seam import Alarm, Detector, Fact

WINDOW, SPAWNS = 60.0, 10
"""Seconds, and sub-agents spawned in them that are at work, in line, or unread: what has ended and was read is done with."""
TIMES = 2
"""Times what may be at work at once, as the box declares."""
UNREAD, READ = 6, 0.5
"""Sub-agents that have ended, and the least share of them whose result was looked at. Asked once their parent had a whole turn to do so:
several end while it still waits for the last of them, and a loop that spawns reads nothing in between."""
ALIKE = 3
"""Sub-agents of one parent with the same goal."""
HOLD = 60.0
"""Seconds in which nothing more is spawned."""


class FanOut(Detector):
    """See the module."""

    name = "fan_out"
    acts = True
    kinds = (Watching, AgentSpawned, AgentReturned, AgentTurn, GearUsed)
    needs = frozenset({"spawn"})
    rule = (
        "over 10 spawned in a minute, and twice what may be at work, are not done with: spawning waits; 6 results of which half are unread "
        "after a turn or when the agent hands in, 3 equal goals: note"
    )

    def __init__(self) -> None:
        self._live = 8
        self._spawned: dict[str, deque[tuple[float, str]]] = {}
        self._goals: dict[str, dict[str, int]] = {}
        self._ended: dict[str, set[str]] = {}
        self._all: dict[str, set[str]] = {}
        self._known: dict[str, set[str]] = {}  # parent -> what had ended when its last turn began
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
                self._ended.setdefault(event.parent, set()).add(fact.agent)
            case AgentTurn():
                return self._unread(fact.agent, self._let_pass(fact.agent), "have ended")
            case GearUsed():
                self._looked(event, fact.agent)
                if event.operation == "done" and event.ok:
                    return self._unread(fact.agent, self._all.get(fact.agent, set()), "were spawned for what is handed in")
            case _:
                pass
        return None

    def _spawn(self, event: AgentSpawned, fact: Fact) -> Alarm | None:
        self._names[event.name or fact.agent] = fact.agent
        self._all.setdefault(event.parent, set()).add(fact.agent)
        spawned = self._spawned.setdefault(event.parent, deque())
        spawned.append((fact.at, fact.agent))
        while spawned[0][0] <= fact.at - WINDOW:
            spawned.popleft()
        done_with = self._ended.get(event.parent, set()) & self._read.get(event.parent, set())
        count = sum(one not in done_with for _at, one in spawned)
        if count > SPAWNS and count > TIMES * self._live:
            said = (
                f"{count} sub-agents of the last minute are at work, in line or unread, and {self._live} may be at work at once"
            )
            remedy = f"wait for some to end (`gear wait`), or use `gear map`; spawning goes on after {HOLD:.0f} s"
            return Alarm(self.name, "deny", said, remedy, event.parent, {"spawns": count, "seconds": HOLD})
        goal = " ".join(event.goal.lower().split())
        goals = self._goals.setdefault(event.parent, {})
        count = goals[goal] = goals.get(goal, 0) + 1
        if count < ALIKE or event.again:
            return None
        said = f"{count} sub-agents have the same goal: {event.goal[:120]}"
        return Alarm(
            self.name, "note", said, "give each a part of its own, or one of them the whole", event.parent, {"alike": count}
        )

    def _let_pass(self, parent: str) -> set[str]:
        """Those that had ended when an agent's last turn began: it could have read them."""
        before = self._known.get(parent, set())
        self._known[parent] = set(self._ended.get(parent, ()))
        return before

    def _unread(self, parent: str, of: set[str], which: str) -> Alarm | None:
        read = len(self._read.get(parent, set()) & of)
        if len(of) < UNREAD or read >= READ * len(of):
            return None
        said = f"{len(of)} sub-agents {which}, and the results of {read} were looked at"
        remedy = "read what they made (`gear wait`, `gear result ID`) before spawning more"
        return Alarm(self.name, "note", said, remedy, parent, {"ended": len(of), "read": read})

    def _looked(self, event: GearUsed, agent: str) -> None:
        if not event.ok:
            return
        if event.operation == "result":
            named = str(event.detail.get("agent", ""))
            self._read.setdefault(agent, set()).add(self._names.get(named, named))
        elif event.operation == "wait":
            self._read.setdefault(agent, set()).update(self._ended.get(agent, ()))
