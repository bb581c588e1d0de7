"""The report of a run: what was asked, what came out, what it cost, what was built and what was torn down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gearcase.allowance import day_total, today, user_limits
from gearcase.cli import delivered, latency, maps, subagents
from gearcase.cli.held import two_lines
from gearcase.cli.history import DIED, History
from gearcase.cli.parts import CheckView, ModelView
from gearcase.cli.shapes import (
    STATE_STYLE,
    STRENGTH_STYLE,
    VERDICT_MARK,
    Bar,
    Fitting,
    amount,
    counted,
    denied,
    grid,
    section,
    share,
    state_word,
)
from gearcase.cli.text import first_line, neutral
from gearcase.cli.threads import tree
from gearcase.cli.view import ROOT_LIMITS, View
from gearcase.doors.repositories import has_change
from gearcase.errors import GearcaseError, RunError
from gearcase.journal import Record, read
from gearcase.run.record import UNENDING, EndRecord
from gearcase.units import format_bytes, format_duration, format_money

_MEANING = {
    "accepted": "all checks passed",
    "unverified": "delivered; no check was declared, so nobody verified it",
    "rejected": "a check failed or was skipped",
    "exhausted": "a limit ended it",
    "stopped": "it was stopped",
    "failed": "the agent or its upstream failed",
    "frozen": "nothing runs, nothing is spent: gearcase resume goes on",
    "latched": "its doors take nothing new",
    "running": "still running",
    "killed": "killed",
    DIED: "the process that drove it died; its boxes died with it",
}
_OF_A_DOOR = {
    "open": "it takes calls",
    "closed": "each call is settled and on record",
    "exhausted": "a limit ended it",
    "failed": "its journal, its ledger or an upstream failed",
    "frozen": "it answers nothing until it is resumed",
    "latched": "it takes no new calls",
    DIED: "the process that served it died; calls in flight count as spent",
}


_BROKEN = re.compile(r"([^\n]{60,}[^\n:])\n(?=[^\W\d])")  # a full line, before a word: lists stay lists


def as_json(run: History, record: EndRecord | None) -> dict[str, Any]:
    """The report for a program: the ending's record and what the journal adds to it."""
    view = run.view
    added: dict[str, Any] = {
        "run": view.run,
        "name": view.name,
        "goal": view.goal,
        "status": run.state,
        "kind": view.kind,
        "forked_from": dict(zip(("name", "snapshot"), view.forked_from, strict=True)) if view.forked_from[0] else None,
        "model": view.model,
        "models": {
            name: {"calls": m.calls, "failed": m.failed, "usd": m.usd, "tokens": m.tokens, "why": m.why}
            for name, m in view.models.items()
        },
        "agents": {name: one.as_json() for name, one in view.agents.items()},
        "maps": {name: one.as_json() for name, one in view.maps.items()},
        "threads": {name: {"parent": t.parent, "calls": t.calls, "usd": t.usd} for name, t in view.threads.items()},
        "steps": view.steps,
        "commands": view.commands,
        "failed_commands": view.failed_commands,
        "limits": _limits(run),
        "limits_reached": list(view.struck),
        "hosts": {
            name: {"connections": host.connections, "sent": host.sent, "received": host.received}
            for name, host in view.hosts.items()
        },
        "refusals": [{"door": d, "code": c, "count": n} for (d, c), n in view.refusals.items()],
        "edits": view.edits,
        "denied": view.denied,
        "enforced_by": view.profile,
        "sandboxes": view.sandboxes,
        "residue": list(view.residue),
        "spent": view.spent,
        "uncertain": {"calls": view.uncertain[0], "usd": view.uncertain[1]},
        "seconds": round(view.elapsed(view.now), 3),
        "latency": _latency(run).as_json(),
        "journal_head": view.head,
        "folder": str(run.folder.path),
    }
    return {**added, **(record.as_json() if record else {})}


def report(run: History, record: EndRecord | None) -> RenderableType:
    """The report for a person."""
    parts: list[RenderableType] = [_verdict(run, record)]
    if record and (record.delivered or record.refused or record.out):
        parts.append(_delivered(run, record))
    if run.view.checks:
        parts.append(section("Checks", _checks(run.view.checks)))
    parts.append(section("Spent", *_spent(run)))
    if run.view.kind == "door":
        parts.append(section("Isolation", Text("none: what its callers do beside their model calls is not seen", "dim")))
    else:
        parts.append(section("Time", *latency.report(_latency(run))))
        parts.append(section("Work", *_work(run)))
        if run.view.agents:
            parts.append(section("Agents", *subagents.report(run.view.agents)))
        if run.view.maps:
            parts.append(section("Maps", *maps.report(run.view.maps)))
        if run.view.hosts or run.view.denied:
            parts.append(section("Outside", *_outside(run.view)))
        parts.append(section("Box", *_box(run)))
    warnings = list(_warnings(run, record))
    if warnings:
        parts.append(section("Warnings", *warnings))
    parts.append(section("Record", _record(run, record)))
    parts += [Text(), _in_short(run, record)]
    return Group(*parts)


def _latency(run: History) -> latency.Latency:
    """As far as the journal can be read; that it is damaged stands among the errors."""
    return latency.latency(_readable(run))


def _readable(run: History) -> Iterator[Record]:
    with suppress(RunError):
        yield from read(run.folder.journal)


def _in_short(run: History, record: EndRecord | None) -> Text:
    """What a reader of a long report has on the screen in the end."""
    where = f"  → {neutral(record.out)}" if record and record.out and record.delivered and not _is_kept(record) else ""
    return Text.assemble(_badge(run), "  ", (neutral(run.view.name), "bold"), f"  {_said(run, record)}{where}")


def _badge(run: History) -> Text:
    word = state_word(run.state, run.view.kind)
    return Text(f" {word.upper()} ", f"{STATE_STYLE.get(word, 'bold')} reverse")


def _said(run: History, record: EndRecord | None) -> str:
    limit = record.limit if record else ""
    meaning = _meaning(state_word(run.state, run.view.kind), run.view.kind, record)
    return f"{meaning}{f' ({neutral(limit)})' if limit else ''}"


def _is_kept(record: EndRecord) -> bool:
    """Whether what was taken stays in the run's folder, because a check did not pass."""
    return record.status == "rejected"


def _verdict(run: History, record: EndRecord | None) -> RenderableType:
    view = run.view
    name, key = (neutral(view.name), "bold"), (f"  {neutral(view.run)}", "dim")
    parts: list[RenderableType] = [
        Text(),
        Text.assemble(_badge(run), "  ", name, key, f"  {_said(run, record)}"),
        Text(f"{_goal(view.goal)}\n", "italic"),
    ]
    note = record.note if record else ""
    if (held := two_lines(view)) is not None:
        parts.append(Text.assemble((held[0], "bold red"), "\n", (held[1], "bold"), "\n"))
    if note:
        parts.append(Text(f"“{neutral(note.strip(), lines=True, limit=1200)}”\n"))
    error = record.error if record else None
    if error:
        parts.append(Text(f"{neutral(error.get('code', ''))}: {neutral(error.get('message', ''))}", "red"))
        parts += [Text(f"  {neutral(error[key])}") for key in ("cause", "remedy") if error.get(key)]
        parts.append(Text())
    return Group(*parts)


def _meaning(word: str, kind: str, record: EndRecord | None) -> str:
    if kind == "door" and word in _OF_A_DOOR:
        return _OF_A_DOOR[word]
    if kind == "program" and word == "unverified" and record and not record.delivered:
        return f"the program ended with exit {record.exit}; nothing was to leave"
    return _MEANING.get(word, "")


def _limits(run: History) -> dict[str, int]:
    """The limits that this kind of run has; time in milliseconds."""
    limits = {name: limit for name, limit in run.view.limits.items() if name != "wall"}
    if not _unending(run):
        limits["wall"] = int(run.limits.wall * 1000)
    return {**limits, "steps": run.limits.steps} if run.view.kind == "agent" else limits


def _unending(run: History) -> bool:
    return run.view.kind == "door" and run.limits.wall >= UNENDING


def _goal(goal: str) -> str:
    """Its beginning; lines of one paragraph were broken for another width, so they flow on."""
    lines = neutral(_BROKEN.sub(r"\1 ", goal.strip()), lines=True, limit=600).splitlines()
    return "\n".join(lines[:4] + (["…"] if len(lines) > 4 else []))


def _delivered(run: History, record: EndRecord) -> RenderableType:
    where = f" → {neutral(record.out)}" if record.out and record.delivered else ""
    title = f"{'Kept, not delivered' if _is_kept(record) and record.delivered else 'Delivered'}{where}"
    return section(title, *delivered.shown(delivered.news(record, run.folder.path)))


def _checks(checks: Mapping[str, CheckView]) -> RenderableType:
    table = grid(None, None, None, 1)
    for name, check in checks.items():
        mark, style = VERDICT_MARK.get(check.verdict, ("?", "yellow"))
        score = "" if check.score is None else f"score {check.score:g}"
        if check.best is not None and check.score is not None and check.best > check.score:
            score += f" (best {check.best:g})"
        runs = f"ran {check.runs} times" if check.runs > 1 else ""
        why = first_line(check.output.strip().rpartition("\n")[2]) if check.verdict != "passed" else ""
        rest = Text(" · ".join(part for part in (score, runs, why) if part))
        table.add_row(Text(mark, style), neutral(name), Text(neutral(check.verdict), style), rest)
    return table


# --- money, time, steps ----------------------------------------------------------------------------------------------------


def _spent(run: History) -> Iterator[RenderableType]:
    view = run.view
    table = grid(None, None, 1)
    for resource in ROOT_LIMITS:
        if resource != "egress" or view.spent.get(resource, 0):
            _amount_row(table, view, resource)
    wall = view.elapsed(view.now)
    if _unending(run):
        table.add_row("time", "", f"{format_duration(wall)}, no limit")
    else:
        most = format_duration(run.limits.wall)
        table.add_row("time", Bar(share(wall, run.limits.wall)), f"{format_duration(wall)} of {most}")
    if view.kind == "agent":
        table.add_row("steps", Bar(share(view.steps, run.limits.steps)), f"{view.steps} of {run.limits.steps}")
    with suppress(GearcaseError):  # a full disk must not keep a report from being read
        day, most = day_total(today(), view.run, view.spent.get("usd", 0)).spent, user_limits().usd_per_day
        table.add_row("today", Bar(share(day, most)), f"{format_money(day)} of {format_money(most)}, all your runs")
    yield table
    if view.uncertain[1]:
        yield Text(_uncertain(*view.uncertain), "yellow")
    if view.models:
        yield Text()
        yield Fitting(lambda narrow: _models(view.models, narrow))
        for name, model in view.models.items():
            if model.why:
                yield Text(f"the last of {neutral(name)} that failed: {first_line(model.why, 200)}", "yellow")
        if any(model.unbilled for model in view.models.values()):
            yield Text("* as priced; a person, a cassette or a script sends no invoice, and it counts to no day", "dim")
    if (threads := tree(view.threads)) is not None:
        yield Text()
        yield threads


def _amount_row(table: Table, view: View, resource: str) -> None:
    limit, spent, held = view.limits.get(resource), view.spent.get(resource, 0), view.held.get(resource, 0)
    waiting = f"  ({amount(resource, held)} held)" if held else ""
    name, most = ("money", "up to " if view.uncertain[1] else "") if resource == "usd" else (resource, "")
    if limit is not None:
        bar = Bar(share(spent, limit), share(held, limit))
        table.add_row(name, bar, f"{most}{amount(resource, spent)} of {amount(resource, limit)}{waiting}")
    elif resource != "usd" and spent:
        table.add_row(name, "", f"{amount(resource, spent)}{waiting}")


def _uncertain(calls: int, usd: int) -> str:
    """Why the money is an upper bound."""
    was, counts = ("was", "counts") if calls == 1 else ("were", "count")
    return (
        f"up to: {counted(calls, 'call')} {was} in flight or broke off, so what was billed is not known here; "
        f"{counts} with the worst case, {format_money(usd)}: the provider's invoice says how much less it is"
    )


def _models(models: Mapping[str, ModelView], narrow: bool) -> Table:
    """`narrow`: without tokens."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", overflow="fold")
    for heading in ("calls", "cost") if narrow else ("calls", "input", "cached", "output", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in sorted(models.items(), key=lambda item: -item[1].usd):
        tokens = model.tokens
        written = sum(tokens.get(key, 0) for key in ("input", "cache_write_5m", "cache_write_1h"))
        failed = f" ({model.failed} failed)" if model.failed else ""
        counts = (written, tokens.get("cache_read", 0), tokens.get("output", 0))
        shown = () if narrow else (f"{count:,}" for count in counts)
        cost = format_money(model.usd) + ("*" if model.unbilled else "")
        table.add_row(neutral(name), f"{model.calls}{failed}", *shown, cost)
    return table


# --- work, box, record -----------------------------------------------------------------------------------------------------


def _work(run: History) -> Iterator[RenderableType]:
    view = run.view
    failed = f" ({view.failed_commands} failed)" if view.failed_commands else ""
    added, changed, removed = view.files
    facts = [
        f"{counted(view.steps, 'turn')} of {neutral(view.model)}" if view.model else "",
        f"{counted(view.commands, 'command')}{failed}",
        f"files +{added} ~{changed} -{removed}" if any(view.files) else "",
        counted(view.snapshots, "snapshot") if view.snapshots else "",
        counted(view.rewinds, "rewind") if view.rewinds else "",
        f"context compacted {counted(view.compactions, 'time')}" if view.compactions else "",
    ]
    if view.forked_from[0]:
        yield Text(f"forked from {neutral(view.forked_from[0])} at {neutral(view.forked_from[1])}")
    yield Text(" · ".join(fact for fact in facts if fact))
    for command in view.failures[-3:]:
        how = f"exit {command.exit_code}" if command.ended == "exited" else command.ended
        struck = f", {', '.join(command.limits)} limit" if command.limits else ""
        yield Text.assemble(("✗ ", "red"), first_line(command.text, 100), (f"  {neutral(how)}{neutral(struck)}", "dim"))
    if view.agent_end:
        yield Text(f"the agent ended: {first_line(view.agent_end)}", "dim")


def _outside(view: View) -> Iterator[RenderableType]:
    if view.hosts:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("host", overflow="fold")
        for heading in ("connections", "sent", "received"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, host in sorted(view.hosts.items(), key=lambda item: -item[1].sent - item[1].received):
            table.add_row(neutral(name), str(host.connections), format_bytes(host.sent), format_bytes(host.received))
        yield table
    if view.denied:
        yield Text(denied(view.denied), "yellow")


def _box(run: History) -> Iterator[RenderableType]:
    view = run.view
    guarantees: Mapping[str, Any] = view.profile.get("guarantees", {})
    if guarantees:
        table = grid(None, None, 1)
        for aspect, guarantee in guarantees.items():
            strength = neutral(guarantee.get("strength", "absent"))
            bound = f" (overshoot: {neutral(guarantee['bound'])})" if guarantee.get("bound") else ""
            table.add_row(
                neutral(aspect),
                Text(strength, STRENGTH_STYLE.get(strength, "")),
                Text(f"{neutral(guarantee.get('by', ''))}{bound}", "dim"),
            )
        yield table
    built = f"built {view.sandboxes} sandbox{'' if view.sandboxes == 1 else 'es'}"
    if view.closed < view.sandboxes:
        gone = "; a sandbox dies with the process that made it" if run.state == DIED else ""
        yield Text(f"{built}, torn down {view.closed} so far{gone}", "yellow" if view.ended is not None else "")
    elif view.residue:
        yield Text(f"{built}, torn down {view.closed}; left behind: {neutral(', '.join(view.residue))}", "bold red")
    else:
        yield Text(f"{built}, torn down {view.closed}; left behind: nothing")


def _warnings(run: History, record: EndRecord | None) -> Iterator[Text]:
    view = run.view
    for text in record.warnings if record else ():
        yield Text(f"! {neutral(text)}", "yellow")
    for alarm in view.alarms:
        yield Text(f"! {neutral(alarm.detector)}: {neutral(alarm.fact)}", "bold red")
    for text in view.struck:
        yield Text(f"! limit reached: {neutral(text)}", "yellow")
    if view.overspent.get("usd"):
        yield Text(f"! billed above what was held: {format_money(view.overspent['usd'])}", "bold red")
    for (door, code), count in view.refusals.items():
        yield Text(f"! the {neutral(door)} door refused {counted(count, 'request')}: {neutral(code)}", "yellow")
    for text, count in view.edits.items():
        yield Text(f"! {counted(count, 'request')} edited: {neutral(text)}", "yellow")
    for error in view.errors:
        yield Text(f"! {neutral(error.get('code', ''))}: {neutral(error.get('message', ''))}", "red")


def _record(run: History, record: EndRecord | None) -> RenderableType:
    table = grid(None, 1)
    head = record.journal_head if record and record.journal_head else run.view.head
    table.add_row("journal head", head)
    at = f" --at {run.view.seq}" if head == run.view.head else ""
    table.add_row("verify", f"gearcase journal verify {neutral(run.folder.name)} --from {head[:16]}{at}")
    table.add_row("folder", neutral(run.folder.path))
    if record and record.delivered and has_change(run.folder.path):
        name = neutral(run.folder.name)
        table.add_row("change", Text(f"gearcase diff {name}   gearcase apply {name}", "bold"))
    resume = record.how_to_resume if record else ""
    if resume or run.state == "frozen":
        table.add_row("resume", Text(neutral(resume) or f"gearcase resume {neutral(run.folder.name)}", "bold"))
    return table
