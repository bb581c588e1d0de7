"""The model door: every model call of a run passes here, is priced, capped, paid, sent, followed and settled.

A call's way: read strictly, find model and price, bound its input, admit it (a hold for the worst case, with the output ceiling
lowered to what the account can pay), write the ceiling into the body and serialise it again, make the hold durable, send, pass
the answer through untouched while its usage is read, settle at the reported usage and the frozen price.

Invariants: nothing is sent without a hold for what it can cost at most; a hold always ends (settled, released where provably
nothing was charged, else counted as spent whole); the door never retries. What a provider reports above the hold is booked, put on
record, and that model is stopped.

Threat: programs that spend in parallel, hide what a request costs, or make the provider act for them; upstreams that lie, stall,
drop, or send garbage.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gearcase.doors.model.admission import Admission, Admitted
from gearcase.doors.model.bounds import Bounds
from gearcase.doors.model.headers import request_headers, response_headers
from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import BY_PATH, PROTOCOLS, Follower, Speech, content_type
from gearcase.doors.model.protocols.anthropic import COUNT_PATH
from gearcase.doors.model.protocols.request import ModelRequest, bad_request, read_body
from gearcase.doors.model.protocols.stream import load
from gearcase.doors.model.routing import Route, Routing
from gearcase.doors.server import Handler, HttpRequest, Reply
from gearcase.errors import GearcaseError, Refused, RunError
from gearcase.events import Amounts, DoorRefused, Failure, ModelCalled, RequestEdited
from gearcase.ledger import Ledger
from gearcase.seams import Recorder, UpstreamDown, UpstreamRequest, UpstreamResponse

DRAIN = 60.0
"""Seconds in which the usage of an answer is awaited that its client no longer reads."""
OVERRUN = 1.05
"""An upstream that streams more deltas than its ceiling by this factor ignores the ceiling, and is cut."""
MOST_ANSWER = 256 * 1024 * 1024
_FREE = frozenset({400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503, 529})
"""Statuses of an error answer that prove that nothing was generated, so nothing is charged."""
_STATUS = {"budget": 402, "busy": 429, "velocity": 429, "unknown_model": 404, "bad_request": 400, "latched": 503}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and which account pays. `lead`: an agent's own loop, not a program inside its box."""

    agent: str
    account: str
    lead: bool = False
    label: str = ""


@dataclass(slots=True)
class _Call:
    """One call on its way."""

    number: int
    caller: Caller
    route: Route
    speech: Speech
    request: ModelRequest
    admitted: Admitted
    started: float
    status: int = 0
    first_byte: float = 0.0
    received: int = 0
    sent: int = 0
    served: str = ""


class ModelDoor:
    """The model door of one run, over its ledger."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: Recorder,
        routing: Routing,
        *,
        durability: Literal["strict", "grouped"] = "strict",
        usd_per_minute: int | None = None,
        hosted_tools: tuple[str, ...] = (),
    ) -> None:
        self.routing = routing
        self._ledger = ledger
        self._recorder = recorder
        self._strict = durability == "strict"
        self._hosted = frozenset(hosted_tools)
        self._admission = Admission(ledger, usd_per_minute)
        self._bounds = Bounds()
        self._numbers = itertools.count(1)
        self._ordinals: dict[tuple[str, bool], itertools.count[int]] = {}
        self._latched = False
        self._stopped: set[str] = set()
        self._calls: set[int] = set()
        self._drains: set[asyncio.Task[None]] = set()

    # --- the brake ---------------------------------------------------------------------------------------------------------

    def latch(self) -> None:
        """Take no new call; those in flight end and are settled."""
        self._latched = True

    def unlatch(self) -> None:
        """Take calls again."""
        self._latched = False

    @property
    def in_flight(self) -> int:
        """Calls that are not settled yet."""
        return len(self._calls)

    async def close(self) -> None:
        """Wait a bounded time for calls whose client is gone, then count them as spent."""
        self.latch()
        if self._drains:
            _, late = await asyncio.wait(self._drains, timeout=DRAIN)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- a call ------------------------------------------------------------------------------------------------------------

    def handler(self, caller: Caller) -> Handler:
        """The handler for the listener of one agent."""

        async def handle(request: HttpRequest) -> Reply:
            return await self.exchange(caller, request)

        return handle

    async def exchange(self, caller: Caller, request: HttpRequest) -> Reply:
        """One call, whole. Refusals are replies in the protocol's own error format; only errors of ours are raised."""
        speech = PROTOCOLS["anthropic" if request.path.startswith("/v1/messages") else BY_PATH.get(request.path, "chat")]
        try:
            if (reply := self._without_call(request)) is not None:
                return reply
            if self._latched:
                raise Refused(
                    "latched", "the run is latched: no new call", remedy="wait until the operator resumes it", retry_after=5
                )
            if request.path == COUNT_PATH:
                return await self._count(caller, request)
            call, outgoing = await self._prepare(caller, request)
        except Refused as refused:
            return self._refuse(caller, speech, refused)
        return await self._send(call, outgoing)

    def _without_call(self, request: HttpRequest) -> Reply | None:
        """What is answered by the door itself."""
        if request.method in ("GET", "HEAD"):
            if request.path == "/":
                return Reply(200, {"content-type": "text/plain"}, b"" if request.method == "HEAD" else b"gearcase model door\n")
            if request.path in ("/v1/models", "/models"):
                names = [{"id": name, "object": "model", "type": "model", "display_name": name} for name in self.routing.names()]
                body = orjson.dumps({"object": "list", "data": names, "has_more": False})
                return Reply(200, {"content-type": "application/json"}, body)
            if request.header(b"upgrade"):
                return Reply(426, {"connection": "close"}, b"")
        if request.method != "POST" or (request.path not in BY_PATH and request.path != COUNT_PATH):
            raise Refused(
                "unknown_model",
                f"the model door does not know {request.method} {request.path[:80]}",
                remedy="it speaks /v1/messages, /v1/messages/count_tokens, /v1/chat/completions, /v1/responses",
            )
        return None

    async def _prepare(self, caller: Caller, request: HttpRequest) -> tuple[_Call, UpstreamRequest]:
        """Read, price, admit and write the request. A hold exists once this returns; nothing has been sent."""
        if request.header(b"content-encoding") not in (b"", b"identity"):
            raise bad_request("a compressed body is not read")
        protocol = BY_PATH[request.path]
        speech = PROTOCOLS[protocol]
        asked = speech.read(read_body(request.body), self._hosted)
        route = self.routing.inside(asked.model, protocol)
        if route.name in self._stopped:
            raise Refused(
                "stopped_model",
                f"{route.name} is stopped: it billed more than it was asked for",
                remedy="use another model; the journal names the call",
            )
        if asked.tier not in ("", "auto", "default", "standard", "standard_only", *route.price.tiers):
            del asked.body["service_tier"]
            asked.edits.append(f"removed service_tier {asked.tier[:40]}: it has no known price")
            asked.tier = ""
        if route.provider == "openai" and not asked.tier:
            asked.body["service_tier"] = "default"  # left out, the project's own tier would apply, at a price of its own
        asked.body["model"] = route.name
        headers = request_headers(request.headers, asked.edits)
        number = next(self._numbers)
        started = time.monotonic()
        bound = self._bounds.bound(asked, route.price)
        admitted = await self._admission.admit(caller.account, asked, route.price, bound, f"call {number}")
        try:
            speech.cap(asked, admitted.output)
            body = orjson.dumps(asked.body)
            if asked.edits:
                self._recorder.append(RequestEdited(number, asked.edits), caller.agent)
            call = _Call(number, caller, route, speech, asked, admitted, started, sent=len(body))
            ordinal = next(self._ordinals.setdefault((caller.agent, caller.lead), itertools.count()))
            outgoing = UpstreamRequest(
                protocol=protocol,
                path=speech.PATH,
                model=route.name,
                headers=headers,
                body=body,
                parsed=asked.body,
                stream=asked.stream,
                agent=caller.agent,
                lead=caller.lead,
                ordinal=ordinal,
            )
            self._ledger.sent(admitted.hold)
            if self._strict:
                await self._recorder.durable()
            else:
                self._recorder.flush()
        except BaseException:
            self._ledger.release(admitted.hold)  # it has not left
            raise
        return call, outgoing

    async def _send(self, call: _Call, outgoing: UpstreamRequest) -> Reply:
        self._calls.add(call.number)
        try:
            response = await call.route.upstream.send(outgoing)
        except UpstreamDown as down:
            self._finish(call, None, "failed", release=True)
            return self._upstream_failed(call, 502, str(down))
        except GearcaseError:
            self._finish(call, None, "failed", release=True)
            raise  # a cassette that does not match, a person who is not there: the run's affair
        except asyncio.CancelledError:
            self._finish(call, None, "cut")
            raise
        except Exception as error:  # whatever a client library raises after the request left may have been billed
            self._finish(call, None, "failed")
            return self._upstream_failed(call, 502, f"{type(error).__name__}: {error}")
        call.status = response.status
        call.first_byte = time.monotonic() - call.started
        if call.request.stream and response.status == 200:
            return Reply(200, self._reply_headers(call, response, stream=True), self._stream(call, response))
        return await self._whole(call, response)

    # --- answers -----------------------------------------------------------------------------------------------------------

    async def _whole(self, call: _Call, response: UpstreamResponse) -> Reply:
        """An answer that is not streamed, or an error."""
        parts: list[bytes] = []
        try:
            async for chunk in response.chunks:
                parts.append(chunk)
                call.received += len(chunk)
                if call.received > MOST_ANSWER:
                    raise RunError("too_large", "the answer is too large", remedy="ask for less")
        except asyncio.CancelledError:
            self._finish(call, None, "cut")
            raise
        except Exception as error:  # the body broke off: what it cost is unknown
            self._finish(call, None, "failed")
            return self._upstream_failed(call, 502, f"the answer broke off: {type(error).__name__}: {error}")
        body = b"".join(parts)
        answer = load(body)
        usage = call.speech.usage_of(answer)
        if response.status == 200:
            call.served = str(answer.get("model") or "")
            self._finish(call, usage, "complete" if usage else "failed")
        else:
            self._finish(call, usage, "failed", release=usage is None and response.status in _FREE)
        return Reply(response.status, self._reply_headers(call, response, stream=False), body)

    async def _stream(self, call: _Call, response: UpstreamResponse) -> AsyncIterator[bytes]:
        """Pass a stream on, settle at its end. A client that goes away is drained for the usage in the background."""
        follower = call.speech.Scanner()
        chunks = response.chunks
        try:
            async for chunk in chunks:
                call.received += len(chunk)
                passed = follower.feed(chunk, call.request)
                if follower.deltas > call.admitted.output * call.request.choices * OVERRUN + 16:
                    await _aclose(chunks)
                    self._finish(call, None, "clamped", follower)
                    yield follower.ending("length")
                    return
                if passed:
                    yield passed
        except GeneratorExit:
            self._drain(call, follower, chunks)
            raise
        except asyncio.CancelledError:
            self._drain(call, follower, chunks)
            raise
        except Exception as error:  # the upstream broke off in the middle
            self._finish(call, follower.usage(), "failed", follower)
            yield follower.ending(f"the upstream broke off: {type(error).__name__}")
            return
        self._finish(call, follower.usage(), "complete" if follower.ended else "cut", follower)
        if not follower.ended:
            yield follower.ending("the upstream ended its answer early")

    def _drain(self, call: _Call, follower: Follower, chunks: AsyncIterator[bytes]) -> None:
        """Read on for the usage, without the client."""

        async def drain() -> None:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN):
                        async for chunk in chunks:
                            follower.feed(chunk, call.request)
            except Exception as error:  # the answer broke off: its cost is what was held
                self._recorder.append(DoorRefused("model", "drain", str(error)[:200], {"call": call.number}), call.caller.agent)
            finally:
                self._finish(call, follower.usage(), "cut", follower)

        task = asyncio.ensure_future(drain())
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    # --- the end of a call -------------------------------------------------------------------------------------------------

    def _finish(
        self, call: _Call, usage: TokenUsage | None, ended: str, follower: Follower | None = None, *, release: bool = False
    ) -> None:
        """Settle, release or cut the hold, once, and put the call on record."""
        if call.number not in self._calls:
            return
        self._calls.discard(call.number)
        hold = call.admitted.hold
        if follower is not None:
            call.served = follower.served
        if release:
            self._ledger.release(hold)
        elif usage is None:
            self._ledger.cut(hold, "the upstream reported no usage")
            self._admission.spent(call.admitted.amounts["usd"])
        else:
            cost = self._cost(call, usage)
            amounts: Amounts = {"usd": cost, "tokens": usage.total_input + usage.output, "calls": 1}
            over = self._ledger.settle(hold, amounts)
            self._admission.spent(cost)
            self._bounds.learn(call.request, usage)
            if over:
                self._overrun(call, over)
        seconds = time.monotonic() - call.started
        self._recorder.append(
            ModelCalled(
                call=call.number,
                hold=hold,
                protocol=call.request.protocol,
                model=call.route.name,
                served=call.served[:100],
                status=call.status,
                ended=ended,
                usage=_amounts(usage),
                seconds=round(seconds, 4),
                first_byte=round(call.first_byte, 4),
                label=call.caller.label[:100],
                request_bytes=call.sent,
                response_bytes=call.received,
            ),
            call.caller.agent,
        )

    def _cost(self, call: _Call, usage: TokenUsage) -> int:
        """At the frozen price; a model that was served in place of the one asked for is priced too, and the dearer counts."""
        cost = call.route.price.cost(usage)
        if call.served and call.served != call.route.name:
            other = self.routing.price_of(call.route, call.served)
            if other is not None:
                cost = max(cost, other.cost(usage))
        return cost

    def _overrun(self, call: _Call, over: Amounts) -> None:
        self._stopped.add(call.route.name)
        error = RunError(
            "over_hold",
            f"{call.route.name} reported more than call {call.number} was allowed to use; it was booked and the model is stopped",
            remedy="compare with the provider's invoice; use another model",
            over=over,
        )
        self._recorder.append(Failure(error.envelope()), call.caller.agent)

    # --- replies of our own --------------------------------------------------------------------------------------------------

    def _refuse(self, caller: Caller, speech: Speech, refused: Refused) -> Reply:
        status = _STATUS.get(refused.code, 403)
        self._recorder.append(DoorRefused("model", refused.code, refused.message, _plain(refused.context)), caller.agent)
        headers = {"content-type": "application/json", "x-should-retry": "true" if status in (429, 503) else "false"}
        if "retry_after" in refused.context:
            headers["retry-after"] = str(refused.context["retry_after"])
        headers |= self._remaining(caller)
        text = f"{refused.message}. {refused.remedy}."
        return Reply(status, headers, speech.refusal(status, refused.code, text))

    def _upstream_failed(self, call: _Call, status: int, cause: str) -> Reply:
        text = f"the upstream of {call.route.name} failed: {cause}"
        headers = {"content-type": "application/json", **self._remaining(call.caller)}
        return Reply(status, headers, call.speech.refusal(status, "upstream", text))

    def _reply_headers(self, call: _Call, response: UpstreamResponse, *, stream: bool) -> dict[str, str]:
        given = {name.lower(): value for name, value in response.headers.items()}.get("content-type")
        return {
            **response_headers(response.headers),
            "content-type": given or content_type(stream),
            "x-gearcase-call": str(call.number),
            **self._remaining(call.caller),
        }

    def _remaining(self, caller: Caller) -> dict[str, str]:
        free = self._ledger.balance(caller.account, "usd").free
        return {} if free is None else {"x-gearcase-remaining-usd": f"{free / 1e9:.6f}"}

    async def _count(self, caller: Caller, request: HttpRequest) -> Reply:
        """Anthropic's count_tokens: free of charge, so it is passed on without a hold where the upstream has it."""
        asked = PROTOCOLS["anthropic"].read(read_body(request.body), self._hosted)
        route = self.routing.inside(asked.model, "anthropic")
        asked.body["model"] = route.name
        for name in ("max_tokens", "stream", "metadata", "service_tier", "stop_sequences", "temperature", "top_k", "top_p"):
            asked.body.pop(name, None)
        headers = request_headers(request.headers, [])
        body = orjson.dumps(asked.body)
        outgoing = UpstreamRequest(
            "anthropic", COUNT_PATH, route.name, headers, body, asked.body, False, caller.agent, caller.lead, -1
        )
        try:
            response = await route.upstream.send(outgoing)
            parts = [chunk async for chunk in response.chunks]
        except (UpstreamDown, OSError, TimeoutError) as error:
            return Reply(502, {"content-type": "application/json"}, PROTOCOLS["anthropic"].refusal(502, "upstream", str(error)))
        return Reply(response.status, {"content-type": "application/json"}, b"".join(parts))


async def _aclose(chunks: AsyncIterator[bytes]) -> None:
    close: Any = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


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


def _plain(context: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in context.items()}
