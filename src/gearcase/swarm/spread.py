"""The spread of a map's answers, held against the canary's: a model that has gone dull answers everything alike, and everything fits.

Answers are looked at WINDOW at a time. A warning is put on record when a window is mostly one answer, mostly nothing, or suddenly short,
and the canary was not. A window that is one answer nearly whole stops the map, but only where the canary's answers differed, and
its items that stood nearest to the window were mostly answered otherwise: an input that is sorted has long runs of one true answer.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

WINDOW = 100
MOSTLY = 0.8
"""A canary of 20 that varies (no answer above VARIED) comes from answers of which one has MOSTLY once in 2,500 times (binomial)."""
VARIED = 0.5
DEGENERATE = 0.95
"""With VARIED in the canary, 95 of 100 alike by chance is below one in 10^20: it is another model, a broken one, or a sorted input."""
SHORT = 0.25
"""Of the canary's median length."""
NEAREST = 5
MOST = 1000
"""Answers of a canary that are kept; a map without one keeps no more."""
LEAST = 10
"""Answers of a canary that can be compared with."""


@dataclass(slots=True)
class Spread:
    """Of one map. `warnings` are what was found, each kind once."""

    warnings: dict[str, str] = field(default_factory=dict[str, str])
    _canary: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    _window: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    _rolling: bool = False

    def roll_out(self) -> None:
        """The canary has ended: what comes from here on is compared with it."""
        self._rolling = True

    def add(self, number: int, answer: str) -> tuple[str, str] | None:
        """One more answer (JSON text). Returns a new warning, if there is one: its kind and what was found."""
        if not self._rolling:
            if len(self._canary) < MOST:
                self._canary.append((number, answer[:2000]))
            return None
        if len(self._canary) < LEAST:
            return None
        self._window.append((number, answer[:2000]))
        if len(self._window) < WINDOW:
            return None
        found = self._compare()
        self._window.clear()
        if found is None or found[0] in self.warnings:
            return None
        self.warnings[found[0]] = found[1]
        return found

    def _compare(self) -> tuple[str, str] | None:
        before, now = [answer for _, answer in self._canary], [answer for _, answer in self._window]
        answer, alike = Counter(now).most_common(1)[0]
        varied = Counter(before).most_common(1)[0][1] / len(before) <= VARIED
        share = alike / len(now)
        if varied and share >= DEGENERATE and not self._runs(answer):
            return "degenerate", f"{share:.0%} of {len(now)} answers in a row are the same, the canary's differed"
        nothing = sum(map(_is_nothing, now)) / len(now)
        if nothing >= MOSTLY and sum(map(_is_nothing, before)) / len(before) <= VARIED:
            return "nothing", f"{nothing:.0%} of {len(now)} answers in a row say nothing"
        if varied and share >= MOSTLY and not self._runs(answer):
            return "alike", f"{share:.0%} of {len(now)} answers in a row are the same, the canary's differed"
        if median(map(len, now)) < SHORT * median(map(len, before)):
            return "short", f"{len(now)} answers in a row are under a quarter as long as the canary's"
        return None

    def _runs(self, answer: str) -> bool:
        """Whether the canary's items nearest to the window were mostly answered like this too."""
        middle = median(number for number, _ in self._window)
        nearest = sorted(self._canary, key=lambda one: abs(one[0] - middle))[:NEAREST]
        return sum(told == answer for _, told in nearest) * 2 > len(nearest)


def _is_nothing(answer: str) -> bool:
    """Whether an answer has nothing but null, empty texts, lists and objects."""
    try:
        return _empty(json.loads(answer))
    except ValueError:  # a long one, cut
        return False


def _empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_empty, cast("dict[str, Any]", value).values()))
    if isinstance(value, list):
        return all(map(_empty, cast("list[Any]", value)))
    return value is None or (isinstance(value, str) and not value.strip())
