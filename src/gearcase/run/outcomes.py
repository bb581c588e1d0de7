"""How a sub-agent ended, as its parent is told it: which limit, what it spent, what came back, and how to go on."""

from __future__ import annotations

from typing import Any

from gearcase.run import orders
from gearcase.run.ending import LIMITS, End
from gearcase.run.member import Member
from gearcase.swarm.family import Kin, Outcome

MOST_NAMED = 50
"""Paths of each kind, and changes of each database, that are named."""
MOST_OUTPUT = 2000
"""Characters of what a check printed, the last ones."""
HINT = "it ran in /workspace on your own files; those of the agent are below $DELIVERED"
"""Where a check that did not pass never speaks of what it should judge."""


def result_of(kin: Kin) -> dict[str, Any]:
    """The structured result, as the gear door gives it; while it lives, what is known of it."""
    outcome = kin.outcome
    told: dict[str, Any] = {"agent": kin.id, "name": kin.name, "parent": kin.parent, "model": kin.model}
    told["limits"] = orders.told(kin.limits)
    if outcome is None:
        return {**told, "status": kin.state, "spent": {}, "passed": False, "goal": kin.goal[:500]}
    return {
        **told,
        "status": outcome.status,
        "passed": outcome.passed,
        "limit": outcome.limit,
        "detail": outcome.detail,
        "note": outcome.note,
        "spent": orders.told(outcome.spent),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "check": _check_of(kin, outcome),
        "copied": list(outcome.copied[:MOST_NAMED]),
        "copied_count": len(outcome.copied),
        "conflicts": [{"path": path, "beside": beside} for path, beside in outcome.conflicts[:MOST_NAMED]],
        "refused": [{"path": path, "reason": reason} for path, reason in outcome.refused[:MOST_NAMED]],
        "databases": {name: list(changes[:MOST_NAMED]) for name, changes in outcome.databases.items()},
        "again_of": kin.again,
        "goal": kin.goal[:500],
        "how_to_go_on": how_to_go_on(kin, outcome),
    }


def end_of(output: str) -> str:
    """The end of what a check printed, as much as is told."""
    text = output.rstrip()
    return text if len(text) <= MOST_OUTPUT else f"[...]{text[-MOST_OUTPUT:]}"


def first_words(text: str, most: int = 100) -> str:
    """The first line of a text as far as whole words of it fit, and whether there is more."""
    first, *more = text.strip().splitlines() or [""]
    shown = first if len(first) <= most else (first[: most + 1].rpartition(" ")[0] or first[:most]).rstrip()
    return f"{shown} ..." if more or shown != first else shown


def _check_of(kin: Kin, outcome: Outcome) -> dict[str, str]:
    if not outcome.verdict:
        return {}
    told = {"verdict": outcome.verdict, "reason": outcome.reason, "output": outcome.output}
    return told if outcome.verdict == "passed" or "DELIVERED" in kin.check else {**told, "hint": HINT}


def limit_of(end: End, member: Member | None) -> str:
    """Which limit ended it, by the name of its resource; empty where none did."""
    if end.reason not in LIMITS or member is None:
        return ""
    return (member.driving.short_of or "usd") if end.reason == "budget" else end.reason


def how_to_go_on(kin: Kin, outcome: Outcome) -> str:
    """What its parent can do now; empty where nothing is left to do."""
    again = f"gear spawn --again {kin.id}"
    if outcome.passed:
        return ""
    if outcome.limit:
        more = {
            "usd": "--usd MORE",
            "tokens": "--tokens MORE",
            "calls": "--calls MORE",
            "steps": "--steps MORE",
            "wall": "--wall MORE",
        }
        return f"{again} {more.get(outcome.limit, '')} 'GOAL': it begins from your files, with what came back in them"
    if outcome.status == "done":
        made = f"what it made lies below rejected/{kin.id}; " if outcome.conflicts else ""
        return f"{made}{again} [--check 'BETTER CHECK'] 'BETTER GOAL' goes on from there; give, take and limits stay"
    if outcome.status in ("failed", "lost"):
        return f"gear result {kin.id} --trace shows what it did last; then {again} 'BETTER GOAL'"
    return f"{again} 'GOAL'" if outcome.status == "stopped" else ""
