"""How good the detectors are on runs whose outcome is known: how often each speaks of bad runs, and of good ones, with 95 % intervals."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gearcase.errors import UsageError
from gearcase.monitors.foreign import Told
from gearcase.monitors.seam import RANK
from gearcase.monitors.watch import DETECTORS, Watch

Z = 1.959963984540054
"""Standard deviations of 95 %."""
_BAD = frozenset({"bad", "failed", "fail", "1", "true", "rejected", "unresolved"})
_GOOD = frozenset({"good", "passed", "pass", "0", "false", "accepted", "resolved"})


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `of`, and the 95 % interval of the rate (Wilson); without runs it is 0 to 1."""

    hits: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        if not self.of:
            return 0.0, 1.0
        share, z2 = self.hits / self.of, Z * Z / self.of
        middle = share + z2 / 2
        half = Z * math.sqrt(share * (1 - share) / self.of + z2 / (4 * self.of))
        low, high = (middle - half) / (1 + z2), (middle + half) / (1 + z2)
        return (0.0 if not self.hits else low), (1.0 if self.hits == self.of else high)


@dataclass(frozen=True, slots=True)
class Score:
    """One detector: bad runs of which it spoke, good ones of which it spoke, and good ones that it would have held (latch or more)."""

    detector: str
    bad: Rate
    good: Rate
    held: Rate


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one detector wanted of one run: the highest action, and the share of the run's events that had passed when it first spoke."""

    action: str
    at: float


def spoken(told: Iterable[Told]) -> dict[str, Spoken]:
    """What the detectors say of one run, each as it would without a box's word; marks are left out."""
    watch = Watch(act=True)
    first: dict[str, tuple[str, int]] = {}
    count = 0
    for boot, agent, event in told:
        count += 1
        for raised in watch.hear(event, agent, boot):
            name = raised.alarm.detector
            if raised.alarm.action == "shadow":
                continue
            action, at = first.get(name, (raised.action, count))
            first[name] = (raised.action if RANK[raised.action] > RANK[action] else action, at)  # type: ignore[index]
    return {name: Spoken(action, at / max(count, 1)) for name, (action, at) in first.items()}


def score(runs: Iterable[tuple[bool, Mapping[str, Spoken]]]) -> list[Score]:
    """The rates of every detector, and of any of them (`any`). `runs`: whether each was bad, and what was said of it."""
    found = list(runs)
    bad, good = [one for is_bad, one in found if is_bad], [one for is_bad, one in found if not is_bad]

    def of(name: str) -> Score:
        def speaks(one: Mapping[str, Spoken]) -> bool:
            return bool(one) if name == "any" else name in one

        def holds(one: Mapping[str, Spoken]) -> bool:
            said = one.values() if name == "any" else [one[name]] if name in one else []
            return any(RANK[each.action] >= RANK["latch"] for each in said)  # type: ignore[index]

        hits = Rate(sum(map(speaks, bad)), len(bad)), Rate(sum(map(speaks, good)), len(good))
        return Score(name, *hits, Rate(sum(map(holds, good)), len(good)))

    return [of(name) for name in ("any", *(one.name for one in DETECTORS))]


def labels_of(path: Path) -> dict[str, bool]:
    """Which runs were bad, by file name: a JSON object, or lines of `FILE,LABEL`. Raises UsageError `bad_labels`."""
    try:
        text = path.read_text("utf-8")
        if text.lstrip().startswith("{"):
            rows: list[tuple[str, Any]] = list(cast(dict[str, Any], json.loads(text)).items())
        else:
            rows = [(row[0], row[1]) for row in csv.reader(text.splitlines()) if len(row) > 1]
        return {name: _is_bad(name, label) for name, label in rows if (name, label) != ("file", "label")}
    except (OSError, ValueError, IndexError) as error:
        remedy = 'write {"FILE": "bad", "OTHER": "good"}, or lines of FILE,LABEL with good or bad'
        raise UsageError("bad_labels", f"{path} holds no labels", cause=str(error)[:300], remedy=remedy) from None


def _is_bad(name: str, label: Any) -> bool:
    word = str(label).strip().lower()
    if word in _BAD or word in _GOOD:
        return word in _BAD
    raise ValueError(f"{name}: {label!r} is neither good nor bad")
