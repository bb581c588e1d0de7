"""Making one box: every step through the launcher, each answered and checked, in the order that security needs.

Invariants: the maker is in the box's cgroups before it makes anything; pid 1 is checked from outside before it may be used; an error at
any step is followed by `undo`. The messages are those of `boxinit`, whose other side this is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from gearcase.errors import RunError
from gearcase.sandbox import cgroups, owners, plan, probe, processes, ranges, residue, verify
from gearcase.sandbox.box import Box
from gearcase.sandbox.hostwire import PATIENCE, HostWire, Launcher, Message, refusal
from gearcase.sandbox.live import Live
from gearcase.sandbox.parts import Parts, give_back
from gearcase.seams import SandboxSpec


class Making:
    """One set-up, step by step."""

    def __init__(self, spec: SandboxSpec, found: probe.Abilities, launcher: Launcher, without: frozenset[str]) -> None:
        self._spec = spec
        self._found = found
        self._launcher = launcher
        self._without = without
        self._wire: HostWire | None = None
        self._parts = Parts(cgroups.BoxGroups(found.groups, spec.id))
        groups = found.groups
        self._means = plan.Means(bool(groups.means("pids")), bool(groups.means("memory")), found.root, found.disk)

    async def make(self) -> Box:
        """The box, checked. Raises what stopped it."""
        parts, spec = self._parts, self._spec
        folder = owners.runtime_folder()
        parts.owner = owners.OwnerFile.create(f"{folder}/boxes", spec.id, owners.record(parts.groups.folders, ()))
        if self._found.root:
            parts.ids = ranges.take(f"{owners.private_folder(folder)}/ids")
        memory = plan.memory_limit(spec.limits, self._found.disk)
        parts.groups.create(memory, plan.tasks_limit(spec.limits), spec.limits.cpus, self._without)
        if parts.groups.freezer:
            await self._launcher.tell({"kind": "watch_freezer", "path": parts.groups.freezer})
        if self._found.disk:
            await self._make_disk()
        request = plan.box(spec, self._means, self._ids(), self._without, self._found.landlock)
        maker = await self._begin(request)
        ready = await self._follow(maker)
        await self._arm(request)
        parts.owner.write(owners.record(parts.groups.folders, (parts.first,)))
        profile = probe.profile(self._found, self._without)
        return Box(Live.begin(spec, parts, self._launcher, self._settings(request), int(ready.body["joined"])), profile)

    def _ids(self) -> Mapping[str, Any]:
        ids = self._parts.ids
        before = (ids.agent, ids.agent) if ids else (1000, 1000)
        return {"caller": (os.getuid(), os.getgid()), "agent_before": before}

    async def _make_disk(self) -> None:
        wire = await self._launcher.ask("disk", {"scratch": _scratch(), "bytes": self._spec.limits.disk}, [])
        try:
            made = await wire.receive("disk", PATIENCE)
        finally:
            wire.close()
        self._parts.disk = made.descriptors[0]
        self._parts.device = str(made.body["device"])

    async def _begin(self, request: Mapping[str, Any]) -> int:
        reading, self._parts.lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            disk = [self._parts.disk] if self._parts.disk >= 0 else []
            self._wire = await self._launcher.ask("box", request, [reading, *disk])
        finally:
            os.close(reading)
        maker = int((await self._wire.receive("maker", PATIENCE)).body["pid"])
        self._parts.groups.add(maker)
        self._wire.send({"kind": "go"})
        return maker

    async def _follow(self, maker: int) -> Message:
        """Answer the maker and pid 1 until the box is ready."""
        assert self._wire is not None
        parts, ready = self._parts, None
        while ready is None or not parts.first:
            message = await self._wire.next(PATIENCE)
            if message is None:
                raise RunError("sandbox_failed", "the set-up of the box died", remedy="run `gearcase doctor`")
            match message.body.get("kind"):
                case "map":
                    self._write_maps(maker)
                    self._wire.send({"kind": "mapped"})
                case "listening":
                    for listener, descriptor in zip(self._spec.listeners, message.descriptors, strict=True):
                        parts.sockets[listener] = socket.socket(fileno=descriptor)
                case "first":
                    parts.first, parts.pidfd = int(message.body["pid"]), message.descriptors[0]
                case "ready":
                    ready = message
                    parts.descriptors += message.descriptors
                    parts.inodes = dict(message.body["inodes"])
                case _:
                    raise refusal(message.body)
        if parts.sockets:
            parts.cookie = residue.netns_cookie(next(iter(parts.sockets.values())).fileno())
        return ready

    def _write_maps(self, maker: int) -> None:
        assert self._parts.ids is not None
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{maker}/{name}", "w", encoding="ascii") as file:
                file.write(self._parts.ids.map)

    async def _arm(self, request: Mapping[str, Any]) -> None:
        """Check pid 1 from outside, then let it tie its life to the launcher's."""
        assert self._wire is not None
        parts = self._parts
        deadline = time.monotonic() + PATIENCE
        while (one := processes.look(parts.first)) and one.parent != self._launcher.pid and time.monotonic() < deadline:
            await asyncio.sleep(0.0005)
        ids = parts.ids
        uid, uid_map = (ids.base, ids.map) if ids else (os.getuid(), f"1000 {os.getuid()} 1")
        verify.first_process(parts.first, request, launcher=self._launcher.pid, uid=uid, uid_map=uid_map)
        self._wire.send({"kind": "arm"})
        await self._wire.receive("armed", PATIENCE)
        self._wire.close()
        self._wire = None

    def _settings(self, request: Mapping[str, Any]) -> dict[str, Any]:
        cores = max(1, int(self._spec.limits.cpus))
        allowed = sorted(os.sched_getaffinity(0))
        pinned = [] if self._found.groups.means("cpu") or "cpu" in self._without else allowed[:cores]
        return {
            "ranged": self._means.ranged,
            "rlimits": request["rlimits"],
            "landlock": self._found.landlock,
            "without": request["without"],
            "processors": pinned,
            "counted": self._means.pids_cgroup,
            "watch_memory": 0 if self._means.memory_cgroup or "memory" in self._without else self._spec.limits.memory,
        }

    async def undo(self) -> None:
        """Leave nothing of a set-up that failed."""
        if self._wire is not None:
            self._wire.close()
        await give_back(self._parts, self._launcher)


def _scratch() -> str:
    """A folder on a real disk for the image, which has no name there."""
    for folder in ("/var/tmp", "/tmp"):
        if os.access(folder, os.W_OK):
            return folder
    return owners.runtime_folder()
