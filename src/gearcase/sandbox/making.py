"""Making one box: a start becomes the box of a spec, each step answered and checked, in the order that security needs.

Invariants: the limits stand before anything of an agent's runs; pid 1 is checked from outside before it may be used; an error at any step
is followed by `undo`. The messages are those of `boxinit`, whose other side this is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from gearcase.errors import RunError
from gearcase.sandbox import plan, probe, processes, residue, verify
from gearcase.sandbox.box import Box
from gearcase.sandbox.hostwire import PATIENCE, HostWire, Launcher, Message, refusal
from gearcase.sandbox.live import Live
from gearcase.sandbox.parts import Parts, give_back
from gearcase.sandbox.starting import Starter
from gearcase.seams import SandboxSpec


class Making:
    """One set-up, step by step."""

    def __init__(
        self, spec: SandboxSpec, found: probe.Abilities, launcher: Launcher, starter: Starter, without: frozenset[str]
    ) -> None:
        self._spec = spec
        self._found = found
        self._launcher = launcher
        self._starter = starter
        self._without = without
        self._wire: HostWire | None = None
        self._parts: Parts | None = None

    async def make(self) -> Box:
        """The box, checked. Raises what stopped it."""
        spec = self._spec
        start = await self._starter.take(plan.start_kind(spec))
        self._wire, self._parts = start.wire, start.parts
        parts = start.parts
        asked = plan.box(spec)
        request = {**start.request, **asked}
        self._wire.send_request("plan", asked)
        assert parts.owner is not None
        parts.owner.rename(spec.id)  # while pid 1 is busy: the start's record becomes this box's
        ready = await self._follow(parts, self._wire)
        await self._arm(parts, self._wire, request)
        self._wire.close()
        profile = probe.profile(self._found, self._without)
        return Box(Live.begin(spec, parts, self._launcher, self._settings(request), int(ready.body["joined"])), profile)

    async def _follow(self, parts: Parts, wire: HostWire) -> Message:
        """Hear pid 1 until the box is ready."""
        ready = None
        while ready is None:
            message = await wire.next(PATIENCE)
            if message is None:
                raise RunError("sandbox_failed", "the set-up of the box died", remedy="run `gearcase doctor`")
            match message.body.get("kind"):
                case "listening":
                    for listener, descriptor in zip(self._spec.listeners, message.descriptors, strict=True):
                        parts.sockets[listener] = socket.socket(fileno=descriptor)
                case "ready":
                    ready = message
                    parts.descriptors += message.descriptors
                    parts.namespaces = list(message.body["namespaces"])
                    parts.user = parts.descriptors.pop(2 + int(message.body["joined"]))
                case _:
                    raise refusal(message.body)
        if parts.sockets:
            parts.cookie = residue.netns_cookie(next(iter(parts.sockets.values())).fileno())
        return ready

    async def _arm(self, parts: Parts, wire: HostWire, request: Mapping[str, Any]) -> None:
        """Check pid 1 from outside, then let it tie its life to the launcher's."""
        deadline = time.monotonic() + PATIENCE
        while (one := processes.look(parts.first)) and one.parent != self._launcher.pid and time.monotonic() < deadline:
            await asyncio.sleep(0.0005)
        ids = parts.ids
        uid, uid_map = (ids.base, ids.map) if ids else (os.getuid(), f"1000 {os.getuid()} 1")
        verify.first_process(parts.first, request, launcher=self._launcher.pid, uid=uid, uid_map=uid_map)
        wire.send({"kind": "arm"})  # not answered: where it fails, pid 1 ends, and that is seen

    def _settings(self, request: Mapping[str, Any]) -> dict[str, Any]:
        cores = max(1, int(self._spec.limits.cpus))
        allowed = sorted(os.sched_getaffinity(0))
        pinned = [] if self._found.groups.means("cpu") or "cpu" in self._without else allowed[:cores]
        means = self._starter.means
        return {
            "ranged": means.ranged,
            "rlimits": request["rlimits"],
            "landlock": self._found.landlock,
            "without": request["without"],
            "processors": pinned,
            "counted": means.pids_cgroup,
            "watch_memory": 0 if means.memory_cgroup or "memory" in self._without else self._spec.limits.memory,
        }

    async def undo(self) -> None:
        """Leave nothing of a set-up that failed."""
        if self._wire is not None:
            self._wire.close()
        if self._parts is not None:
            await give_back(self._parts, self._launcher)
