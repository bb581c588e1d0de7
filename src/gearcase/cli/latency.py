"""Where the time of a run went, from its journal alone: in models, in line for them, in commands; and the path that decided its length.

Two views of the same records. *Summed*: seconds of every call and command, however many went on at once. *The path*: each moment of the
run is what it waited for then, so its parts add up to the run's length. A moment in which a model answers counts as model, whoever asked;
one in which calls only stand in line as queue; one in which just the lead's command works as tools. What is left is Gearcase's own:
start, checks, hand-over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from gearcase import events
from gearcase.cli.text import first_line, neutral
from gearcase.journal import Record
from gearcase.run.accounts import LEAD
from gearcase.units import format_duration

PARTS = ("model", "queue", "tools", "frozen", "own")
_LINKS = 5
_STEP = 40  # characters of one: beside it the numbers must be read at 80 columns
_LEAST = 0.005


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the lead on the path: an answer of its model, or a command, with what was waited for in it. Seconds."""

    what: str
    seconds: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds. `summed` over all calls and commands; `path` adds up to the run's length; `links` are its longest."""

    summed: Mapping[str, float]
    path: Mapping[str, float]
    links: tuple[Link, ...]

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        links = [{"what": one.what, "seconds": round(one.seconds, 3), **_rounded(one.parts)} for one in self.links]
        return {"summed": _rounded(self.summed), "critical_path": _rounded(self.path), "longest": links}


@dataclass(slots=True)
class _Marks:
    """Moments at which something begins (+1) or ends (-1): (time, change, kind, link)."""

    marks: list[tuple[float, int, str, str]] = field(default_factory=list[tuple[float, int, str, str]])
    names: dict[str, str] = field(default_factory=dict[str, str])
    summed: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("model", "queue", "tools"), 0.0))
    held: dict[int, float] = field(default_factory=dict[int, float])
    running: dict[int, float] = field(default_factory=dict[int, float])
    began: float = 0.0
    ended: float = 0.0
    frozen: float = 0.0
    calls: int = 0

    def add(self, kind: str, begin: float, end: float, link: str = "") -> None:
        if end > begin:
            self.marks += [(begin, 1, kind, link), (end, -1, kind, link)]

    def call(self, event: events.ModelCalled, record: Record) -> None:
        begin = record.time - event.seconds
        sent = min(max(self.held.pop(event.hold, begin), begin), record.time)
        self.summed["queue"] += sent - begin
        self.summed["model"] += record.time - sent
        link = ""
        if record.agent == LEAD and not event.label:
            self.calls += 1
            link = f"call {self.calls}"
            self.names[link] = f"answer {self.calls} of {neutral(event.model)}"
        self.add("queue", begin, sent, link)
        self.add("model", sent, record.time, link)

    def brake(self, event: events.BrakeChanged, record: Record) -> None:
        if event.level in ("frozen", "killed"):
            self.frozen = self.frozen or record.time
        elif self.frozen:
            self.add("frozen", self.frozen, record.time)
            self.frozen = 0.0

    def finish(self) -> None:
        for number, begin in self.running.items():
            self.add("tools", begin, self.ended, f"command {number}")
        if self.frozen:
            self.add("frozen", self.frozen, self.ended)


def latency(records: Iterable[Record]) -> Latency:
    """Where the time went."""
    marks = _Marks()
    for record in records:
        marks.began = marks.began or record.time
        marks.ended = record.time
        _mark(marks, record)
    marks.finish()
    path, links = _swept(marks)
    longest = sorted(links.items(), key=lambda item: -sum(item[1].values()))[:_LINKS]
    told = tuple(Link(marks.names[name], sum(parts.values()), parts) for name, parts in longest)
    return Latency(marks.summed, path, told)


def _mark(marks: _Marks, record: Record) -> None:
    match record.event:
        case events.Held() as event:
            marks.held[event.hold] = record.time
        case events.Settled() | events.Released() | events.Cut() as event:
            if event.hold not in marks.held:
                return
            marks.held[event.hold] = marks.held.pop(event.hold)  # its call comes next; those that never come are the oldest
            while len(marks.held) > 10_000:
                del marks.held[next(iter(marks.held))]
        case events.ModelCalled() as event:
            marks.call(event, record)
        case events.CommandStarted() as event if record.agent == LEAD:
            marks.running[event.command] = record.time
            marks.names[f"command {event.command}"] = first_line(event.text, 60)
        case events.CommandEnded() as event:
            marks.summed["tools"] += event.seconds
            if (begin := marks.running.pop(event.command, None)) is not None:
                marks.add("tools", begin, record.time, f"command {event.command}")
        case events.BrakeChanged() as event:
            marks.brake(event, record)
        case _:
            pass


def _swept(marks: _Marks) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The path, and what was waited for in each link of the lead."""
    path: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    links: dict[str, dict[str, float]] = {}
    going: Counter[str] = Counter()
    open_links: Counter[str] = Counter()
    at = marks.began
    for moment, change, kind, link in sorted(marks.marks, key=lambda mark: mark[:2]):
        until = min(max(moment, at), marks.ended)
        if until > at:
            part = next((one for one in ("frozen", "model", "queue", "tools") if going[one] > 0), "own")
            path[part] += until - at
            if (current := _current(open_links)) and part != "frozen":
                parts = links.setdefault(current, {})
                parts[part] = parts.get(part, 0.0) + until - at
            at = until
        going[kind] += change
        if link:
            open_links[link] += change
    path["own"] += max(0.0, marks.ended - at)
    return path, links


def _current(open_links: Counter[str]) -> str:
    """The lead's step of this moment: its command, where one runs, else its call."""
    live = [name for name, count in open_links.items() if count > 0]
    for name in [name for name, count in open_links.items() if count <= 0]:
        del open_links[name]
    return max(live, key=lambda name: name.startswith("command"), default="")


def report(told: Latency) -> Iterator[Table | Text]:
    """For a person."""
    parts = [f"{name} {_seconds(told.path[name])}" for name in PARTS if told.path[name] > 0.05]
    yield Text(f"waited for: {', '.join(parts) or 'nothing'}")
    summed = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in told.summed.items() if seconds >= _LEAST)
    if summed:
        yield Text(f"summed over all that went on at once: {summed}", "dim")
    links = [one for one in told.links if one.seconds >= _LEAST]
    if not links:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("longest steps of the lead", overflow="ellipsis", no_wrap=True)
    for heading in ("took", "model", "queue", "tools"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in links:
        shown = (_seconds(one.parts.get(name, 0.0)) for name in ("model", "queue", "tools"))
        table.add_row(neutral(one.what, limit=_STEP), _seconds(one.seconds), *shown)
    yield table


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}s" if seconds < 60 else format_duration(seconds)


def _rounded(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in parts.items()}
