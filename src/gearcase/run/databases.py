"""States of a run's databases, under the names of the snapshots of its files: when they are kept, and how a run returns to them.

With each snapshot that is asked for, what every throw-away database holds is kept while its server stands still; so is what it begins as,
before the first program connects. With those that are kept by themselves it is kept where programs spoke to a database since, within
`DUTY` of the time. Where one was not kept a return is refused, unless it is of the files alone: files and a database of two moments are
nothing that ever was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gearcase.doors.keeping import Keeping, Kept, PreparedReturn, Why, not_kept
from gearcase.errors import GearcaseError, RunError
from gearcase.events import DatabaseKept, DatabaseReturned
from gearcase.run.doors import Doors, Returns, ReturnsTo
from gearcase.seams import Recorder

DUTY = 0.02
"""Share of the time that databases may be looked at by themselves: their servers stand still so long."""
BURST = 0.5
"""Seconds of it that may be taken ahead."""
_NO_TIME = "looks at databases take no more time than this, and it had been used up"


@dataclass(frozen=True, slots=True)
class Staying:
    """A database that stays as it is, and why."""

    door: str
    why: str

    async def told(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"door": self.door, "returns": False, "why": self.why}


@dataclass(frozen=True, slots=True)
class Going:
    """A database that is returned: to which state, from which."""

    door: str
    states: ReturnsTo
    to: Kept
    left: Kept

    async def told(self) -> dict[str, Any]:
        """As plain JSON, with what became of it since: lines, `lost`: what it comes back without; or why that is `unknown`."""
        told: dict[str, Any] = {"door": self.door, "returns": True, "of": self.to.time}
        try:
            found = await self.states.difference(self.to, self.left)
        except GearcaseError as error:
            return {**told, "unknown": error.message}
        if found is None:
            return {**told, "unknown": "counting its rows takes too long"}
        return {**told, "changes": found[0], "lost": found[1]}


class Databases:
    """Of one run. Who keeps, names or returns does so in the turn of the lead's workspace."""

    def __init__(self, doors: Doors, recorder: Recorder, alive: Callable[[], Collection[str]]) -> None:
        """`alive`: the names of the snapshots that were kept by themselves and are still there."""
        self._doors = [door for door in doors.doors if isinstance(door, Returns)]
        self._recorder = recorder
        self._alive = alive
        self._credit, self._at = BURST, time.monotonic()

    def _kept(self) -> list[tuple[str, ReturnsTo]]:
        return [(door.id, states) for door in self._doors if not isinstance(states := door.returning, str)]

    async def keep(self, name: str, why: Why = "asked") -> None:
        """Keep what each holds now, as far as there is room; `missing` says where there was none."""
        for door, states in self._kept():
            await self._look(door, states.keeping, name, why)
            states.keeping.name(name, held=True)

    async def look(self) -> bool:
        """Keep what each holds now, where programs spoke to one and there is time; says whether one is not what it was."""
        now = time.monotonic()
        self._credit, self._at = min(BURST, self._credit + DUTY * (now - self._at)), now
        changed = False
        for door, states in self._kept():
            keeping = states.keeping
            if not keeping.begun:
                continue
            if self._credit < 0:
                keeping.unseen(_NO_TIME)
                continue
            stirred, began = keeping.stirred, time.monotonic()
            changed = (await self._look(door, keeping, "", "itself") and stirred) or changed
            self._credit -= time.monotonic() - began
        return changed

    async def name(self, name: str) -> None:
        """The snapshot that was kept by itself after `look` is called so."""
        alive = {*self._alive(), name}
        for _door, states in self._kept():
            states.keeping.name(name)
            await states.keeping.forget(alive)

    async def _look(self, door: str, keeping: Keeping, name: str, why: Why) -> bool:
        began = time.monotonic()
        made = await keeping.look(why)
        if made and (kept := keeping.now()) is not None:
            seconds = round(time.monotonic() - began, 4)
            self._recorder.append(DatabaseKept(door, name, kept.number, kept.files.files, kept.files.size, seconds))
        return made

    def missing(self, name: str) -> dict[str, str]:
        """Of which databases nothing is kept under a name, and why."""
        found = {door: states.keeping.missing(name) for door, states in self._kept()}
        return {door: why for door, why in found.items() if why}

    def require(self, name: str) -> None:
        """Raises Refused `database_not_kept` where one cannot be returned to that snapshot."""
        for door, states in self._kept():
            if why := states.keeping.missing(name):
                raise not_kept(door, name, why, states.keeping.names())

    async def plan(self, to: str) -> list[Going | Staying]:
        """What a return to that snapshot means for each. Raises RunError `door_failed`."""
        found: list[Going | Staying] = []
        for door in self._doors:
            states = door.returning
            found.append(Staying(door.id, states) if isinstance(states, str) else await self._going(door.id, states, to))
        return found

    async def _going(self, door: str, states: ReturnsTo, to: str) -> Going | Staying:
        """From where to where a database goes, or why it stays. Raises RunError `door_failed` where what it is now cannot be kept."""
        keeping = states.keeping
        if not keeping.begun:
            return Staying(door, "no program has connected to it")
        if why := keeping.missing(to):
            return Staying(door, f"it was not kept with {to}: {why}")
        if (wanted := keeping.find(to)) is not None:
            wanted.held = True  # making room must not take it
        await self._look(door, keeping, "", "return")
        now = keeping.now()
        if wanted is None or now is None:
            remedy = "return the files alone: --files-only"
            raise RunError("door_failed", f"what {door} holds now cannot be kept", cause=keeping.why, remedy=remedy)
        return Staying(door, f"it is what it was at {to}") if wanted.number == now.number else Going(door, states, wanted, now)

    async def prepare(self, to: str, left: str, ready: Prepared) -> None:
        """Have servers with what they held at `to` stand ready; what they hold now is called `left`, which the files are, too.

        Raises Refused `database_not_kept`, RunError `door_failed`, what the driver says; whoever asks leaves those that stand ready.
        """
        self.require(to)
        for door, states in self._kept():
            going = await self._going(door, states, to)
            states.keeping.name(left, held=True)
            if isinstance(going, Going):
                began = time.monotonic()
                ready.servers.append((door, states.keeping, await states.prepare(going.to), began))

    async def put(self, to: str, left: str, ready: Prepared) -> None:
        """Serve them in place of those that were served. Raises RunError `door_failed` where one has ended."""
        while ready.servers:
            door, keeping, server, began = ready.servers[0]
            await server.put()
            del ready.servers[0]
            keeping.stirred = True
            self._recorder.append(DatabaseReturned(door, to, left, round(time.monotonic() - began, 4)))


class Prepared:
    """Servers that stand ready for one return."""

    def __init__(self) -> None:
        self.servers: list[tuple[str, Keeping, PreparedReturn, float]] = []

    @property
    def doors(self) -> list[str]:
        """Of which databases."""
        return [door for door, *_rest in self.servers]

    async def leave(self) -> None:
        """Give up those that were not put in place."""
        servers, self.servers = self.servers, []
        for _door, _keeping, server, _began in servers:
            await server.leave()


def databases_of(doors: Doors, recorder: Recorder, alive: Callable[[], Sequence[str]]) -> Databases | None:
    """Those of a run, where it has any."""
    return Databases(doors, recorder, alive) if any(isinstance(door, Returns) for door in doors.doors) else None
