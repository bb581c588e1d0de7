"""A sandbox that stands ready for the next sub-agent, filled with what the last one was forked from: a fork then costs what changed since.

Nothing of an agent's runs in it and no agent reaches it, so it holds exactly what was put there. There is at most one, made when the
first sub-agent has begun and a moment after each that took it; who finds none, or one of another kind, makes its own.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, replace

from gearcase.errors import GearcaseError
from gearcase.run.forks import Forks
from gearcase.sandbox.manifest import Manifest
from gearcase.seams import Driver, Sandbox, SandboxSpec

_CALM = 0.1
"""Seconds after a sub-agent began in which it is not disturbed."""


@dataclass(frozen=True, slots=True)
class _Spare:
    sandbox: Sandbox
    spec: SandboxSpec
    files: Manifest


class Spares:
    """The spare of one run."""

    def __init__(self, driver: Driver, forks: Forks, run: str) -> None:
        self._driver = driver
        self._forks = forks
        self._run = run
        self._numbers = itertools.count(1)
        self._ready: _Spare | None = None
        self._making: asyncio.Task[None] | None = None

    async def take(self, spec: SandboxSpec, files: Manifest) -> Sandbox | None:
        """The spare, holding `files`, where it is of this kind (its id is its own); None where there is none."""
        ready, self._ready = self._ready, None
        if ready is None:
            return None
        if replace(ready.spec, id=spec.id) == spec:
            try:
                await ready.sandbox.usage()  # it lives
                await self._forks.fill(ready.sandbox, files, ready.files)
                return ready.sandbox
            except GearcaseError:
                pass  # whoever asked makes one of its own and hears what is wrong
            except BaseException:
                await self._discard(ready)
                raise
        await self._discard(ready)
        return None

    def prepare(self, spec: SandboxSpec, files: Manifest) -> None:
        """Have one of this kind ready soon."""
        if self._ready is None and (self._making is None or self._making.done()):
            self._making = asyncio.create_task(self._prepare(replace(spec, id=f"{self._run}-s{next(self._numbers)}"), files))

    async def close(self) -> None:
        """Give back what nobody took. Idempotent."""
        if self._making is not None:
            await asyncio.wait({self._making})
        ready, self._ready = self._ready, None
        if ready is not None:
            await self._discard(ready)

    async def _prepare(self, spec: SandboxSpec, files: Manifest) -> None:
        await asyncio.sleep(_CALM)
        try:
            sandbox = await self._driver.open(spec)
        except GearcaseError:
            return  # as above
        spare = _Spare(sandbox, spec, files)
        try:
            await self._forks.fill(sandbox, files)
        except GearcaseError:
            await self._discard(spare)
        except BaseException:
            await self._discard(spare)
            raise
        else:
            self._ready = spare

    async def _discard(self, spare: _Spare) -> None:
        self._forks.residue += await spare.sandbox.close()
