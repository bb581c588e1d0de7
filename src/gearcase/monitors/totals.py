"""What every detector may ask about a run as it stands: its budget, what is spent, what is in flight. Folded once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gearcase import events
from gearcase.events import Event

RUN = "run"
"""The account whose limits are the run's."""
LEAD = "lead"
GIVEN = "s0"
"""The snapshot of what was given."""


class Totals:
    """The running totals of one run. Money in nano-dollars, time in seconds of box time."""

    def __init__(self) -> None:
        self.kind = ""
        self.usd_limit = 0
        self.wall = 0.0
        self.usd = 0  # spent
        self.began: float | None = None  # when the lead began to work
        self.steps: dict[str, int] = {}
        self.calls: dict[
            int, tuple[float, int, bool]
        ] = {}  # holds in flight -> since when, nano-dollars, whether anybody bills them
        self.commands: set[int] = set()  # that run
        self.depth: dict[str, str] = {}  # sub-agent -> parent
        self.ended = False
        self._loops: set[str] = set()
        self._states: list[str] = []  # of the lead's files, in their order
        self._gone: set[str] = set()  # those of them that cannot be returned to
        self._fold: dict[type[Event], Callable[[Any, str, float], None]] = {
            events.RunStarted: self._run_started,
            events.RunEnded: self._run_ended,
            events.RunResumed: self._run_resumed,
            events.AccountOpened: self._opened,
            events.LimitGranted: self._granted,
            events.Held: self._held,
            events.Settled: self._settled,
            events.Released: self._released,
            events.Cut: self._cut,
            events.AgentStarted: self._agent_started,
            events.AgentTurn: self._turn,
            events.AgentSpawned: self._spawned,
            events.ModelCalled: self._called,
            events.SnapshotTaken: self._snapshot,
            events.StepKept: self._step_kept,
            events.StepsPruned: self._pruned,
            events.Rewound: self._rewound,
            events.CommandStarted: self._command,
            events.CommandEnded: self._command_ended,
        }

    def add(self, event: Event, agent: str, at: float) -> None:
        """One more event."""
        if (fold := self._fold.get(type(event))) is not None:
            fold(event, agent, at)

    @property
    def kinds(self) -> frozenset[type[Event]]:
        """The events that count here."""
        return frozenset(self._fold)

    def share(self, at: float) -> float:
        """Part of the budget that is gone: of money or of time, whichever is more; 0 to 1 and above."""
        money = self.usd / self.usd_limit if self.usd_limit else 0.0
        time = (at - self.began) / self.wall if self.wall and self.began is not None else 0.0
        return max(money, time)

    def snapshot(self, no_later: str = "") -> str:
        """The newest state that the lead's files can return to, or the newest up to this one: what was given, where there is no other."""
        states = self._states
        if no_later:
            states = states[: states.index(no_later) + 1] if no_later in states else []
        return next((name for name in reversed(states) if name not in self._gone), GIVEN)

    def waiting(self, at: float, patience: float) -> bool:
        """Whether something is in flight for which to wait: a command, a call that nobody bills, or one not older than `patience`."""
        return bool(self.commands) or any(not billed or at - since < patience for since, _usd, billed in self.calls.values())

    def _run_started(self, event: events.RunStarted, agent: str, at: float) -> None:
        self.kind = event.kind

    def _run_ended(self, event: events.RunEnded, agent: str, at: float) -> None:
        self.ended = True

    def _run_resumed(self, event: events.RunResumed, agent: str, at: float) -> None:
        self.ended = False
        self.commands.clear()  # they died with the process that ran them

    def _opened(self, event: events.AccountOpened, agent: str, at: float) -> None:
        if event.account == RUN:
            self.usd_limit = event.limits.get("usd", 0)
            self.wall = event.limits.get("wall", 0) / 1000

    def _granted(self, event: events.LimitGranted, agent: str, at: float) -> None:
        if event.account == RUN:
            self.usd_limit += event.amounts.get("usd", 0)
            self.wall += event.amounts.get("wall", 0) / 1000

    def _held(self, event: events.Held, agent: str, at: float) -> None:
        self.calls[event.hold] = (at, event.amounts.get("usd", 0), bool(event.billed_by))

    def _settled(self, event: events.Settled, agent: str, at: float) -> None:
        self.calls.pop(event.hold, None)
        self.usd += event.amounts.get("usd", 0)

    def _released(self, event: events.Released, agent: str, at: float) -> None:
        self.calls.pop(event.hold, None)

    def _cut(self, event: events.Cut, agent: str, at: float) -> None:
        self.usd += self.calls.pop(event.hold, (0.0, 0, False))[1]

    def _agent_started(self, event: events.AgentStarted, agent: str, at: float) -> None:
        self._loops.add(agent)
        if self.began is None:
            self.began = at

    def _turn(self, event: events.AgentTurn, agent: str, at: float) -> None:
        self.steps[agent] = event.step

    def _spawned(self, event: events.AgentSpawned, agent: str, at: float) -> None:
        self.depth[agent] = event.parent

    def _called(self, event: events.ModelCalled, agent: str, at: float) -> None:
        if agent not in self._loops and not event.label:  # a program that asks by itself: each of its calls is a step
            self.steps[agent] = self.steps.get(agent, 0) + 1
            if self.began is None:
                self.began = at

    def _command(self, event: events.CommandStarted, agent: str, at: float) -> None:
        self.commands.add(event.command)

    def _command_ended(self, event: events.CommandEnded, agent: str, at: float) -> None:
        self.commands.discard(event.command)

    def _snapshot(self, event: events.SnapshotTaken, agent: str, at: float) -> None:
        if agent in ("", LEAD):
            self._states.append(event.snapshot)

    def _step_kept(self, event: events.StepKept, agent: str, at: float) -> None:
        self._states.append(event.snapshot)
        if event.lacking:
            self._gone.add(event.snapshot)

    def _pruned(self, event: events.StepsPruned, agent: str, at: float) -> None:
        self._gone.update(event.snapshots)

    def _rewound(self, event: events.Rewound, agent: str, at: float) -> None:
        if agent in ("", LEAD):
            self._states.append(event.snapshot)  # it is the newest once more
