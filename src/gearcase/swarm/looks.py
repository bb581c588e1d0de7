"""What the test of a rewritten prompt came to: its looks at items that had failed, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass, field

from gearcase.events import PromptTried
from gearcase.swarm.items import MapSpec
from gearcase.swarm.worker import Fault

SAMPLE = 8
"""Items of one look at a rewrite, at most."""


@dataclass(slots=True)
class Look:
    """What a prompt did to some items. `answers` are texts and answers of those that passed, `failed` the keys of those that did not."""

    passed: int = 0
    seen: int = 0
    stopped: Fault | None = None
    answers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    failed: list[int] = field(default_factory=list[int])

    @property
    def most(self) -> bool:
        """Whether more than half passed."""
        return self.stopped is None and self.passed * 2 > self.seen

    def as_json(self) -> list[int]:
        """For the record."""
        return [self.passed, self.seen]


@dataclass(slots=True)
class Candidate:
    """A rewrite that is being tested. `spent` in nano-dollars, what was asked for it."""

    spec: MapSpec
    event: PromptTried
    spent: int
    looks: list[Look] = field(default_factory=list[Look])

    @property
    def stopped(self) -> Fault | None:
        """What broke off a look."""
        return next((look.stopped for look in self.looks if look.stopped is not None), None)

    @property
    def doubt(self) -> str:
        """Why it is not accepted; empty where two looks, each at other items, saw more than half pass."""
        if self.stopped is not None:
            return self.stopped.message
        enough = len(self.looks) == 2 and all(look.most for look in self.looks)
        return "" if enough else "no more than half of a sample passes"

    @property
    def share(self) -> float:
        """Of those that were asked, how many passed."""
        return sum(look.passed for look in self.looks) / max(1, sum(look.seen for look in self.looks))

    def told(self) -> PromptTried:
        """Its event, with what the looks saw and what it cost."""
        return self.event.but(looks=[look.as_json() for look in self.looks], spent=self.spent)
