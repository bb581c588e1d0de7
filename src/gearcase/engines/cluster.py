"""A Ray cluster as the host sees it: reaching it, the nodes on it, and what is under way on each."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import json
import logging
import os
import socket
from dataclasses import dataclass, field
from typing import Any

from gearcase.doors.model.leases import Lease
from gearcase.errors import RunError, UsageError, unpack
from gearcase.seams import Task

INSTALL = "pip install 'gearcase[ray]'"


@dataclass(slots=True)
class Sent:
    """A task for a node. `begun`: it was sent there; `told`: its end was told; `closed`: nothing of it is spent any more."""

    task: Task
    lease: Lease | None = None
    told: bool = False
    begun: bool = False
    cancelled: bool = False
    cost: int = 0  # nano-dollars of its answers
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Remote:
    """A node, as the host knows it."""

    name: str
    ray_id: str
    actor: Any
    pid: int
    host: str
    tasks: dict[str, Sent] = field(default_factory=dict[str, Sent])
    knows: set[str] = field(default_factory=set[str])
    learning: asyncio.Lock = field(default_factory=asyncio.Lock)
    heard: int = 0
    items: int = 0
    lost: bool = False
    reader: asyncio.Task[None] | None = None

    @property
    def busy(self) -> int:
        """Tasks of it that are not over."""
        return sum(not sent.told for sent in self.tasks.values())


async def said(ref: Any, seconds: float | None = None) -> Any:
    """What an actor answers, which is JSON. Raises the GearcaseError that it packed, TimeoutError, and Ray's own errors."""
    async with asyncio.timeout(seconds):
        told = json.loads(await ref)
    if "error" in told:
        raise unpack(told["error"])
    return told["ok"]


def load(address: str) -> Any:
    """Ray itself, set up before it is imported. Raises UsageError `no_ray` where the extra is missing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if is_loopback(address):
        # Else Ray takes loopback for this machine's outer address, and listens there.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        importlib.import_module("ray.util.scheduling_strategies")
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("no_ray", "[swarm] engine is ray, and Ray is not installed", cause=str(error), remedy=INSTALL) from None


def is_loopback(address: str) -> bool:
    """Whether an address HOST:PORT is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connect(ray: Any, address: str, run: str) -> None:
    """Reach the cluster. Raises RunError `no_cluster`. It blocks for a second or two."""
    host, _, port = address.rpartition(":")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5).close()  # Ray itself would try for long
        ray.init(
            address=address,
            namespace=f"gearcase-{run}",
            log_to_driver=False,
            configure_logging=False,
        )
        # What Ray prints of dead workers would stand in the output of a program; that a node is lost is on our record.
        vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    except (ValueError, RuntimeError, OSError) as error:
        raise RunError(
            "no_cluster",
            f"there is no Ray cluster at {address}",
            cause=first_line(error),
            remedy="start one (docs/engines.md), or name its address: [swarm] address",
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, shortly."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
