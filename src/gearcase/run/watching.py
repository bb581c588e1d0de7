"""A run is watched while it goes on: every record goes through the detectors, and what comes of an alarm is carried out here.

The detectors are loaded while the first call of a model is under way, not before: the way to that call must not wait for them. What was
recorded until then is folded first, so that a journal replayed says what the live watch said.

A note goes to the agent with its next turn: the fact and the remedy, never the rule. Latch and freeze are the brake's, from a source of
their own, and ask the operator; where nobody answers, the run is stopped and its files stay in its folder.

Threat: a detector that is wrong. Its alarm stands in the journal with its evidence, the box can turn it down, and a detector that fails
takes neither the run nor the record along.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from gearcase.box import Box
from gearcase.box.monitors import plainly
from gearcase.brake import Brake, Level
from gearcase.errors import GearcaseError, Refused, RunError
from gearcase.events import (
    AgentEnded,
    AlarmRaised,
    CommandEnded,
    CommandStarted,
    Event,
    Failure,
    FilesSeen,
    GearUsed,
    ModelCalled,
    RunEnded,
    Sent,
    Tick,
    Watching,
)
from gearcase.journal import Journal
from gearcase.run.accounts import LEAD
from gearcase.run.ending import End, Ending
from gearcase.run.questions import Questions
from gearcase.runs import RunFolder
from gearcase.sandbox.threads import in_thread
from gearcase.units import format_duration

if TYPE_CHECKING:
    from gearcase.monitors import Raised, Watch

MONITOR = "monitor"
"""The source of the brake."""
NOTE = "[from the box: {fact}. {remedy}.]"
_STANDS = {
    Level.FROZEN: "Nothing is spent while it stands",
    Level.LATCHED: "Nothing new is paid, but its programs and its clock go on",
}
_BEGINS = (ModelCalled, Tick, CommandEnded, FilesSeen, GearUsed)
_BEGINS_PROGRAM = (Tick, CommandEnded)
"""A program that drives itself is told of later: many are over before there is anything to tell."""
_log = logging.getLogger(__name__)


class Watcher:
    """Watches one run. `hear` is the journal's listener; `readers` are the agents that read notes; the rest is set when it exists."""

    def __init__(
        self, folder: RunFolder, box: Box, kind: str, journal: Journal, brake: Brake, questions: Questions, ending: Ending
    ):
        self.readers: dict[str, Callable[[str], None]] = {}
        self.rest: Callable[[str, float], None] | None = None  # a model's calls, for seconds
        self.end: Callable[[GearcaseError], None] | None = None
        self.halted: asyncio.Future[End] | None = None
        self.stir: Callable[[str, Event], None] | None = None  # an agent's files may have changed
        self.begun = asyncio.Event()
        self.acts = True  # until the work has ended
        self._box = box
        self._folder = folder
        self._kind = kind
        self._journal = journal
        self._brake = brake
        self._questions = questions
        self._ending = ending
        self._before: list[tuple[float, str, Event]] = []
        self._watch: Watch | None = None
        self._over = self._loaded = False
        self._denied: dict[str, tuple[float, Raised]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, _seq: int, boot: float, agent: str, event: Event) -> None:
        """One more record."""
        if self._over or isinstance(event, AlarmRaised):
            return
        if isinstance(event, RunEnded):
            self._over = True
            return
        if isinstance(event, AgentEnded) and agent == LEAD:
            self.acts = False  # nobody is left to be told or held: what is seen now is on record
        if self.stir is not None and isinstance(event, CommandEnded | Tick | CommandStarted):
            self.stir(agent or LEAD, event)
        try:
            if self._watch is not None:
                self._fold(self._watch, boot, agent, event)
                return
            self._before.append((boot, agent, event))
            if isinstance(event, Sent) and not self._loaded and self._kind == "agent":
                self._loaded = True
                self._begin_task(in_thread(_load))
            if isinstance(event, _BEGINS if self._kind == "agent" else _BEGINS_PROGRAM):
                self._begin()
        except GearcaseError:
            raise  # of the journal itself: whoever appends is told
        except Exception as error:
            self.failed(error)

    def handing_in(self, agent: str) -> None:
        """Raises Refused where something stands against handing in now."""
        raised = self._watch.handing_in(agent) if self._watch is not None and not self._over else None
        if raised is not None:
            self._record(raised)
            raise Refused(raised.alarm.detector, raised.alarm.fact, remedy=raised.alarm.remedy)

    def may_spawn(self, agent: str) -> None:
        """Raises Refused `fan_out` while an agent is to spawn nothing."""
        until, raised = self._denied.get(agent, (0.0, None))
        left = until - self._questions.pace.clock.now()
        if raised is not None and left > 0:
            raise Refused("fan_out", raised.alarm.fact, remedy=raised.alarm.remedy, retry_after=round(left) + 1)

    def close(self) -> None:
        """Nothing more is done. Idempotent."""
        self._over = True
        for task in self._tasks:
            task.cancel()

    def _begin(self) -> None:
        from gearcase.monitors import Watch
        from gearcase.monitors.able import lacking, levels, said

        driven = self._kind == "agent"
        self.begun.set()
        watch = self._watch = Watch(said(self._box, driven))
        before, self._before = self._before, []
        for boot, agent, event in before:
            self._fold(watch, boot, agent, event)
        self._begin_task(self._compare())
        declared = {"live": self._box.swarm.live, "agents": self._box.swarm.agents}
        self._journal.append(Watching(levels(self._box, driven), lacking(self._box, self._kind), declared))

    async def _compare(self) -> None:
        """What accepted runs of this box took, on record."""
        from gearcase.run.baseline import baseline

        found = await in_thread(baseline, self._folder)
        if found is not None and not self._over:
            self._journal.append(found)

    def _fold(self, watch: Watch, boot: float, agent: str, event: Event) -> None:
        for raised in watch.hear(event, agent, boot):
            self._record(raised)
            if self.acts:
                self._act(raised)

    def _record(self, raised: Raised) -> None:
        alarm = raised.alarm
        if raised.action != "shadow":
            told = {"name": alarm.detector, "action": raised.action, "message": alarm.fact, "agent": alarm.agent}
            self._ending.alarms.append(told)
        self._journal.append(
            AlarmRaised(alarm.detector, raised.action, alarm.fact, alarm.remedy, alarm.agent, dict(alarm.evidence), raised.again),
            alarm.agent,
        )

    def _act(self, raised: Raised) -> None:
        alarm = raised.alarm
        match raised.action:
            case "note":
                if (reader := self.readers.get(alarm.agent or LEAD)) is not None:
                    reader(NOTE.format(fact=alarm.fact, remedy=alarm.remedy))
            case "deny":
                seconds = float(alarm.evidence.get("seconds", 60.0))
                self._denied[alarm.agent] = (self._questions.pace.clock.now() + seconds, raised)
            case "rest":
                if self.rest is not None:
                    self.rest(str(alarm.evidence["model"]), float(alarm.evidence["seconds"]))
            case "latch" | "freeze":
                self._begin_task(self._hold(raised, Level.LATCHED if raised.action == "latch" else Level.FROZEN))
            case "end":
                if self.end is not None:
                    self.end(RunError(alarm.detector, alarm.fact, remedy=alarm.remedy))
            case _:
                pass

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold(self, raised: Raised, level: Level) -> None:
        """Pull the brake, and wait for the operator's answer; without one the run is stopped."""
        alarm, name = raised.alarm, self._questions.name
        answers = (f"gearcase resume {name}", f"gearcase kill {name}")
        reason = f"{alarm.detector}: {alarm.fact}. It goes on with: {answers[0]}; it ends with: {answers[1]}"
        if snapshot := alarm.evidence.get("snapshot"):
            back = f"gearcase rewind {name} --to {snapshot}"
            reason, answers = f"{reason}; it goes back to before, first, with: {back}", (back, *answers)
        if declare := alarm.evidence.get("declare"):
            reason = f"{reason}. Where it is meant to be, the box says so: {declare}"
        done, stands = "frozen" if level is Level.FROZEN else "latched", _STANDS[level]
        try:
            await self._brake.pull(level, MONITOR, reason)
        except RunError as error:  # it is in force as far as it goes, and the operator is told why no further
            self._journal.append(Failure(error.envelope()))
            if error.code == "not_frozen":
                done, stands = "latched, but could not be frozen whole,", _STANDS[Level.LATCHED]
        patience = self._questions.after if self._questions.answered else 0.0
        what = f"is {done} by monitor {alarm.detector}: {plainly(alarm.detector)}."
        if patience and await self._questions.is_answered("monitor", what, "it is stopped", answers, stands):
            return
        why = f"nobody answered for {format_duration(patience)}" if patience else "nobody watches this run"
        await self._brake.pull(Level.LATCHED, MONITOR, f"{alarm.detector}: {why}, so it is stopped")  # what is checked must move
        if self.halted is not None and not self.halted.done():
            self.halted.set_result(End("stopped", f"{alarm.detector}: {alarm.fact}"))
        self._ending.warnings.append(f"stopped by monitor {alarm.detector}: {alarm.fact}; {why}")

    def failed(self, error: Exception) -> None:
        """A detector's mistake ends the watching, and nothing else."""
        self._over = True
        _log.error("watching failed", exc_info=error)
        remedy = "report this, with the run's supervisor.log; the run goes on unwatched"
        told = RunError("monitors_failed", "the monitors of this run failed", cause=repr(error)[:300], remedy=remedy)
        self._journal.append(Failure(told.envelope()))
        self._ending.warnings.append(f"{told.message}: {told.cause}")


def _load() -> None:
    """What watching takes, in a thread while nobody waits for it."""
    for name in ("gearcase.monitors.able", "gearcase.run.baseline", "gearcase.run.effects"):
        importlib.import_module(name)
