"""The supervisor of one run: opens it, wires the parts, waits for its end, hands over, tears down. No logic of its own.

Order of the end, whatever ended it: the doors are latched, the box is frozen, the deliverables are copied once, that copy is
checked and delivered, the sandbox and its accounts are closed, the ending is recorded.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from gearcase.agent.loop import AgentEnd
from gearcase.allowance import refuse_above
from gearcase.box import Box
from gearcase.box.tools import find_tools
from gearcase.brake import Brake, Level
from gearcase.doors.files import give
from gearcase.doors.gear import GearDoor
from gearcase.doors.http import HttpDoor, rules_of
from gearcase.doors.metering import EgressMeter
from gearcase.doors.model.door import ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.doors.model.upstreams.cassette import Cassette
from gearcase.doors.opened import OpenedHosts
from gearcase.doors.repositories import remember
from gearcase.errors import GearcaseError, RunError, UsageError
from gearcase.events import Failure, Giving
from gearcase.ledger import Ledger
from gearcase.run.accounts import LEAD, Pace, carve
from gearcase.run.books import Books, open_books
from gearcase.run.doors import Doors, declared
from gearcase.run.ending import End
from gearcase.run.handover import Acceptance, unless_killed
from gearcase.run.lead import Lead
from gearcase.run.operations import Operations
from gearcase.run.options import RunOptions
from gearcase.run.outlet import Outlet
from gearcase.run.record import EndRecord
from gearcase.run.room import Room, demand, open_sandbox, opened_hosts, sandbox_limits
from gearcase.run.workspace import Snapshot, Workspace
from gearcase.runs import RunFolder, create
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Command, Driver, Housing, Mount, Sandbox
from gearcase.swarm.maps import Maps
from gearcase.swarm.results import Results

if TYPE_CHECKING:
    from gearcase.swarm.sandboxes import Sandboxes

_HEARD = 1.0
"""Seconds in which the end of a box is told after a command in it failed of it."""


class Supervisor:
    """One run. `execute` may be called once; `began` is called when the run exists and errors become its ending."""

    def __init__(self, options: RunOptions, began: Callable[[RunFolder], None]) -> None:
        self._options = options
        self._box = options.box.box
        self._began = began
        self._driver: Driver = NamespacesDriver()
        self._work: asyncio.Task[End] | None = None
        self._doors = Doors(())
        self._opened: OpenedHosts | None = None

    async def execute(self) -> EndRecord:
        """From nothing to nothing: returns the ending. Raises UsageError and UnsafeError before the run exists."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._driver.close)
            options = self._options
            profile = await self._driver.profile(sandbox_limits(self._box))
            demand(self._box, profile)
            routing = Routing(
                self._box.model,
                forbidden=(*self._box.files.give, *self._box.files.see, *([options.out] if options.out else [])),
                played=self._played(),
                live_worker=options.live_worker,
            )
            stack.push_async_callback(routing.close)
            routing.lead()  # a missing key or an unknown model is found before anything is made
            if options.live_worker:
                routing.worker()
            self._doors = Doors(declared(self._box))  # and so is a missing secret
            self._opened = opened_hosts(self._box, self._doors)
            if routing.bills():
                refuse_above(self._box.limits.usd)
            if self._options.record is not None and self._options.record.exists():
                remedy = "name a file that does not exist yet"
                raise UsageError("exists", f"{self._options.record} exists: a cassette is never written over", remedy=remedy)
            folder, owner = create(self._box.goal.strip() or shlex.join(self._options.program), self._options.name)
            stack.callback(owner.release)
            return await self._in_folder(folder, routing, stack)

    def _played(self) -> Cassette | None:
        """What a replay plays."""
        file = self._options.cassette
        if file is None:
            return None
        cassette = Cassette(file, self._options.strict)
        if cassette.lead is None:
            remedy = "only an agent's run can be replayed; record one with gearcase run ... --record FILE"
            raise UsageError("no_lead", f"{file} holds no agent's calls", remedy=remedy)
        return cassette

    async def _in_folder(self, folder: RunFolder, routing: Routing, stack: AsyncExitStack) -> EndRecord:
        options = self._options
        books = await open_books(folder, self._box, stack, "program" if options.program else "agent", options.out, options.force)
        books.questions.answered = options.answered
        books.questions.unanswered, books.questions.after = options.unanswered, options.after
        stayed: list[str] = []

        def release(sandbox: Sandbox, residue: tuple[str, ...]) -> None:
            books.brake.remove_sandbox(sandbox)
            stayed.extend(residue)

        housing = Housing(self._driver, books.journal, books.brake.add_sandbox, release, folder.path)
        routing.house(housing)
        self._began(folder)
        try:
            await self._in_box(folder, routing, books, housing)
        except GearcaseError as error:
            books.journal.append(Failure(error.envelope()))
            books.ending.failed(error)
        await routing.close()  # local models give back what they had before the residue is told
        books.ending.residue += stayed
        if self._options.record is not None and self._options.record.exists():
            shutil.copyfile(self._options.record, folder.cassette)  # so that the run can be replayed by its name, too
        return await books.close()

    async def _in_box(self, folder: RunFolder, routing: Routing, books: Books, housing: Housing) -> None:
        box = self._box
        journal, clock, brake, ledger, pace, ending = (
            books.journal,
            books.clock,
            books.brake,
            books.ledger,
            books.pace,
            books.ending,
        )
        tools, doors = find_tools(box.sandbox.tools, os.environ), self._doors
        sandbox = await open_sandbox(self._driver, box, tools, doors, self._opened, folder.id)
        room = Room(sandbox, journal, brake, clock, pace)
        try:
            await brake.add_sandbox(sandbox)
            store = BlobStore(folder.blobs)
            loop = asyncio.get_running_loop()

            def tell(far: Giving) -> None:
                loop.call_soon_threadsafe(journal.append, far)

            given = await in_thread(give, box.files.give, sandbox.workspace, sandbox.owner, store, tell)
            await in_thread(remember, folder.path, box.files.give, given.manifest)
            workspace = Workspace(sandbox, store, journal, brake)
            workspace.snapshots["s0"] = Snapshot("s0", given.manifest, "as given")
            await unless_killed(brake, room.require(box.sandbox.packages))
            if self._options.cassette is not None and not self._options.live_worker:
                shutil.copyfile(self._options.cassette, folder.cassette)
            else:
                routing.record(folder.cassette if self._options.record is None else self._options.record)
            door = ModelDoor(
                ledger,
                journal,
                routing,
                durability=box.journal.durability,
                usd_per_minute=box.limits.usd_per_minute if self._options.cassette is None else None,
                hosted_tools=box.model.hosted_tools,
                allowance=books.allowance,
            )
            http = HttpDoor(rules_of(box.doors.http), journal, self._opened)
            books.requests.http = http
            books.requests.timed = not self._options.program
            for one in (door, http, *doors.doors):
                brake.add_door(one)
            await unless_killed(brake, doors.open(housing))
            books.copies.doors = doors
            acceptance = Acceptance(box, self._driver, sandbox_limits(box), workspace, folder, ledger, journal, brake, doors)
            lead = Lead(box, sandbox, door, ledger, brake, clock, pace, room.run, books.questions, self._sleep)
            maps = Maps(
                door=door,
                worker=routing.worker(),
                account=LEAD,
                free=lambda: ledger.balance(LEAD, "usd").free,
                results=Results(folder.results),
                recorder=journal,
                ready=lambda: brake.wait_for(lambda level: level is Level.RUNNING),
                now=clock.now,
                shelter=lambda: _shelter(box, housing, workspace, store, ledger, pace),
                box=box.maps,
                carve=lambda account, agent, usd: carve(ledger, account, agent, usd),
                close=ledger.close,
            )
            operations = Operations(
                box=box,
                sandbox=sandbox,
                ledger=ledger,
                clock=clock,
                pace=pace,
                door=door,
                worker=routing.worker(),
                maps=maps,
                workspace=workspace,
                acceptance=acceptance,
                lead=lead,
                http=http,
                doors=doors,
                requests=books.requests,
            )
            agent = None
            if not self._options.program and (route := routing.lead()) is not None:
                agent = operations.agent = lead.agent(route, journal)
            gear = GearDoor(operations.table(), journal)
            room.furnish(gear, tools)
            await room.open_doors(door, gear, http, doors, EgressMeter(ledger, LEAD))
            opened = self._opened.secrets if self._opened is not None else {}
            work = agent.run() if agent is not None else self._program(room)
            try:
                ending.end = await self._until_end(work, room, brake, pace)
            finally:
                await maps.close()
            ending.warnings += routing.warnings()
            door.latch()
            if brake.level < Level.KILLED:
                await ending.hand_over(brake, store, acceptance, {"model": routing.keys, **opened})
            await door.close()
        finally:
            brake.remove_sandbox(sandbox)
            stayed = await doors.close()
            ending.residue = [*stayed, *await room.close()]
            if self._opened is not None:
                await self._opened.close()

    async def _sleep(self, seconds: float) -> None:
        """Between attempts to reach a model. What a cassette plays comes at once: nobody waits out again what was waited then."""
        await asyncio.sleep(seconds if self._options.cassette is None else 0)

    async def _program(self, room: Room) -> End:
        """`gearcase exec`: the program's output is this process's own."""
        options, link = self._options, self._options.terminal
        await room.furnish_home(options.home)
        command = Command(
            options.program,
            environment=options.program_environment,
            cwd=options.program_folder,
            merge_stderr=False,
            deadline=self._box.limits.wall,
            terminal=link.size if link else None,
        )
        text = " ".join(options.program)
        if link is not None:
            result = await room.run(command, text, on_terminal=link.hand_over)
        else:
            outlet, errors = Outlet(options.program_output), Outlet(2)
            result = await room.run(command, text, outlet, on_error=errors)
            await outlet.flush()
            await errors.flush()
        return End("done", exit=result.exit_code)

    async def _until_end(self, work: Awaitable[Any], room: Room, brake: Brake, pace: Pace) -> End:
        """Wait for the work, the box's death, the wall clock or a kill, whichever is first."""
        tasks: dict[str, asyncio.Task[Any]] = {
            "work": asyncio.ensure_future(work),  # type: ignore[arg-type]
            "failed": asyncio.ensure_future(room.failed),  # type: ignore[dict-item]
            "lost": asyncio.create_task(room.sandbox.died()),
            "killed": asyncio.create_task(brake.wait_for(lambda level: level is Level.KILLED)),
            "wall": asyncio.create_task(self._wall(pace)),
            "tick": asyncio.create_task(room.tick()),
        }
        try:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            if tasks["work"].done() and _lost(tasks["work"].result()):
                await asyncio.wait({tasks["lost"]}, timeout=_HEARD)  # the agent may have heard of it first
                if tasks["lost"].done():
                    return self._end("lost", tasks["lost"].result(), room, pace)
            if tasks["failed"].done():
                raise tasks["failed"].result()
            for name in ("work", "killed", "lost", "wall"):
                if tasks[name].done():
                    return self._end(name, tasks[name].result(), room, pace)
            tasks["tick"].result()
            raise RunError("internal", "the tick ended by itself", remedy="report this, with the run's supervisor.log")
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _end(self, name: str, result: Any, room: Room, pace: Pace) -> End:
        if name == "lost":
            room.lost(str(result))
            return End("lost", str(result))
        if name == "killed":
            return End("killed", "killed by the operator")
        if name == "wall":
            return End("wall", "the time of the run is over")
        return result if isinstance(result, End) else End(result.reason, result.detail, result.note, error=result.error)

    async def _wall(self, pace: Pace) -> None:
        while pace.now() != "stop":
            await asyncio.sleep(0.25)
        if pace.limit not in ("wall", "cpu_time"):
            await asyncio.Event().wait()  # the agent's loop ends itself on the other limits


def _shelter(box: Box, housing: Housing, workspace: Workspace, store: BlobStore, ledger: Ledger, pace: Pace) -> Sandboxes:
    """What gives the commands of maps their sandboxes. The lead pays for their processor time, which counts as the box's own."""
    from gearcase.swarm.sandboxes import Sandboxes

    def pay(seconds: float) -> None:
        pace.more_cpu += seconds
        ledger.charge(LEAD, {"cpu": round(seconds * 1000)}, "map")

    seen = [Mount(path, f"/given/{path.name}") for path in box.files.see]
    return Sandboxes(housing, sandbox_limits(box), workspace.state, store, pay, seen)


def _lost(end: AgentEnd | End) -> bool:
    return end.error is not None and end.error.code == "sandbox_lost"
