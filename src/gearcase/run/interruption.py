"""Where a run was cut off when its process died, from its journal, and what the agent is told that goes on for it.

Only the lead's own doings are told to it: what it had begun, what its files may lack, which sub-agents are gone. The texts in them are
commands and goals that it wrote itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gearcase import events
from gearcase.events import Event
from gearcase.journal import Record
from gearcase.run.accounts import LEAD

if TYPE_CHECKING:
    from gearcase.box import Box
    from gearcase.sandbox.states import State

_NAMED = 12
"""Of a list so many are named; the rest is counted."""
_WORDS = 300
"""Most characters of a command or goal that is named."""


@dataclass(slots=True)
class Began:
    """A command of the lead. `ended`: as the how manyth; 0: not known to have ended."""

    text: str
    ended: int = 0


@dataclass(slots=True)
class Interruption:
    """What the journal of a dead run tells of its last moment. Processor time in seconds."""

    commands: dict[int, Began] = field(default_factory=dict[int, Began])
    living: dict[str, str] = field(default_factory=dict[str, str])  # sub-agents that had not ended: id -> goal
    ended: dict[str, str] = field(default_factory=dict[str, str])  # the others: id -> status
    agents: int = 0  # ids of sub-agents that were given, those of the runs before it included
    steps: int = 0  # answers of the lead, in this run
    before: str = ""  # id of the run that it went on for
    _ended: int = 0  # commands of the lead that have
    _snapshots: dict[str, int] = field(default_factory=dict[str, int])  # that were asked for: after how many of these
    _cpu: dict[str, float] = field(default_factory=dict[str, float])  # by agent
    _ticked: float = 0.0  # boot time
    _last: float = 0.0

    @classmethod
    def of(cls, records: Iterable[Record]) -> Interruption:
        """What these records tell, up to the crash; what its recovery added is left out."""
        told = cls()
        for record in records:
            if isinstance(record.event, events.RunResumed):
                break
            if record.event is not None:
                told.add(record.event, record.agent, record.boot)
        return told

    def add(self, event: Event, agent: str, boot: float) -> None:
        """One more fact. `boot` in seconds of CLOCK_BOOTTIME."""
        self._last = boot
        match event:
            case events.RunContinues():
                self.agents, self.before = event.agents, event.run
            case events.AgentSpawned():
                self.living[agent] = event.goal
                self.agents = max(self.agents, int(agent[1:]))
            case events.AgentReturned():
                self.living.pop(agent, None)
                self.ended[agent] = event.status
            case events.AgentTurn() if agent == LEAD:
                self.steps = event.step
            case events.CommandStarted() if agent == LEAD:
                self.commands[event.command] = Began(event.text)
            case events.CommandEnded() if event.command in self.commands:
                self._ended += 1
                self.commands[event.command].ended = self._ended
            case events.SnapshotTaken() if agent == LEAD:
                self._snapshots[event.snapshot] = self._ended
            case events.Tick():
                self._cpu[agent], self._ticked = event.cpu, boot
            case events.SandboxOpened():
                self._ticked = self._ticked or boot
            case _:
                pass

    def cpu(self, cores: float) -> float:
        """Processor time at most: that of the last tick, and all `cores` for every agent since, for nobody knows."""
        since = self._last - self._ticked if self._ticked else 0.0
        return sum(self._cpu.values()) + since * cores * (1 + len(self.living))

    def under_way(self) -> list[str]:
        """Commands of the lead that had begun and have no known end."""
        return [began.text for began in self.commands.values() if not began.ended]

    def since(self, state: State) -> list[str]:
        """Commands of the lead that ended after a state of its files was kept: what they did may be missing from it."""
        if state.command:
            first = state.command if state.running else state.command + 1
            return [began.text for number, began in self.commands.items() if number >= first and began.ended]
        return [began.text for began in self.commands.values() if began.ended > self._snapshots.get(state.name, 0)]


def told(cut: Interruption, box: Box, run: str, state: State | None, has_history: bool) -> str:
    """The message to the agent that goes on for `run`. `state`: whose files it has; None: what was given is given again."""
    lines = [_died(cut, run) if has_history else _begins_again(run), _files(cut, state)]
    if has_history and (texts := cut.under_way()):
        lines.append(f"Under way at that moment, with no known result: {_some(texts)}.")
    if cut.living:
        lines.append(f"Sub-agents that had not ended are gone: {_some([f'{id} ({goal})' for id, goal in cut.living.items()])}.")
    if cut.ended:
        handed = "what came back from them is in these files" if state is not None else "what they brought is gone, too"
        lines.append(f"Ended before: {_some([f'{id} ({how})' for id, how in cut.ended.items()])}; {handed}.")
    if cut.agents:
        lines.append(f"The gear door knows none of these any more; the next one is a{cut.agents + 1}.")
    lines.append(
        "Background processes are gone, and so is what lay outside /workspace (/tmp, your home, /box/outputs); /box/history is there."
        if has_history
        else "Nothing that ran then runs any more."
    )
    if anew := begins_anew(box):
        lines.append(f"Not as you left it, but begun anew: {_some(anew)}.")
    lines.append(
        "What `gear map` has answered is kept: the same map (prompt, schema, validator, items) asks for what is not answered yet. "
        "Snapshots are numbered anew: s0 is what you have now. Your limits are what is left. Look at what is there before you go on."
    )
    return f"[from Gearcase: {' '.join(lines)}]"


def begins_anew(box: Box) -> list[str]:
    """The doors of a box behind which nothing is left of what a run did."""
    doors = box.doors
    found = [f"postgres.{name} ({one.mode})" for name, one in doors.postgres.items() if one.mode != "read_only"]
    found += [f"redis.{name} ({'branch' if one.source else 'empty'})" for name, one in doors.redis.items() if not one.volume]
    return [*found, *(["aws (simulated)"] if doors.aws is not None and doors.aws.mode == "simulated" else [])]


def _died(cut: Interruption, run: str) -> str:
    after = f"after your answer {cut.steps} in it" if cut.steps else "before your first answer in it"
    return f"the process that drove run {run} died {after}; you go on in a new box, with this conversation."


def _begins_again(run: str) -> str:
    return f"an earlier run of this goal, {run}, was cut off when its process died. What was said in it is not known."


def _files(cut: Interruption, state: State | None) -> str:
    if state is None:
        return "Your files are those that were given, as at the start: what you changed is gone."
    texts = cut.since(state)
    lacking = f" What these changed after that may be missing: {_some(texts)}." if texts else ""
    return f"Your files are those of its snapshot {state.name}, the last that was kept.{lacking}"


def _some(texts: list[str]) -> str:
    shown = [" ".join(text.split()) for text in texts[-_NAMED:]]
    cut = [text if len(text) <= _WORDS else f"{text[:_WORDS]} ..." for text in shown]
    return "; ".join([*([f"{len(texts) - len(cut)} others"] if len(texts) > len(cut) else []), *cut])
