"""One agent of a run with everything that is its own: sandbox, files, doors as its box has them, checks, operations, loop.

The lead and its sub-agents are members alike. What differs is told by the box (a sub-agent's is made from its parent's order), by the
purse that pays, and by what it may reach. A member is opened, equipped, served, and closed, in this order; `close` leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gearcase.agent.asking import Sleep
from gearcase.agent.loop import Agent, Past
from gearcase.box import Box
from gearcase.box.tools import Tool
from gearcase.brake import BoxClock, Brake, Level, Line
from gearcase.checks import PutFiles, put_files
from gearcase.doors.gear import GearDoor, Operation
from gearcase.doors.http import HttpDoor
from gearcase.doors.metering import EgressMeter
from gearcase.doors.model.door import ModelDoor
from gearcase.doors.model.routing import Route
from gearcase.engines.local import LocalEngine
from gearcase.errors import GearcaseError
from gearcase.ledger import Ledger
from gearcase.run.accounts import LEAD_PURSE, Pace, Purse, carve
from gearcase.run.away import AwayEngine
from gearcase.run.driving import Driving
from gearcase.run.forks import Forks
from gearcase.run.handover import Acceptance
from gearcase.run.operations import Operations
from gearcase.run.questions import Questions
from gearcase.run.reach import Reach
from gearcase.run.requests import Requests
from gearcase.run.room import Room, sandbox_limits
from gearcase.run.watching import Watcher
from gearcase.run.workspace import Workspace
from gearcase.runs import RunFolder
from gearcase.sandbox.blobs import BlobStore
from gearcase.seams import Driver, Housing, Mount, Recorder, Sandbox, SandboxSpec
from gearcase.swarm.maps import Maps
from gearcase.swarm.questions import Flights
from gearcase.swarm.results import Results
from gearcase.swarm.works import Engines

if TYPE_CHECKING:
    from gearcase.swarm.sandboxes import Sandboxes


@dataclass(frozen=True, slots=True)
class Shared:
    """What the members of one run share. `tools` are the operator's; `signature` is git's."""

    folder: RunFolder
    driver: Driver
    housing: Housing
    tools: Sequence[Tool]
    signature: Mapping[str, str]
    store: BlobStore
    forks: Forks
    recorder: Recorder
    clock: BoxClock
    brake: Brake
    ledger: Ledger
    door: ModelDoor
    worker: Route | None
    http: HttpDoor
    requests: Requests
    results: Results
    away: AwayEngine
    sleep: Sleep
    watcher: Watcher
    commands: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    maps: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    flights: Flights = field(default_factory=dict[bytes, asyncio.Event])


class Member:
    """One agent. `box` is its own: the goal, limits, deliverables and checks in it are this agent's."""

    def __init__(
        self, shared: Shared, purse: Purse, box: Box, pace: Pace, reach: Reach, sandbox: Sandbox, line: Line = ()
    ) -> None:
        self.shared = shared
        self.line = line
        self.brake = shared.brake.part(line)
        self.purse = purse
        self.box = box
        self.pace = pace
        self.reach = reach
        self.sandbox = sandbox
        self.room = Room(sandbox, shared.recorder, self.brake, shared.clock, pace, purse, shared.commands)
        self.workspace = Workspace(sandbox, shared.store, shared.recorder, purse.agent)
        self.driving = Driving(
            box=box,
            sandbox=sandbox,
            door=shared.door,
            ledger=shared.ledger,
            brake=self.brake,
            pace=pace,
            purse=purse,
            run_command=self.room.run,
            questions=None,
            sleep=shared.sleep,
        )
        self.route: Route | None = None
        self.agent: Agent | None = None
        self._maps: Maps | None = None
        self._gear: GearDoor | None = None

    @classmethod
    async def open(
        cls,
        shared: Shared,
        purse: Purse,
        box: Box,
        pace: Pace,
        reach: Reach,
        spec: SandboxSpec,
        ready: Sandbox | None = None,
        line: Line = (),
    ) -> Member:
        """A member with a fresh sandbox that obeys the brake: the one that stands `ready`, or a new one of this spec.

        `line`: where it stands among the sub-agents.

        Raises what the driver raises; then nothing is left.
        """
        sandbox = ready or await shared.driver.open(spec)
        try:
            await shared.brake.add_sandbox(sandbox, line)
            return cls(shared, purse, box, pace, reach, sandbox, line)
        except BaseException:
            shared.brake.remove_sandbox(sandbox)
            await sandbox.close()
            raise

    @property
    def name(self) -> str:
        """What the agent is called in the run."""
        return self.purse.agent

    def equip(
        self,
        route: Route | None,
        swarm: Mapping[str, Operation],
        questions: Questions | None = None,
        about: str = "",
        put: PutFiles = put_files,
        past: Past | None = None,
    ) -> Acceptance:
        """Give it its checks, its operations and, with a route, its loop. `swarm`: the operations on sub-agents; `put`: a check's files;
        `past`: where its conversation is kept.

        Returns what decides about its deliverables. Raises RunError when its box cannot be written to.
        """
        shared = self.shared
        self.acceptance = Acceptance(
            self.box,
            shared.driver,
            sandbox_limits(self.box),
            self.workspace,
            shared.folder,
            shared.ledger,
            shared.recorder,
            self.brake,
            self.reach.doors,
            self.purse,
            put,
        )
        self._maps = Maps(
            door=shared.door,
            worker=shared.worker,
            account=self.purse.work,
            free=lambda: shared.ledger.balance(self.purse.work, "usd").free,
            results=shared.results,
            recorder=shared.recorder,
            ready=lambda: self.brake.wait_for(lambda level: level is Level.RUNNING),
            now=shared.clock.now,
            shelter=self._shelter,
            box=self.box.maps,
            carve=lambda account, agent, usd: carve(shared.ledger, self.purse.work, account, agent, usd),
            close=shared.ledger.close,
            engines=Engines(LocalEngine, shared.away.reach, shared.away.same_machine),
            numbers=shared.maps,
            flights=shared.flights,
        )
        self.driving.questions = questions
        self.route = route
        if route is not None:
            self.agent = self.driving.agent(route, shared.recorder, about, self.reach.lines(shared.http), past)
            shared.watcher.readers[self.name] = self.agent.tell
        operations = Operations(
            box=self.box,
            sandbox=self.sandbox,
            ledger=shared.ledger,
            purse=self.purse,
            pace=self.pace,
            door=shared.door,
            worker=shared.worker,
            maps=self._maps,
            workspace=self.workspace,
            acceptance=self.acceptance,
            driving=self.driving,
            http=shared.http,
            reach=self.reach,
            requests=shared.requests if self.purse == LEAD_PURSE else None,
            agent=self.agent,
            handing_in=self._handing_in,
        )
        self._gear = GearDoor({**operations.table(), **swarm}, shared.recorder)
        self.room.furnish(self._gear, shared.tools)
        return self.acceptance

    async def _handing_in(self) -> None:
        """Raises Refused where a monitor stands against handing in now."""
        await self.reach.doors.look()
        self.shared.watcher.handing_in(self.name)

    def _shelter(self) -> Sandboxes:
        """What gives the commands of its maps their sandboxes. It pays for their processor time, which counts as its box's own."""
        from gearcase.swarm.sandboxes import Sandboxes

        shared = self.shared

        def pay(seconds: float) -> None:
            self.pace.pay_cpu(seconds)
            shared.ledger.charge(self.purse.work, {"cpu": round(seconds * 1000)}, "map")

        seen = [Mount(path, f"/given/{path.name}") for path in self.box.files.see]
        housing = replace(shared.housing, adopt=self.brake.add_sandbox)
        return Sandboxes(housing, sandbox_limits(self.box), self.workspace.state, shared.store, pay, seen)

    async def serve(self) -> None:
        """Serve its doors on the sockets that were born inside."""
        assert self._gear is not None
        shared = self.shared
        meter = EgressMeter(shared.ledger, self.purse.work)
        await self.room.open_doors(shared.door, self._gear, shared.http, self.reach, meter)

    async def end_maps(self) -> None:
        """Its maps end with what they have. Idempotent."""
        if self._maps is not None:
            await self._maps.close()

    async def close(self) -> tuple[str, ...]:
        """Shut its doors and tear its sandbox down; returns the residue."""
        self.shared.watcher.readers.pop(self.name, None)
        await self.end_maps()
        with contextlib.suppress(GearcaseError):  # a box that died has told what it used up to the last tick
            self.pace.tell_cpu((await self.sandbox.usage()).cpu)
        try:
            return await self.room.close()
        finally:
            self.shared.brake.remove_sandbox(self.sandbox)
