"""What Ray starts on a node: every call is JSON in, JSON out, and does one thing of `node.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

from gearcase.engines.node import Node
from gearcase.errors import GearcaseError


class NodeActor:
    """One node of one run, until its host ends it or is gone."""

    def __init__(self, plan: str) -> None:
        self._node = Node(json.loads(plan))
        self._teaching = asyncio.Lock()

    async def open(self) -> str:
        """See `Node`."""
        return await _answer(self._node.open())

    async def poll(self, heard: int, seconds: float) -> str:
        """See `Node`."""
        return await _answer(self._node.poll(heard, seconds))

    async def missing(self, digests: str) -> str:
        """See `Node`."""
        return json.dumps({"ok": self._node.missing(json.loads(digests))})

    async def keep(self, digest: str, offset: int, data: bytes, last: bool) -> str:
        """See `Node`."""
        return await _answer(asyncio.to_thread(self._node.keep, digest, offset, data, last))

    async def learn(self, work: str) -> str:
        """See `Node`."""
        async with self._teaching:
            return await _answer(self._node.learn(json.loads(work)))

    async def begin(self, task: str) -> str:
        """See `Node`."""
        self._node.begin(json.loads(task))
        return json.dumps({"ok": None})

    async def cancel(self, task: str, hard: bool) -> str:
        """See `Node`."""
        self._node.cancel(task, hard)
        return json.dumps({"ok": None})

    async def brake(self, level: str, number: int) -> str:
        """See `Node`."""
        return await _answer(self._node.brake(level, number))

    async def close(self) -> str:
        """See `Node`."""
        return await _answer(self._node.close())


async def _answer(work: Awaitable[Any]) -> str:
    try:
        return json.dumps({"ok": await work})
    except GearcaseError as error:
        return json.dumps({"error": error.packed()})
