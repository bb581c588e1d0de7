"""The default driver: boxes from the kernel's namespaces, with no binary, no daemon, root or not.

Invariants: an error on the way to a box leaves nothing behind; a box dies with this process (lifeline, PDEATHSIG). Making is in
`starting` and `making`, a live box in `box`, its commands in `running`, what is given back in `parts`. Threat: see `docs/threat-model.md`.
"""

from __future__ import annotations

import asyncio

from gearcase.sandbox import owners, plan, probe
from gearcase.sandbox.box import Box
from gearcase.sandbox.hostwire import Launcher
from gearcase.sandbox.making import Making
from gearcase.sandbox.starting import Starter
from gearcase.seams import Limits, Profile, SandboxSpec


class NamespacesDriver:
    """Makes boxes. `without` switches single guards off, for positive controls only; it is noted in every profile."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        unknown = without - plan.GUARDS
        assert not unknown, f"no such guard: {unknown}"
        self._without = without
        self._abilities: probe.Abilities | None = None
        self._launcher: Launcher | None = None
        self._starter: Starter | None = None
        self._starting = asyncio.Lock()
        self._boxes: set[Box] = set()

    async def profile(self, limits: Limits | None = None) -> Profile:
        """See `Driver`."""
        return probe.profile(self._found(), self._without)

    async def open(self, spec: SandboxSpec) -> Box:
        """See `Driver`."""
        plan.check(spec)
        probe.require_namespaces(self._found())
        launcher, starter = await self._running()
        making = Making(spec, self._found(), launcher, starter, self._without)
        try:
            box = await making.make()
        except BaseException:
            await making.undo()
            raise
        self._boxes.add(box)
        box.on_closed = self._boxes.discard
        starter.prepare(plan.start_kind(spec))
        return box

    async def close(self) -> None:
        """See `Driver`."""
        for box in list(self._boxes):
            await box.close()
        if self._starter is not None:
            await self._starter.close()
            self._starter = None
        if self._launcher is not None:
            await self._launcher.close()
            self._launcher = None

    def _found(self) -> probe.Abilities:
        if self._abilities is None:
            self._abilities = probe.probe(self._without)
        return self._abilities

    async def _running(self) -> tuple[Launcher, Starter]:
        async with self._starting:
            if self._launcher is None or self._starter is None:
                found = self._found()
                owners.sweep()
                self._launcher = await Launcher.start(pin_processors=not found.groups.means("cpu"))
                self._starter = Starter(found, self._launcher, self._without)
            return self._launcher, self._starter
