"""The metered model door alone: for programs outside any box, also on machines that cannot isolate one.

It is a run like any other (a folder, a journal, a ledger, a brake), only that nothing is isolated: what a program does beside its
model calls is not seen. The door listens on a loopback port and asks for its token (`doors.model.guard`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gearcase.allowance import refuse_above
from gearcase.box import DEFAULT, Box, Files, LoadedBox
from gearcase.brake import Level
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.guard import Guard, new_token
from gearcase.doors.model.headers import is_out_of_budget
from gearcase.doors.model.routing import Routing
from gearcase.doors.server import HttpRequest, Reply, serve
from gearcase.errors import GearcaseError, UsageError
from gearcase.events import Amounts, Failure
from gearcase.notify.targets import chosen, destinations
from gearcase.run.accounts import LEAD, RUN
from gearcase.run.books import Books, open_books
from gearcase.run.ending import End
from gearcase.run.record import UNENDING, EndRecord
from gearcase.runs import RunFolder, create

GOAL = "model door"
_LOOK = 0.1
"""Seconds between two looks at the clock and the brake."""
_SHORTEST_TOKEN = 16
_CALLER = Caller(LEAD, LEAD)


@dataclass(frozen=True, slots=True)
class DoorOptions:
    """A door to be opened. Of the box its models, its limits on model calls and time, and its journal count. Port 0: any free one."""

    box: LoadedBox
    name: str = ""
    port: int = 0
    token: str = field(default="", repr=False)  # empty: a random one


class DoorAlone:
    """An open door. Made by `open_door`."""

    def __init__(self, books: Books, model: ModelDoor, port: int, token: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.token = token
        self.record: EndRecord | None = None  # once it is closed
        self._books = books
        self._model = model
        self._handle = model.handler(_CALLER, self._fail)
        self._over = asyncio.Event()

    @property
    def folder(self) -> RunFolder:
        """Its run on disk: the journal and the ending."""
        return self._books.folder

    @property
    def spent(self) -> Amounts:
        """What its calls have cost so far, in the units of events.py: `usd` in nano-dollars, `tokens`, `calls`."""
        return self._books.ledger.subtree_spent(RUN) if self.record is None else self.record.spent

    @property
    def environment(self) -> dict[str, str]:
        """What points the clients of Anthropic, OpenAI and Google, and programs that use them, at this door."""
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": self.token,
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": self.token,
            "GOOGLE_GEMINI_BASE_URL": self.url,
            "GEMINI_API_KEY": self.token,
        }

    async def wait(self) -> None:
        """Until the door takes no more calls for good: it was killed, its time is over, or its journal failed."""
        await self._over.wait()

    async def answer(self, request: HttpRequest) -> Reply:
        """One request that the guard let in."""
        reply = await self._handle(request)
        if is_out_of_budget(reply.headers):
            self._books.pace.wind_down("budget", "a call did not fit into what is left")
        return reply

    def _fail(self, error: GearcaseError) -> None:
        """What ends a run: the journal or the ledger failed."""
        self._books.ending.failed(error)
        self._shut()

    async def watch(self) -> None:
        """Shut the door when it is killed or its time is over; runs beside it until cancelled."""
        books = self._books
        while books.brake.level < Level.KILLED and books.clock.now() < books.pace.box.limits.wall:
            await asyncio.sleep(_LOOK)
        if books.brake.level is Level.KILLED:
            books.ending.end = End("killed", "killed by the operator")
        else:
            books.pace.stop("wall")
            books.ending.end = End("wall", "the time of the door is over")
        self._shut()

    def _shut(self) -> None:
        self._model.latch()
        self._over.set()


@asynccontextmanager
async def open_door(options: DoorOptions) -> AsyncGenerator[DoorAlone]:
    """A door that takes calls while this lasts; then calls in flight are settled and `record` is the ending.

    Raises UsageError before anything is made: `no_model`, `missing_key`, `port_taken`, `weak_token`, `name_taken`.
    """
    box = _of_a_door(options.box)
    token = _token(options.token)
    async with AsyncExitStack() as stack:
        routing = Routing(box.model)
        stack.push_async_callback(routing.close)
        routing.lead()  # a missing key or an unknown model is found before anything is made
        routing.worker()
        if routing.bills():
            refuse_above(box.limits.usd)
        notify = chosen(box.notify)
        to = destinations(notify, os.environ)
        listener = stack.enter_context(_listen(options.port))
        folder, owner = create(box.goal, options.name)
        stack.callback(owner.release)
        books = await open_books(folder, box, stack, "door", notify=notify, to=to)
        books.ending.end = End("done", exit=0)
        limit = box.limits.usd_per_minute
        model = ModelDoor(
            books.ledger,
            books.journal,
            routing,
            durability=box.journal.durability,
            usd_per_minute=limit,
            hosted_tools=box.model.hosted_tools,
            allowance=books.allowance,
        )
        books.brake.add_door(model)
        port: int = listener.getsockname()[1]
        door = DoorAlone(books, model, port, token)
        watcher = asyncio.create_task(door.watch())
        server = await serve(listener, door.answer, cancel=True, gate=Guard(token, books.journal))
        try:
            yield door
        finally:
            watcher.cancel()
            await model.close()
            await server.close()
            books.ending.warnings += routing.warnings()
            if books.ending.error is not None:
                books.journal.append(Failure(books.ending.error))
            door.record = await books.close()


def _of_a_door(loaded: LoadedBox) -> Box:
    """What of a box concerns a door: no files, no checks, no share kept for a hand-over, no time limit that nobody wrote."""
    box = loaded.box
    if not (box.model.lead or box.model.worker or box.model.allow):
        raise UsageError(
            "no_model",
            "the door leads to no model",
            remedy="name what may be called: --model anthropic/claude-haiku-4-5, --allow 'openai/gpt-5*', or both",
        )
    limits: dict[str, float] = {"wind_down_reserve": 0.0}
    if loaded.source("limits.wall") == DEFAULT:
        limits["wall"] = UNENDING
    changed = box.limits.model_copy(update=limits)
    return box.model_copy(update={"goal": GOAL, "files": Files(), "checks": (), "limits": changed})


def _token(wanted: str) -> str:
    if not wanted:
        return new_token()
    if len(wanted) < _SHORTEST_TOKEN or not wanted.isascii() or not wanted.isprintable() or " " in wanted:
        raise UsageError(
            "weak_token",
            f"that is no token: at least {_SHORTEST_TOKEN} printable ASCII characters without spaces are needed",
            remedy="leave it out, and a random one is made",
        )
    return wanted


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=128)
    except (OSError, OverflowError) as error:
        raise UsageError(
            "port_taken", f"port {port} of 127.0.0.1 cannot be used", cause=str(error), remedy="choose another, or 0 for any"
        ) from error
