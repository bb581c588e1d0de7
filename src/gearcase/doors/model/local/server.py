"""The server of the local model: a process of its own, started when it is first needed, in a sandbox of its own.

Where there is no driver of sandboxes (a door alone), it is an ordinary child instead: see `places`. A server that dies takes the call
in flight with it; it is started again once, on record, and its second death is final.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gearcase.doors.model.local.places import Boxed, Child, Place
from gearcase.errors import RunError, UsageError
from gearcase.events import Failure
from gearcase.seams import Housing, UpstreamDown

if TYPE_CHECKING:
    import aiohttp

CONTEXT = 16_384
"""Tokens of prompt and answer together."""
MAX_OUTPUT = 4096
LOADING = 300.0
"""Seconds until a server that does not answer is given up."""
RESTARTS = 1
_POLL = 0.02
_DYING = 5.0
"""Seconds in which the end of a server that does not listen any more is noticed."""


def find_package() -> Path:
    """The folder of the server's package. Raises UsageError `missing_extra`. Nothing is imported here."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise UsageError(
            "missing_extra", "the server of the local model is not installed", remedy="pip install 'gearcase[local]'"
        )
    return Path(found.origin).parent


class Server:
    """One model's server. `reach` may be called by many at once; the first one starts it."""

    def __init__(self, name: str, package: Path, weights: Path, housing: Callable[[], Housing | None]) -> None:
        """`package`: the folder of the server's package. `housing` is asked when the server starts."""
        self.deaths = 0
        self._name = name
        self._weights = weights
        self._package = package
        self._housing = housing
        self._starting = asyncio.Lock()
        self._place: Place | None = None
        self._life: asyncio.Task[str] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._final: RunError | None = None

    async def reach(self) -> aiohttp.ClientSession:
        """A client whose every connection goes to the server, which is up and has loaded the model.

        Raises RunError `local_model` when it cannot be started or died more often than it is started again.
        """
        async with self._starting:
            if self._closed:
                raise RunError("local_model", "the local model was closed", remedy="start the run again")
            if self._final is not None:
                raise self._final
            if self._life is not None and self._life.done():
                await self._died(self._life.result())
            if self._session is None:
                await self._start()
            assert self._session is not None
            return self._session

    async def post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Send a request. Raises RunError `local_model` as `reach` does, UpstreamDown when nothing was sent, else ConnectionError."""
        import aiohttp

        for last in (False, True):
            session = await self.reach()
            try:
                return await session.post(path, data=body, headers={"content-type": "application/json"})
            except aiohttp.ClientConnectorError as error:  # nobody listens: its end is being noticed
                if last:
                    raise UpstreamDown(f"the local model cannot be reached: {error}") from error
                await self._settled()
            except aiohttp.ClientError as error:
                await self._settled()
                raise ConnectionError(f"the local model broke off: {type(error).__name__}") from error
        raise AssertionError("unreachable")

    async def _settled(self) -> None:
        """Give the end of a server that broke off the time to be noticed, so that the next call meets another one."""
        if self._life is not None:
            await asyncio.wait({self._life}, timeout=_DYING)

    async def close(self) -> None:
        """End the server and give back what it had. Idempotent."""
        self._closed = True
        async with self._starting:
            await self._end()

    async def _died(self, how: str) -> None:
        self.deaths += 1
        error = RunError(
            "local_model",
            f"the server of the local model {self._name} died",
            cause=how[-2000:],
            remedy="its cause says why: memory, a file that is no model, or a fault of its own; try the other model",
        )
        await self._end()
        if (housing := self._housing()) is not None:
            housing.recorder.append(Failure(error.envelope()))
        if self.deaths > RESTARTS:
            self._final = error
            raise error

    async def _end(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._place is not None:
            await self._place.close()
            self._place = None
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
            self._life = None

    async def _start(self) -> None:
        import aiohttp

        wanted = {"name": self._name, "context": CONTEXT, "threads": len(os.sched_getaffinity(0))}
        try:
            housing = self._housing()
            place = self._place = (
                Child(self._weights, self._package)
                if housing is None
                else await Boxed.open(housing, self._weights, self._package)
            )
            self._life = asyncio.create_task(place.live(wanted))
            path = await self._until_there(place, self._life)
            timeout = aiohttp.ClientTimeout(total=None)  # its death ends a call, and the run's limits do
            connector = aiohttp.UnixConnector(path, limit=0, force_close=True)
            self._session = aiohttp.ClientSession(
                "http://local", connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
            await self._until_loaded(self._session, place, self._life)
        except BaseException:
            await self._end()
            raise

    async def _until_there(self, place: Place, life: asyncio.Task[str]) -> str:
        waited = 0.0
        while not (path := place.socket()):
            waited = await self._wait(place, life, waited)
        return path

    async def _until_loaded(self, session: aiohttp.ClientSession, place: Place, life: asyncio.Task[str]) -> None:
        import aiohttp

        waited = 0.0
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get("/health") as answer:
                    if answer.status == 200:  # 503 while it loads
                        return
            waited = await self._wait(place, life, waited)

    async def _wait(self, place: Place, life: asyncio.Task[str], waited: float) -> float:
        """One moment; returns the seconds that were waited, those in which the run stood frozen not counted."""
        await asyncio.sleep(_POLL)
        why = life.result() if life.done() else f"it did not answer within {LOADING:g} s" if waited > LOADING else ""
        if why:
            raise RunError(
                "local_model",
                f"the local model {self._name} could not be loaded",
                cause=why[-2000:],
                remedy="its cause says why; `gearcase models pull` checks a file that is here, and libgomp1 must be installed",
            )
        return waited if place.stands else waited + _POLL
