"""The sub-agents of a run as a person sees them: a tree with what each was given and spent, folded from the journal, bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from gearcase import events
from gearcase.cli.shapes import counted
from gearcase.cli.text import first_line, neutral
from gearcase.events import Amounts, Event
from gearcase.units import format_money

_MOST = 500
_SHOWN = 40
_WIDEST = 18


@dataclass(frozen=True, slots=True)
class AgentView:
    """A sub-agent as far as the journal tells. `spent` is its own while it lives, that of all below it too once it has ended."""

    parent: str
    name: str
    goal: str
    model: str
    depth: int
    limits: Amounts
    again: str = ""
    status: str = "queued"
    limit: str = ""
    verdict: str = ""
    note: str = ""
    steps: int = 0
    last: str = ""
    copied: int = 0
    beside: int = 0
    spent: Amounts = field(default_factory=dict[str, int])

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        told = {"parent": self.parent, "name": self.name, "goal": self.goal, "model": self.model, "status": self.status}
        told |= {"limit": self.limit, "verdict": self.verdict, "note": self.note, "again": self.again}
        return {
            **told,
            "steps": self.steps,
            "limits": self.limits,
            "spent": self.spent,
            "copied": self.copied,
            "beside": self.beside,
        }


Agents = Mapping[str, AgentView]


def folded(agents: Agents, event: Event, agent: str) -> Agents:
    """The sub-agents after one more fact of `agent`."""
    if isinstance(event, events.AgentSpawned):
        if len(agents) >= _MOST:
            return agents
        goal = event.goal[:500]
        return {**agents, agent: AgentView(event.parent, event.name, goal, event.model, event.depth, event.limits, event.again)}
    one = agents.get(agent)
    after = _after(one, event) if one is not None else one
    return agents if after is one or after is None else {**agents, agent: after}


def _after(one: AgentView, event: Event) -> AgentView:
    match event:
        case events.AgentStarted():
            return replace(one, status="running")
        case events.AgentTurn():
            return replace(one, steps=event.step)
        case events.CommandStarted():
            return replace(one, last=event.text[:200])
        case events.Settled():
            return replace(
                one, spent={key: one.spent.get(key, 0) + event.amounts.get(key, 0) for key in {**one.spent, **event.amounts}}
            )
        case events.ResultsCopied():
            return replace(one, copied=event.count, beside=event.beside)
        case events.AgentReturned():
            ended = replace(one, status=event.status, limit=event.limit, verdict=event.verdict, note=event.note[:500])
            return replace(ended, steps=event.steps, spent=event.spent)
        case _:
            return one


def live(agents: Agents) -> Iterator[Text]:
    """A line for those that are at work, the latest last, and one for how many there are."""
    at_work = [(name, one) for name, one in agents.items() if one.status == "running"]
    for name, one in at_work[-4:]:
        what = first_line(one.last or one.goal, 60)
        yield Text.assemble((f"{neutral(name)}  ", "cyan"), f"{counted(one.steps, 'turn')}, {_money(one)}  ", (what, "dim"))
    if agents:
        line = sum(one.status == "queued" for one in agents.values())
        yield Text(f"{counted(len(agents), 'sub-agent')}: {len(at_work)} at work, {line} in line", "dim")


def report(agents: Agents) -> Iterator[Table | Text]:
    """The tree of all that were built, with how each ended and what it spent."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("agent", no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    table.add_column("ended", min_width=len("check failed"), max_width=len("parent_ended"))
    table.add_column("turns", justify="right", no_wrap=True)
    table.add_column("spent", no_wrap=True)
    table.add_column("goal", no_wrap=True, overflow="ellipsis", ratio=1, min_width=16)  # what the others leave
    for shown, (name, one) in enumerate(_ordered(agents)):
        if shown == _SHOWN:
            yield Text(f"the first {_SHOWN} of {len(agents)}; all: gearcase report RUN --json", "dim")
            break
        title = f"{'  ' * (one.depth - 1)}{name}" + ("" if one.name == name else f" {one.name}")
        again = f"(again: {one.again}) " if one.again else ""
        style = "green" if one.status == "done" and one.verdict in ("", "passed") else "yellow"
        of = f" of {format_money(one.limits['usd'])}" if "usd" in one.limits else ""
        table.add_row(
            neutral(title), Text(neutral(_ended(one)), style), str(one.steps), _money(one) + of, again + first_line(one.goal)
        )
    yield table


def _ended(one: AgentView) -> str:
    """In few words, what matters most first: a check that did not pass, a limit."""
    judged = f"check {one.verdict}" if one.verdict else ""
    if one.status == "done":
        return judged or one.status
    limit = f": {one.limit}" if one.limit and one.limit != one.status else ""
    return one.status + limit + (f", {judged}" if judged else "")


def _ordered(agents: Agents) -> Iterator[tuple[str, AgentView]]:
    """Each below its parent."""
    below: dict[str, list[str]] = {}
    for name, one in agents.items():
        below.setdefault(one.parent, []).append(name)

    def branch(parent: str) -> Iterator[tuple[str, AgentView]]:
        for name in below.get(parent, ()):
            yield name, agents[name]
            yield from branch(name)

    for top in [parent for parent in below if parent not in agents]:
        yield from branch(top)


def _money(one: AgentView) -> str:
    return format_money(one.spent.get("usd", 0))


def copied(event: events.ResultsCopied) -> str:
    """What came back."""
    parts = [f"{counted(event.count, 'file')} into {neutral(event.parent)}"]
    parts += [f"{event.beside} beside"] if event.beside else []
    parts += [f"{len(event.refused)} not copied"] if event.refused else []
    return ", ".join(parts)


def returned(event: events.AgentReturned) -> str:
    """How it ended."""
    limit = f" ({neutral(event.limit)})" if event.limit else ""
    verdict = f", check {neutral(event.verdict)}" if event.verdict else ""
    spent = format_money(event.spent.get("usd", 0))
    return f"{neutral(event.status)}{limit}{verdict}  {counted(event.steps, 'turn')}, {spent}  {first_line(event.note or event.detail, 80)}"
