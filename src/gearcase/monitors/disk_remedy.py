"""`disk_remedy`: the disk is full, and room is made from what was given."""

from __future__ import annotations

from gearcase.events import CommandEnded, FilesSeen, Tick
from gearcase.monitors.seam import Alarm, Detector, Fact

AFTER = 600.0
"""Seconds of box time in which a loss counts as an answer to the full disk."""
FULL = 0.90
"""Share of the box's disk."""


class DiskRemedy(Detector):
    """See the module."""

    name = "disk_remedy"
    acts = True
    kinds = (CommandEnded, Tick, FilesSeen)
    needs = frozenset({"files"})
    rule = "within 10 minutes of a full disk, or of 90 % of it, any given file is nowhere any more"

    def __init__(self) -> None:
        self._full: dict[str, float] = {}  # agent -> when last
        self._lost: dict[str, int] = {}  # agent -> before the disk was full

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event, agent = fact.event, fact.agent or "lead"
        match event:
            case CommandEnded():
                if "disk" in event.limits:
                    self._full[agent] = fact.at
            case Tick():
                if event.of_disk and event.disk >= FULL * event.of_disk:
                    self._full[agent] = fact.at
            case FilesSeen():
                before = self._lost.get(agent, 0)
                self._lost[agent] = event.lost
                if event.lost > before and fact.at - self._full.get(agent, float("-inf")) <= AFTER:
                    return self._alarm(event, event.lost - before, agent, fact.run.snapshot())
            case _:
                pass
        return None

    def _alarm(self, event: FilesSeen, lost: int, agent: str, stood: str) -> Alarm:
        named = f" ({', '.join(event.gone[:3])})" if event.gone else ""
        said = f"the disk was full, and {lost} given files{named} are nowhere any more"
        remedy = "what was given is no room to be made: remove what you made yourself, or ask for more with `gear ask-for`"
        evidence = {"lost": lost, "gone": event.gone[:5], "snapshot": stood}
        return Alarm(self.name, "freeze", said, remedy, agent, evidence)
