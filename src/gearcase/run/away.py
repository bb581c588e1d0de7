"""The engine of a run that its box names: reached when the first map can use it, under the run's brake, ended with the run."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

from gearcase.box import Box, effective_toml
from gearcase.brake import Brake
from gearcase.doors.model.door import ModelDoor
from gearcase.errors import UsageError
from gearcase.sandbox.blobs import BlobStore
from gearcase.seams import Recorder
from gearcase.swarm.works import Away, Used

if TYPE_CHECKING:
    from gearcase.engines.ray import RayEngine

INSTALL = "pip install 'gearcase[ray]'"


def require(box: Box) -> None:
    """Nothing where the engine that a box names is installed. Raises UsageError `no_ray`."""
    if box.swarm.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError("no_ray", "[swarm] engine is ray, and Ray is not installed", remedy=f'{INSTALL}, or engine = "local"')


class AwayEngine:
    """The nodes of one run, if its box has any."""

    def __init__(self, box: Box, run: str, brake: Brake, door: ModelDoor, store: BlobStore, recorder: Recorder) -> None:
        self._box = box
        self._run = run
        self._brake = brake
        self._door = door
        self._store = store
        self._recorder = recorder
        self._opening = asyncio.Lock()
        self._away: Away | None = None
        self._engine: RayEngine | None = None

    @property
    def same_machine(self) -> bool:
        """Whether nodes reach what listens on this machine's loopback."""
        if self._box.swarm.engine == "local":
            return True
        from gearcase.engines.cluster import is_loopback

        return is_loopback(self._box.swarm.address)

    async def reach(self) -> Away | None:
        """It, or None where the box names none. Raises GearcaseError where it cannot be reached."""
        if self._box.swarm.engine == "local":
            return None
        async with self._opening:
            if self._away is None:
                self._away = await self._open()
            return self._away

    async def _open(self) -> Away:
        from gearcase.engines.ray import RayEngine
        from gearcase.swarm.shards import Shards

        used: dict[str, Used] = {}
        needed = Box().model_copy(update={"limits": self._box.limits})
        plan = {"run": self._run, "box": effective_toml(needed)}

        def take(work: str, sandboxes: int, seconds: float) -> None:
            if work in used:
                used[work](sandboxes, seconds)

        engine = RayEngine(self._box.swarm.address, plan, self._door, self._store, self._recorder, take)
        await engine.open()
        self._engine = engine
        self._brake.add_door(engine)
        await self._brake.add_sandbox(engine)
        return Away(Shards(engine), used)

    def warnings(self) -> list[str]:
        """What a report should say of them."""
        calls = self._engine.calls if self._engine is not None else 0
        return [f"{calls:,} calls were made on nodes: they are not on the cassette, and a replay lacks them"] if calls else []

    async def close(self) -> tuple[str, ...]:
        """End what goes on there; returns what stayed. Idempotent."""
        if self._away is None:
            return ()
        away, self._away = self._away, None
        try:
            return await away.shards.close()
        finally:
            assert self._engine is not None
            self._brake.remove_door(self._engine)
            self._brake.remove_sandbox(self._engine)
