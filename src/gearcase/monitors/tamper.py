"""`tamper`: what judges the work is changed instead of the work: tests that were given go, lose assertions, or are skipped."""

from __future__ import annotations

from gearcase.events import FilesSeen
from gearcase.monitors.seam import Alarm, Detector, Fact


class Tamper(Detector):
    """See the module."""

    name = "tamper"
    kinds = (FilesSeen,)
    needs = frozenset({"files"})
    rule = "tests that were given are deleted, skipped or lose assertions: note; a file of `protected` changes: latch"

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        assert isinstance(event, FilesSeen)
        if event.protected:
            said = f"{event.protected[0]}, which must not change, was changed"
            return Alarm(
                self.name,
                "latch",
                said,
                "put it back: gear rewind s0",
                fact.agent,
                {"protected": event.protected[:5]},
                "protected",
            )
        for path, before, after, skips_before, skips_after in event.tests:
            weaker = after < before or skips_after > skips_before
            if weaker and (fact.agent, path) not in self._told:
                self._told.add((fact.agent, path))
                how = f"{before} assertions became {after}" if after < before else f"{skips_after - skips_before} more skips"
                evidence = {"path": path, "assertions": [before, after], "skips": [skips_before, skips_after]}
                remedy = f"make the work pass {path} as it was given: gear rewind s0 shows it"
                return Alarm(self.name, "note", f"{path} was given, and {how}", remedy, fact.agent, evidence)
        return None
