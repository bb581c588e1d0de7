"""The start of a box: everything that is the same for all, done before, and where possible before anybody asks.

A start is a pid 1 in cgroups, namespaces and a root of its own, on a disk, that waits for the plan of a box. The pool keeps
one of the kind that was asked for last. Invariants: the maker is in its cgroups before it makes anything; nothing of an agent's runs in a
start; it has an owner file of its own, so that the sweep finds what a killed host left; a start that nobody took is given back.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox import cgroups, owners, plan, probe, processes, ranges
from gearcase.sandbox.hostwire import PATIENCE, HostWire, Launcher, refusal
from gearcase.sandbox.parts import Parts, give_back
from gearcase.sandbox.standby import Standbys
from gearcase.sandbox.threads import in_thread

_CALM = 0.1
"""Seconds after a box was opened in which its first commands are not disturbed: no process of the machine can fork while one is moved
into cgroups."""
_numbers = itertools.count()


@dataclass(slots=True)
class Start:
    """A box that was begun: what was asked, its parts so far, and the wire to its pid 1, which waits for a plan."""

    kind: plan.StartKind
    request: Mapping[str, Any]
    parts: Parts
    wire: HostWire

    def lives(self) -> bool:
        """Whether pid 1 still waits."""
        one = processes.look(self.parts.first)
        return one is not None and one.state not in "ZX"


class Starter:
    """Begins boxes for one driver."""

    def __init__(self, found: probe.Abilities, launcher: Launcher, without: frozenset[str]) -> None:
        self._found = found
        self._launcher = launcher
        self._without = without
        self._ready: Start | None = None
        self._refill: asyncio.Task[None] | None = None
        groups = found.groups
        counts, limits = bool(groups.means("pids")), bool(groups.means("memory"))
        self.means = plan.Means(counts, limits, found.root, found.disk, found.landlock)

    async def take(self, kind: plan.StartKind) -> Start:
        """A start of this kind, the prepared one where it fits. Raises what stopped it."""
        if self._refill is not None:
            await self._refill
        ready, self._ready = self._ready, None
        if ready is not None and ready.kind == kind and ready.lives():
            return ready
        if ready is not None:
            await self._discard(ready)
        start = await self._begin(kind)
        start.parts.standbys.prepare()
        return start

    def prepare(self, kind: plan.StartKind) -> None:
        """Have a start of this kind ready soon, where its mounts do not belong to one box."""
        if not kind.mounts and self._ready is None and (self._refill is None or self._refill.done()):
            self._refill = asyncio.create_task(self._prepare(kind))

    async def close(self) -> None:
        """Give back what nobody took."""
        if self._refill is not None:
            await self._refill
        if self._ready is not None:
            await self._discard(self._ready)
            self._ready = None

    async def _prepare(self, kind: plan.StartKind) -> None:
        await asyncio.sleep(_CALM)
        try:
            start = await self._begin(kind)
            try:
                await start.parts.standbys.fill()
            finally:
                self._ready = start
        except GearcaseError:
            return  # whoever asks for the next box makes a start of its own and hears what is wrong

    async def _discard(self, start: Start) -> None:
        start.wire.close()
        await give_back(start.parts, self._launcher)

    async def _begin(self, kind: plan.StartKind) -> Start:
        name = f"start-{os.getpid()}-{next(_numbers)}"
        groups = cgroups.BoxGroups(self._found.groups, name)
        parts = Parts(groups, Standbys(groups, self._launcher))
        wire: HostWire | None = None
        try:
            folder = owners.runtime_folder()
            parts.owner = owners.OwnerFile.create(f"{folder}/boxes", name, owners.record(parts.groups.folders, ()))
            if self._found.root:
                parts.ids = ranges.take(f"{owners.private_folder(folder)}/ids")
            parts.groups.create()
            self._limit(parts.groups, kind)
            if parts.groups.freezer:
                await self._launcher.tell({"kind": "watch_freezer", "path": parts.groups.freezer})
            if self._found.disk:
                await self._make_disk(parts, kind)
            request = plan.start(kind, self.means, _ids(parts), self._without)
            wire = await self._fork(parts, request)
            await self._until_first(parts, wire)
            parts.owner.write(owners.record(parts.groups.folders, (parts.first,)))
        except BaseException:
            if wire is not None:
                wire.close()
            await give_back(parts, self._launcher)
            raise
        return Start(kind, request, parts, wire)

    def _limit(self, groups: cgroups.BoxGroups, kind: plan.StartKind) -> None:
        memory = plan.memory_limit(kind.limits, self._found.disk)
        groups.limit(memory, plan.tasks_limit(kind.limits), kind.limits.cpus, self._without)

    async def _make_disk(self, parts: Parts, kind: plan.StartKind) -> None:
        wire = await self._launcher.ask("disk", {"scratch": _scratch(), "bytes": kind.limits.disk}, [])
        try:
            made = await wire.receive("disk", PATIENCE)
        finally:
            wire.close()
        parts.disk = made.descriptors[0]
        parts.device, parts.disk_identity = str(made.body["device"]), str(made.body["identity"])

    async def _fork(self, parts: Parts, request: Mapping[str, Any]) -> HostWire:
        reading, parts.lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            disk = [parts.disk] if parts.disk >= 0 else []
            return await self._launcher.ask("box", request, [reading, *disk])
        finally:
            os.close(reading)

    async def _until_first(self, parts: Parts, wire: HostWire) -> None:
        """Answer the maker until pid 1 is on its own."""
        maker = int((await wire.receive("maker", PATIENCE)).body["pid"])
        await in_thread(parts.groups.add, maker)
        wire.send({"kind": "go"})
        while not parts.first:
            message = await wire.next(PATIENCE)
            if message is None:
                raise RunError("sandbox_failed", "the set-up of the box died", remedy="run `gearcase doctor`")
            match message.body.get("kind"):
                case "map":
                    assert parts.ids is not None
                    _write_maps(maker, parts.ids.map)
                    wire.send({"kind": "mapped"})
                case "first":
                    parts.first, parts.pidfd = int(message.body["pid"]), message.descriptors[0]
                case _:
                    raise refusal(message.body)


def _ids(parts: Parts) -> Mapping[str, Any]:
    before = (parts.ids.agent, parts.ids.agent) if parts.ids else (1000, 1000)
    return {"caller": (os.getuid(), os.getgid()), "agent_before": before}


def _write_maps(maker: int, text: str) -> None:
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{maker}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _scratch() -> str:
    """A folder on a real disk for the image, which has no name there."""
    for folder in ("/var/tmp", "/tmp"):
        if os.access(folder, os.W_OK):
            return folder
    return owners.runtime_folder()
