"""`gearcase prompts`: how the prompts of a run's maps were rewritten, why, what the tests of each rewrite said, and what changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from gearcase import events
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.journal import read
from gearcase.runs import find
from gearcase.units import format_money

_SHORT = 8
_STYLES = {"default": "green", "cluster": "cyan", "refused": "yellow"}
_MEANS = {"default": "the prompt of all that came after", "cluster": "for items that fail like this", "refused": "refused"}


@dataclass(slots=True)
class _Prompts:
    """The prompts of one map: its first, and every rewrite in the order of their tests. `texts` are those of the whole run, by hash."""

    started: events.MapStarted
    texts: dict[str, str]
    tried: list[events.PromptTried] = field(default_factory=list[events.PromptTried])
    ended: events.MapEnded | None = None


def prompts(
    run: o.RunReference = "",
    only: Annotated[str, typer.Option("--map", help="Only this map of the run: m1.")] = "",
    as_json: o.Json = False,
) -> None:
    """Show how the prompts of a run's maps were repaired. The tree, the scores, the differences."""
    folder = find(run)
    maps = _maps(folder.journal)
    if only and only not in maps:
        raise UsageError("no_map", f"the run has no map {only!r}", remedy=f"it has: {', '.join(maps) or 'none'}")
    chosen = {name: one for name, one in maps.items() if only in ("", name)}
    if as_json:
        print_json({"maps": [_as_json(one) for one in chosen.values()]})
        return
    console = out()
    if not chosen:
        console.print("This run has no map that asks a prompt.")
    for one in chosen.values():
        for line in _shown(one):
            console.print(line, soft_wrap=False)


def _maps(journal: Any) -> dict[str, _Prompts]:
    found: dict[str, _Prompts] = {}
    texts: dict[str, str] = {}
    for record in read(journal):
        event = record.event
        if isinstance(event, events.MapStarted) and event.model:
            found[event.map] = _Prompts(event, texts)
            texts[event.prompt] = event.text
        elif isinstance(event, events.PromptTried) and event.map in found:
            found[event.map].tried.append(event)
            texts[event.prompt] = event.text
        elif isinstance(event, events.MapEnded) and event.map in found:
            found[event.map].ended = event
    return found


def _as_json(one: _Prompts) -> dict[str, Any]:
    started = one.started
    first = {"prompt": started.prompt, "text": started.text, "parent": None}
    tried = [{**event.as_dict(), "diff": list(_difference(one, event))} for event in one.tried]
    ended = {"account": one.ended.account, "repair": one.ended.repair} if one.ended else None
    return {"map": started.map, "model": started.model, "first": first, "tried": tried, "ended": ended}


def _shown(one: _Prompts) -> Iterator[Text | Padding]:
    started = one.started
    yield Text.assemble(
        (f"{neutral(started.map)} ", "bold"), f"{started.prompt[:_SHORT]}  the first prompt, on {neutral(started.model)}"
    )
    below: dict[str, list[events.PromptTried]] = {}
    for event in one.tried:
        below.setdefault(event.parent, []).append(event)
    seen: set[str] = set()
    yield from _branch(one, started.prompt, below, "  ", seen)
    for parent in below:  # of a map that was begun again: it went on with what an earlier one had found
        if parent not in seen:
            yield Text.assemble("  ", (parent[:_SHORT], "bold"), "  found by an earlier map of the same question")
            yield from _branch(one, parent, below, "    ", seen)
    if not one.tried:
        yield Text("  never rewritten", "dim")
    yield Text("")


def _branch(
    one: _Prompts, parent: str, below: dict[str, list[events.PromptTried]], lead: str, seen: set[str]
) -> Iterator[Text | Padding]:
    if parent in seen:
        return
    seen.add(parent)
    for event in below.get(parent, ()):
        named = event.prompt[:_SHORT] if event.prompt else "no prompt"
        style = _STYLES.get(event.decision, "")
        yield Text.assemble(lead, (named, "bold"), "  ", (_MEANS.get(event.decision, neutral(event.decision)), style))
        more = f"{lead}  "
        for line in _facts(event):
            yield Padding(Text(line, "dim"), (0, 0, 0, len(more)))
        for line in _difference(one, event):
            color = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            yield Padding(Text(neutral(line, limit=2000), color), (0, 0, 0, len(more)))
        if event.looks:  # what was refused may have a child, too: a search goes on from what helped some
            yield from _branch(one, event.prompt, below, more, seen)


def _facts(event: events.PromptTried) -> Iterator[str]:
    place = " ".join(neutral(value, limit=120) for value in event.signature.values() if value)
    yield f"{event.failing} failed: {place}"
    if event.looks:
        looks = " and ".join(f"{passed} of {asked}" for passed, asked in event.looks)
        kept = f"; {event.kept[0]} of {event.kept[1]} that passed before still pass" if event.kept else ""
        yield f"before 0, after {looks} pass{kept}"
    if event.why:
        yield neutral(event.why, limit=300)
    if event.diagnosis:
        yield f"{neutral(event.model)}: {neutral(event.diagnosis, limit=300)}"
    shown = ", ".join(map(str, event.evidence))
    searched = f"; found by {neutral(event.optimizer)}" if event.optimizer else ""
    yield f"shown were items {shown}; {format_money(event.spent)}{searched}"


def _difference(one: _Prompts, event: events.PromptTried) -> Iterator[str]:
    if not event.prompt or event.prompt == event.parent:
        return
    before, after = one.texts.get(event.parent, ""), event.text
    names = event.parent[:_SHORT], event.prompt[:_SHORT]
    yield from difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=2)
