"""Joiners that stand ready: what is slow about starting a command is done before anybody asks for one.

Moving a process into cgroups waits for every processor to take note, which costs more than all the rest of a start. So each box keeps
joiners that are already in its cgroups and wait outside of its namespaces for a command. Invariants: a joiner is in the box's cgroups
before it may join; each starts one command and is gone; none outlives the box.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from gearcase.errors import GearcaseError
from gearcase.sandbox import plan
from gearcase.sandbox.cgroups import BoxGroups
from gearcase.sandbox.hostwire import PATIENCE, HostWire, Launcher
from gearcase.sandbox.threads import in_thread

_CALM = 0.05
"""Seconds before more are made: while a process is moved into cgroups, no process of the machine can fork, as a command is about to."""


@dataclass(slots=True)
class Standby:
    """A joiner in a box's cgroups. `group`: the cgroup of its own and of the command to come, empty without v2."""

    pid: int
    wire: HostWire
    group: str


class Standbys:
    """The joiners of one box, `plan.STANDBYS` of them kept ready."""

    def __init__(self, groups: BoxGroups, launcher: Launcher) -> None:
        self._groups = groups
        self._launcher = launcher
        self._ready: list[Standby] = []
        self._refill: asyncio.Task[None] | None = None
        self._count = 0

    @property
    def pids(self) -> set[int]:
        """The joiners that stand ready."""
        return {one.pid for one in self._ready}

    async def take(self) -> Standby:
        """A joiner for one command, a ready one where there is one. Raises what stopped it."""
        while self._ready:
            ready = self._ready.pop(0)
            if ready.wire.open():
                return ready
            self._discard(ready)  # the box's memory was short, and the kernel chose it
        return await self._park()

    def prepare(self) -> None:
        """Have all of them ready soon."""
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._prepare())

    async def close(self) -> None:
        """Let go of those that nobody took."""
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.wait({self._refill})
        while self._ready:
            self._discard(self._ready.pop())

    async def fill(self) -> None:
        """Have all of them ready now. Raises what stopped it."""
        while len(self._ready) < plan.STANDBYS:
            self._ready.append(await self._park())

    async def _prepare(self) -> None:
        await asyncio.sleep(_CALM)
        with contextlib.suppress(GearcaseError):  # whoever asks next makes one of its own and hears what is wrong
            await self.fill()

    async def _park(self) -> Standby:
        self._count += 1
        group = self._groups.command_group(self._count)
        try:
            wire = await self._launcher.ask("command", plan.STANDBY, [])
        except BaseException:
            self._groups.end_command(group)
            raise
        try:
            pid = int((await wire.receive("joiner", PATIENCE)).body["pid"])
            await in_thread(self._groups.add, pid, group)
        except BaseException:
            wire.close()
            self._groups.end_command(group)
            raise
        return Standby(pid, wire, group)

    def _discard(self, standby: Standby) -> None:
        standby.wire.close()
        self._groups.end_command(standby.group)
