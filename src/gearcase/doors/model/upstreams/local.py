"""`local`, `local/small`, `local/base`: a model on this machine, behind the same door as any provider's.

A request without tools is passed to the server in the protocol it came in, and its answer passed on as it comes. One with tools goes
through `local.shim`: it is answered at once and then sent, streamed or not, in the protocol of the request. So does every one in
Gemini's protocol, which the server does not speak. The server starts with the first call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from gearcase.doors.model.local import shim
from gearcase.doors.model.local.server import Server
from gearcase.doors.model.protocols import PROTOCOLS, content_type, counted
from gearcase.doors.model.protocols.anthropic import COUNT_PATH
from gearcase.doors.model.protocols.stream import count, load, table
from gearcase.seams import Housing, UpstreamRequest, UpstreamResponse

if TYPE_CHECKING:
    import aiohttp

_JSON = {"content-type": "application/json"}


class Local:
    """One local model as an upstream."""

    def __init__(self, name: str, package: Path, weights: Path, housing: Callable[[], Housing | None]) -> None:
        """`housing` says where its server lives when that starts; None makes it a child of this process."""
        self.server = Server(name, package, weights, housing)

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See `Upstream`. Raises RunError `local_model` when there is no server any more."""
        counting = counted(request.path, 0) is not None
        tools = {} if counting else shim.offered(request)
        if counting and request.protocol == "gemini":
            return await self._count(request)
        if tools or request.protocol == "gemini":
            return await self._translated(request, tools)
        response = await self.server.post(request.path, request.body)
        kind = response.headers.get("content-type", content_type(request.stream))
        return UpstreamResponse(response.status, {"content-type": kind}, _chunks(response))

    async def close(self) -> None:
        """See `Upstream`."""
        await self.server.close()

    async def _count(self, request: UpstreamRequest) -> UpstreamResponse:
        response = await self.server.post(COUNT_PATH, orjson.dumps(shim.counted(request)))
        body = b"".join([chunk async for chunk in _chunks(response)])
        if response.status != 200:
            return self._failed(response.status, body, request)
        return UpstreamResponse(200, _JSON, _all([counted(request.path, count(load(body).get("input_tokens"))) or b""]))

    def _failed(self, status: int, body: bytes, request: UpstreamRequest) -> UpstreamResponse:
        message = str(table(load(body).get("error")).get("message") or body[:500].decode("utf-8", "replace"))
        return UpstreamResponse(status, _JSON, _all([PROTOCOLS[request.protocol].refusal(status, "local_model", message)]))

    async def _translated(self, request: UpstreamRequest, tools: Mapping[str, Mapping[str, object]]) -> UpstreamResponse:
        response = await self.server.post("/v1/chat/completions", orjson.dumps(shim.asked(request, tools)))
        body = b"".join([chunk async for chunk in _chunks(response)])
        if response.status != 200:
            return self._failed(response.status, body, request)
        speech = PROTOCOLS[request.protocol]
        answer = shim.answered(load(body), request, tools)
        return UpstreamResponse(
            200, {"content-type": content_type(request.stream)}, _all(list(speech.render(answer, request.stream)))
        )


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    import aiohttp

    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except aiohttp.ClientError as error:
        raise ConnectionError(f"the local model broke off: {type(error).__name__}") from error
    finally:
        response.close()


async def _all(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
