"""The state of a live box that its commands, its brake and its end share. No behaviour but questions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gearcase.errors import RunError
from gearcase.sandbox import processes, syscalls
from gearcase.sandbox.command import Drain
from gearcase.sandbox.hostwire import Launcher
from gearcase.sandbox.parts import Parts
from gearcase.seams import SandboxSpec

_NEARLY_FULL = 64 * 1024


@dataclass(slots=True)
class Live:
    """One live box. `settings` are those of `plan.command`, `watch_memory` in bytes (0: a cgroup does it), and
    `counted`: a cgroup counts refused forks."""

    spec: SandboxSpec
    parts: Parts
    launcher: Launcher
    settings: Mapping[str, Any]
    joined: list[int]  # descriptors of its namespaces where its pidfd is not enough
    rules: int  # descriptor of the Landlock ruleset, -1 without
    drain: Drain
    lost: asyncio.Future[str]
    running: dict[int, int] = field(default_factory=dict[int, int])  # command -> pid
    commands: int = 0
    frozen: bool = False
    thawed: float = 0.0  # monotonic time of the last thaw
    closing: bool = False
    cpu_ended: float = 0.0  # seconds of commands that have ended

    @classmethod
    def begin(cls, spec: SandboxSpec, parts: Parts, launcher: Launcher, settings: Mapping[str, Any], joined: int) -> Live:
        """The state of a box that was just made."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        rules = parts.descriptors[-1] if settings["landlock"] else -1
        return cls(spec, parts, launcher, settings, parts.descriptors[2 : 2 + joined], rules, Drain(), future)

    @property
    def workspace(self) -> int:
        """Directory descriptor of /workspace."""
        return self.parts.descriptors[0]

    @property
    def owner(self) -> tuple[int, int]:
        """Host uid and gid of the box's user."""
        ids = self.parts.ids
        return (ids.agent, ids.agent) if ids else (os.getuid(), os.getgid())

    def joining(self, names: Sequence[str]) -> tuple[list[int], list[int]]:
        """The descriptors with which these of its namespaces are joined, and the flags of each."""
        if self.joined:
            every = dict(zip(self.parts.namespaces, self.joined, strict=True))
            return [every[name] for name in names], [syscalls.NAMESPACES[name] for name in names]
        return [self.parts.pidfd], [sum(syscalls.NAMESPACES[name] for name in names)]

    def tree(self) -> list[processes.Process]:
        """Every process of the box, by descent."""
        return processes.descendants([self.parts.first, *self.running.values()])

    def must_live(self) -> None:
        """Raises RunError `sandbox_lost` when the box is gone."""
        if self.closing or self.lost.done():
            reason = "it was closed" if self.closing else self.lost.result()
            raise RunError("sandbox_lost", f"the box is gone: {reason}", remedy="start the run again")

    def must_have_first(self) -> None:
        """Raises RunError `sandbox_lost` when the box's first process is gone, even before the launcher has told of it."""
        self.must_live()
        first = processes.look(self.parts.first)
        if first is None or first.state in "ZX":
            raise RunError("sandbox_lost", "the box is gone: its first process ended", remedy="start the run again")

    def full(self) -> bool:
        """Whether /workspace has no room left."""
        found = os.fstatvfs(self.workspace)
        return found.f_bavail * found.f_frsize < _NEARLY_FULL or (found.f_files > 0 and found.f_favail < 4)
