"""A request's body as it comes, for handlers that do not want it whole.

Threat: a client that holds a call open by sending a byte now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any


class StreamedBody:
    """One body. `within` seconds it may take in any case, longer as long as it comes at `least_rate` bytes a second."""

    def __init__(self, receive: Callable[[], Awaitable[Any]], within: float, least_rate: int, *, ended: bool) -> None:
        self._receive = receive
        self._least_rate = least_rate
        self._until = asyncio.get_running_loop().time() + within
        self.ended = ended

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Its parts. Raises ConnectionError where the client breaks off or is too slow."""
        while not self.ended:
            if data := await self._next():
                yield data

    async def drain(self, most: int) -> None:
        """Read so many bytes further, to nowhere."""
        while not self.ended and most > 0:
            most -= len(await self._next())

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise ConnectionError("the client sends its body too slowly") from None
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        data: bytes = message.get("body", b"")
        self._until += len(data) / self._least_rate
        self.ended = not message.get("more_body")
        return data
