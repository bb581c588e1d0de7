"""A call on its way: sent, followed and settled by a task of its own, whatever its client does.

The client waits for the reply, or reads the chunks of a stream; when it goes away the call does not end with it, because the provider
goes on and bills. It is read on for its usage, for a bounded time (see `Patience`), then the connection to the upstream is closed
and the whole hold counts as spent.

Invariants: a hold that was admitted ends once (settled at the reported usage and the frozen price, released where provably nothing
was charged, else counted as spent whole); nothing is sent twice; what a provider bills above the hold is booked, put on record, and
that model is stopped.

Threat: upstreams that lie, stall, drop, ignore their ceiling or send garbage; clients that leave in order not to pay.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from gearcase.doors.model.admission import Admission, Admitted, Patience
from gearcase.doors.model.bounds import Bounds
from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import Follower, Speech
from gearcase.doors.model.protocols.request import ModelRequest
from gearcase.doors.model.protocols.stream import load
from gearcase.doors.model.routing import Route, Routing
from gearcase.doors.model.threads import UNSAID, Thread
from gearcase.errors import GearcaseError, Refused, RunError
from gearcase.events import Amounts, Failure, ModelCalled
from gearcase.ledger import Ledger
from gearcase.seams import Recorder, UpstreamDown, UpstreamRequest, UpstreamResponse

OVERRUN = 1.05
"""An upstream that streams more deltas than its ceiling by this factor ignores the ceiling, and is cut."""
MOST_ANSWER = 256 * 1024 * 1024
_AHEAD = 16  # chunks that may wait for a client that reads slowly
_FREE = frozenset({400, 401, 402, 403, 404, 405, 409, 413, 415, 422, 429, 503, 529})
"""Statuses of an error answer that prove that nothing was generated, so nothing is charged."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and which account pays. `lead`: an agent's own loop, not a program inside its box."""

    agent: str
    account: str
    lead: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back: the upstream's answer, or `failed` says why there is none that a client could read. `unreached`: nothing was sent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes | Passage = b""
    failed: str = ""
    unreached: bool = False


@dataclass(slots=True)
class Call:
    """One call on its way. `left` is the moment from which nobody waits for it."""

    number: int
    caller: Caller
    route: Route
    speech: Speech
    request: ModelRequest
    admitted: Admitted
    started: float
    sent: int
    status: int = 0
    first_byte: float = 0.0
    last_byte: float = 0.0
    received: int = 0
    served: str = ""
    left: float = 0.0
    why: str = ""
    cost: int | None = None  # nano-dollars, once it is booked
    thread: Thread = UNSAID
    task: asyncio.Task[None] | None = None
    passage: Passage | None = None


class Passage:
    """The chunks of a stream, from the task that reads the upstream to whoever serves the client; aclose at any time."""

    def __init__(self, left: Callable[[], None]) -> None:
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_AHEAD)
        self._left = left
        self._open = True

    async def put(self, chunk: bytes | None) -> None:
        """Wait until the client has room for a chunk; None ends the stream. Nothing happens once it has gone."""
        if self._open:
            await self._chunks.put(chunk)

    def fail(self, error: Exception) -> None:
        """Break off: what waits is dropped, the reader gets the error."""
        if self._open:
            self._drop()
            self._chunks.put_nowait(error)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._chunks.get()
        if isinstance(chunk, bytes):
            return chunk
        self._open = False
        raise chunk or StopAsyncIteration()

    async def aclose(self) -> None:
        """Nobody reads on."""
        if self._open:
            self._open = False
            self._drop()  # whoever waits to put a chunk goes on
            self._left()

    def _drop(self) -> None:
        while not self._chunks.empty():
            self._chunks.get_nowait()


class Carrier:
    """Carries the calls of one door."""

    def __init__(
        self, ledger: Ledger, recorder: Recorder, routing: Routing, admission: Admission, bounds: Bounds, patience: Patience
    ) -> None:
        self.stopped: set[str] = set()  # models that billed or wrote more than they were asked for
        self._ledger = ledger
        self._recorder = recorder
        self._routing = routing
        self._admission = admission
        self._patience = patience
        self._bounds = bounds
        self._calls: dict[int, Call] = {}
        self._closing = False

    @property
    def in_flight(self) -> int:
        """Calls that are not settled yet."""
        return len(self._calls)

    async def carry(self, call: Call, outgoing: UpstreamRequest) -> Answered:
        """Send a call and wait for its answer. Being cancelled means that its client has gone."""
        self._calls[call.number] = call
        answered: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        call.task = asyncio.create_task(self._carry(call, outgoing, answered))
        try:
            return await answered  # cancelled with who waits for it: the call itself has a task of its own
        except asyncio.CancelledError:
            if call.passage is not None:
                await call.passage.aclose()
            self._leave(call)
            raise

    async def close(self) -> None:
        """Give the calls in flight a moment, then count them as spent: but not those that never left, which nobody can bill."""
        self._closing = True
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._patience.closing)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- the task of a call ------------------------------------------------------------------------------------------------

    async def _carry(self, call: Call, outgoing: UpstreamRequest, answered: asyncio.Future[Answered]) -> None:
        follower = call.speech.Scanner()
        try:
            try:
                await self._exchange(call, outgoing, answered, follower)
            except asyncio.CancelledError:
                usage = follower.usage()
                self._finish(call, usage, "cut", follower, release=self._closing and not call.route.leaves and usage is None)
                self._fail(call, answered, ConnectionError("the model door was closed"))
            except UpstreamDown as down:
                call.why = str(down)
                self._finish(call, None, "failed", release=True)
                _answer(answered, Answered(502, failed=str(down), unreached=True))
            except GearcaseError as error:  # a cassette that does not match, a person who is not there: the run's affair
                self._finish(call, follower.usage(), "failed", follower, release=call.status == 0)
                self._fail(call, answered, error)
            except Exception as error:  # whatever a client library raises after the request left may have been billed
                call.why = f"{type(error).__name__}: {error}"
                self._finish(call, follower.usage(), "failed", follower)
                _answer(answered, Answered(502, failed=call.why))
        except GearcaseError as error:  # the books cannot be written
            self._fail(call, answered, error)
        finally:
            self._calls.pop(call.number, None)

    def _fail(self, call: Call, answered: asyncio.Future[Answered], error: Exception) -> None:
        """Tell whoever waits, or reads the stream; where nobody does any more, it is no error of its own."""
        if call.passage is not None:
            call.passage.fail(error)
        elif not answered.done():
            answered.set_exception(error)
            answered.exception()

    async def _exchange(
        self, call: Call, outgoing: UpstreamRequest, answered: asyncio.Future[Answered], follower: Follower
    ) -> None:
        response = await call.route.upstream.send(outgoing)
        call.status = response.status
        call.first_byte = time.monotonic() - call.started
        kind = response.headers.get("content-type", "")
        async with closing_stream(response.chunks) as chunks:
            if response.status == 200 and call.request.stream and "json" not in kind:
                call.passage = Passage(lambda: self._leave(call))
                _answer(answered, Answered(200, dict(response.headers), call.passage))
                await self._stream(call, chunks, call.passage, follower)
            else:
                _answer(answered, await self._whole(call, response, chunks))

    async def _whole(self, call: Call, response: UpstreamResponse, chunks: AsyncIterator[bytes]) -> Answered:
        """An answer that is not streamed, or an error. Nothing but an object is passed on."""
        parts: list[bytes] = []
        async for chunk in chunks:
            parts.append(chunk)
            call.received += len(chunk)
            if call.received > MOST_ANSWER:
                raise ValueError("the answer is too large")
        body = b"".join(parts)
        answer = load(body)
        usage = call.speech.usage_of(answer)
        if response.status == 200:
            call.served = str(answer.get("model") or answer.get("modelVersion") or "")
            self._finish(call, usage, ("cut" if call.left else "complete") if usage else "failed")
        else:
            self._finish(call, usage, "failed", release=usage is None and response.status in _FREE)
        if answer:
            return Answered(response.status, dict(response.headers), body)
        status = response.status if response.status >= 400 else 502
        return Answered(status, dict(response.headers), failed="its answer is no JSON object")

    async def _stream(self, call: Call, chunks: AsyncIterator[bytes], passage: Passage, follower: Follower) -> None:
        """Pass a stream on, settle at its end, end it in its protocol."""
        ceiling = call.admitted.output * call.request.choices * OVERRUN + 16
        try:
            async for chunk in chunks:
                call.received += len(chunk)
                call.last_byte = time.monotonic()
                if passed := follower.feed(chunk, call.request):
                    await passage.put(passed)
                if follower.deltas > ceiling:
                    self._finish(call, None, "clamped", follower)
                    self._stop(call, "ignores_ceiling", "goes on above the ceiling that was written into the request")
                    return await self._end(passage, follower.ending("length"))
        except GearcaseError:  # ours: the journal, the ledger or a cassette cannot go on
            raise
        except Exception as error:  # the upstream broke off in the middle, or sent what is no stream
            call.why = f"it broke off: {type(error).__name__}"
            self._finish(call, follower.usage(), "failed", follower)
            return await self._end(passage, follower.ending(f"the upstream broke off: {type(error).__name__}"))
        if passed := follower.last(call.request):
            await passage.put(passed)
        usage = follower.usage()
        whole = follower.ended or usage is not None
        self._finish(call, usage, "complete" if whole and not call.left else "cut", follower)
        return await self._end(passage, b"" if whole else follower.ending("the upstream ended its answer early"))

    async def _end(self, passage: Passage, ending: bytes) -> None:
        if ending:
            await passage.put(ending)
        await passage.put(None)

    # --- a client that goes away -------------------------------------------------------------------------------------------

    def _leave(self, call: Call) -> None:
        """Nobody waits for this call any more: it has a bounded time."""
        if call.number in self._calls and not call.left:
            call.left = time.monotonic()
            self._bound(call)

    def _bound(self, call: Call) -> None:
        if call.number not in self._calls or call.task is None:
            return
        end = call.left + self._patience.drain
        if call.last_byte:
            end = min(end, call.last_byte + self._patience.silence)
        seconds = end - time.monotonic()
        if seconds <= 0:
            call.task.cancel()
        else:
            asyncio.get_running_loop().call_later(seconds, self._bound, call)

    # --- the end of a call -------------------------------------------------------------------------------------------------

    def _finish(
        self, call: Call, usage: TokenUsage | None, ended: str, follower: Follower | None = None, *, release: bool = False
    ) -> None:
        """Settle, release or cut the hold, once, and put the call on record."""
        if self._calls.pop(call.number, None) is None:
            return
        if follower is not None:
            call.served = follower.served
        try:
            self._book(call, usage, release)
        except Refused as refused:
            if refused.code != "hold_ended":
                raise
            # Its account was closed meanwhile, which counted the hold as spent whole: the call is on record all the same.
            self._admission.spent(call.admitted, call.admitted.amounts["usd"])
        self._recorder.append(
            ModelCalled(
                call=call.number,
                hold=call.admitted.hold,
                protocol=call.request.protocol,
                model=call.route.name,
                served=call.served[:100],
                status=call.status,
                ended=ended,
                usage=_amounts(usage),
                seconds=round(time.monotonic() - call.started, 4),
                first_byte=round(call.first_byte, 4),
                label=call.caller.label[:100],
                request_bytes=call.sent,
                response_bytes=call.received,
                billed=call.route.billed,
                thread=call.thread.name,
                parent=call.thread.parent,
                why=call.why[:300],
                request=_digest(call) if call.status >= 400 or ended == "failed" else "",
            ),
            call.caller.agent,
        )

    def _book(self, call: Call, usage: TokenUsage | None, release: bool) -> None:
        hold = call.admitted.hold
        if release:
            call.cost = 0
            self._admission.release(call.admitted)
        elif usage is None:
            call.cost = call.admitted.amounts["usd"]
            self._ledger.cut(hold, "the upstream reported no usage")
            self._admission.spent(call.admitted, call.admitted.amounts["usd"])
        else:
            cost = call.cost = self._cost(call, usage)
            amounts: Amounts = {"usd": cost, "tokens": usage.total_input + usage.output, "calls": 1}
            over = self._ledger.settle(hold, amounts)
            self._admission.spent(call.admitted, cost)
            self._bounds.learn(call.request, usage)
            if over:
                self._stop(call, "over_hold", "reported more than it was allowed to use; it was booked", over=over)

    def _cost(self, call: Call, usage: TokenUsage) -> int:
        """At the frozen price; a model that was served in place of the one asked for is priced too, and the dearer counts."""
        cost = call.route.price.cost(usage)
        if call.served and call.served != call.route.name:
            other = self._routing.price_of(call.route, call.served)
            if other is not None:
                cost = max(cost, other.cost(usage))
        return cost

    def _stop(self, call: Call, code: str, what: str, **context: Any) -> None:
        """No further call of this model: what it can cost is not bounded by what it is asked for."""
        self.stopped.add(call.route.name)
        message = f"call {call.number} of {call.route.name} {what}; the model is stopped"
        error = RunError(code, message, remedy="compare with the provider's invoice; use another model", **context)
        self._recorder.append(Failure(error.envelope()), call.caller.agent)


@asynccontextmanager
async def closing_stream(chunks: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Let go of the upstream's connection, however the reading ends."""
    try:
        yield chunks
    finally:
        close: Any = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _digest(call: Call) -> str:
    """What tells a request from others."""
    return hashlib.sha256(orjson.dumps(call.request.body)).hexdigest()[:16]


def _answer(answered: asyncio.Future[Answered], answer: Answered) -> None:
    if not answered.done():
        answered.set_result(answer)


def _amounts(usage: TokenUsage | None) -> Amounts:
    if usage is None:
        return {}
    told = {
        "input": usage.input,
        "cache_read": usage.cache_read,
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "output": usage.output,
        "reasoning": usage.reasoning,
        "web_searches": usage.web_searches,
    }
    return {name: amount for name, amount in told.items() if amount}
