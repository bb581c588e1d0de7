"""What can act in a box: which detectors have what they live on, and how the others are given theirs."""

from __future__ import annotations

from gearcase.box import Box
from gearcase.monitors.ladder import Level
from gearcase.monitors.seam import Need
from gearcase.monitors.watch import DETECTORS

TOLD_ONLY = frozenset({"error_storm", "fan_out", "never_started"})
"""Detectors that hold back a request, or nothing at all, and never a whole run that somebody started on purpose."""


def said(box: Box, agent: bool = True) -> dict[str, Level]:
    """What a watch is told. A program that no agent and no person drives is told of, and held where the box says so alone."""
    own: dict[str, Level] = {} if agent else {one.name: "note" for one in DETECTORS if one.acts and one.name not in TOLD_ONLY}
    return {**own, **box.monitors.levels()}


def levels(box: Box, agent: bool = True) -> dict[str, str]:
    """What each detector may do: the box's word, or `own` (what the detector itself asks for), or `shadow`."""
    told = said(box, agent)
    return {one.name: told.get(one.name, "own" if one.acts else "shadow") for one in DETECTORS}


def lacking(box: Box, kind: str = "agent") -> dict[str, str]:
    """What each detector that can see nothing would need. `kind`: agent, or program."""
    missing = _missing(box, kind)
    found: dict[str, str] = {}
    for one in DETECTORS:
        why = [missing[need] for need in sorted(one.needs) if need in missing]
        if why:
            found[one.name] = "; ".join(why)
    return found


def acting(box: Box, kind: str = "agent") -> list[str]:
    """The detectors that can act: they are not off, not in shadow, and have what they need."""
    without = lacking(box, kind)
    return [name for name, level in levels(box).items() if level not in ("off", "shadow") and name not in without]


def told(box: Box, kind: str = "agent") -> str:
    """One line for the operator: how many can act, and what would let more of them."""
    without, named = lacking(box, kind), levels(box)
    by_remedy: dict[str, list[str]] = {}
    for name, why in without.items():
        if named[name] not in ("off", "shadow"):
            by_remedy.setdefault(why, []).append(name)
    more = "".join(f"; {why} (for {', '.join(names)})" for why, names in by_remedy.items())
    return f"{len(acting(box, kind))} of {len(DETECTORS)} monitors can act{more}"


def _missing(box: Box, kind: str) -> dict[Need, str]:
    missing: dict[Need, str] = {"baseline": "20 accepted runs of this very box are needed"}
    if not box.checks:
        missing["check"] = "no check is declared: --check 'COMMAND'"
    if not box.files.give and not any(door.mode == "branch" for door in box.doors.postgres.values()):
        missing["files"] = "nothing is given: --give PATH"
    if not any(door.must_touch for door in box.doors.postgres.values()):
        missing["must_touch"] = "no database says what must be touched: [doors.postgres.NAME] must_touch"
    if box.swarm.depth == 0:
        missing["spawn"] = "the box has no sub-agents"
    if kind != "agent":
        missing["model"] = "a program needs no model"
    return missing
