"""The doors that a box declares, as a run has them: where each is reached inside, opened, served, closed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gearcase.box import Box
from gearcase.doors.keeping import Keeping, Kept, PreparedReturn
from gearcase.doors.metering import EgressMeter
from gearcase.errors import Refused, UsageError
from gearcase.runs import RunFolder, state_folder
from gearcase.seams import Door, Housing, Listener, Sandbox

_FIRST = 3
"""198.18.0.1 and .2 are the model and gear doors; names outside begin at 198.18.1.0."""


def declared(box: Box) -> list[Door]:
    """The doors of a box, not open yet. Raises UsageError where one lacks what it needs, such as a secret."""
    found: list[Door] = []
    if box.doors.api:
        from gearcase.doors.api import ApiDoor

        found += [ApiDoor(name, one, os.environ) for name, one in box.doors.api.items()]
    if box.doors.aws is not None:
        from gearcase.doors.aws.door import AwsDoor

        found.append(AwsDoor(box.doors.aws))
    if box.doors.postgres:
        from gearcase.doors.postgres.door import PostgresDoor

        alone, room = len(box.doors.postgres) == 1, box.files.snapshots_max
        found += [PostgresDoor(name, one, alone=alone, room=room) for name, one in box.doors.postgres.items()]
    if box.doors.redis:
        from gearcase.doors.redis.door import RedisDoor

        alone, volumes = len(box.doors.redis) == 1, state_folder() / "volumes"
        found += [RedisDoor(name, one, volumes, alone=alone) for name, one in box.doors.redis.items()]
    return found


class Copies:
    """Copies of the databases of a run that lives, for its operator. `doors` are set when they are open."""

    def __init__(self, folder: RunFolder) -> None:
        self.doors: Doors | None = None
        self._folder = folder

    async def copy(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write what one (`name`) holds now into the run's folder; who asked removes it. Raises GearcaseError."""
        name = str(request.get("name"))
        if self.doors is None or f"postgres.{name}" not in {door.id for door in self.doors.doors}:
            raise UsageError(
                "no_database", f"there is no database {name} yet", remedy="ask again when the run has begun its work"
            )
        target = self._folder.path / "databases" / f"{name}-{secrets.token_hex(4)}-now.dump"
        await self.doors.dump(name, target)
        return {"path": str(target)}


@runtime_checkable
class CountsContact(Protocol):
    """A door that counts what is touched behind it."""

    async def look(self) -> None:
        """Put on record what was touched up to now."""
        ...


@runtime_checkable
class HoldsSecrets(Protocol):
    """A door that knows values which must never be found inside, or in what leaves."""

    @property
    def secrets(self) -> Sequence[str]:
        """They."""
        ...


class ReturnsTo(Protocol):
    """What a database was at earlier moments."""

    @property
    def keeping(self) -> Keeping:
        """Its states."""
        ...

    async def difference(self, before: Kept, now: Kept) -> tuple[list[str], list[str]] | None:
        """What became of one state until the other, a line each, and what the first comes back without; None where that takes too long.

        Raises GearcaseError.
        """
        ...

    async def prepare(self, kept: Kept) -> PreparedReturn:
        """Have ready what it held then. Raises GearcaseError, and leaves nothing behind then."""
        ...


@runtime_checkable
class Returns(Protocol):
    """A door to a database that can be what it was at an earlier moment."""

    @property
    def id(self) -> str:
        """As a door's."""
        ...

    @property
    def returning(self) -> ReturnsTo | str:
        """Its earlier states; or why it stays as it is whatever happens."""
        ...


@runtime_checkable
class Branches(Protocol):
    """A door behind which a sub-agent can have a copy of its own of what another agent finds."""

    def branch(self, agent: str) -> Door:
        """A door with this one's id to a copy that is made when it is opened. Raises Refused `no_branch`."""
        ...

    @property
    def changes(self) -> Sequence[str]:
        """What became of what is behind it, a line each, once it is closed."""
        ...


class Doors:
    """The declared doors of one run. Raises UsageError `two_doors` where two want the same place."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self.doors = tuple(doors)
        self.names: dict[str, str] = {}
        self._listeners: dict[Listener, Door] = {}
        for door in doors:
            for place in door.places:
                address = self.names.setdefault(place.name, f"198.18.0.{_FIRST + len(self.names)}")
                listener = Listener(place.name, address, place.port)
                if listener in self._listeners:
                    other = self._listeners[listener].id
                    remedy = "give one of them another name"
                    raise UsageError("two_doors", f"{other} and {door.id} are both {place.name}:{place.port}", remedy=remedy)
                self._listeners[listener] = door

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The sockets to be born in an agent's box."""
        return tuple(self._listeners)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of all of them."""
        return {name: value for door in self.doors for name, value in door.environment.items()}

    async def open(self, housing: Housing) -> None:
        """Make what stands behind each, in the box's order. Raises what stopped one."""
        for door in self.doors:
            await door.open(housing)

    async def serve(self, agent: str, sandbox: Sandbox, meter: EgressMeter) -> None:
        """Serve them in one agent's box."""
        for listener, door in self._listeners.items():
            place = next(one for one in door.places if (one.name, one.port) == (listener.name, listener.port))
            await door.serve(agent, place, sandbox.sockets[listener], meter.take)

    def only(self, names: Collection[str]) -> Doors:
        """Those of these names (`api.github`): what an agent's box has that may have no more. Opening and closing stays with the run."""
        return Doors([door for door in self.doors if door.id in names])

    def branches(self, names: Sequence[str], agent: str) -> dict[str, Door]:
        """For a sub-agent doors to copies of its own, not open yet: of these names, with or without what kind they are.

        Raises Refused `no_branch`.
        """
        able = {door.id: door for door in self.doors if isinstance(door, Branches)}
        made: dict[str, Door] = {}
        for name in names:
            meant = [one for one in able if name in (one, one.partition(".")[2])]
            if len(meant) != 1:
                remedy = f"name one of {', '.join(able)}" if able else "leave --branch out: only databases have branches"
                raise Refused("no_branch", f"{name[:80]!r} is no database of yours, or not one alone", remedy=remedy)
            made[meant[0]] = able[meant[0]].branch(agent)
        return made

    def replaced(self, doors: Mapping[str, Door]) -> Doors:
        """These, with other ones in place of those that have their ids."""
        return Doors([doors.get(door.id, door) for door in self.doors])

    async def leave(self, agent: str) -> None:
        """Serve an agent no longer, whose box is about to be closed."""
        for door in self.doors:
            await door.leave(agent)

    async def look(self) -> None:
        """Have on record what was touched behind them up to now."""
        for door in self.doors:
            if isinstance(door, CountsContact):
                await door.look()

    def describe(self) -> list[Mapping[str, Any]]:
        """What `gear doors` tells of them."""
        return [{"name": door.id, **door.describe()} for door in self.doors]

    @property
    def secrets(self) -> dict[str, Sequence[str]]:
        """What each of them holds."""
        return {door.id: door.secrets for door in self.doors if isinstance(door, HoldsSecrets)}

    async def dump(self, name: str, target: Path) -> int:
        """Write a database into a new file; returns its bytes. Raises GearcaseError."""
        from gearcase.doors.postgres.door import PostgresDoor

        for door in self.doors:
            if isinstance(door, PostgresDoor) and door.id == f"postgres.{name}":
                return await door.dump(target)
        raise Refused("no_database", f"there is no database {name[:80]!r}", remedy="`gear doors` lists them")

    async def close(self) -> list[str]:
        """Close them, the last one first; returns what stayed."""
        return [one for door in reversed(self.doors) for one in await door.close()]
