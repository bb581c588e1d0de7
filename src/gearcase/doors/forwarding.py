"""HTTP requests to the outside on behalf of a box: streamed both ways, with what the door puts in, less what is nobody's business.

What leaves is serialised anew by a client of ours, so nothing can be smuggled in what two parsers read differently. Redirects are not
followed and cookies not kept; certificates are verified; the address that is dialled is the one that was checked. Answers are asked for
unencoded, since they are searched for secrets; one that comes encoded all the same is refused.
"""

from __future__ import annotations

import importlib
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearcase.doors.masks import Mask
from gearcase.doors.server import HttpRequest
from gearcase.errors import GearcaseError, Refused, UsageError

if TYPE_CHECKING:
    import aiohttp

CONNECT, FIRST_BYTE_OR_NEXT = 20.0, 300.0
"""Seconds: to connect; until the next byte of an answer."""
MOST_CONNECTIONS = 64
"""To upstreams, of one door; further calls wait."""

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer trailers transfer-encoding upgrade "
    b"http2-settings expect".split()
)
_NOT_BACK = frozenset(b"alt-svc strict-transport-security content-encoding".split())
"""They would send a client past the door."""

Locate = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]
"""Host and port -> the addresses and ports that may be dialled for them. Raises Refused."""
Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The head has arrived. Its chunks are read with `Passage`."""

    status: int
    headers: Pairs
    response: aiohttp.ClientResponse


class Forwarder:
    """A client with its connections. `ca`: trust this file's authorities instead of the system's. `unix`: the path of a socket to which
    all of them go, whatever host a call names."""

    def __init__(self, locate: Locate | None = None, ca: Path | None = None, *, unix: str | None = None) -> None:
        self._locate = locate
        self._unix = unix
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None
        # The client takes a tenth of a second to load: it does so while the box is being made.
        threading.Thread(target=importlib.import_module, args=("aiohttp",), daemon=True).start()

    async def forward(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: AsyncIterator[bytes] | bytes | None
    ) -> Answer:
        """Send it, once; returns when the head of the answer is there. Raises Refused."""
        import aiohttp
        from yarl import URL

        place = URL(url, encoded=True)
        try:
            response = await self._open().request(method, place, headers=list(headers), data=body, allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:  # Refused by `Locate` passes through
            raise _failed(f"{place.host}:{place.port}", error) from error
        try:
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "") and method != "HEAD":
                raise Refused(
                    "encoded_answer",
                    f"{place.host} answered in {encoding[:40]}, which cannot be searched for secrets",
                    remedy="ask for another format; the door asks for answers without an encoding",
                )
            drop = {*HOP_BY_HOP, *_NOT_BACK, *_listed(response.raw_headers)}
            if response.status in (204, 304):
                drop.add(b"content-length")
            pairs = [
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in response.raw_headers
                if name.lower() not in drop
            ]
        except BaseException:
            response.close()
            raise
        return Answer(response.status, pairs, response)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            if self._unix is not None:
                connector = aiohttp.UnixConnector(self._unix, limit=MOST_CONNECTIONS)
            else:
                assert self._locate is not None
                trust = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
                connector = aiohttp.TCPConnector(
                    limit=MOST_CONNECTIONS, ssl=trust, use_dns_cache=False, resolver=_resolver(self._locate)
                )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=FIRST_BYTE_OR_NEXT),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
            )
        return self._session


class Passage:
    """The body of an answer on its way in: paid, masked, counted. Ends in a ConnectionError where it is cut; always aclose it.

    `over` is called once, with why it ended and the bytes that came.
    """

    def __init__(self, answer: Answer, mask: Mask, pay: Callable[[int], None], over: Callable[[str, int], None]) -> None:
        self._response = answer.response
        self._chunks = answer.response.content.iter_any()
        self._masked = mask.stream()
        self._pay = pay
        self._over: Callable[[str, int], None] | None = over
        self._received = 0

    def __aiter__(self) -> Passage:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes that are masked."""
        import aiohttp

        while self._over is not None:
            try:
                chunk = await anext(self._chunks)
                self._pay(len(chunk))
            except StopAsyncIteration:
                self._end("done")
                if tail := self._masked.end():
                    return tail
                break
            except Refused as error:
                self._end(error.code)
                raise ConnectionError(error.message) from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._end("broken_off")
                raise ConnectionError(f"the upstream broke off: {type(error).__name__}") from error
            self._received += len(chunk)
            if masked := self._masked.feed(chunk):
                return masked
        raise StopAsyncIteration

    def _end(self, why: str) -> None:
        over, self._over = self._over, None
        if over is not None:
            self._response.close()
            over(why, self._received)

    async def aclose(self) -> None:
        """Nobody reads on."""
        self._end("cut")


async def paid(chunks: AsyncIterator[bytes], pay: Callable[[int], None]) -> AsyncIterator[bytes]:
    """A body on its way out."""
    async for chunk in chunks:
        pay(len(chunk))
        yield chunk


def outgoing_headers(request: HttpRequest, drop: Callable[[str], bool]) -> Pairs:
    """A request's headers as they may leave: without those of one connection only, those named by `drop`, and the asked-for encoding."""
    gone = {*HOP_BY_HOP, *_listed(request.headers), b"host", b"accept-encoding"}
    kept = [(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in request.headers if name not in gone]
    return [*((name, value) for name, value in kept if not drop(name)), ("accept-encoding", "identity")]


def require_authorities(ca: Path | None, wanted_by: str) -> None:
    """Raises UsageError `bad_ca` where a file holds none."""
    if ca is not None:
        try:
            ssl.create_default_context(cafile=str(ca))
        except OSError as error:
            message, remedy = (
                f"{ca} holds no certificate authority that can be read",
                f"name a PEM file of certificates below {wanted_by}",
            )
            raise UsageError("bad_ca", message, cause=str(error), remedy=remedy) from error


def _listed(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """What Connection names belongs to the connection."""
    return {word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")} - {
        b"content-length",
        b"authorization",
    }


def _resolver(locate: Locate) -> Any:
    from socket import AF_INET, AF_INET6

    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:
            found = await locate(host, port)
            return [
                {
                    "hostname": host,
                    "host": address,
                    "port": at,
                    "family": AF_INET6 if ":" in address else AF_INET,
                    "proto": 0,
                    "flags": 0,
                }
                for address, at in found
            ]

        async def close(self) -> None:
            """Nothing is kept."""

    return Resolver()


def _failed(place: str, error: Exception) -> GearcaseError:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
        cause = str(getattr(error, "certificate_error", error))[:300]
        remedy = "name the file of its certificate authority with ca, if it is one of your own"
        return Refused("bad_certificate", f"{place} has no certificate that is trusted", cause=cause, remedy=remedy)
    if isinstance(error, TimeoutError):
        return Refused("slow_upstream", f"{place} does not answer in time", remedy="try again later")
    if isinstance(error, aiohttp.ClientConnectorError):
        remedy = "try again later; look outside of the box whether it answers"
        return Refused("unreachable", f"{place} cannot be reached", cause=str(error.os_error)[:300], remedy=remedy)
    cause = type(error).__name__
    return Refused("broken_upstream", f"{place} broke off, or its answer is no HTTP", cause=cause, remedy="try again later")
