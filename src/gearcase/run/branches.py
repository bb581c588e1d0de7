"""The databases that one sub-agent has for itself: branches of what its parent finds, made when its box opens, gone when it ends.

Each is a door of its own with a server of its own, beside its parent's. Both obey the brake, and what stayed of one is told to the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from gearcase.brake import Brake
from gearcase.run.doors import Branches, Doors
from gearcase.seams import Door, Housing


class OwnDatabases:
    """Of one sub-agent: `doors` by their ids, not open yet."""

    def __init__(self, doors: Mapping[str, Door], brake: Brake, housing: Housing) -> None:
        self._doors: Mapping[str, Door] = doors
        self._brake = brake
        self._housing = housing

    def among(self, doors: Doors) -> Doors:
        """The doors of its box: those of its own in place of its parent's."""
        return doors.replaced(self._doors)

    async def open(self) -> None:
        """Make them. Raises what stopped one; `close` is due then, too."""
        for door in self._doors.values():
            self._brake.add_door(door)
            await door.open(self._housing)

    async def close(self) -> dict[str, Sequence[str]]:
        """End them, which leaves nothing of them; returns what became of each. Idempotent."""
        doors, self._doors = self._doors, dict[str, Door]()
        async with AsyncExitStack() as stack:
            for door in doors.values():
                self._brake.remove_door(door)
                stack.push_async_callback(door.close)
        return {name: door.changes for name, door in doors.items() if isinstance(door, Branches)}
