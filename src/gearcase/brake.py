"""The brake: freeze, resume and kill a run, from outside, at any moment.

A level, not an edge: `running < latched < frozen < killed`. It is persisted before processes are touched, and is idempotent. Each
source (operator, budget, sandbox) has a level of its own and the highest one holds: resuming clears one's own only. A sub-agent can be
frozen for itself, with those below it; it stands when it or anything above it is frozen.

Order of a freeze: the doors take nothing new (at once, in memory), the level is made durable, the processes are frozen. Calls in
flight finish upstream, are settled, and their answers wait in the frozen box's sockets.

Threat: an agent that will not stop, and an operator who needs it to.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from gearcase.errors import RunError
from gearcase.events import AgentBraked, BrakeChanged
from gearcase.handbrake import HandBrake
from gearcase.runs import RunFolder, write_atomically
from gearcase.seams import Grip, Recorder

Line = tuple[str, ...]
"""Where a sub-agent stands: the names from the lead's child down to its own."""


class Level(IntEnum):
    """How far the brake is pulled."""

    RUNNING = 0
    LATCHED = 1
    FROZEN = 2
    KILLED = 3


class Latch(Protocol):
    """A door that can be told to take nothing new."""

    def latch(self) -> None:
        """Refuse new requests from now on; those in flight finish."""
        ...

    def unlatch(self) -> None:
        """Take requests again."""
        ...


class Freezes(Protocol):
    """What stands still while the run is frozen: a sandbox, or all that a run has on other machines."""

    async def freeze(self) -> Any:
        """Stop. Idempotent."""
        ...

    async def thaw(self) -> None:
        """Undo `freeze`. Idempotent."""
        ...

    def grip(self) -> Grip | None:
        """What another process freezes it with; None where that is not on this machine."""
        ...


class BoxClock:
    """Seconds of box time: CLOCK_BOOTTIME less the time that the run stood frozen."""

    def __init__(self) -> None:
        self._start = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._frozen_since: float | None = None
        self._frozen = 0.0

    def stop(self) -> None:
        """The clock stands still from now on."""
        if self._frozen_since is None:
            self._frozen_since = time.clock_gettime(time.CLOCK_BOOTTIME)

    def go(self) -> None:
        """The clock runs again."""
        if self._frozen_since is not None:
            self._frozen += time.clock_gettime(time.CLOCK_BOOTTIME) - self._frozen_since
            self._frozen_since = None

    def now(self) -> float:
        """Seconds since the start."""
        until = time.clock_gettime(time.CLOCK_BOOTTIME) if self._frozen_since is None else self._frozen_since
        return until - self._start - self._frozen


class Brake:
    """The brake of one run. Doors and sandboxes are added as they come to life and obey the level at once."""

    def __init__(self, folder: RunFolder, recorder: Recorder, clock: BoxClock) -> None:
        self._hand = HandBrake(folder, self._pulled)
        self._pulling: set[asyncio.Task[float]] = set()
        self._folder = folder
        self._recorder = recorder
        self._clock = clock
        self._sources: dict[str, Level] = {}
        self._parts: dict[str, dict[str, Level]] = {}  # by sub-agent
        self._doors: list[Latch] = []
        self._sandboxes: list[_Braked] = []
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    @property
    def level(self) -> Level:
        """The level that holds: the highest of all sources."""
        return max(self._sources.values(), default=Level.RUNNING)

    def add_door(self, door: Latch) -> None:
        """From now on this door obeys the brake."""
        self._doors.append(door)
        if self.level > Level.RUNNING:
            door.latch()

    def remove_door(self, door: Latch) -> None:
        """A door that is closed obeys nothing. Idempotent."""
        if door in self._doors:
            self._doors.remove(door)

    def level_of(self, line: Line) -> Level:
        """The level that holds for a sub-agent: that of the run, of those above it, its own."""
        return max([self.level, *(level for agent in line for level in self._parts.get(agent, {}).values())])

    def part(self, line: Line) -> Part:
        """The brake as a sub-agent has it: `line` names those above it from the lead's down, and itself last. Of the lead: empty."""
        return Part(self, line)

    async def add_sandbox(self, sandbox: Freezes, line: Line = ()) -> None:
        """From now on this sandbox obeys the brake; `line`: of which sub-agent it is."""
        held = _Braked(sandbox, line)
        self._sandboxes.append(held)
        self._hand.hold(sandbox, sandbox.grip)
        if self.level_of(line) >= Level.FROZEN:
            held.stands = True
            await sandbox.freeze()

    def remove_sandbox(self, sandbox: Freezes) -> None:
        """A sandbox that is torn down needs no brake. Idempotent."""
        self._hand.let_go(sandbox)
        self._sandboxes = [held for held in self._sandboxes if held.sandbox is not sandbox]

    async def close(self) -> None:
        """The run is over: the hand brake, too."""
        await self._hand.close()

    async def pull(self, level: Level, by: str, reason: str = "", also: Sequence[str] = (), agent: str = "") -> float:
        """Set the level of one source; returns the milliseconds until it was in force. Raises RunError when a process resists.

        `also`: sources whose level ends with this, because it answers what they asked. `agent`: of one sub-agent, with those below it.
        """
        began = time.perf_counter()
        if level > Level.RUNNING and not agent:
            for door in self._doors:
                door.latch()
        async with self._turn:
            sources = self._parts.setdefault(agent, {}) if agent else self._sources
            for source in also:
                sources.pop(source, None)
            sources[by] = level
            if level is Level.RUNNING:
                del sources[by]
            unwritten = self._persist()
            await self._enforce(doors=not agent)
            after = max(sources.values(), default=Level.RUNNING)
            milliseconds = (time.perf_counter() - began) * 1000
            changed = AgentBraked if agent else BrakeChanged
            event = changed(level=after.name.lower(), by=by, reason=reason, milliseconds=round(milliseconds, 2))
            self._recorder.append(event, agent)
            if unwritten is None:
                self._recorder.flush()
        async with self._changed:
            self._changed.notify_all()
        if unwritten is not None:  # said after it is in force: a full disk must not keep anybody from braking
            raise RunError(
                "level_not_written",
                f"{agent or 'the run'} is {after.name.lower()}, and that could not be written down",
                cause=str(unwritten),
                remedy="see that the disk of the run's folder has room and is writable, then say it again",
            )
        return milliseconds

    def _pulled(self, reason: str) -> None:
        """By hand, while this process was not heard: from now on it is a freeze like any other."""
        pulling = asyncio.create_task(self.pull(Level.FROZEN, "operator", reason))
        self._pulling.add(pulling)
        pulling.add_done_callback(self._pulling.discard)

    async def wait_for(self, wanted: Callable[[Level], bool]) -> Level:
        """Wait until the level is as wanted; returns it."""
        return await self.wait_at((), wanted)

    async def wait_at(self, line: Line, wanted: Callable[[Level], bool]) -> Level:
        """Wait until the level of a sub-agent is as wanted; returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: wanted(self.level_of(line)))
            return self.level_of(line)

    async def _enforce(self, doors: bool) -> None:
        level = self.level
        if level > Level.RUNNING:
            for door in self._doors:  # again: one who resumed meanwhile may have opened them
                door.latch()
        if level >= Level.FROZEN:
            self._clock.stop()
        await asyncio.gather(*(held.obey(self.level_of(held.line)) for held in self._sandboxes))
        if level < Level.FROZEN:
            self._clock.go()
        if level is Level.RUNNING and doors:
            for door in self._doors:
                door.unlatch()

    def _persist(self) -> OSError | None:
        """Write the level down; returns what stood in the way."""
        levels: dict[str, Any] = _named(self._sources)
        if parts := {agent: _named(sources) for agent, sources in self._parts.items() if sources}:
            levels["agents"] = parts
        try:
            write_atomically(self._folder.path / "level", json.dumps(levels).encode())
        except OSError as error:
            return error
        return None


class Part:
    """The brake as one agent has it: the level of the run, of the agents above it, its own. Made by `Brake.part`."""

    def __init__(self, brake: Brake, line: Line) -> None:
        self._brake = brake
        self._line = line

    @property
    def level(self) -> Level:
        """The level that holds here."""
        return self._brake.level_of(self._line)

    async def wait_for(self, wanted: Callable[[Level], bool]) -> Level:
        """Wait until the level is as wanted; returns it."""
        return await self._brake.wait_at(self._line, wanted)

    async def add_sandbox(self, sandbox: Freezes) -> None:
        """From now on this sandbox obeys this brake."""
        await self._brake.add_sandbox(sandbox, self._line)

    def remove_sandbox(self, sandbox: Freezes) -> None:
        """A sandbox that is torn down needs no brake. Idempotent."""
        self._brake.remove_sandbox(sandbox)


@dataclass(slots=True)
class _Braked:
    """A sandbox, of which sub-agent it is, and whether it was last told to stand."""

    sandbox: Freezes
    line: Line
    stands: bool = False

    async def obey(self, level: Level) -> None:
        """Freeze it, or let it go where it stands."""
        try:
            if level >= Level.FROZEN:
                self.stands = True
                await self.sandbox.freeze()
            elif self.stands:
                self.stands = False
                await self.sandbox.thaw()
        except RunError as error:
            # One that is being torn down at this moment moves no more; what cannot be stopped before a kill is ended by it.
            if error.code != "sandbox_lost" and not (level is Level.KILLED and error.code == "not_frozen"):
                raise


def _named(sources: Mapping[str, Level]) -> dict[str, str]:
    return {source: level.name.lower() for source, level in sources.items()}
