"""What a parent orders when it spawns a sub-agent, read from the arguments of `gear spawn`, and what comes of it: limits and a box.

Limits only narrow: money, tokens, calls and bytes are carved from what the parent has free (without a word: a quarter of it); steps and
time are at most the parent's own. Raises UsageError and Refused with what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from gearcase.box import Box, Check
from gearcase.doors.patterns import Patterns
from gearcase.errors import Refused, UsageError
from gearcase.events import Amounts
from gearcase.ledger import Ledger
from gearcase.run.accounts import Pace, Purse
from gearcase.sandbox.beneath import split_path
from gearcase.units import format_bytes, format_duration, format_money, parse_bytes, parse_duration, parse_money

MOST_GOAL = 64 * 1024
"""Bytes of a goal."""
MOST_PATTERNS = 100
SHARE = 4
"""Without a limit of its own a sub-agent has the fourth part of what its parent has free."""
EVERYTHING = ("**",)
CHECK = "check"
"""The name of a sub-agent's own check."""
_CARVED: dict[str, Callable[[int], str]] = {"usd": format_money, "tokens": str, "calls": str, "egress": format_bytes}


@dataclass(frozen=True, slots=True)
class Order:
    """One order. Empty or None: as the parent has it. `usd` in nano-dollars, `egress` in bytes, `wall` in seconds."""

    goal: str
    name: str = ""
    model: str = ""
    give: tuple[str, ...] = ()
    take: tuple[str, ...] = EVERYTHING
    into: str = ""
    doors: tuple[str, ...] | None = None
    branch: tuple[str, ...] = ()  # databases of which it has a copy of its own
    check: str = ""
    usd: int | None = None
    tokens: int | None = None
    calls: int | None = None
    egress: int | None = None
    steps: int | None = None
    wall: float | None = None

    def limits(self, ledger: Ledger, purse: Purse) -> Amounts:
        """What is to be carved from what the parent works with. Raises Refused `budget`."""
        found: Amounts = {}
        for resource, show in _CARVED.items():
            free = ledger.balance(purse.work, resource).free
            wanted: int | None = getattr(self, resource)
            if wanted is not None and free is not None and wanted > free:
                message = (
                    f"{show(wanted)} {'' if resource == 'usd' else resource} are asked for and {show(free)} are free".replace(
                        "  ", " "
                    )
                )
                remedy = f"give at most that, or wait for sub-agents: what they leave comes back (--{resource} LESS)"
                raise Refused("budget", message, remedy=remedy, resource=resource, needed=wanted, free=free)
            if wanted is not None:
                found[resource] = wanted
            elif free is not None:
                found[resource] = (
                    0 if resource == "egress" and self.doors == () else free // SHARE
                )  # who reaches nothing sends nothing
        return found

    def box(self, parent: Box, pace: Pace, carved: Amounts) -> Box:
        """The sub-agent's box. `pace` is its parent's."""
        limits: dict[str, Any] = {name: carved.get(name) for name in ("tokens", "calls", "egress") if name in carved}
        limits["usd"] = carved.get("usd", 0)
        limits["steps"] = min(self.steps or parent.limits.steps, parent.limits.steps)
        limits["wall"] = min(self.wall or pace.wall, max(1.0, pace.wall - pace.used))
        if parent.limits.on_exhausted == "ask":
            limits["on_exhausted"] = "wind_down"  # the operator is asked by the lead alone
        # A check sees all files of the parent: what it prints of them may be what the sub-agent was not given.
        show = "verdict" if self.give else "output"
        checks = (Check(name=CHECK, run=self.check, show=show),) if self.check else ()
        files = parent.files.model_copy(update={"give": (), "take": self.take})
        changed = {"goal": self.goal, "limits": parent.limits.model_copy(update=limits), "files": files, "checks": checks}
        return parent.model_copy(update=changed)


def read_order(arguments: Mapping[str, Any], again: Order | None = None) -> Order:
    """The order in the arguments; with `again`, that one with what is said anew. Raises UsageError."""
    goal = str(arguments["goal"]).strip()
    if not goal or len(goal.encode("utf-8", "replace")) > MOST_GOAL:
        raise UsageError("bad_goal", f"a goal has 1 to {MOST_GOAL} bytes", remedy="put long material into a file and name it")
    order = replace(again, goal=goal, name="") if again is not None else Order(goal)
    changed: dict[str, Any] = {}
    for key in ("name", "model", "into", "check"):
        if arguments.get(key):
            changed[key] = str(arguments[key]).strip()
    for key in ("give", "take", "doors", "branch"):
        if arguments.get(key) is not None:
            changed[key] = _texts(key, arguments[key])
    if changed.get("doors") == ("none",):
        changed["doors"] = ()
    for key in ("tokens", "calls", "steps"):
        if arguments.get(key) is not None:
            changed[key] = _count(key, arguments[key])
    for key, parse in (("usd", parse_money), ("egress", parse_bytes), ("wall", parse_duration)):
        if arguments.get(key) is not None:
            changed[key] = parse(str(arguments[key]))
    order = replace(order, **changed)
    order = replace(order, give=tuple(map(_relative, order.give)), take=tuple(map(_relative, order.take)) or EVERYTHING)
    Patterns(order.take)  # a wrong one is told now
    if order.into:
        order = replace(order, into=_relative(order.into))
        split_path(order.into.encode("utf-8", "surrogateescape"))
    return order


def told(limits: Amounts) -> dict[str, str]:
    """Amounts as people write them."""
    shown: dict[str, Callable[[int], str]] = {**_CARVED, "steps": str, "wall": _time}
    return {name: show(limits[name]) for name, show in shown.items() if name in limits and (limits[name] or name != "egress")}


def _time(milliseconds: int) -> str:
    return format_duration(milliseconds / 1000)


def _texts(key: str, value: Any) -> tuple[str, ...]:
    items = cast("list[Any]", value)
    if len(items) > MOST_PATTERNS or not all(isinstance(one, str) and 0 < len(one) < 4096 for one in items):
        raise UsageError("bad_arguments", f"{key} is a list of at most {MOST_PATTERNS} texts", remedy="name a folder, or use *")
    return tuple(items)


def _count(key: str, value: Any) -> int:
    if not 0 < value < 2**53:
        raise UsageError("bad_count", f"{key} is {value}", remedy="give a whole number from 1")
    return int(value)


def _relative(path: str) -> str:
    """A path as an agent writes it, relative to /workspace. What leads elsewhere is refused where it is used."""
    path = path.removeprefix("/workspace/").removeprefix("./")
    return path.rstrip("/") or path
