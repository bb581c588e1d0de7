"""Small renderings that several views share: bars, amounts, states, sections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gearcase.cli.text import neutral
from gearcase.events import AttemptFailed
from gearcase.units import format_bytes, format_duration, format_money

STATE_STYLE = {
    "accepted": "bold green",
    "unverified": "bold yellow",
    "rejected": "bold red",
    "exhausted": "bold yellow",
    "stopped": "bold yellow",
    "failed": "bold red",
    "died": "bold red",
    "frozen": "bold cyan",
    "latched": "bold cyan",
    "killed": "bold red",
    "running": "bold blue",
    "open": "bold blue",
    "closed": "bold green",
}
VERDICT_MARK = {"passed": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("–", "yellow")}
_NAMES_SHOWN = 10
STRENGTH_STYLE = {"enforced": "green", "watched": "yellow", "absent": "red"}


_NARROW = 60


class Bar:
    """What is spent, what is held and what is free of a limit, in `width` cells. Shares are of the whole, from 0 to 1.

    A narrow console has no room for it: there the numbers beside it say all.
    """

    def __init__(self, spent: float, held: float = 0.0, width: int = 24) -> None:
        self.spent = min(max(spent, 0.0), 1.0)
        self.held = min(max(held, 0.0), 1.0 - self.spent)
        self.width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.width < _NARROW:
            return
        full = round(self.spent * self.width)
        full = max(full, 1) if self.spent > 0 else 0
        waiting = min(round(self.held * self.width), self.width - full)
        waiting = max(waiting, 1) if self.held > 0 and full < self.width else waiting
        style = "red" if self.spent >= 0.95 else "yellow" if self.spent >= 0.8 else "green"
        ascii_only = options.ascii_only
        yield Segment(("#" if ascii_only else "━") * full, Style.parse(style))
        yield Segment(("+" if ascii_only else "━") * waiting, Style.parse("blue"))
        yield Segment(("." if ascii_only else "─") * (self.width - full - waiting), Style.parse("dim"))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = self.width if console.width >= _NARROW else 0
        return Measurement(width, width)


@dataclass(frozen=True, slots=True)
class Fitting:
    """What looks different where there is little room."""

    made: Callable[[bool], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.made(console.width < _NARROW)


def amount(resource: str, value: int) -> str:
    """An amount of a resource in its unit."""
    if resource == "usd":
        return format_money(value)
    if resource == "egress":
        return format_bytes(value)
    return f"{value:,}"


_OF_A_DOOR = {"running": "open", "unverified": "closed"}


def state_word(state: str, kind: str) -> str:
    """How a state is called: a door alone is open or closed, there is nothing to verify."""
    return _OF_A_DOOR.get(state, state) if kind == "door" else state


def missed(event: AttemptFailed) -> str:
    """What came of a call that is made again, and until when it will be."""
    until = time.strftime("%H:%M:%S", time.localtime(event.until))
    again = f"attempt {event.attempt} of {event.attempts}, again in {format_duration(event.wait)}, until about {until}"
    free = "; nothing was sent, nothing is charged" if event.unreached else ""
    return f"{neutral(event.why, limit=300)} ({again}{free})"


_BRAKED = {"frozen": "frozen", "running": "goes on", "latched": "takes nothing new", "killed": "killed"}
_SOURCES = {"budget": "its money is used up", "upstream": "its model does not answer"}
"""What pulled the brake where no person did; a reason says it better."""


def braked(level: str, by: str, reason: str) -> str:
    """What the brake did, and why."""
    word = _BRAKED.get(level, neutral(level))
    if by in _SOURCES:
        return f"{word}: {neutral(reason) or _SOURCES[by]}"
    return f"{word}, by the {neutral(by)}{f': {neutral(reason)}' if reason else ''}"


def state_text(state: str) -> Text:
    """A state or status in its colour."""
    return Text(state, STATE_STYLE.get(state, "bold"))


def share(part: float, whole: float) -> float:
    """`part / whole`, 0 when there is no whole."""
    return part / whole if whole else 0.0


def counted(count: int, what: str) -> str:
    """`1 file`, `12 files`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def denied(names: Mapping[str, int]) -> str:
    """`denied: api.statsig.com (12 times), example.org (once)`: each name once, the most asked for first."""
    shown = sorted(names.items(), key=lambda item: -item[1])[:_NAMES_SHOWN]
    told = [f"{neutral(name)} ({'once' if count == 1 else f'{count:,} times'})" for name, count in shown]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return f"denied: {', '.join([*told, *more])}"


def grid(*ratios: int | None) -> Table:
    """An invisible table; a ratio gives a column the room that is left and lets it wrap."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=any(ratios))
    for ratio in ratios:
        table.add_column(ratio=ratio, no_wrap=ratio is None, overflow="fold")
    return table


def section(title: str, *body: RenderableType) -> Group:
    """A titled part of a report."""
    return Group(Text(title, "bold"), Padding(Group(*body), (0, 0, 1, 2)))
