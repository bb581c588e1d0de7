"""A bare byte pump on uvloop, which parses nothing: what a door could be at best. `python pump.py SOCKET` prints its port."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop


class Side(asyncio.Protocol):
    """One side of a connection; what it hears the other one says."""

    def __init__(self) -> None:
        self.other: Side | None = None
        self.transport: Any = None
        self.early = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Inner(Side):
    """The client's side."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        outer = Side()
        outer.other = self
        await asyncio.get_running_loop().create_unix_connection(lambda: outer, sys.argv[1])
        self.other = outer
        outer.transport.write(self.early)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Inner, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
