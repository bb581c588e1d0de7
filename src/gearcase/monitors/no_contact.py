"""`no_contact`: the work is about a live resource that the agent does not touch. What it hands in was made up, or is about to be.

The snapshot that it names stood when the last of these relations was first touched: whatever came later rests on nothing.
"""

from __future__ import annotations

from gearcase.events import Contact, DatabaseOpened, GearUsed, ModelCalled, Tick
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.monitors.totals import GIVEN, LEAD

NOTE_AT, LATCH_AT = 0.30, 0.50
"""Share of the budget (money or time) after which contact is missed. A spiral of mocks spends all of it on its own inventions."""


class NoContact(Detector):
    """See the module."""

    name = "no_contact"
    acts = True
    kinds = (DatabaseOpened, Contact, GearUsed, ModelCalled, Tick)
    needs = frozenset({"must_touch"})
    rule = "a relation of must_touch without contact: handing in is refused; at 30 % of the budget a note, at 50 % a latch"

    def __init__(self) -> None:
        self._missing: dict[str, list[str]] = {}
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
                if event.door in self._missing:
                    if len(event.missing) < len(self._missing[event.door]):
                        self._touched = fact.run.snapshot()
                    self._missing[event.door] = list(event.missing)
                return None
            case GearUsed():
                return self.handing_in(fact) if event.operation == "done" and event.ok and fact.agent == LEAD else None
            case _:
                share = fact.run.share(fact.at)
                if share < NOTE_AT or not (where := self._where()):
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

    def _where(self) -> str:
        return ", ".join(f"{one} ({door})" for door, missing in self._missing.items() for one in missing)


_REMEDY = "read the real {where} through its door (`gear doors` tells the address); a stand-in proves nothing about it"
