"""HTTP for doors: one handler per listening socket, on sockets that were born inside a box, or on a loopback port of this machine.

In a box the listener says who is asking; a connection carries no other identity. Where anybody can connect, a *gate* asks for one. A
handler gets a whole request, or with `streaming` its head and a body that comes as it is sent, and gives a reply, whole or as chunks.
Built on uvicorn's HTTP protocol (a C parser that refuses smuggling),
with the limits that a hostile client makes necessary: connections, header bytes, body bytes, and deadlines for headers, bodies, idleness.

Threat: a box that exhausts the host process with connections, endless headers or bodies, slow sending, or ambiguous framing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gearcase.doors.bodies import StreamedBody


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. Header names are lower case; `path` is percent-decoded and without the query, `raw_path` as it was sent, `target` the
    whole of what stands between method and version.

    With `streaming`, `body` is empty and `chunks` is the body as it comes; it ends in a ConnectionError where the client breaks off.
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    raw_path: bytes = b""
    target: bytes = b""
    chunks: AsyncIterator[bytes] | None = None

    def header(self, name: bytes) -> bytes:
        """The first header of that lower-case name; empty when there is none."""
        return next((value for key, value in self.headers if key == name), b"")

    @property
    def has_body(self) -> bool:
        """Whether it brings a body."""
        return self.header(b"transfer-encoding") != b"" or self.header(b"content-length") not in (b"", b"0")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers. Chunks are sent as they come; when the client goes away the handler is cancelled or the iterator closed,
    at once. Chunks that end in a ConnectionError close the connection without an end."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] | bytes
    more_headers: Sequence[tuple[str, str]] = ()  # names may stand here several times


_LINGER, _LINGER_BYTES = 5.0, 1024 * 1024
"""Seconds and bytes for which an unread body is read before its refusal is sent."""

Handler = Callable[[HttpRequest], Awaitable[Reply]]
Tied = bool | Callable[[HttpRequest], bool]
"""Whether a handler ends with the connection of who asked."""
Gate = Callable[[HttpRequest], Reply | None]
"""Sees a request without its body: None lets it in, a whole reply refuses it, and then nothing of the body is kept."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Per listening socket. Seconds, bytes, counts."""

    connections: int = 256
    header_bytes: int = 64 * 1024
    body_bytes: int = 32 * 1024 * 1024
    headers_within: float = 30.0
    body_within: float = 120.0
    read_within: float = 300.0  # a client takes no more of a stream
    idle: int = 75
    least_rate: int = 1024  # bytes of a streamed body in a second, once `body_within` is over


class Server:
    """Serves connections: those that a listening socket accepts, or those that it is handed."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: ServerLimits | None = None,
        cancel: Tied = False,
        gate: Gate | None = None,
        streaming: bool = False,
    ) -> None:
        """With `cancel` a handler is cancelled once its client has gone; without, it goes on to its reply, which nobody reads. It may
        depend on the request. A stream always ends with its client. What the `gate` refuses never reaches the handler."""
        self._bounds = limits or ServerLimits()
        app = _App(handler, self._bounds, cancel, gate, streaming)
        self._config = Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",  # a refused message is no news: a client that sends nothing else would fill the log
            server_header=False,
            proxy_headers=False,
            ws="none",
            http="httptools",
        )
        self._config.timeout_keep_alive = self._bounds.idle
        self._config.load()
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Accept on a listening socket until the end."""
        sock.setblocking(False)
        self._server = await asyncio.get_running_loop().create_server(self._made, sock=sock, backlog=128)

    async def take(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Serve one accepted connection, over TLS with a context. Raises OSError where the handshake fails."""
        within = self._bounds.headers_within if context is not None else None
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._made, sock, ssl=context, ssl_handshake_timeout=within)

    def _made(self) -> _Connection:
        return _Connection(self._config, self._state, self._bounds)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    async def close(self) -> None:
        """Stop listening, close every connection, end every handler. Idempotent."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # connections learn that they are lost, and cancel what serves them
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def serve(
    sock: socket.socket,
    handler: Handler,
    *,
    limits: ServerLimits | None = None,
    cancel: Tied = False,
    gate: Gate | None = None,
    streaming: bool = False,
) -> Server:
    """Serve HTTP/1.1 on a listening socket until the Server is closed; see there."""
    server = Server(handler, limits=limits, cancel=cancel, gate=gate, streaming=streaming)
    await server.listen(sock)
    return server


class _Connection(HttpToolsProtocol):
    """uvicorn's connection with bounds: too many are closed at once, headers are counted and timed."""

    def __init__(self, config: Config, state: ServerState, bounds: ServerLimits) -> None:
        super().__init__(config, state, {"connection": self})  # a scope carries it to _App
        self.lost = False
        self._watched: asyncio.Task[Any] | None = None
        self._bounds = bounds
        self._head = 0
        self._fields = 0
        self._in_trailers = False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            transport.abort()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)
        self.lost = True
        if self._watched is not None:
            self._watched.cancel()

    @contextmanager
    def watched(self, cancel: bool) -> Generator[None]:
        """While this lasts, losing the connection cancels the task that serves it, at once."""
        self._watched = asyncio.current_task() if cancel else None
        try:
            yield
        finally:
            self._watched = None

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self.parser is not None and self._late is not None and self._head > self._bounds.header_bytes:
            self.send_400_response("The request's headers are too large.")

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        if not self._in_trailers:  # what follows a body is no header of its request
            super().on_header(name, value)

    def _count(self, *parts: bytes) -> None:
        """However many came in one packet: the parser makes an error in here a refusal."""
        self._fields += sum(len(part) + 2 for part in parts)
        if self._fields > self._bounds.header_bytes:
            raise ValueError("the request's headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields, self._in_trailers = 0, False
        if self._late is None:
            self._expect_headers()

    def on_headers_complete(self) -> None:
        self._in_time()
        self._in_trailers = True
        cast("dict[str, Any]", self.scope)["target"] = self.url
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._head = 0

    def _expect_headers(self) -> None:
        self._late = self.loop.call_later(self._bounds.headers_within, self.transport.abort)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _App:
    """The ASGI side: gather the body within bounds, call the handler, send its reply."""

    def __init__(self, handler: Handler, bounds: ServerLimits, cancel: Tied, gate: Gate | None, streaming: bool) -> None:
        self._handler = handler
        self._bounds = bounds
        self._cancel = cancel
        self._gate = gate
        self._streaming = streaming

    async def __call__(
        self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        connection: _Connection = scope["state"]["connection"]
        try:
            await self._answer(scope, receive, send, connection)
        except asyncio.CancelledError:
            if not connection.lost:
                raise

    async def _answer(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        connection: _Connection,
    ) -> None:
        head = HttpRequest(
            scope["method"],
            scope["path"],
            scope["query_string"],
            tuple(scope["headers"]),
            b"",
            scope["raw_path"],
            scope["target"],
        )
        if self._streaming:
            await self._answer_stream(head, receive, send, connection)
            return
        refused = self._gate(head) if self._gate is not None else None
        try:
            async with asyncio.timeout(self._bounds.body_within):
                body = await self._body(receive, keep=refused is None)
        except TimeoutError:
            await _send(send, Reply(408, {"connection": "close"}, b""))
            return
        if body is None:
            await _send(send, Reply(413, {"connection": "close"}, b"The request's body is too large."))
            return
        if refused is not None:
            await _send(send, refused)
            return
        connection.flow.resume_reading()  # a large body paused it, and whoever does not read does not see that the client left
        request = replace(head, body=body)
        with connection.watched(self._tied(request)):
            reply = await self._handler(request)
        await self._reply(send, connection, reply)

    def _tied(self, request: HttpRequest) -> bool:
        return self._cancel if isinstance(self._cancel, bool) else self._cancel(request)

    async def _answer_stream(
        self,
        head: HttpRequest,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        connection: _Connection,
    ) -> None:
        """The handler has the head at once. A body that it leaves unread is read a little further, so that its sender hears the reply,
        and then the connection is closed."""
        body = StreamedBody(receive, self._bounds.body_within, self._bounds.least_rate, ended=not head.has_body)
        with connection.watched(self._tied(head)):
            reply = await self._handler(replace(head, chunks=body.chunks()))
        if not body.ended:
            reply = replace(reply, headers={**reply.headers, "connection": "close"})
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_LINGER):
                    await body.drain(_LINGER_BYTES)
        await self._reply(send, connection, reply)

    async def _reply(self, send: Callable[[Any], Awaitable[None]], connection: _Connection, reply: Reply) -> None:
        if isinstance(reply.chunks, bytes):
            await _send(send, reply)
            return
        try:
            with connection.watched(True):
                await self._stream(send, connection, reply, reply.chunks)
        except (ConnectionError, TimeoutError):  # who makes the chunks broke off, or who reads them stopped reading
            connection.transport.abort()
            await asyncio.sleep(0)  # the connection learns that it is lost

    async def _stream(
        self,
        send: Callable[[Any], Awaitable[None]],
        connection: _Connection,
        reply: Reply,
        chunks: AsyncIterator[bytes],
    ) -> None:
        async with aclosing(cast("AsyncGenerator[bytes]", chunks)) as stream:
            if connection.lost:
                return
            await send(_start(reply, None))
            async for chunk in stream:
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                if connection.flow.write_paused:
                    async with asyncio.timeout(self._bounds.read_within):
                        await send(message)
                else:
                    await send(message)
        await send({"type": "http.response.body", "body": b""})

    async def _body(self, receive: Callable[[], Awaitable[Any]], keep: bool) -> bytes | None:
        """The body, None when it is too large. One that is not kept is read all the same: its sender would not hear a reply before."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._bounds.body_bytes:
                return None
            if keep:
                parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)


def _start(reply: Reply, length: int | None) -> dict[str, Any]:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (*reply.headers.items(), *reply.more_headers)
    ]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


async def _send(send: Callable[[Any], Awaitable[None]], reply: Reply) -> None:
    assert isinstance(reply.chunks, bytes)
    await send(_start(reply, len(reply.chunks)))
    await send({"type": "http.response.body", "body": reply.chunks})
