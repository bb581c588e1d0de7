"""`no_contact`: the work is about a live resource that the agent does not touch. What it hands in was made up, or is about to be.

The snapshot that it names stood when the last of these relations was first touched: whatever came later rests on nothing.
"""

from __future__ import annotations

from gearcase.events import Contact, DatabaseOpened, GearUsed, ModelCalled, Rewound, StatementRan, StatementsRan, Tick
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.monitors.totals import GIVEN, LEAD

NOTE_AT, LATCH_AT = 0.30, 0.50
"""Share of the budget (money or time) after which contact is missed. A spiral of mocks spends all of it on its own inventions."""


AGAIN = 0.20
"""Share of the budget in which an agent that the operator took back may do better."""
COUNTED, LONGEST = 10.0, 60.0
"""Seconds of box time in which what a statement touched is surely counted, and for which statements one after the other are waited for."""


class NoContact(Detector):
    """See the module."""

    name = "no_contact"
    acts = True
    kinds = (DatabaseOpened, Contact, GearUsed, ModelCalled, Rewound, StatementRan, StatementsRan, Tick)
    needs = frozenset({"must_touch"})
    rule = "a relation of must_touch without contact: handing in is refused; at 30 % of the budget a note, at 50 % a latch"

    def __init__(self) -> None:
        self._missing: dict[str, list[str]] = {}
        self._quiet_until = 0.0  # share of the budget
        self._asked_since = self._asked = float("-inf")  # first and last of the statements that may not be counted yet
        self._touched = GIVEN  # the snapshot that stood at the last contact

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        match event:
            case DatabaseOpened():
                if event.must_touch and fact.agent in ("", LEAD):  # a sub-agent's branch is not what the run is about
                    self._missing[event.door] = list(event.must_touch)
                return None
            case Contact():
                self._counted(event, fact)
                return None
            case StatementRan() | StatementsRan():
                self._ask(event.door, fact.at)
                return None
            case Rewound():
                if event.by == "operator" and fact.agent in ("", LEAD):
                    self._quiet_until = fact.run.share(fact.at) + AGAIN
                return None
            case GearUsed():
                return self.handing_in(fact) if event.operation == "done" and event.ok and fact.agent == LEAD else None
            case _:
                return self._by_now(fact)

    def _by_now(self, fact: Fact) -> Alarm | None:
        """What is used without contact. What was asked a moment ago may be the contact that is missed."""
        share = fact.run.share(fact.at)
        waits = fact.at - self._asked < COUNTED and fact.at - self._asked_since < LONGEST
        if waits or share < max(NOTE_AT, self._quiet_until) or not (where := self._where()):
            return None
        said = f"{share:.0%} of the budget is used, and {where} had no contact"
        action = "latch" if share >= LATCH_AT else "note"
        evidence = {"share": round(share, 3), "missing": where, "snapshot": fact.run.snapshot(self._touched)}
        return Alarm(self.name, action, said, _REMEDY.format(where=where), LEAD, evidence)

    def handing_in(self, fact: Fact) -> Alarm | None:
        """The work was not real without contact."""
        if not (where := self._where()):
            return None
        said = f"the work is about {where}, which had no contact in this run"
        return Alarm(self.name, "refuse", said, _REMEDY.format(where=where), LEAD, {"missing": where}, key="done")

    def _counted(self, event: Contact, fact: Fact) -> None:
        if event.door in self._missing:
            if len(event.missing) < len(self._missing[event.door]):
                self._touched = fact.run.snapshot()
            self._missing[event.door] = list(event.missing)

    def _ask(self, door: str, at: float) -> None:
        if door in self._missing:
            if at - self._asked >= COUNTED:
                self._asked_since = at
            self._asked = at

    def _where(self) -> str:
        return ", ".join(f"{one} ({door})" for door, missing in self._missing.items() for one in missing)


_REMEDY = "read the real {where} through its door (`gear doors` tells the address); a stand-in proves nothing about it"
