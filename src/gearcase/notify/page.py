"""A page: two lines for somebody who sleeps. What happened; what it costs meanwhile, and how to answer.

Threat: a page passes through services of others and lies on a locked phone. So its words are ours: names of monitors, amounts, numbers,
times, the run's name. Nothing that an agent wrote or named is in it: no file, host or table, no text of an upstream. Whoever is told looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Urgency = Literal["critical", "high", "normal"]
About = Literal["monitor", "budget", "upstream", "operator", "request", "ended", "gone", "silent", "test"]


@dataclass(frozen=True, slots=True)
class Words:
    """What is said. `what` goes on after the run's name; `answers` are commands."""

    about: About
    what: str
    meanwhile: str
    answers: Sequence[str]
    urgency: Urgency = "high"


@dataclass(frozen=True, slots=True)
class Page:
    """Words about a run. `told` counts how often they are said."""

    run: str
    name: str
    number: int
    words: Words
    told: int = 1

    @property
    def key(self) -> str:
        """The same for every repetition, and for its end."""
        return f"gearcase-{self.run}-{self.number}"

    @property
    def lines(self) -> tuple[str, str]:
        """The two lines."""
        words, again = self.words, f" (told {self.told} times)" if self.told > 1 else ""
        return f"{self.name} {words.what}{again}", f"{words.meanwhile} Answer: {' | '.join(words.answers)}"


TEST = Page("test", "gearcase", 0, Words("test", "sends a test: no run waits for you.", "It costs nothing.", ("none",), "normal"))
"""What `gearcase notify test` sends."""


def gone(name: str, pid: int) -> Words:
    """The process that drove a run is no more, and did not say so."""
    what = f"is gone: the process that drove it ({pid}) ended without a word, and its boxes with it."
    answers = (f"gearcase recover {name}", f"gearcase report {name}")
    return Words("gone", what, "Nothing is spent any more; calls in flight count as spent.", answers, "critical")


def silent(name: str, pid: int) -> Words:
    """The process that drives a run gives no sign of life."""
    answers = (f"gearcase attach {name}", f"gearcase kill {name}")
    what = f"gives no sign of life (process {pid})."
    return Words("silent", what, "No new call is paid; its programs may go on.", answers, "critical")
