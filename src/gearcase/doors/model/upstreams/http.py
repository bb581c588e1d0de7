"""Any provider's HTTP API, or any server that speaks like one.

The key is put in here, outside the box, and nowhere else. Answers are passed on as they come: no decompression, no redirects (a
redirect could carry the key elsewhere), no cookies. A connection that could not be made is `UpstreamDown`: nothing was sent; one that
broke later is a ConnectionError.
"""

from __future__ import annotations

import importlib
import os
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from gearcase.seams import UpstreamDown, UpstreamRequest, UpstreamResponse

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

MOST_URLS = 1000
"""That are remembered."""

CONNECT, FIRST_BYTE_OR_NEXT = 10.0, 300.0
"""Seconds: to find the address and connect; until the next byte of an answer. Providers think for minutes before the first."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how. `base` ends before `/messages`, `/chat/completions` or `/responses`; `gemini` before `/models`, where the same
    provider is spoken to in Gemini's own protocol and takes the key in a header of its own."""

    base: str
    key: str = field(repr=False, default="")
    key_header: str = "authorization"  # or x-api-key
    gemini: str = ""
    proxy: str = ""
    ca: Path | None = None


class Http:
    """An upstream over HTTP. One pool of connections, without a limit: admission is the door's."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str, str, bool], URL] = {}
        # The client takes a tenth of a second to load: it does so while the box is being made.
        threading.Thread(target=importlib.import_module, args=("aiohttp",), daemon=True).start()

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See `Upstream`."""
        import aiohttp

        try:
            response = await self._open().post(
                self._url(request),
                data=request.body,
                headers={**request.headers, **self._own_headers(request)},
                allow_redirects=False,
                proxy=self._endpoint.proxy or None,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL) as error:
            raise UpstreamDown(f"{self._endpoint.base} cannot be reached: {_why(error)}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamDown(f"{self._endpoint.base} did not accept a connection within {CONNECT:g} s") from error
        except aiohttp.ClientError as error:  # it may have been heard: no `UpstreamDown`
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        return UpstreamResponse(response.status, headers, _chunks(response))

    async def close(self) -> None:
        """See `Upstream`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _url(self, request: UpstreamRequest) -> URL:
        """Parsed once: what is asked for is a handful of paths and models."""
        key = (request.protocol, request.path, request.model, request.stream)
        found = self._urls.get(key)
        if found is None:
            from yarl import URL

            if len(self._urls) >= MOST_URLS:
                self._urls.clear()
            try:
                found = self._urls[key] = URL(self._text_of(request))
            except ValueError as error:
                raise UpstreamDown(f"{self._endpoint.base} cannot be reached: it is no address ({error})") from error
        return found

    def _text_of(self, request: UpstreamRequest) -> str:
        if request.protocol != "gemini":
            return self._endpoint.base + request.path.removeprefix("/v1")
        path = request.path.removeprefix("/v1beta").replace("{model}", quote(request.model, safe=""))
        return self._endpoint.gemini + path + ("?alt=sse" if request.stream else "")

    def _own_headers(self, request: UpstreamRequest) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self._endpoint.key:
            name = "x-goog-api-key" if request.protocol == "gemini" else self._endpoint.key_header
            headers[name] = f"Bearer {self._endpoint.key}" if name == "authorization" else self._endpoint.key
        return headers

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            trust: ssl.SSLContext | bool = (
                ssl.create_default_context(cafile=str(self._endpoint.ca)) if self._endpoint.ca else True
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=trust, ttl_dns_cache=60),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT, sock_connect=CONNECT, sock_read=FIRST_BYTE_OR_NEXT),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("user-agent",),
            )
        return self._session


def _why(error: Exception) -> str:
    """What stood in the way, without what is said before it anyway."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host} is not known ({error.os_error.strerror or error.os_error})"
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno or 0) > 0:
        return os.strerror(number).lower()
    return str(error)


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    import aiohttp

    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except aiohttp.ClientError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    finally:
        response.close()
