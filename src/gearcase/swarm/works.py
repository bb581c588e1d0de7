"""Where the work of maps executes: here, or where the run's engine has nodes; and what an engine is told of a work, as plain JSON.

What only this machine has stays here: a model that a person, a script or a cassette plays, the model of this machine, files that a box
shows from outside its workspace. So do validators and repairs, of which there is little.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gearcase.doors.model.door import Caller
from gearcase.doors.model.routing import Route
from gearcase.seams import Engine
from gearcase.swarm.items import Use
from gearcase.swarm.schema import Schema
from gearcase.swarm.shards import Asking, Shards
from gearcase.swarm.worker import Outcome

if TYPE_CHECKING:
    from gearcase.swarm.sandboxes import View

Worker = Callable[[str], Awaitable[Outcome]]
Used = Callable[[int, float], None]
"""Hears of sandboxes, and seconds of processor time, that commands took elsewhere."""


def ask_work(name: str, caller: Caller, route: Route, schema: Schema | None, max_output: int) -> dict[str, Any]:
    """A model call for each item."""
    told: dict[str, Any] = {"name": name, "kind": "ask", "model": route.reference, "max_output": max_output}
    told |= {"agent": caller.agent, "account": caller.account, "label": caller.label}
    return told | {"schema": schema.source if schema else None}


def run_work(
    name: str, agent: str, command: str, schema: Schema | None, deadline: float, parts: int, view: View
) -> dict[str, Any]:
    """A command for each item, in a sandbox with one of so many parts of what the box may use."""
    told: dict[str, Any] = {"name": name, "kind": "run", "command": command, "deadline": deadline, "parts": parts, "agent": agent}
    told |= {"cwd": view.cwd, "manifest": view.manifest.to_json().decode()}
    return told | {"schema": schema.source if schema else None}


@dataclass(slots=True)
class Away:
    """The engine of a run that has nodes. `used`, by the name of a work."""

    shards: Shards
    used: dict[str, Used] = field(default_factory=dict[str, Used])


class Engines:
    """Of the maps of one agent. `local` makes the engine of this process over workers by the name of their work; `away` gives the run's."""

    def __init__(
        self,
        local: Callable[[Mapping[str, Worker]], Engine],
        away: Callable[[], Awaitable[Away | None]],
        same_machine: bool = True,
    ) -> None:
        """`same_machine`: nodes reach what listens on this machine's loopback."""
        self.same_machine = same_machine
        self._workers: dict[str, Worker] = {}
        self._make = local
        self._local: Shards | None = None
        self._away = away
        self._used: Away | None = None

    async def asking(
        self,
        work: Mapping[str, Any],
        worker: Worker,
        at_once: int,
        use: Use,
        *,
        away: bool,
        each: bool = False,
        pay: Callable[[float, Use], None] | None = None,
    ) -> Asking:
        """Who does this work, `at_once` in all, or on `each` node; on nodes where it may be done `away`. `pay` books processor time.

        Raises GearcaseError where the run's engine cannot be reached.
        """
        name = str(work["name"])
        engine = await self._away() if away else None
        if engine is None:
            self._workers[name] = worker
            self._local = self._local or Shards(self._make(self._workers))
            return self._local.asking(work, at_once, at_once)
        self._used = engine

        def used(sandboxes: int, seconds: float) -> None:
            use.sandboxes += sandboxes
            if pay is not None:
                pay(seconds, use)

        engine.used[name] = used
        capacity = engine.shards.engine.capacity()
        hands = at_once if each else max(1, at_once // capacity.most)
        return engine.shards.asking(work, hands, capacity.most * capacity.shard)

    def forget(self, name: str) -> None:
        """The map of this name has ended."""
        self._workers.pop(name, None)

    async def close(self) -> None:
        """The maps have ended: so does what goes on for them here, and what was cancelled elsewhere is waited for."""
        if self._used is not None:
            await self._used.shards.quiet()
        if self._local is not None:
            await self._local.close()
