"""The instructions of an agent: at most a page, generated from its box. They say where things are, never how to work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from gearcase.box import Box
from gearcase.units import format_bytes, format_duration, format_money

HAND_IN = (
    "Hand in now: {why}. You have at most {turns} more turns. Bring what is there into the deliverables, "
    "leave a short note of what is missing, and run `gear done`."
)
NO_COMMAND = "Your answer called no tool, so nothing happened. Call bash; when the deliverables are in place, run `gear done`."
CUT_OFF = "Your answer was cut off at the output limit before it called a tool. Do less at once: call bash with a short command."
CALL_CUT_OFF = "the answer was cut off at the output limit; do less at once"

UNKNOWN = "no result: the process that ran this died. Whether it began, and how far it came, is not known."
NOT_BEGUN = "not run: the process that would have run this died before"

MOST = 12
"""Items of one list that are named; the rest is counted."""
_SHOWN = {"verdict": "you see pass or fail", "score": "you see the score", "output": "you see its output"}


@dataclass(frozen=True, slots=True)
class DoorLine:
    """A door as the agent is told of it: its name inside, and what it is for."""

    name: str
    purpose: str


_MODEL = DoorLine("http://model.box", "language models (Anthropic API; OpenAI API at /v1), any token, paid from your budget")
_GEAR = DoorLine("http://gear.box", "what `gear` calls")


def instructions(box: Box, doors: Sequence[DoorLine] = (), openapi: str = "/box/openapi.json") -> str:
    """The system prompt. The goal is not in it: it is the first message. `doors`: those beside the model's and the box's own."""
    template = resources.files("gearcase.agent").joinpath("prompt.md").read_text("utf-8")
    given = ", ".join(_some([path.name for path in box.files.give]))
    see = ", ".join(_some([f"/given/{path.name}" for path in box.files.see]))
    take = ", ".join(_some([f"/workspace/{pattern}" for pattern in box.files.take]))
    return template.format(
        given=f": {given}" if given else ", if anything",
        see=f"- Read-only: {see}\n" if see else "",
        take=f"{take} (together at most {format_bytes(box.files.take_max)})" if take else "none were asked for.",
        checks=_checks(box),
        limits=_limits(box),
        doors="\n".join(_some([f"- {door.name}: {door.purpose}" for door in (_MODEL, _GEAR, *doors)])),
        openapi=openapi,
    )


def _checks(box: Box) -> str:
    if not box.checks:
        return "No check was declared: a person will judge the deliverables against the goal. Check your own work."
    lines = [f"- {check.name} ({_SHOWN[check.show]})" for check in box.checks]
    return "These checks, run outside on a copy of the deliverables; all must pass:\n" + "\n".join(_some(lines))


def _limits(box: Box) -> str:
    limits = box.limits
    counted = [f"{count:,} {what}" for count, what in ((limits.tokens, "tokens"), (limits.calls, "model calls")) if count]
    reserve = int(limits.usd * limits.wind_down_reserve)
    kept = f" ({format_money(reserve)} of it kept for handing in)" if reserve else ""
    spend = ", ".join([f"{format_money(limits.usd)} for model calls{kept}", *counted])
    room = f"{format_bytes(limits.memory)} memory, {format_bytes(limits.disk)} disk"
    compute = f"{room}, {limits.cpus:g} cores, {limits.processes} processes"
    return f"{spend}; {limits.steps} answers; {format_duration(limits.wall)} of time; {compute}."


def _some(items: list[str]) -> list[str]:
    return [*items[:MOST], f"and {len(items) - MOST} more"] if len(items) > MOST else items
