"""`destructive`: what was given is destroyed: content that is nowhere any more, tables dropped, most rows gone.

The words of a command are not looked at: a list of dangerous patterns fired on a third of successful runs, and on fewer that failed.
"""

from __future__ import annotations

from typing import Any

from gearcase.events import DatabaseOpened, FilesSeen, StatementRan
from gearcase.monitors.losses import Losses, Statements
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.units import format_bytes

WINDOW = 60.0
"""Seconds of box time."""
FILES = 20
SHARE, SHARE_FILES = 0.05, 5
"""Share of the files that were given; at least so many, because one file of ten is no disaster."""
BYTES = 100 * 10**6


class Destructive(Detector):
    """See the module."""

    name = "destructive"
    acts = True
    kinds = (FilesSeen, DatabaseOpened, StatementRan)
    needs = frozenset({"files"})
    rule = (
        "within 60 s 20 given files, 5 % of them, 100 MB, or any of `keep` are nowhere any more; a table of a branch is dropped"
    )

    def __init__(self) -> None:
        self._losses = Losses(WINDOW)
        self._statements = Statements()

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        match event:
            case FilesSeen():
                return self._files(event, fact)
            case DatabaseOpened():
                self._statements.opened(event)
            case StatementRan():
                if taken := self._statements.taken(event):
                    return self._alarm(fact, taken, {"statement": event.kind, "rows": event.rows, "door": event.door})
            case _:
                pass
        return None

    def _files(self, event: FilesSeen, fact: Fact) -> Alarm | None:
        self._losses.add(event, fact.at)
        lost, size = self._losses.now, self._losses.bytes
        evidence: dict[str, Any] = {"lost": lost, "bytes": size, "of": event.of_files, "gone": event.gone[:5]}
        if event.kept_gone:
            return self._alarm(fact, f"{event.kept_gone[0]}, which must stay, is gone", {**evidence, "kept": event.kept_gone[:5]})
        if lost >= FILES or (lost >= SHARE_FILES and lost >= SHARE * event.of_files) or size >= BYTES:
            said = (
                f"{lost} of {event.of_files} given files ({format_bytes(size)}) are gone, and their content is nowhere any more"
            )
            return self._alarm(fact, said, evidence)
        return None

    def _alarm(self, fact: Fact, said: str, evidence: dict[str, Any]) -> Alarm:
        remedy = "stop removing; `gear rewind` lists the states that the files can return to"
        return Alarm(self.name, "freeze", said, remedy, fact.agent, evidence)
