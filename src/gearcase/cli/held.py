"""Why a run stands and what answers it, in two lines, for somebody who was woken by it."""

from __future__ import annotations

from gearcase.cli.text import neutral
from gearcase.cli.view import View
from gearcase.run.watching import MONITOR

_OTHERS = 1
"""Monitors that had spoken before, and are named."""
_HELD = {"latched": "held (its doors are shut)", "frozen": "held (it stands frozen)"}


def two_lines(view: View) -> tuple[str, str] | None:
    """Of a run that a monitor holds: what it saw; the commands that answer it. None of any other."""
    alarm = view.held_by
    if alarm is None or view.ended is not None or view.level not in _HELD or view.braked_by != MONITOR:
        return None
    name = neutral(view.name)
    said = f"{name} is {_HELD[view.level]} by {neutral(alarm.detector)}: {neutral(alarm.fact, limit=300)}."
    back = f"gearcase rewind {name} --to {neutral(alarm.evidence['snapshot'])}" if alarm.evidence.get("snapshot") else ""
    others = {one.detector: one.fact for one in view.alarms if one.detector != alarm.detector}
    said += "".join(
        f" Before that, {neutral(detector)}: {neutral(fact, limit=200)}." for detector, fact in list(others.items())[-_OTHERS:]
    )
    answers = [f"go back: {back}"] if back else []
    answers += [f"go on: gearcase resume {name}", f"end: gearcase kill {name}"]
    return said, "   ".join(answers)
