"""The maps of a run as a person sees them: folded from the journal, bounded, on one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.text import Text

from gearcase import events
from gearcase.cli.text import neutral
from gearcase.units import format_duration, format_money

_MOST = 20
_SAME = 20
_STATES = ("ok", "failed", "quarantined", "skipped", "pending")


@dataclass(frozen=True, slots=True)
class MapView:
    """A map as far as the journal tells. Money in nano-dollars; `rate` is items a second; `ended` is how, "" while it goes on."""

    model: str
    expected: int
    account: Mapping[str, int] = field(default_factory=dict[str, int])
    found: int = 0
    calls: int = 0
    retries: int = 0
    spent: int = 0
    projected: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    ended: str = ""
    why: str = ""
    classes: Mapping[str, int] = field(default_factory=dict[str, int])
    repair: Mapping[str, Any] = field(default_factory=dict[str, Any])
    known: Mapping[str, int] = field(default_factory=dict[str, int])
    warnings: Mapping[str, str] = field(default_factory=dict[str, str])
    sandboxes: int = 0
    cpu: float = 0.0
    different: int = 0

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        told = {"model": self.model, "items": dict(self.account), "found": self.found, "calls": self.calls, "usd": self.spent}
        return {
            **told,
            "retries": self.retries,
            "ended": self.ended,
            "why": self.why,
            "classes": dict(self.classes),
            "repair": dict(self.repair),
            "known": dict(self.known),
            "warnings": dict(self.warnings),
            **self._used(),
        }

    def _used(self) -> dict[str, Any]:
        return {"sandboxes": self.sandboxes, "cpu": self.cpu} if self.sandboxes else {}


Maps = Mapping[str, MapView]


def begun(maps: Maps, event: events.MapStarted) -> Maps:
    """One more map; of many the latest are kept."""
    kept = dict(list(maps.items())[-(_MOST - 1) :])
    return {**kept, event.map: MapView(event.model, event.expected, {"items": 0, "pending": 0})}


def progressed(maps: Maps, event: events.MapProgressed) -> Maps:
    """How far it is now."""
    before = maps.get(event.map) or MapView("", 0)
    now = replace(before, account=event.account, found=event.found, calls=event.calls, retries=event.retries)
    return {**maps, event.map: replace(now, spent=event.spent, projected=event.projected, rate=event.rate)}


def ended(maps: Maps, event: events.MapEnded) -> Maps:
    """Its ending."""
    before = maps.get(event.map) or MapView("", 0)
    now = replace(before, account=event.account, found=event.found, calls=event.calls, retries=event.retries, spent=event.spent)
    how = replace(now, ended=event.ended, why=event.why, classes=event.classes, seconds=event.seconds, repair=event.repair)
    how = replace(how, known=event.known, warnings=event.warnings)
    how = replace(how, sandboxes=event.sandboxes, cpu=event.cpu, different=event.different)
    return {**maps, event.map: replace(how, rate=round(event.account.get("items", 0) / max(event.seconds, 0.001), 1))}


def counts(account: Mapping[str, int]) -> str:
    """`1,000 items = 990 ok + 10 failed`: what is none is left out."""
    parts = [f"{account[state]:,} {state}" for state in _STATES if account.get(state)]
    return f"{account.get('items', 0):,} items" + (f" = {' + '.join(parts)}" if parts else "")


def progress(event: events.MapProgressed) -> str:
    """One line on how far a map is."""
    spent = f"{format_money(event.spent)} spent, {format_money(event.projected)} projected"
    held = f" ({event.held:,} wait for a better prompt)" if event.held else ""
    return f"{neutral(event.map)}  {counts(event.account)}{held}, {event.rate:g} a second, {spent}"


def canary(event: events.CanaryEnded) -> str:
    """One line on what the first items say of the rest."""
    said = f"{neutral(event.map)}  {event.failed} of the first {event.items} failed, {format_money(event.projected)} projected for all"
    return f"{said}; stopped: {neutral(event.why, limit=200)}" if event.why else said


def ending(event: events.MapEnded) -> str:
    """One line on how a map ended."""
    found = f", {event.found:,} found" if event.found else ""
    why = f"  {neutral(event.why, limit=200)}" if event.why else ""
    known = f", known answers {_known(event.known)}" if event.known else ""
    took = f"{format_money(event.spent)} in {format_duration(event.seconds)}"
    return f"{neutral(event.map)} {neutral(event.ended)}  {counts(event.account)}{found}{known}, {took}{why}"


def report(maps: Maps) -> Iterator[Text]:
    """The maps of a report, with why items have no answer."""
    for name, one in maps.items():
        style = "green" if one.ended == "done" and set(one.classes) == set() else "yellow"
        found = f" ({one.found:,} found, paid for before)" if one.found else ""
        what = f"calls of {neutral(one.model)}" if one.model else "commands"
        money = f"{format_money(one.spent)} for {one.calls:,} {what}, {one.retries:,} tried again"
        yield Text.assemble((f"{neutral(name)} {neutral(one.ended or 'going on')}  ", style), f"{counts(one.account)}{found}")
        yield Text(f"  {money}, {one.rate:g} items a second", "dim")
        if one.sandboxes:
            yield Text(f"  {one.sandboxes:,} sandboxes of their own for its commands, {one.cpu:,.1f} s of processor time", "dim")
        if one.different == 1 and one.account.get("ok", 0) >= _SAME:
            yield Text("  every answer is the same", "yellow")
        if one.classes:
            yield Text("  without an answer: " + ", ".join(f"{neutral(code)} {n:,}" for code, n in one.classes.items()), "dim")
        if one.known:
            right = one.known.get("right", 0) == one.known.get("asked", 0)
            yield Text(f"  known answers: {_known(one.known)}", "dim" if right else "yellow")
        for told in one.warnings.values():
            yield Text(f"  {neutral(told, limit=200)}", "yellow")
        if one.repair:
            yield Text(f"  {_repairs(one.repair)}", "dim")
        if one.why:
            yield Text(f"  {neutral(one.why, limit=300)}", "yellow")


def _known(known: Mapping[str, int]) -> str:
    return f"{known.get('right', 0)} of {known.get('asked', 0)} right"


def warned(event: events.SpreadWarned) -> str:
    """One line on answers that are odd."""
    return f"{neutral(event.map)}  {neutral(event.found, limit=200)}"


def _repairs(repair: Mapping[str, Any]) -> str:
    """What the repair of a map's prompt came to."""
    tries = f"{repair.get('accepted', 0)} of {repair.get('tries', 0)} rewrites of the prompt accepted"
    spent = f"{repair.get('mended', 0):,} items mended, {format_money(int(repair.get('nano_usd', 0)))} for it"
    over = f"; {neutral(str(repair['over']), limit=200)}" if repair.get("over") else ""
    return f"{tries}, {spent}{over}; see gearcase prompts"


def tried(event: events.PromptTried) -> str:
    """One line on a rewrite of a prompt."""
    looks = ", ".join(f"{passed} of {asked}" for passed, asked in event.looks)
    test = f", {looks} pass" if looks else ""
    why = f": {neutral(event.why, limit=160)}" if event.why else ""
    name = event.prompt[:8] or "no prompt"
    return f"{neutral(event.map)}  {event.failing} failed alike, {name}{test}, {neutral(event.decision)}{why}"


def live(maps: Maps) -> Iterator[Text]:
    """The maps that are going on."""
    for name, one in maps.items():
        if not one.ended:
            share = f"{one.account.get('items', 0) - one.account.get('pending', 0):,} of {one.expected:,}"
            spent = f"{format_money(one.spent)} of {format_money(one.projected)} projected"
            yield Text.assemble((f"{neutral(name)}  ", "magenta"), f"{share} items, {one.rate:g} a second, {spent}")
