"""Everything of one box that must be given back, and giving it back.

Invariant: `give_back` may be called at any moment of a set-up or a life, and leaves nothing; what stays all the same is named.
Threat: a failed set-up or a teardown that leaves processes, mounts, devices, ids or descriptors behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field

from gearcase.errors import RunError
from gearcase.sandbox import cgroups, owners, ranges, residue
from gearcase.sandbox.hostwire import Launcher
from gearcase.sandbox.standby import Standbys
from gearcase.seams import Listener

_TEARDOWN = 5.0
"""Seconds until what has not gone is called residue."""


@dataclass(slots=True)
class Parts:
    """Everything of one box that must be given back."""

    groups: cgroups.BoxGroups
    standbys: Standbys
    ids: ranges.Range | None = None
    owner: owners.OwnerFile | None = None
    lifeline: int = -1
    disk: int = -1
    device: str = ""
    disk_identity: str = ""
    first: int = 0
    pidfd: int = -1
    descriptors: list[int] = field(default_factory=list[int])
    sockets: dict[Listener, socket.socket] = field(default_factory=dict[Listener, socket.socket])
    namespaces: list[str] = field(default_factory=list[str])
    user: int = -1  # descriptor of its user namespace: as long as it is open, no other one can be taken for it
    cookie: int = 0


async def give_back(parts: Parts, launcher: Launcher) -> tuple[str, ...]:
    """Kill the box and give everything back; returns what stayed."""
    groups = parts.groups
    await parts.standbys.close()
    groups.kill()
    if parts.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(parts.pidfd, signal.SIGKILL)
    if parts.lifeline >= 0:
        os.close(parts.lifeline)
        parts.lifeline = -1
    groups.thaw()
    for sock in parts.sockets.values():
        sock.close()
    parts.sockets.clear()
    for descriptor in (*parts.descriptors, parts.disk):
        if descriptor >= 0:
            os.close(descriptor)
    parts.descriptors.clear()
    parts.disk = -1
    stayed: list[str] = await _until_gone(parts, launcher)
    if parts.user >= 0:
        os.close(parts.user)
        parts.user = -1
    if groups.freezer:
        with contextlib.suppress(RunError):
            await launcher.tell({"kind": "forget_freezer", "path": groups.freezer})
    if parts.pidfd >= 0:
        os.close(parts.pidfd)
        parts.pidfd = -1
    if parts.ids is not None:
        parts.ids.close()
    if parts.owner is not None:
        parts.owner.close()
    return tuple(stayed)


async def _until_gone(parts: Parts, launcher: Launcher) -> list[str]:
    """Wait for the end of every process, mount and device of the box; what does not go is named."""
    deadline = time.monotonic() + _TEARDOWN
    while True:
        stayed = [f"process {pid}" for pid in parts.groups.members() or ()]
        stayed += [f"process {pid}" for pid in residue.processes_in(parts.user)] if not stayed else []
        stayed += [f"process {parts.first}"] if not stayed and not _reaped(parts, launcher) else []
        stayed += [f"cgroup {folder}" for folder in parts.groups.remove()] if not stayed else []
        stayed += [f"loop device {parts.device}"] if not stayed and residue.loop_in_use(parts.device, parts.disk_identity) else []
        stayed += [f"descriptor {number}" for number in residue.descriptors_in(parts.cookie)] if not stayed else []
        if not stayed or time.monotonic() > deadline:
            return stayed
        await asyncio.sleep(0.002)


def _reaped(parts: Parts, launcher: Launcher) -> bool:
    """Whether the first process has left the process table. What a dead launcher would have reaped falls to the host's init."""
    if parts.pidfd < 0 or launcher.lost.done():
        return True
    try:
        signal.pidfd_send_signal(parts.pidfd, 0)
    except ProcessLookupError:
        return True
    return False
