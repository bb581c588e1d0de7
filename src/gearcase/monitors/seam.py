"""The seam of the detectors: what each is told, and what it may say.

A detector is a pure fold: `update(fact) -> Alarm | None`. It has no clock but the facts' own (box time, which stands still while a run is
frozen), reads nothing, and keeps no reference to what an event holds. So a run that is over, or one of another tool, goes through it as a
live one does. It may say the same alarm again as long as what it saw holds: the ladder tells it once.

Inputs are effects as the host saw them: money, files, doors, checks, exit codes. What an agent says of its work is told (`TestsClaimed`),
and is only ever compared with what the host saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from gearcase.events import Event
from gearcase.monitors.totals import Totals

Action = Literal["shadow", "note", "refuse", "deny", "rest", "latch", "freeze", "end"]
"""What an alarm does: shadow (on record only), note (the agent is told), refuse (handing in), deny (spawning), rest (the calls of one model
wait), latch (the doors take nothing new), freeze (every process stands still), end (the run is over)."""

RANK: dict[Action, int] = {"shadow": 0, "note": 1, "refuse": 2, "deny": 2, "rest": 2, "latch": 3, "freeze": 4, "end": 5}

Need = Literal["model", "time", "budget", "check", "files", "database", "must_touch", "tests", "spawn", "egress", "baseline"]
"""What a detector lives on; where a box lacks it, the detector cannot act."""


class Fact(NamedTuple):
    """One event as a detector is told it. `at`: seconds of box time; `step`: answers of the agent's model so far."""

    event: Event
    agent: str
    at: float
    step: int
    run: Totals


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector saw, in a sentence (`fact`), what to do about it (`remedy`, said to the agent), and the numbers behind it.

    `agent`: whom it is about, empty where it is the run. `key` tells alarms of one detector apart that are each told once.
    """

    detector: str
    action: Action
    fact: str
    remedy: str
    agent: str = ""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    key: str = ""


class Detector:
    """Root of the detectors. `acts`: whether it does more than write into the journal where the box says nothing about it."""

    name: ClassVar[str]
    acts: ClassVar[bool] = False
    kinds: ClassVar[tuple[type[Event], ...]]
    """The events that it is told."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    rule: ClassVar[str]
    """When it speaks, in a sentence."""

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        raise NotImplementedError

    def handing_in(self, fact: Fact) -> Alarm | None:
        """Why an agent that hands in now is refused; most detectors have no say in it."""
        return None
