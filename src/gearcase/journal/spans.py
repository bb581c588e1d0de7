"""A run as spans of OpenTelemetry, by the conventions for generative AI (`gen_ai.*`, version 0.1 of their own registry).

One trace a run: `invoke_agent` for the run and for each sub-agent below the agent that spawned it, `chat` for each model call and
`execute_tool` for each command below its agent. Money is ours: `gearcase.cost.nano_usd`. Ids come from the journal's first record,
so a run that is exported again gives the same spans.

What leaves the machine: names, numbers, times. No goal, prompt, command, output or path of the run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from gearcase import events
from gearcase.events import Amounts
from gearcase.journal.lines import Record

Value = str | int | float | bool

INTERNAL, CLIENT = 1, 3
"""Span kinds of OTLP."""

PROVIDERS = {
    "anthropic": "anthropic",
    "openai": "openai",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "deepseek": "deepseek",
    "groq": "groq",
    "x-ai": "x_ai",
}
"""Our providers by the names of the conventions; every other one keeps its own."""

USAGE: dict[str, tuple[str, ...]] = {
    "gen_ai.usage.input_tokens": ("input", "cache_read", "cache_write_5m", "cache_write_1h"),
    "gen_ai.usage.cache_read.input_tokens": ("cache_read",),
    "gen_ai.usage.cache_write.input_tokens": ("cache_write_5m", "cache_write_1h"),
    "gen_ai.usage.output_tokens": ("output",),
    "gen_ai.usage.reasoning.output_tokens": ("reasoning",),
}
"""Attributes and the parts of a call's `usage` that each sums up. Input counts what was cached, too."""

CALL: dict[str, Callable[[events.ModelCalled], Value]] = {
    "gen_ai.request.model": lambda call: call.model,
    "gen_ai.response.model": lambda call: call.served,
    "gearcase.call": lambda call: call.call,
    "gearcase.billed": lambda call: call.billed,
    "gearcase.ended": lambda call: call.ended,
    "gearcase.first_byte_seconds": lambda call: call.first_byte,
    "gearcase.request_bytes": lambda call: call.request_bytes,
    "gearcase.response_bytes": lambda call: call.response_bytes,
}

COMMAND: dict[str, Callable[[events.CommandEnded], Value]] = {
    "gen_ai.tool.call.id": lambda command: str(command.command),
    "process.exit.code": lambda command: command.exit_code,
    "gearcase.ended": lambda command: command.ended,
    "gearcase.cpu_seconds": lambda command: command.cpu,
    "gearcase.output_bytes": lambda command: command.output_bytes,
}

TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "shell", "gen_ai.tool.type": "function"}

COST = "gearcase.cost.nano_usd"
CERTAIN = "gearcase.cost.certain"
"""Whether the cost is what the provider reported, and not the worst case that was held."""

_OURS = "gearcase"
"""Provider of what nobody bills: a person, a script, a cassette, a model on this machine."""
_FAILED = ("failed", "lost", "killed")


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times in nanoseconds of Unix time, ids in hexadecimal; `error` is empty where all went well."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    begin: int
    end: int
    attributes: Mapping[str, Value]
    error: str = ""


@dataclass(slots=True)
class _Agent:
    id: str
    parent: str
    name: str
    begin: float
    attributes: dict[str, Value]


@dataclass(slots=True)
class _Story:
    """What spans need to know of earlier records."""

    trace: str = ""
    root: _Agent | None = None
    last: float = 0.0  # record of the run itself: a recovery comes later
    died: bool = False
    spent: int = 0
    agents: dict[str, _Agent] = field(default_factory=dict[str, _Agent])  # sub-agents at work
    names: dict[str, str] = field(default_factory=dict[str, str])  # span ids of all sub-agents
    held: dict[int, events.Held] = field(default_factory=dict[int, events.Held])
    costs: dict[int, tuple[int, bool, str]] = field(default_factory=dict[int, tuple[int, bool, str]])  # hold -> usd, certain, by
    commands: dict[int, float] = field(default_factory=dict[int, float])

    def id_of(self, *parts: object) -> str:
        return sha256(":".join([self.trace, *map(str, parts)]).encode()).hexdigest()[:16]

    def parent_of(self, agent: str) -> str:
        return self.names.get(agent) or (self.root.id if self.root else "")


def spans(records: Iterable[Record]) -> Iterator[Span]:
    """The spans of a journal, each when it has ended; those of its agents are last where no ending is on record."""
    story = _Story()
    for record in records:
        story.died = story.died or isinstance(record.event, events.RunResumed)
        story.last = story.last if story.died else record.time
        yield from _step(story, record)
    for agent in reversed(story.agents.values()):
        yield _invoked(story, agent, "")
    if story.root is not None:
        yield _invoked(story, story.root, "")


def _step(story: _Story, record: Record) -> Iterator[Span]:
    match record.event:
        case events.RunStarted() as event:
            _begin(story, record, event)
        case events.AgentStarted() as event if record.agent not in story.names and story.root is not None:
            story.root.attributes["gen_ai.request.model"] = event.model
        case events.AgentSpawned() as event:
            _spawn(story, record, event)
        case events.AgentReturned() as event if (agent := story.agents.pop(record.agent, None)) is not None:
            agent.attributes |= {"gearcase.status": event.status, COST: event.spent.get("usd", 0)}
            yield _invoked(story, agent, event.status if event.status in _FAILED else "")
        case events.Held() | events.Settled() | events.Cut() | events.Released() as event:
            _money(story, event)
        case events.ModelCalled() as event:
            yield _chat(story, record, event)
        case events.CommandStarted() as event:
            story.commands[event.command] = record.time
        case events.CommandEnded() as event:
            yield _executed(story, record, event)
        case events.RunEnded() as event if story.root is not None:
            story.root.attributes |= {"gearcase.status": event.status, COST: story.spent}
            yield _invoked(story, story.root, event.status if event.status in _FAILED else "")
            story.root = None
        case _:
            pass


def _begin(story: _Story, record: Record, event: events.RunStarted) -> None:
    story.trace = record.digest[:32]
    attributes: dict[str, Value] = {
        "gen_ai.agent.id": event.run,
        "gen_ai.agent.name": event.name,
        "gearcase.kind": event.kind,
        "gearcase.version": event.gearcase,
        "gearcase.box": event.box,
    }
    story.root = _Agent(story.id_of("run"), "", event.name, record.time, attributes)


def _spawn(story: _Story, record: Record, event: events.AgentSpawned) -> None:
    one = _Agent(story.id_of("agent", record.agent), story.parent_of(event.parent), event.name, record.time, {})
    one.attributes |= {"gen_ai.agent.id": record.agent, "gen_ai.agent.name": event.name, "gen_ai.request.model": event.model}
    story.agents[record.agent] = one
    story.names[record.agent] = one.id


def _invoked(story: _Story, agent: _Agent, error: str) -> Span:
    attributes = {"gen_ai.operation.name": "invoke_agent", **agent.attributes}
    name = f"invoke_agent {agent.name}"
    return _span(story, agent.id, agent.parent, name, INTERNAL, agent.begin, story.last, attributes, error)


def _money(story: _Story, event: events.Held | events.Settled | events.Cut | events.Released) -> None:
    if isinstance(event, events.Held):
        story.held[event.hold] = event
        return
    lease = event.lease if isinstance(event, events.Settled) else 0
    held = story.held.get(lease) if lease else story.held.pop(event.hold, None)
    certain = not isinstance(event, events.Cut)
    amounts: Amounts = event.amounts if isinstance(event, events.Settled) else held.amounts if held and not certain else {}
    if lease and held is not None:
        rest = {name: max(0, amount - amounts.get(name, 0)) for name, amount in held.amounts.items()}
        story.held[lease] = held.but(amounts=rest)
    usd = amounts.get("usd", 0)
    story.spent += usd
    if held is not None and "usd" in held.amounts:
        story.costs[event.hold] = (usd, certain, held.billed_by.partition("/")[0])


def _chat(story: _Story, record: Record, event: events.ModelCalled) -> Span:
    usd, certain, billed_by = story.costs.pop(event.hold, (0, False, ""))
    used = {name: sum(event.usage.get(part, 0) for part in parts) for name, parts in USAGE.items()} if event.usage else {}
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDERS.get(billed_by, billed_by) or _OURS,
        **{name: value for name, of in CALL.items() if (value := of(event)) != ""},
        **{name: count for name, count in used.items() if count or name.count(".") == 2},
        COST: usd,
        CERTAIN: certain,
    }
    if event.status:
        attributes["http.response.status_code"] = event.status
    error = "" if event.ended == "complete" else str(event.status) if event.status >= 400 else event.ended
    parent = story.parent_of(record.agent)
    begin = record.time - event.seconds
    name = f"chat {event.model}"
    return _span(story, story.id_of("call", record.seq), parent, name, CLIENT, begin, record.time, attributes, error)


def _executed(story: _Story, record: Record, event: events.CommandEnded) -> Span:
    begin = story.commands.pop(event.command, record.time - event.seconds)
    attributes = {**TOOL, **{name: of(event) for name, of in COMMAND.items()}}
    error = "" if event.ended == "exited" and event.exit_code == 0 else event.ended if event.ended != "exited" else "exit"
    identity, parent = story.id_of("command", record.seq), story.parent_of(record.agent)
    return _span(story, identity, parent, "execute_tool shell", INTERNAL, begin, record.time, attributes, error)


def _span(
    story: _Story,
    identity: str,
    parent: str,
    name: str,
    kind: int,
    begin: float,
    end: float,
    attributes: Mapping[str, Value],
    error: str,
) -> Span:
    told = {**attributes, "error.type": error} if error else attributes
    return Span(story.trace, identity, parent, name, kind, _nanoseconds(begin), _nanoseconds(max(begin, end)), told, error)


def _nanoseconds(seconds: float) -> int:
    """To the microsecond, which is what a record's time has."""
    return round(seconds * 1_000_000) * 1000
