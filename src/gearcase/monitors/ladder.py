"""From an alarm to what is done about it: once, and no more than the box allows.

A detector that speaks again about the same agent within `COOL_DOWN` steps is not heard, unless it now wants more. An agent is told at most
one note in `NOTE_EVERY` steps; what comes between is heard when the detector says it again. The same detector once more after a note: the
doors are latched and a person is asked, unless the box itself says that it is to be noted. Where a note has no reader (a program that
drives itself) it is told to the operator alone, and what nobody was told is not held against anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from gearcase.monitors.seam import RANK, Action, Alarm

COOL_DOWN = 10
"""Steps of the agent in which one detector is heard once about it."""
NOTE_EVERY = 5
"""Steps of the agent between two notes."""

Level = Literal["off", "shadow", "note", "latch", "freeze"]
"""What a box may say of a detector."""
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm with what comes of it. `again`: the agent had been told before."""

    alarm: Alarm
    action: Action
    again: bool = False


@dataclass(slots=True)
class _Said:
    step: int
    rank: int


class Ladder:
    """`levels`: what the box says, by detector; `acts`: the detectors that do more than record where it says nothing."""

    def __init__(self, levels: Mapping[str, Level], acts: frozenset[str]) -> None:
        self._levels = dict(levels)
        self._acts = acts
        self._said: dict[tuple[str, str, str], _Said] = {}
        self._noted: dict[tuple[str, str], int] = {}  # detector, agent -> step
        self._last_note: dict[str, int] = {}  # agent -> step

    def weigh(self, alarm: Alarm, step: int, heard: bool) -> Raised | None:
        """What comes of an alarm; None where it is not heard. `heard`: whether the agent reads notes."""
        action = self._allowed(alarm)
        told = self._noted.get((alarm.detector, alarm.agent)) if heard else None
        again = action == "note" and told is not None and self._levels.get(alarm.detector) != "note"
        if again:
            action = "latch"
        before = self._said.get((alarm.detector, alarm.agent, alarm.key))
        if before is not None and RANK[action] <= before.rank and step - before.step < COOL_DOWN:
            return None
        if again and told is not None and step - told < COOL_DOWN:
            return None  # it has had no time to do better
        if action == "note" and heard:
            if step - self._last_note.get(alarm.agent, -NOTE_EVERY) < NOTE_EVERY:
                return None
            self._last_note[alarm.agent] = step
            self._noted[alarm.detector, alarm.agent] = step
        self._said[alarm.detector, alarm.agent, alarm.key] = _Said(step, RANK[action])
        return Raised(alarm, action, again)

    def stands(self, alarm: Alarm) -> bool:
        """Whether a request is refused for it."""
        return RANK[self._allowed(alarm)] >= RANK["refuse"]

    def _allowed(self, alarm: Alarm) -> Action:
        level = self._levels.get(alarm.detector)
        if alarm.action == "shadow" or level == "off":
            return "shadow"
        if level is None:
            return alarm.action if alarm.detector in self._acts else "shadow"
        return level
