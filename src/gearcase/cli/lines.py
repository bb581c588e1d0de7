"""One record of a journal as one line for a person; `None` for what only a machine wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.text import Text

from gearcase import events
from gearcase.cli import maps, subagents
from gearcase.cli.shapes import braked, missed, state_word
from gearcase.cli.text import first_line, neutral
from gearcase.journal import Record
from gearcase.units import format_bytes, format_duration, format_money

_Said = tuple[str, str, str]  # mark, style, text


def line(record: Record, width: int = 0) -> Text | None:
    """`12:01:03  $  command 3  python3 build.py`, cut to `width` when it is given."""
    said = _SAY.get(type(record.event)) if record.event is not None else None
    parts = said(record.event) if said else None
    if parts is None:
        return None
    mark, style, text = parts
    clock = time.strftime("%H:%M:%S", time.localtime(record.time))
    who = f"{neutral(record.agent)}  " if record.agent not in ("", "lead") else ""
    made = Text.assemble((f"{clock}  ", "dim"), (f"{mark:<8}", style), "  ", (who, "dim"), text)
    if width:
        made.truncate(width, overflow="ellipsis")
    return made


def detail(record: Record) -> Text:
    """Any record, with its fields: what `line` leaves out too."""
    fields = {key: value for key, value in record.raw.items() if key not in ("seq", "time", "boot", "agent", "type", "prev")}
    shown = "  ".join(f"{key}={neutral(value, limit=120)}" for key, value in fields.items() if value not in ("", None, [], {}))
    clock = time.strftime("%H:%M:%S", time.localtime(record.time))
    return Text.assemble((f"{record.seq:>6}  {clock}  ", "dim"), (f"{neutral(record.type):<17}", "cyan"), "  ", shown)


def giving(event: events.Giving) -> str:
    """How far what is given has come."""
    bytes_ = f"{format_bytes(event.bytes)} of {format_bytes(event.of_bytes)}"
    return f"{neutral(event.phase)} what is given: {bytes_}, {event.files:,} of {event.of_files:,} files"


def arriving(event: events.Giving | events.DatabaseCopying) -> str:
    """How far what a run begins with has come."""
    if isinstance(event, events.Giving):
        return giving(event)
    return f"copying {neutral(event.door)}: {format_bytes(event.bytes)} of about {format_bytes(event.of_bytes)}"


def _command(text: str) -> str:
    return neutral(text.strip(), limit=300)


def _ended(event: events.CommandEnded) -> _Said:
    ok = event.ended == "exited" and event.exit_code == 0
    how = f"exit {event.exit_code}" if event.ended == "exited" else f"{neutral(event.ended)} ({event.exit_code})"
    struck = f", {neutral(', '.join(event.limits))} limit struck" if event.limits else ""
    health = f", {neutral(event.health)}" if event.health else ""
    rest = f"{how}, {format_duration(event.seconds)}, {format_bytes(event.output_bytes)} out{struck}{health}"
    return ("ok" if ok else "failed", "green" if ok else "red", rest)


def _called(event: events.ModelCalled) -> _Said | None:
    if event.label.startswith("map "):
        return None  # there may be thousands: how far the map is says it
    usage = event.usage
    read = sum(usage.get(key, 0) for key in ("input", "cache_read", "cache_write_5m", "cache_write_1h"))
    text = f"{neutral(event.model)}  {read:,} in, {usage.get('output', 0):,} out, {format_duration(event.seconds)}"
    if event.parent:
        text += f"  thread {neutral(event.thread[-8:])}"
    failed = event.ended in ("failed", "cut")
    return (
        "call",
        "red" if failed else "blue",
        text
        + (f"  {neutral(event.ended)} ({neutral(event.why, limit=200) or event.status})" if event.ended != "complete" else ""),
    )


def _check(event: events.CheckRan) -> _Said:
    score = "" if event.score is None else f"  score {event.score:g}"
    style = {"passed": "bold green", "failed": "bold red"}.get(event.verdict, "yellow")
    return ("check", style, f"{neutral(event.name)}  {neutral(event.verdict)}{score}{'  (final)' if event.final else ''}")


def _delivered(event: events.Delivered) -> _Said:
    size = format_bytes(sum(int(file.get("bytes", file.get("size", 0))) for file in event.files))
    refused = f", {len(event.refused)} refused" if event.refused else ""
    return ("out", "bold green", f"{len(event.files)} files, {size}{refused} → {neutral(event.to)}")


def _turn(event: events.AgentTurn) -> _Said | None:
    said = first_line(event.text)
    return ("says", "magenta", said) if said else None


def _brake(event: events.BrakeChanged | events.AgentBraked) -> _Said:
    return ("brake", "bold yellow", f"{braked(event.level, event.by, event.reason)}  ({event.milliseconds:.0f} ms)")


def _error(error: dict[str, Any]) -> _Said:
    return ("error", "bold red", f"{neutral(error.get('code', ''))}: {neutral(error.get('message', ''))}")


def _alarm(event: events.AlarmRaised) -> _Said:
    style = "dim" if event.action == "shadow" else "yellow" if event.action == "note" else "bold red"
    return ("alarm", style, f"{neutral(event.detector)}  {neutral(event.action)}: {neutral(event.fact, limit=300)}")


def _watching(event: events.Watching) -> _Said:
    able = [name for name, level in event.levels.items() if level not in ("off", "shadow") and name not in event.lacking]
    return ("watch", "cyan", f"{len(able)} of {len(event.levels)} monitors can act (gearcase monitors list)")


def _paged(event: events.Paged) -> _Said:
    again = f" again ({event.told})" if event.told > 1 else ""
    whom = f"{neutral(', '.join(event.to))} told{again}: " if event.to else ""
    return ("page", "bold yellow", f"{whom}{neutral(event.what, limit=300)} {neutral(event.meanwhile, limit=300)}")


def _not_paged(event: events.PageFailed) -> _Said:
    then = f"again in {format_duration(event.again)}" if event.again else "given up"
    return ("page", "red", f"{neutral(event.to)} was not told: {neutral(event.why, limit=300)}; {then}")


def _left(event: events.NodeLeft) -> str:
    if not event.why:
        return f"{neutral(event.node)} leaves after {event.items:,} items"
    spent = f"; {format_money(event.spent)} that it had leased count as spent" if event.spent else ""
    return f"{neutral(event.node)} is lost after {event.items:,} items: {neutral(event.why)}{spent}"


def _kept(event: events.RunContinues) -> str:
    files = f"files of its {neutral(event.snapshot)}" if event.snapshot else "files as they were given"
    turns = f"its conversation up to answer {event.turns:,}, " if event.turns else ""
    return f"{turns}{files}, {event.answers:,} answers of its maps"


def _settled(event: events.Settled) -> _Said | None:
    if not event.over.get("usd"):
        return None
    return ("alarm", "bold red", f"billed above its hold: {format_money(event.over['usd'])}")


_SAY: dict[type[events.Event], Callable[[Any], _Said | None]] = {
    events.RunStarted: lambda e: ("door" if e.kind == "door" else "run", "bold", f"{neutral(e.name)}  {first_line(e.goal)}"),
    events.RunContinues: lambda e: ("run", "bold", f"goes on for {neutral(e.name)}, whose process died; {_kept(e)}"),
    events.RunForked: lambda e: ("run", "bold", f"begins from {neutral(e.name)} at {neutral(e.snapshot)}, {e.files:,} files"),
    events.RunResumed: lambda e: ("run", "bold", "its journal is taken up again after a stop"),
    events.RunEnded: lambda e: ("end", "bold", neutral(state_word(e.status, str(e.record.get("kind"))))),
    events.Failure: lambda e: _error(e.error),
    events.Settled: _settled,
    events.AlarmRaised: _alarm,
    events.Paged: _paged,
    events.PageFailed: _not_paged,
    events.Watching: _watching,
    events.NodeJoined: lambda e: ("node", "", f"{neutral(e.node)} joins: {neutral(e.host)}, pid {e.pid}"),
    events.NodeLeft: lambda e: ("node", "bold yellow" if e.why else "", _left(e)),
    events.Cut: lambda e: ("cut", "yellow", f"a hold counts as spent whole: {neutral(e.reason)}"),
    events.SandboxOpened: lambda e: ("box", "cyan", f"{neutral(e.sandbox)} is up"),
    events.SandboxLost: lambda e: ("box", "bold red", f"{neutral(e.sandbox)} died: {neutral(e.reason)}"),
    events.SandboxClosed: lambda e: (
        ("box", "bold red", f"{neutral(e.sandbox)} left behind: {neutral(', '.join(e.residue))}")
        if e.residue
        else ("box", "cyan", f"{neutral(e.sandbox)} torn down, nothing left behind")
    ),
    events.CommandStarted: lambda e: ("$", "bold", _command(e.text)),
    events.CommandEnded: _ended,
    events.TestsClaimed: lambda e: ("tests", "cyan", f"{neutral(e.runner)} says {e.passed} passed, {e.failed} failed"),
    events.Giving: lambda e: ("give", "cyan", giving(e)),
    events.DatabaseCopying: lambda e: ("database", "cyan", arriving(e)),
    events.FilesChanged: lambda e: ("files", "cyan", f"+{e.added} ~{e.changed} -{e.removed}"),
    events.SnapshotTaken: lambda e: ("snapshot", "cyan", f"{neutral(e.snapshot)}  {neutral(e.note)}"),
    events.StepKept: lambda e: (
        "snapshot",
        "dim",
        f"{neutral(e.snapshot)}  +{e.added} ~{e.changed} -{e.removed}, kept by itself",
    ),
    events.StepsPruned: lambda e: ("snapshot", "dim", f"{len(e.snapshots)} old ones are not kept any more ({neutral(e.why)})"),
    events.Rewound: lambda e: (
        "rewind",
        "yellow",
        f"to {neutral(e.snapshot)}, by the {neutral(e.by)}; what was left is {neutral(e.kept)}",
    ),
    events.DatabaseReturned: lambda e: (
        "rewind",
        "yellow",
        f"{neutral(e.door)} to {neutral(e.snapshot)}; what it held is kept with {neutral(e.kept)}",
    ),
    events.ModelCalled: _called,
    events.DoorRefused: lambda e: ("refused", "yellow", f"{neutral(e.door)} door: {neutral(e.message, limit=300)}"),
    events.RequestMade: lambda e: (
        "asks",
        "bold yellow",
        f"for {neutral(e.kind)} {neutral(e.what)}: {neutral(e.why, limit=300)}  (gearcase allow RUN {e.request})",
    ),
    events.RequestAnswered: lambda e: (
        "answer",
        "yellow",
        f"request {e.request} {neutral(e.answer)} by {neutral(e.by)} {neutral(e.said, limit=300)}",
    ),
    events.HostsChanged: lambda e: ("hosts", "yellow", f"{'+' if e.allowed else '-'}{neutral(e.rule)} by {neutral(e.by)}"),
    events.RequestEdited: lambda e: ("edited", "yellow", neutral(", ".join(e.edits), limit=300)),
    events.MapStarted: lambda e: (
        "map",
        "bold",
        f"{neutral(e.map)}  {e.expected:,} items ({neutral(e.split)}), {e.concurrency} at once, "
        f"{neutral(e.model) or 'a command'}: {first_line(e.text)}",
    ),
    events.MapProgressed: lambda e: ("map", "blue", maps.progress(e)),
    events.MapItemFailed: lambda e: (
        "item",
        "yellow",
        f"{neutral(e.map)} {neutral(e.shard, limit=100)} {neutral(e.state)}: {neutral(e.code)}: {neutral(e.message, limit=200)}",
    ),
    events.SpreadWarned: lambda e: ("map", "yellow", maps.warned(e)),
    events.PromptTried: lambda e: ("prompt", "yellow" if e.decision == "refused" else "green", maps.tried(e)),
    events.CanaryEnded: lambda e: ("canary", "yellow" if e.why else "blue", maps.canary(e)),
    events.MapEnded: lambda e: ("map", "green" if e.ended == "done" and not e.classes else "yellow", maps.ending(e)),
    events.AgentStarted: lambda e: ("agent", "cyan", neutral(e.model)),
    events.AgentTurn: _turn,
    events.AttemptFailed: lambda e: ("waits", "yellow", missed(e)),
    events.ContextCompacted: lambda e: ("context", "cyan", f"{e.tokens_before:,} to {e.tokens_after:,} tokens"),
    events.AgentEnded: lambda e: ("agent", "cyan", f"ended: {neutral(e.reason)} {first_line(e.detail)}"),
    events.AgentSpawned: lambda e: (
        "spawn",
        "cyan",
        f"{neutral(e.name)} of {neutral(e.parent)}, {format_money(e.limits.get('usd', 0))}, {e.files:,} files: {first_line(e.goal)}",
    ),
    events.AgentReturned: lambda e: ("return", "cyan" if e.status == "done" else "yellow", subagents.returned(e)),
    events.ResultsCopied: lambda e: ("copied", "yellow" if e.beside or e.refused else "cyan", subagents.copied(e)),
    events.AgentTold: lambda e: ("tells", "magenta", f"{neutral(e.to)}: {first_line(e.text)}"),
    events.CheckRan: _check,
    events.Delivered: _delivered,
    events.BrakeChanged: _brake,
    events.AgentBraked: _brake,
    events.LimitReached: lambda e: ("limit", "bold yellow", f"{neutral(e.limit)} {neutral(e.detail)}"),
}
