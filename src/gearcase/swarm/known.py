"""Known answers: items that the box's owner has planted among those of a map, to see whether what comes back can be trusted.

They are asked like any item, in places that nobody knows, and never seen inside: not among results, not in the account of items. What is
right is counted for the prompts in force; a prompt that is rewritten starts a new count. Below the owner's share the map stops.
"""

from __future__ import annotations

import fnmatch
import json
import posixpath
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from gearcase.swarm.items import Item, Known, Waiting
from gearcase.swarm.worker import Fault

ENOUGH = 5
"""That were asked, before a map is stopped for them; fewer where there are fewer."""


@dataclass(slots=True)
class KnownAnswers:
    """Those of one map. `at_least`: the share of them that must be right."""

    known: Sequence[Known]
    at_least: float
    asked: int = 0
    right: int = 0
    _left: list[Known] = field(init=False)
    _first: bool = True

    def __post_init__(self) -> None:
        self._left = list(self.known)

    def mix(self, waiting: list[Waiting], to_come: int) -> list[Waiting]:
        """Items with some planted among them: half of all in the first, the rest over the `to_come` items after these."""
        if not self._left or not waiting:
            return waiting
        share = len(waiting) / max(1, len(waiting) + to_come)
        count = max(round(len(self._left) * share), (len(self._left) + 1) // 2 if self._first else 0)
        self._first = False
        mixed = list(waiting)
        for one in self._take(count):
            mixed.insert(random.randint(0, len(mixed)), one)  # no secret: just not to be told in advance
        return mixed

    def rest(self) -> list[Waiting]:
        """Those that are left when nothing more comes."""
        return self._take(len(self._left))

    def _take(self, count: int) -> list[Waiting]:
        taken, self._left = self._left[:count], self._left[count:]
        return [Waiting(Item(-1, "", one.item), known=one) for one in taken]

    def again(self) -> None:
        """The prompt was rewritten: they are asked anew."""
        self.asked = self.right = 0
        self._left = list(self.known)
        self._first = True

    def count(self, known: Known, answer: str | None) -> None:
        """What was answered, as JSON text; None where nothing fits."""
        self.asked += 1
        self.right += answer is not None and holds(known.answer, json.loads(answer))

    def verdict(self) -> Fault | None:
        """Why the map must stop; None where it may go on. It says nothing of what was planted."""
        if self.asked < min(ENOUGH, len(self.known)) or self.right >= self.at_least * self.asked:
            return None
        told = f"{self.right} of {self.asked} known answers are right, {self.at_least:.0%} must be"
        return Fault("terminal", "known_answers", told)


def is_named(file: str, pattern: str) -> bool:
    """Whether a map's file, as a program typed it, is what the owner named: ./x is x, and a bare name is meant in any folder."""
    path = posixpath.normpath(file).removeprefix("/workspace/")
    wanted = posixpath.normpath(pattern).removeprefix("/workspace/")
    names = [path] if "/" in wanted else [path, posixpath.basename(path)]
    return any(fnmatch.fnmatchcase(name, wanted) for name in names)


def holds(wanted: Any, answer: Any) -> bool:
    """Whether all that is wanted stands in the answer: of an object its properties, of a list each part in its place."""
    if isinstance(wanted, dict):
        if not isinstance(answer, dict):
            return False
        parts = cast("dict[str, Any]", wanted)
        told = cast("dict[str, Any]", answer)
        return all(name in told and holds(part, told[name]) for name, part in parts.items())
    if isinstance(wanted, list):
        if not isinstance(answer, list):
            return False
        many, said = cast("list[Any]", wanted), cast("list[Any]", answer)
        return len(many) == len(said) and all(map(holds, many, said))
    if isinstance(wanted, str) and isinstance(answer, str):
        return wanted.strip() == answer.strip()
    return isinstance(wanted, bool) == isinstance(answer, bool) and wanted == answer
