"""`destructive`: what was given is destroyed: content that is nowhere any more, tables dropped, most rows gone.

The words of a command are not looked at: a list of dangerous patterns fired on a third of successful runs, and on fewer that failed.
"""

from __future__ import annotations

from typing import Any

from gearcase.events import Contact, FilesSeen
from gearcase.monitors.losses import Losses
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.monitors.totals import GIVEN, LEAD
from gearcase.units import format_bytes

WINDOW = 60.0
"""Seconds of box time."""
FILES = 20
SHARE, SHARE_FILES = 0.05, 5
"""Share of the files that were given; at least so many, because one file of ten is no disaster."""
BYTES = 100 * 10**6
DECLARE = '[monitors] destructive = "note"'
"""What a box says of work that is meant to remove. That the goal says so is no word of the box: who writes a goal may be whoever is led."""


class Destructive(Detector):
    """See the module."""

    name = "destructive"
    acts = True
    kinds = (FilesSeen, Contact)
    needs = frozenset({"files"})
    rule = "within 60 s 20 given files, 5 % of them, 100 MB, or any of `keep` are nowhere any more; a branch loses a table or its rows"

    def __init__(self) -> None:
        self._losses = Losses(WINDOW)
        self._lost: dict[str, set[str]] = {}  # door -> tables that were told
        self._stood = GIVEN  # the snapshot that stood when rows were counted last

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, FilesSeen):
            return self._files(event, fact)
        assert isinstance(event, Contact)
        if fact.agent not in ("", LEAD):  # a sub-agent's branch: nothing of it comes back
            return None
        told = self._lost.get(event.door, set())
        self._lost[event.door] = set(event.lost)
        stood, self._stood = self._stood, fact.run.snapshot()
        if not (lost := [name for name in event.lost if name not in told]):
            return None
        said = f"{', '.join(lost[:3])} of {event.door} lost most of their rows, or are gone"
        return self._alarm(fact, said, {"door": event.door, "tables": lost[:10], "snapshot": fact.run.snapshot(stood)}, LEAD)

    def _files(self, event: FilesSeen, fact: Fact) -> Alarm | None:
        self._losses.add(event, fact.at, fact.run.snapshot())
        lost, size = self._losses.now, self._losses.bytes
        evidence: dict[str, Any] = {"lost": lost, "bytes": size, "of": event.of_files, "gone": event.gone[:5]}
        evidence["snapshot"] = fact.run.snapshot(self._losses.before)
        if event.kept_gone:
            return self._alarm(fact, f"{event.kept_gone[0]}, which must stay, is gone", {**evidence, "kept": event.kept_gone[:5]})
        if lost >= FILES or (lost >= SHARE_FILES and lost >= SHARE * event.of_files) or size >= BYTES:
            said = (
                f"{lost} of {event.of_files} given files ({format_bytes(size)}) are gone, and their content is nowhere any more"
            )
            return self._alarm(fact, said, evidence)
        return None

    def _alarm(self, fact: Fact, said: str, evidence: dict[str, Any], about: str = "") -> Alarm:
        evidence["declare"] = DECLARE
        remedy = "stop removing; `gear rewind` lists the states that the files can return to"
        return Alarm(self.name, "freeze", said, remedy, about or fact.agent, evidence)
