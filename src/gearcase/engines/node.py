"""What a node does: the work of tasks through doors and sandboxes of its own, within leases, under a brake that the host holds.

A node is a process outside every box, like the run's own. It has a model door whose accounts are the leases that the host drew for it. It
finds providers' keys by itself, where the operator put them on its machine: none crosses. Whatever it spends it tells, call by call, and
keeps nothing: the host's ledger and journal are the truth.

Invariants: nothing is sent that does not fit into its task's lease at its worst; nothing is begun while the host has latched it, or has not
asked after it for LEASE seconds: then its doors are shut and its sandboxes frozen, and after ABANDONED seconds they end.

Threat: a host that dies or is cut off while a node spends; a node that dies while something is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gearcase import __version__
from gearcase.box import Box, load_box
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.engines.crew import Crew
from gearcase.engines.ground import Ground
from gearcase.errors import GearcaseError, RunError
from gearcase.events import Amounts, Cut, DoorRefused, Event, Failure, Held, ModelCalled, Released, Settled
from gearcase.ledger import Ledger
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Manifest
from gearcase.seams import Housing, Limits, Sandbox, Task
from gearcase.swarm.items import Use
from gearcase.swarm.schema import Schema
from gearcase.swarm.worker import Answered, Outcome, Worker

if TYPE_CHECKING:
    from gearcase.swarm.sandboxes import Sandboxes

Work = Callable[[str], Awaitable[Outcome]]
LEASE = 10.0
"""Seconds without a word from the host after which a node stands still."""
ABANDONED = 60.0
"""Seconds after which it ends what it does."""
_WATCH = 0.25
_BUDGET = frozenset({"budget", "no_account", "latched", "busy"})
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """A task on this node. `one` is what one call of it costs at most, {} where it costs nothing."""

    task: Task
    one: Amounts
    crew: Crew | None = None
    running: asyncio.Task[None] | None = None
    flying: int = 0
    landed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Books:
    """The recorder of a node: what its door's ledger says of calls is told to the host, the rest is not kept."""

    tell: Callable[[dict[str, Any]], None]
    holds: dict[int, Held] = field(default_factory=dict[int, Held])
    costs: dict[int, Amounts] = field(default_factory=dict[int, Amounts])
    count: int = 0

    def append(self, event: Event, agent: str = "") -> int:
        """See `Recorder`."""
        self.count += 1
        match event:
            case Held():
                self.holds[event.hold] = event
            case Settled() if event.hold in self.holds:
                self.costs[event.hold] = event.amounts
            case Cut() if event.hold in self.holds:
                self.costs[event.hold] = self.holds[event.hold].amounts
            case Released():
                self.costs[event.hold] = {}
            case ModelCalled():
                held, amounts = self.holds.pop(event.hold), self.costs.pop(event.hold, {})
                self.tell({"task": held.account, "called": _fields(event), "amounts": amounts})
            case DoorRefused() | Failure():
                self.tell({"event": event.type, "fields": _fields(event), "agent": agent})
            case _:
                pass
        return self.count

    def flush(self) -> None:
        """See `Recorder`. The host has the lease on record, whatever becomes of this process."""

    async def durable(self) -> None:
        """See `Recorder`."""


class Node:
    """One node of one run. `plan`: the run's id, and the limits of the box, as TOML."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self._reports: deque[tuple[int, dict[str, Any]]] = deque()
        self._count = 0
        self._news = asyncio.Event()
        self._jobs: dict[str, _Job] = {}
        self._works: dict[str, Callable[[str, int], Work]] = {}
        self._doors: list[ModelDoor] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._uses: dict[str, tuple[Use, Use]] = {}
        self._sandboxes: set[Sandbox] = set()
        self._residue: list[str] = []
        self._shelter: Sandboxes | None = None
        self._manifest = Manifest()
        self._level, self._level_number = "running", 0
        self._heard = _now()
        self._still = False
        self._turn = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> dict[str, Any]:
        """Begin; says who this is. Raises GearcaseError."""
        self._ground = Ground.open()
        self._box = self._read_box(str(self._plan["box"]))
        self._store = BlobStore(self._ground.folder / "blobs")
        self._books = _Books(self._tell)
        self._ledger = Ledger(self._books)
        self._watch = asyncio.create_task(self._watching())
        return {"version": __version__, "pid": os.getpid(), "host": socket.gethostname(), "lease": LEASE}

    # --- what the host says -----------------------------------------------------------------------------------------------------

    async def poll(self, heard: int, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        """What happened after the report that was `heard` last, once something has or so many seconds are over.

        Whoever asks has not forgotten this node. A report is kept until it is said to be heard.
        """
        self._heard = _now()
        await self._obey()
        while self._reports and self._reports[0][0] <= heard:
            self._reports.popleft()
        if not self._reports:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        self._heard = _now()
        return list(self._reports)

    def missing(self, digests: list[str]) -> list[str]:
        """Which of these contents it does not have."""
        return [digest for digest in digests if digest not in self._store]

    def keep(self, digest: str, offset: int, data: bytes, last: bool) -> None:
        """A part of a content. Raises RunError `blob_damaged` by its use, where it is not what its digest says."""
        part = self._ground.folder / f"part-{digest}"
        with part.open("ab") as file:
            if file.tell() != offset:
                raise ValueError(f"a part of {digest} at {offset} and not at {file.tell()}")
            file.write(data)
        if last:
            with part.open("rb") as file:
                self._store.put(file.fileno(), part.stat().st_size)
            part.unlink()

    async def learn(self, work: Mapping[str, Any]) -> None:
        """How a work is done. Raises GearcaseError where it cannot be done here."""
        schema = Schema.read(work["schema"]) if work.get("schema") is not None else None
        if work["kind"] == "ask":
            self._works[str(work["name"])] = self._asking(work, schema)
            return
        from gearcase.swarm.commands import CommandWorker

        use = Use()
        shelter = self._shelter = self._shelter or self._housed()
        self._manifest = Manifest.from_json(str(work["manifest"]).encode())
        view = replace(await shelter.view(["."], ".", []), cwd=str(work["cwd"]))
        self._uses[str(work["name"])] = use, Use()
        command, deadline, parts = str(work["command"]), float(work["deadline"]), int(work["parts"])
        worker = CommandWorker(shelter, view, command, schema, deadline, parts, use)
        self._works[str(work["name"])] = lambda account, output: worker

    def begin(self, told: Mapping[str, Any]) -> None:
        """A task, with its lease."""
        task = Task(str(told["task"]), {"name": told["work"]}, tuple(told["items"]), int(told["at_once"]))
        job = self._jobs[task.id] = _Job(task, dict(told["one"]))
        if told["lease"]:
            self._ledger.open(task.id, dict(told["lease"]), agent=str(told["agent"]))
        work = self._works[str(told["work"])](task.id, int(told["max_output"]))

        async def ask(text: str) -> Outcome | None:
            return await self._within_lease(job, work, text)

        job.crew = Crew(task, ask, lambda place, outcome: self._answered(job, place, outcome))
        job.running = asyncio.create_task(job.crew.run())
        job.running.add_done_callback(lambda ended: self._over(job, ended))

    def cancel(self, name: str, hard: bool) -> None:
        """Begin nothing further of a task; break off what goes on, when `hard`."""
        job = self._jobs.get(name)
        if job is not None and job.crew is not None and job.running is not None:
            job.crew.stop()
            if hard:
                job.running.cancel()

    async def brake(self, level: str, number: int) -> float:
        """From now on this level holds: running, latched or frozen; returns milliseconds. An older word than the last changes nothing."""
        began = time.perf_counter()
        if number > self._level_number:
            self._level, self._level_number = level, number
            await self._obey()
        return (time.perf_counter() - began) * 1000

    async def close(self) -> dict[str, Any]:
        """End everything; says what happened last and what stayed."""
        if self._watch is not None:
            self._watch.cancel()
        await self._end_jobs()
        await asyncio.gather(*(door.close() for door in self._doors))
        await asyncio.gather(*(door.routing.close() for door in self._doors))
        if self._shelter is not None:
            await self._shelter.forget()
            await self._driver.close()
        for name in list(self._jobs):
            self._close_job(name)
        self._ground.close()
        return {"reports": list(self._reports), "residue": self._residue}

    def _read_box(self, text: str) -> Box:
        file = self._ground.folder / "box.toml"
        file.write_text(text)
        return load_box(file, environment={}).box

    # --- the work ---------------------------------------------------------------------------------------------------------------

    def _asking(self, work: Mapping[str, Any], schema: Schema | None) -> Callable[[str, int], Work]:
        """Asks the model; the lease of the task at hand pays, for so many tokens of output at most."""
        door = ModelDoor(self._ledger, self._books, Routing(self._read_box(str(work["box"])).model), durability="grouped")
        self._doors.append(door)
        if self._stands_still():
            door.latch()
        route = door.routing.inside(str(work["model"]))
        agent, label, cap = str(work["agent"]), str(work["label"]), int(work["max_output"])

        def worker(account: str, output: int) -> Work:
            return Worker(door, Caller(agent, account, label=label), route, schema, min(cap, output))

        return worker

    async def _within_lease(self, job: _Job, work: Work, text: str) -> Outcome | None:
        """One item, where it may be begun now."""
        if not await self._fits(job):
            return None
        job.flying += 1
        try:
            outcome = await work(text)
        except GearcaseError:
            raise
        except Exception:  # the log of this process stays on its machine: the run's journal has the cause
            remedy = "report this, with the journal of the run"
            cause = traceback.format_exc()[-4000:]
            failed = RunError("internal", "Gearcase itself failed on a node", cause=cause, remedy=remedy)
            self._books.append(Failure(failed.envelope()))
            raise
        finally:
            job.flying -= 1
            job.landed.set()
        refused = not isinstance(outcome, Answered) and outcome.code in _BUDGET
        return None if refused else outcome

    async def _fits(self, job: _Job) -> bool:
        """Whether one more call fits into the lease beside those in flight, at their worst. It waits where that may change."""
        while not self._stands_still():
            if not job.one:
                return True
            account, many = job.task.id, job.flying + 1
            rooms = [(self._ledger.balance(account, name), amount) for name, amount in job.one.items()]
            if all((room.limit or 0) - room.spent >= many * amount for room, amount in rooms):
                return True
            if not job.flying:
                return False
            job.landed.clear()
            await job.landed.wait()
        return False

    def _stands_still(self) -> bool:
        return self._level != "running" or _now() - self._heard > LEASE

    # --- what is told -----------------------------------------------------------------------------------------------------------

    def _tell(self, report: dict[str, Any]) -> None:
        self._count += 1
        self._reports.append((self._count, report))
        self._news.set()

    def _answered(self, job: _Job, place: int, outcome: Mapping[str, Any]) -> None:
        report: dict[str, Any] = {"task": job.task.id, "answers": [[place, outcome]]}
        self._tell(report | self._used(str(job.task.work["name"])))

    def _used(self, work: str) -> dict[str, Any]:
        """What commands took since it was told last."""
        if work not in self._uses:
            return {}
        now, told = self._uses[work]
        used = {"work": work, "sandboxes": now.sandboxes - told.sandboxes, "cpu": now.cpu - told.cpu}
        told.sandboxes, told.cpu = now.sandboxes, now.cpu
        return {"used": used}

    def _over(self, job: _Job, ended: asyncio.Task[None]) -> None:
        """Nothing of a task goes on any more."""
        broken = ended.cancelled()
        if not broken and (error := ended.exception()) is not None:
            _log.error("a task failed", exc_info=error)
            broken = True
        self._tell({"task": job.task.id, "over": not broken, "broken": broken} | self._used(str(job.task.work["name"])))
        closing = asyncio.create_task(self._return_lease(job))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _return_lease(self, job: _Job) -> None:
        """Give the lease back once all calls are settled, those included whose asker has gone."""
        while job.one and job.task.id in self._jobs and self._ledger.balance(job.task.id, "calls").held:
            await self._ledger.wait_change()
        self._close_job(job.task.id)

    def _close_job(self, name: str) -> None:
        if (job := self._jobs.pop(name, None)) is not None:
            if job.one:
                self._ledger.close(name)
            self._tell({"task": name, "closed": True})

    # --- brake and lease --------------------------------------------------------------------------------------------------------

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(_WATCH)
            await self._obey()
            if _now() - self._heard > ABANDONED:
                _log.error("the host has not been heard for %g s: what is going on ends", ABANDONED)
                await self._end_jobs()

    async def _obey(self) -> None:
        """Shut or open the doors, freeze or thaw the sandboxes, as brake and lease say."""
        async with self._turn:
            for door in self._doors:
                if self._stands_still():
                    door.latch()
                else:
                    door.unlatch()
            still = self._level == "frozen" or _now() - self._heard > LEASE
            if still and not self._still:
                self._still = True
                await asyncio.gather(*(_quietly(one.freeze()) for one in self._sandboxes))
            elif self._still and not still:
                await asyncio.gather(*(_quietly(one.thaw()) for one in self._sandboxes))
                self._still = False

    async def _end_jobs(self) -> None:
        running = [job.running for job in self._jobs.values() if job.running is not None]
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # --- sandboxes --------------------------------------------------------------------------------------------------------------

    def _housed(self) -> Sandboxes:
        """What gives commands their sandboxes: as much of this machine as the box may use, once."""
        from gearcase.sandbox.namespaces import NamespacesDriver
        from gearcase.swarm.sandboxes import Sandboxes

        self._driver = NamespacesDriver()
        housing = Housing(self._driver, self._books, self._adopt, self._release, self._ground.folder)
        limits = self._box.limits
        whole = Limits(limits.memory, limits.cpus, limits.disk, limits.processes)

        async def state() -> Manifest:
            return self._manifest

        return Sandboxes(housing, whole, state, self._store, lambda seconds: None)

    async def _adopt(self, sandbox: Sandbox) -> None:
        self._sandboxes.add(sandbox)
        if self._still:
            await sandbox.freeze()

    def _release(self, sandbox: Sandbox, residue: tuple[str, ...]) -> None:
        self._sandboxes.discard(sandbox)
        self._residue.extend(residue)


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.fields}


async def _quietly(braking: Awaitable[Any]) -> None:
    """A sandbox that is being torn down moves no more; one that resists is told in the log, and ends with this process."""
    try:
        await braking
    except RunError as error:
        if error.code != "sandbox_lost":
            _log.error("%s: %s", error.code, error.message)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
