"""What a person sees of a run, as a pure fold over its journal: `state = fold(state, record)`.

The live view, `ps`, `logs` and `report` show this state and nothing else, so a past run looks like a live one. The fold has no
clock but the records' own, never fails on a record, and keeps what is bounded: counts, the last few lines, one entry a model,
check or refusal. Texts in it are as the journal has them: whoever shows them makes them neutral.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from gearcase import events
from gearcase.cli import maps, subagents
from gearcase.cli.parts import CheckView, CommandView, HostView, ModelView, ThreadView
from gearcase.events import Amounts
from gearcase.journal import Record
from gearcase.ledger import less
from gearcase.run.accounts import RUN

E = TypeVar("E", bound=events.Event)

ROOT_LIMITS = ("usd", "tokens", "calls", "egress")
_LINES = 8
_LIST = 20
_NAMES = 50
_MORE = "(more)"


@dataclass(frozen=True, slots=True)
class View:
    """A run as far as its journal tells. Amounts are in the units of events.py, times in unix seconds."""

    run: str = ""
    name: str = ""
    goal: str = ""
    kind: str = "agent"  # or "program", "door"
    gearcase: str = ""
    started: float = 0.0
    now: float = 0.0  # time of the last record
    seq: int = 0
    head: str = ""
    level: str = "running"
    braked_by: str = ""
    brake_reason: str = ""
    held_by: events.AlarmRaised | None = None  # what latched or froze it, until it goes on
    alarms: tuple[events.AlarmRaised, ...] = ()  # those that did more than stand on record
    frozen_since: float = 0.0
    frozen: float = 0.0  # seconds, of finished freezes
    model: str = ""
    steps: int = 0
    said: str = ""
    missed: events.AttemptFailed | None = None  # while its model does not answer
    limits: Amounts = field(default_factory=dict[str, int])
    spent: Amounts = field(default_factory=dict[str, int])
    held: Amounts = field(default_factory=dict[str, int])
    open_holds: Mapping[int, Amounts] = field(default_factory=dict[int, Amounts])
    unjoined_costs: Mapping[int, int] = field(default_factory=dict[int, int])  # hold -> usd, until its call is on record
    unjoined_calls: Mapping[int, events.ModelCalled] = field(default_factory=dict[int, events.ModelCalled])
    models: Mapping[str, ModelView] = field(default_factory=dict[str, ModelView])
    threads: Mapping[str, ThreadView] = field(default_factory=dict[str, ThreadView])
    uncertain: tuple[int, int] = (
        0,
        0,
    )  # calls that count as spent whole, because what they cost is not known; their nano-dollars
    overspent: Amounts = field(default_factory=dict[str, int])
    commands: int = 0
    failed_commands: int = 0
    running: Mapping[int, CommandView] = field(default_factory=dict[int, CommandView])
    finished: CommandView | None = None  # the latest that ended
    failures: tuple[CommandView, ...] = ()
    checks: Mapping[str, CheckView] = field(default_factory=dict[str, CheckView])
    arriving: events.Giving | events.DatabaseCopying | None = None  # while what it begins with is on its way in
    files: tuple[int, int, int] = (0, 0, 0)  # added, changed, removed, summed over scans
    snapshots: int = 0
    rewinds: int = 0
    compactions: int = 0
    refusals: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    edits: Mapping[str, int] = field(default_factory=dict[str, int])
    hosts: Mapping[str, HostView] = field(default_factory=dict[str, HostView])
    denied: Mapping[str, int] = field(
        default_factory=dict[str, int]
    )  # names that do not exist inside, and how often they were asked for
    struck: tuple[str, ...] = ()
    errors: tuple[dict[str, Any], ...] = ()
    profile: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sandboxes: int = 0
    closed: int = 0
    residue: tuple[str, ...] = ()
    memory: int = 0
    cpu: float = 0.0
    processes: int = 0
    disk: int = 0
    agents: subagents.Agents = field(default_factory=dict[str, subagents.AgentView])
    maps: maps.Maps = field(default_factory=dict[str, maps.MapView])
    delivered: events.Delivered | None = None
    agent_end: str = ""
    resumed: int = 0
    forked_from: tuple[str, str] = ("", "")  # the run and its snapshot that this one began from
    ended: Mapping[str, Any] | None = None  # the ending's record

    @property
    def state(self) -> str:
        """One word: the ending's status, else the brake's level."""
        return str(self.ended.get("status", "ended")) if self.ended is not None else self.level

    def elapsed(self, now: float) -> float:
        """Seconds of box time until `now`: it stands still while frozen. An ending says it itself: it may have been written later."""
        if self.ended is not None and "seconds" in self.ended:
            return float(self.ended["seconds"])
        until = self.frozen_since or (self.now if self.ended is not None else max(now, self.now))
        return max(0.0, until - self.started - self.frozen) if self.started else 0.0


_OF_ONE = (
    events.Tick,
    events.LimitReached,
    events.AgentStarted,
    events.AgentTurn,
    events.AttemptFailed,
    events.AgentEnded,
    events.ContextCompacted,
    events.CheckRan,
    events.SnapshotTaken,
    events.StepKept,
    events.Rewound,
    events.FilesChanged,
)
"""Facts about one agent: of a sub-agent they are told on its own line, and are not the run's."""


def fold(view: View, record: Record) -> View:
    """The view after one more record."""
    view = replace(view, now=record.time, seq=record.seq, head=record.digest)
    if record.event is not None and (record.agent in view.agents or isinstance(record.event, events.AgentSpawned)):
        view = replace(view, agents=subagents.folded(view.agents, record.event, record.agent))
        if isinstance(record.event, _OF_ONE):
            return view
    step = _STEPS.get(type(record.event)) if record.event is not None else None
    return step(view, record.event, record) if step else view


def _add(left: Mapping[str, int], right: Mapping[str, int], sign: int = 1) -> Amounts:
    return {key: left.get(key, 0) + sign * right.get(key, 0) for key in {**left, **right}}


_Step = Callable[[View, Any, Record], View]
_STEPS: dict[type[events.Event], _Step] = {}


def _on(kind: type[E]) -> Callable[[Callable[[View, E, Record], View]], Callable[[View, E, Record], View]]:
    def register(step: Callable[[View, E, Record], View]) -> Callable[[View, E, Record], View]:
        _STEPS[kind] = step
        return step

    return register


# --- the run ---------------------------------------------------------------------------------------------------------------


@_on(events.RunStarted)
def _(view: View, event: events.RunStarted, record: Record) -> View:
    told = replace(view, run=event.run, name=event.name, goal=event.goal, kind=event.kind, gearcase=event.gearcase)
    return replace(told, started=record.time, profile={})


@_on(events.RunResumed)
def _(view: View, event: events.RunResumed, record: Record) -> View:
    return replace(view, resumed=view.resumed + 1, running={}, ended=None)


@_on(events.RunForked)
def _(view: View, event: events.RunForked, record: Record) -> View:
    return replace(view, forked_from=(event.name, event.snapshot))


@_on(events.RunEnded)
def _(view: View, event: events.RunEnded, record: Record) -> View:
    return replace(view, ended={"status": event.status, **event.record}, running={})


@_on(events.Tick)
def _(view: View, event: events.Tick, record: Record) -> View:
    return replace(view, cpu=event.cpu, memory=event.memory, processes=event.processes, disk=event.disk)


@_on(events.Failure)
def _(view: View, event: events.Failure, record: Record) -> View:
    return replace(view, errors=(*view.errors, event.error)[-_LIST:])


@_on(events.BrakeChanged)
def _(view: View, event: events.BrakeChanged, record: Record) -> View:
    since, frozen = view.frozen_since, view.frozen
    if event.level in ("frozen", "killed"):
        since = since or record.time
    elif since:
        since, frozen = 0.0, frozen + record.time - since
    held = None if event.level == "running" else view.held_by
    braked = {"level": event.level, "braked_by": event.by, "brake_reason": event.reason, "held_by": held}
    return replace(view, frozen_since=since, frozen=frozen, **braked)


@_on(events.AlarmRaised)
def _(view: View, event: events.AlarmRaised, record: Record) -> View:
    if event.action == "shadow":
        return view
    held = event if event.action in ("latch", "freeze") else view.held_by
    return replace(view, held_by=held, alarms=(*view.alarms, event)[-_LIST:])


@_on(events.LimitReached)
def _(view: View, event: events.LimitReached, record: Record) -> View:
    text = f"{event.limit}: {event.detail}" if event.detail else event.limit
    return view if text in view.struck else replace(view, struck=(*view.struck, text)[-_LIST:])


# --- the ledger ------------------------------------------------------------------------------------------------------------


@_on(events.AccountOpened)
def _(view: View, event: events.AccountOpened, record: Record) -> View:
    return view if event.parent else replace(view, limits=_add(view.limits, event.limits))


@_on(events.LimitGranted)
def _(view: View, event: events.LimitGranted, record: Record) -> View:
    return view if event.account != RUN else replace(view, limits=_add(view.limits, event.amounts))


@_on(events.Held)
def _(view: View, event: events.Held, record: Record) -> View:
    return replace(view, open_holds={**view.open_holds, event.hold: event.amounts}, held=_add(view.held, event.amounts))


@_on(events.Settled)
def _(view: View, event: events.Settled, record: Record) -> View:
    if event.lease in view.open_holds:
        held = view.open_holds[event.lease]
        rest = less(held, event.amounts)
        holds = {**view.open_holds, event.lease: rest}
        view = replace(view, open_holds=holds, held=_add(_add(view.held, held, -1), rest))
    view = replace(_let_go(view, event.hold), overspent=_add(view.overspent, event.over))
    return _book(view, event.hold, event.amounts)


@_on(events.Released)
def _(view: View, event: events.Released, record: Record) -> View:
    return _book(_let_go(view, event.hold), event.hold, {})


@_on(events.Cut)
def _(view: View, event: events.Cut, record: Record) -> View:
    held = view.open_holds.get(event.hold, {})
    if "usd" in held:
        view = replace(view, uncertain=(view.uncertain[0] + 1, view.uncertain[1] + held["usd"]))
    return _book(_let_go(view, event.hold), event.hold, held)


def _let_go(view: View, hold: int) -> View:
    amounts = view.open_holds.get(hold)
    if amounts is None:
        return view
    rest = {key: value for key, value in view.open_holds.items() if key != hold}
    return replace(view, open_holds=rest, held=_add(view.held, amounts, -1))


def _book(view: View, hold: int, amounts: Amounts) -> View:
    """Book what a hold became, on the model's line when its call is on record already, else for the call to find."""
    view = replace(view, spent=_add(view.spent, amounts))
    call = view.unjoined_calls.get(hold)
    if call is not None:
        rest = {key: value for key, value in view.unjoined_calls.items() if key != hold}
        return _charged(replace(view, unjoined_calls=rest), call, amounts.get("usd", 0))
    if "usd" not in amounts and "tokens" not in amounts:
        return view
    costs = dict(list(view.unjoined_costs.items())[-255:])  # a cost whose call never comes is not a model's
    return replace(view, unjoined_costs={**costs, hold: amounts.get("usd", 0)})


def _charged(view: View, call: events.ModelCalled, usd: int) -> View:
    entry = view.models.get(call.model, ModelView())
    view = replace(view, models={**view.models, call.model: replace(entry, usd=entry.usd + usd)})
    name = _thread(view, call)
    thread = view.threads.get(name)
    return replace(view, threads={**view.threads, name: replace(thread, usd=thread.usd + usd)}) if thread else view


def _thread(view: View, call: events.ModelCalled) -> str:
    """Under which name its thread is counted: a program may name as many as it likes."""
    return call.thread if not call.thread or call.thread in view.threads or len(view.threads) < _LIST else _MORE


@_on(events.ModelCalled)
def _(view: View, event: events.ModelCalled, record: Record) -> View:
    entry = view.models.get(event.model, ModelView())
    entry = entry.and_call(event, _add(entry.tokens, event.usage))
    view = replace(view, models={**view.models, event.model: entry})
    if event.thread:
        name = _thread(view, event)
        thread = view.threads.get(name, ThreadView(event.parent if name != _MORE else ""))
        view = replace(view, threads={**view.threads, name: replace(thread, calls=thread.calls + 1)})
    if event.hold in view.unjoined_costs:
        rest = {key: value for key, value in view.unjoined_costs.items() if key != event.hold}
        return _charged(replace(view, unjoined_costs=rest), event, view.unjoined_costs[event.hold])
    if event.hold in view.open_holds:
        return replace(view, unjoined_calls={**view.unjoined_calls, event.hold: event})
    return view


# --- sandboxes, commands, files --------------------------------------------------------------------------------------------


@_on(events.SandboxOpened)
def _(view: View, event: events.SandboxOpened, record: Record) -> View:
    return replace(view, sandboxes=view.sandboxes + 1, profile=view.profile or event.profile)


@_on(events.SandboxClosed)
def _(view: View, event: events.SandboxClosed, record: Record) -> View:
    return replace(view, closed=view.closed + 1, residue=(*view.residue, *event.residue)[:_LIST])


@_on(events.SandboxLost)
def _(view: View, event: events.SandboxLost, record: Record) -> View:
    error = {"code": "sandbox_lost", "message": f"sandbox {event.sandbox} died: {event.reason}"}
    return replace(view, errors=(*view.errors, error)[-_LIST:])


@_on(events.CommandStarted)
def _(view: View, event: events.CommandStarted, record: Record) -> View:
    command = CommandView(event.command, event.text, view.elapsed(record.time))
    return replace(view, commands=view.commands + 1, running={**view.running, event.command: command})


@_on(events.CommandEnded)
def _(view: View, event: events.CommandEnded, record: Record) -> View:
    begun = view.running.get(event.command) or CommandView(event.command, "", view.elapsed(record.time) - event.seconds)
    command = replace(
        begun,
        ended=event.ended,
        exit_code=event.exit_code,
        seconds=event.seconds,
        limits=tuple(event.limits),
        lines=tuple((event.tail or event.head)[-8000:].splitlines()[-_LINES:]),
    )
    failed = command.failed
    return replace(
        view,
        running={number: other for number, other in view.running.items() if number != event.command},
        finished=command,
        failed_commands=view.failed_commands + failed,
        failures=(*view.failures, command)[-_LIST:] if failed else view.failures,
    )


@_on(events.Giving)
def _(view: View, event: events.Giving, record: Record) -> View:
    return replace(view, arriving=event)


@_on(events.DatabaseCopying)
def _(view: View, event: events.DatabaseCopying, record: Record) -> View:
    return replace(view, arriving=event)


@_on(events.FilesChanged)
def _(view: View, event: events.FilesChanged, record: Record) -> View:
    added, changed, removed = view.files
    return replace(view, files=(added + event.added, changed + event.changed, removed + event.removed))


@_on(events.SnapshotTaken)
def _(view: View, event: events.SnapshotTaken, record: Record) -> View:
    return replace(view, snapshots=view.snapshots + 1)


@_on(events.StepKept)
def _(view: View, event: events.StepKept, record: Record) -> View:
    return replace(view, snapshots=view.snapshots + 1)


@_on(events.Rewound)
def _(view: View, event: events.Rewound, record: Record) -> View:
    return replace(view, rewinds=view.rewinds + 1)


# --- doors, agent, checks, delivery ----------------------------------------------------------------------------------------


@_on(events.DoorRefused)
def _(view: View, event: events.DoorRefused, record: Record) -> View:
    key = (event.door, event.code)
    if key not in view.refusals and len(view.refusals) >= _LIST:
        key = ("other", "more")
    return replace(view, refusals={**view.refusals, key: view.refusals.get(key, 0) + 1})


@_on(events.ConnectionClosed)
def _(view: View, event: events.ConnectionClosed, record: Record) -> View:
    name = event.name if event.name in view.hosts or len(view.hosts) < _NAMES else _MORE
    before = view.hosts.get(name, HostView())
    after = HostView(before.connections + 1, before.sent + event.sent, before.received + event.received)
    return replace(view, hosts={**view.hosts, name: after})


@_on(events.RequestEdited)
def _(view: View, event: events.RequestEdited, record: Record) -> View:
    edits = dict(view.edits)
    for text in event.edits:
        if text in edits or len(edits) < _LIST:
            edits[text] = edits.get(text, 0) + 1
    return replace(view, edits=edits)


@_on(events.NameAsked)
def _(view: View, event: events.NameAsked, record: Record) -> View:
    if event.allowed or (event.name not in view.denied and len(view.denied) >= _NAMES):
        return view
    # A client asks for both kinds of address at once: that is one time. Counts only grow, whoever of several boxes tells them.
    return replace(view, denied={**view.denied, event.name: max(event.count, view.denied.get(event.name, 0))})


@_on(events.MapStarted)
def _(view: View, event: events.MapStarted, record: Record) -> View:
    return replace(view, maps=maps.begun(view.maps, event))


@_on(events.MapProgressed)
def _(view: View, event: events.MapProgressed, record: Record) -> View:
    return replace(view, maps=maps.progressed(view.maps, event))


@_on(events.MapEnded)
def _(view: View, event: events.MapEnded, record: Record) -> View:
    return replace(view, maps=maps.ended(view.maps, event))


@_on(events.AgentStarted)
def _(view: View, event: events.AgentStarted, record: Record) -> View:
    return replace(view, model=view.model or event.model)


@_on(events.AgentTurn)
def _(view: View, event: events.AgentTurn, record: Record) -> View:
    return replace(view, steps=max(view.steps, event.step), said=event.text[:4000] or view.said, missed=None)


@_on(events.AttemptFailed)
def _(view: View, event: events.AttemptFailed, record: Record) -> View:
    return replace(view, missed=event)


@_on(events.ContextCompacted)
def _(view: View, event: events.ContextCompacted, record: Record) -> View:
    return replace(view, compactions=view.compactions + 1)


@_on(events.AgentEnded)
def _(view: View, event: events.AgentEnded, record: Record) -> View:
    view = replace(view, missed=None)
    return replace(view, agent_end=f"{event.reason}: {event.detail}" if event.detail else event.reason)


@_on(events.CheckRan)
def _(view: View, event: events.CheckRan, record: Record) -> View:
    before = view.checks.get(event.name)
    scores = [score for score in (event.score, before.best if before else None) if score is not None]
    said = event.reason or event.output if event.verdict == "skipped" else event.output  # what a void check printed says nothing
    runs = before.runs + 1 if before else 1
    check = CheckView(event.verdict, event.score, max(scores, default=None), event.final, runs, said)
    return replace(view, checks={**view.checks, event.name: check})


@_on(events.Delivered)
def _(view: View, event: events.Delivered, record: Record) -> View:
    return replace(view, delivered=event)
