"""The supervisor of one run: opens it, wires the parts, waits for its end, hands over, tears down. No logic of its own.

Order of the end, whatever ended it: the doors are latched, the box is frozen, the deliverables are copied once, that copy is
checked and delivered, the sandbox and its accounts are closed, the ending is recorded.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gearcase.agent.conversation import Conversation
from gearcase.agent.loop import Past
from gearcase.allowance import refuse_above
from gearcase.box.tools import find_tools
from gearcase.brake import Level
from gearcase.doors.files import give
from gearcase.doors.http import HttpDoor, rules_of
from gearcase.doors.model.door import ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.doors.model.upstreams.cassette import Cassette
from gearcase.doors.opened import OpenedHosts
from gearcase.doors.repositories import remember
from gearcase.errors import GearcaseError, UsageError
from gearcase.events import Event, Failure, Giving
from gearcase.notify.shapes import Destination
from gearcase.notify.targets import chosen, destinations
from gearcase.run.accounts import LEAD_PURSE
from gearcase.run.again import note_asked
from gearcase.run.away import AwayEngine, require
from gearcase.run.books import Books, open_books
from gearcase.run.databases import databases_of
from gearcase.run.doors import Doors, declared
from gearcase.run.ending import End
from gearcase.run.forks import Forks
from gearcase.run.handover import unless_killed
from gearcase.run.member import Member, Shared
from gearcase.run.options import RunOptions
from gearcase.run.outlet import Outlet
from gearcase.run.reach import Reach
from gearcase.run.record import EndRecord
from gearcase.run.room import Room, demand, git_signature, opened_hosts, sandbox_limits, sandbox_spec
from gearcase.run.spawning import Spawning
from gearcase.run.steps import Steps
from gearcase.run.until import until_end
from gearcase.run.watching import Watcher
from gearcase.runs import RunFolder, create
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Command, Driver, Housing, Sandbox
from gearcase.swarm.results import Results

if TYPE_CHECKING:
    from gearcase.run.effects import Effects


class Supervisor:
    """One run. `execute` may be called once; `began` is called when the run exists and errors become its ending."""

    def __init__(self, options: RunOptions, began: Callable[[RunFolder], None]) -> None:
        self._options = options
        self._box = options.box.box
        self._began = began
        self._driver: Driver = NamespacesDriver()
        self._work: asyncio.Task[End] | None = None
        self._doors = Doors(())
        self._notify = self._box.notify
        self._to: tuple[Destination, ...] = ()
        self._opened: OpenedHosts | None = None
        self._effects: Effects | None = None
        self._looking: asyncio.Task[None] | None = None

    async def execute(self) -> EndRecord:
        """From nothing to nothing: returns the ending. Raises UsageError and UnsafeError before the run exists."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._driver.close)
            options = self._options
            profile = await self._driver.profile(sandbox_limits(self._box))
            demand(self._box, profile)
            require(self._box)
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
            if options.cassette is None:  # a replay plays what happened: nobody waits
                self._notify = chosen(self._box.notify)
                self._to = destinations(self._notify, os.environ)
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
        note_asked(folder, options)
        continues = options.continues.take_over(folder) if options.continues is not None else None
        kind, box = ("program" if options.program else "agent"), self._box
        books = await open_books(folder, box, stack, kind, options.out, options.force, notify=self._notify, to=self._to)
        if continues is not None and options.continues is not None:
            books.journal.append(continues)
            books.ending.earlier = options.continues.delivered
        books.paging.watched = options.answered
        books.questions.answered = options.answered or books.paging.reaches
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
        box, brake, ending, doors = self._box, books.brake, books.ending, self._doors
        shared = self._shared(folder, routing, books, housing)
        reach = Reach.whole(doors, self._opened)
        spec = sandbox_spec(box, shared.tools, reach, folder.id, shared.signature)
        lead = await Member.open(shared, LEAD_PURSE, box, books.pace, reach, spec)
        children = Spawning(shared, lead, self._options.continues.agents if self._options.continues is not None else 0)
        try:
            await self._give(lead)
            await unless_killed(lead.brake, lead.room.require(box.sandbox.packages))
            for one in (shared.door, shared.http, *doors.doors):
                brake.add_door(one)
            await unless_killed(lead.brake, doors.open(housing))
            books.copies.doors = doors
            books.rewinding.databases = lead.workspace.databases = databases_of(doors, books.journal, lead.workspace.alive)
            route = None if self._options.program else routing.lead()
            past = None
            if route is not None:
                told = self._options.continues.told if self._options.continues is not None else ""
                past = Past(Conversation(folder.conversation, books.journal, lead.name), told)
            acceptance = lead.equip(route, children.operations, books.questions, past=past)
            await lead.serve()
            books.operating.children = children
            books.rewinding.lead, books.rewinding.children, books.rewinding.doors = lead, children, doors
            self._watch(books, lead)
            work = lead.agent.run() if lead.agent is not None else self._program(lead.room)
            try:
                ending.end = await until_end(work, lead.room, lead.brake, books.pace, books.watcher.halted)
            finally:
                books.rewinding.effects = None
                await children.close()
                await lead.end_maps()
                await self._look_no_more(books.watcher)
                ending.residue += await shared.away.close()
            ending.warnings += [*routing.warnings(), *shared.away.warnings()]
            shared.door.latch()
            if brake.level < Level.KILLED:
                opened = self._opened.secrets if self._opened is not None else {}
                await ending.hand_over(brake, shared.store, acceptance, {"model": routing.keys, **opened})
            await shared.door.close()
        finally:
            await children.close()
            await self._look_no_more(books.watcher)
            residue = await lead.close()
            ending.residue += [
                *await shared.away.close(),
                *await doors.close(),
                *residue,
                *children.residue,
                *shared.forks.residue,
            ]
            shared.results.close()
            if self._opened is not None:
                await self._opened.close()

    def _shared(self, folder: RunFolder, routing: Routing, books: Books, housing: Housing) -> Shared:
        """What the agents of the run share; nothing of it is open to anybody yet."""
        box, options = self._box, self._options
        if options.cassette is not None and not options.live_worker:
            shutil.copyfile(options.cassette, folder.cassette)
        else:
            routing.record(folder.cassette if options.record is None else options.record)
        store = BlobStore(folder.blobs)
        door = ModelDoor(
            books.ledger,
            books.journal,
            routing,
            durability=box.journal.durability,
            usd_per_minute=box.limits.usd_per_minute if options.cassette is None else None,
            hosted_tools=box.model.hosted_tools,
            allowance=books.allowance,
        )
        http = HttpDoor(rules_of(box.doors.http), books.journal, self._opened)
        books.requests.http = http
        books.requests.timed = not options.program
        return Shared(
            folder=folder,
            driver=self._driver,
            housing=housing,
            tools=find_tools(box.sandbox.tools, os.environ),
            signature=git_signature(box),
            store=store,
            forks=Forks(self._driver, store, books.brake, folder.id),
            recorder=books.journal,
            clock=books.clock,
            brake=books.brake,
            ledger=books.ledger,
            door=door,
            worker=routing.worker(),
            http=http,
            requests=books.requests,
            results=Results(folder.results),
            away=AwayEngine(box, folder.id, books.brake, door, store, books.journal),
            sleep=self._sleep,
            watcher=books.watcher,
        )

    def _watch(self, books: Books, lead: Member) -> None:
        """What the monitors may do, and their eye on the lead's files. A replay plays what happened: nothing rests or ends there."""
        watcher, loop = books.watcher, asyncio.get_running_loop()
        watcher.halted = loop.create_future()
        if self._options.cassette is None:
            watcher.rest, watcher.end = lead.shared.door.rest, lead.room.fail

        def stir(agent: str, event: Event) -> None:
            if self._effects is not None and agent == lead.name:
                self._effects.stir(event)

        watcher.stir = stir
        self._looking = asyncio.create_task(self._look(books, lead))

    async def _look(self, books: Books, lead: Member) -> None:
        """Look at what the lead's commands do to its files, until cancelled."""
        await books.watcher.begun.wait()  # what it takes is loaded behind the first call
        from gearcase.run.effects import Effects

        files, space = self._box.files, lead.workspace
        assert space.steps is not None
        effects = Effects(space, space.steps, lead.shared.store, books.journal, lead.name, files.keep, files.protected)
        effects.begin(space.snapshots["s0"].manifest)
        self._effects = books.rewinding.effects = effects
        space.seen = effects.look
        effects.stir()
        await effects.watch()

    async def _look_no_more(self, watcher: Watcher) -> None:
        """A last look, whose alarms are on record only, before the files' descriptor is closed. Idempotent."""
        watcher.stir, looking, self._looking = None, self._looking, None
        watcher.acts = False
        if looking is not None:
            looking.cancel()
            (ended,) = await asyncio.gather(looking, return_exceptions=True)
            if isinstance(ended, Exception):
                watcher.failed(ended)
            elif self._effects is not None:
                await self._effects.look()

    async def _give(self, lead: Member) -> None:
        """Copy what is given into the lead's box; that state is where it starts from."""
        shared, loop, sources = lead.shared, asyncio.get_running_loop(), self._box.files.give

        def tell(far: Giving) -> None:
            loop.call_soon_threadsafe(shared.recorder.append, far)

        if (fork := self._options.forks) is not None:
            root, owner = lead.sandbox.workspace, lead.sandbox.owner
            start, forked = await in_thread(fork.give, root, owner, shared.folder, shared.store)
            shared.recorder.append(forked)
        else:
            given = await in_thread(give, sources, lead.sandbox.workspace, lead.sandbox.owner, shared.store, tell)
            start = given.manifest
            await in_thread(remember, shared.folder.path, sources, start)
        files = self._box.files
        lead.workspace.begin(start, Steps(shared.folder, shared.store, files.snapshots_max, files.snapshots_for))

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
