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

import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Literal

import orjson

from gearcase.doors.model.admission import Admission, Patience
from gearcase.doors.model.bounds import Bounds
from gearcase.doors.model.carrying import Answered, Call, Caller, Carrier, closing_stream
from gearcase.doors.model.headers import COST, REFUSED, RESOURCE, UNREACHED, request_headers, response_headers
from gearcase.doors.model.leases import Leases
from gearcase.doors.model.protocols import COUNTING, KNOWN_PATHS, PROTOCOLS, Speech, address_of, content_type, speech_of
from gearcase.doors.model.protocols.gemini import listed
from gearcase.doors.model.protocols.request import Address, ModelRequest, bad_request, denied, read_body
from gearcase.doors.model.protocols.stream import load
from gearcase.doors.model.routing import Route, Routing
from gearcase.doors.model.threads import thread_of
from gearcase.doors.server import Handler, HttpRequest, Reply
from gearcase.errors import GearcaseError, Refused, UsageError
from gearcase.events import DoorRefused, RequestEdited
from gearcase.ledger import Ledger
from gearcase.seams import Allowance, Recorder, UpstreamDown, UpstreamRequest

__all__ = ["Caller", "ModelDoor"]

_STATUS = {
    "budget": 402,
    "no_account": 402,
    "busy": 429,
    "velocity": 429,
    "unknown_model": 404,
    "unknown_path": 404,
    "bad_request": 400,
    "latched": 503,
    "resting": 503,
}


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
        patience: Patience | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self.routing = routing
        self._ledger = ledger
        self._recorder = recorder
        self._strict = durability == "strict"
        self._hosted = frozenset(hosted_tools)
        waits = patience or Patience()
        self._admission = Admission(ledger, usd_per_minute, waits, allowance)
        self._bounds = Bounds()
        self._carrier = Carrier(ledger, recorder, routing, self._admission, self._bounds, waits)
        self._numbers = itertools.count(1)
        self.leases = Leases(ledger, recorder, self._admission, self._numbers, self._carrier.stopped.add)
        self._ordinals: dict[tuple[str, bool], itertools.count[int]] = {}
        self._latched = False
        self._resting: dict[str, float] = {}  # model -> until when

    # --- the brake ---------------------------------------------------------------------------------------------------------

    def latch(self) -> None:
        """Take no new call; those in flight end and are settled."""
        self._latched = True

    def unlatch(self) -> None:
        """Take calls again."""
        self._latched = False

    def rest(self, model: str, seconds: float) -> None:
        """Refuse calls of a model for a while: its upstream fails, and nobody pays for asking again at once."""
        self._resting[model] = time.monotonic() + seconds

    @property
    def in_flight(self) -> int:
        """Calls that are not settled yet."""
        return self._carrier.in_flight

    async def close(self) -> None:
        """Take no new call, give those in flight a moment, then count them as spent."""
        self.latch()
        await self._carrier.close()

    # --- a call ------------------------------------------------------------------------------------------------------------

    def handler(self, caller: Caller, on_failure: Callable[[GearcaseError], None]) -> Handler:
        """The handler for the listener of one agent. What ends a run is told to `on_failure`, and the client that it is over."""

        async def handle(request: HttpRequest) -> Reply:
            try:
                reply = await self.exchange(caller, request)
            except GearcaseError as error:
                on_failure(error)
                text = f"{error.message}. {error.remedy}."
                speech = speech_of(request.path)
                return Reply(503, {"content-type": "application/json"}, speech.refusal(503, error.code, text))
            if isinstance(reply.chunks, bytes):
                return reply
            return replace(reply, chunks=_telling(reply.chunks, on_failure))

        return handle

    async def exchange(self, caller: Caller, request: HttpRequest) -> Reply:
        """One call, whole. Refusals are replies in the protocol's own error format; only what ends a run is raised.

        Cancel it when the client has gone: a call that has left is settled all the same.
        """
        speech = speech_of(request.path)
        try:
            if (reply := self._without_call(request)) is not None:
                return reply
            address = _address(request)
            self._refuse_if_latched()
            if address.counts:
                return await self._count(caller, request, address)
            call, outgoing = await self._prepare(caller, request, address)
        except (Refused, UsageError) as refused:  # a missing key is no affair of the program that asks, and no reason to end it
            return self._refuse(caller, speech, refused)
        return self._reply(call, await self._carrier.carry(call, outgoing))

    def _refuse_if_latched(self) -> None:
        if self._latched:
            raise Refused(
                "latched", "the run is latched: no new call", remedy="wait until the operator resumes it", retry_after=5
            )

    def _refuse_if_stopped(self, route: Route) -> None:
        if route.name in self._carrier.stopped:
            raise Refused(
                "stopped_model",
                f"{route.name} is stopped: it billed or wrote more than it was asked for",
                remedy="use another model; the journal names the call",
            )

    def _refuse_if_resting(self, route: Route) -> None:
        left = self._resting.get(route.name, 0.0) - time.monotonic()
        if left > 0:
            raise Refused(
                "resting",
                f"the upstream of {route.name} failed again and again: its calls rest for {left:.0f} s more",
                remedy="wait, or ask another model; nothing was charged",
                retry_after=int(left) + 1,
            )

    def _without_call(self, request: HttpRequest) -> Reply | None:
        """What is answered by the door itself."""
        if request.method in ("GET", "HEAD"):
            if request.path == "/":
                return Reply(200, {"content-type": "text/plain"}, b"" if request.method == "HEAD" else b"gearcase model door\n")
            if request.path in ("/v1/models", "/models"):
                names = [{"id": name, "object": "model", "type": "model", "display_name": name} for name in self.routing.names()]
                body = orjson.dumps({"object": "list", "data": names, "has_more": False})
                return Reply(200, {"content-type": "application/json"}, body)
            if request.path == "/v1beta/models":
                return Reply(200, {"content-type": "application/json"}, listed(self.routing.names()))
            if request.header(b"upgrade"):
                return Reply(426, {"connection": "close"}, b"")
        return None

    async def _prepare(self, caller: Caller, request: HttpRequest, address: Address) -> tuple[Call, UpstreamRequest]:
        """Read, price, admit and write the request. A hold exists once this returns; nothing has been sent."""
        speech = PROTOCOLS[address.protocol]
        asked = speech.read(_body(request), self._hosted, address)
        route = self.routing.inside(asked.model, address.protocol)
        self._refuse_if_stopped(route)
        self._refuse_if_resting(route)
        _settle_tier(asked, route)
        if asked.images and "image" in route.price.unpriced:
            raise denied(f"images have a price of their own at {route.name}, which is not known")
        if not address.model:
            asked.body["model"] = route.name
        headers = request_headers(request.headers, asked.edits)
        asked.betas = headers.get("anthropic-beta", "")
        number = next(self._numbers)
        started = time.monotonic()
        bound = self._bounds.bound(asked, route.price)
        billed_by = f"{route.provider}/{route.name}" if route.billed else ""
        admitted = await self._admission.admit(caller.account, asked, route.price, bound, f"call {number}", billed_by)
        try:
            speech.cap(asked, admitted.output)
            body = orjson.dumps(asked.body)
            if asked.edits:
                self._recorder.append(RequestEdited(number, asked.edits), caller.agent)
            if route.leaves:  # else nobody can bill it, whatever becomes of this process
                self._ledger.sent(admitted.hold)
            if self._strict:
                await self._recorder.durable()
            else:
                self._recorder.flush()
            # It may have stood in line, and nothing is awaited from here until it leaves.
            self._refuse_if_latched()
            self._refuse_if_stopped(route)
        except BaseException:
            self._admission.release(admitted)  # it has not left
            raise
        outgoing = UpstreamRequest(
            protocol=address.protocol,
            path=address.path,
            model=route.name,
            headers=headers,
            body=body,
            parsed=asked.body,
            stream=asked.stream,
            agent=caller.agent,
            lead=caller.lead,
            ordinal=next(self._ordinals.setdefault((caller.agent, caller.lead), itertools.count())),
        )
        thread = thread_of(request)
        return Call(number, caller, route, speech, asked, admitted, started, len(body), thread=thread), outgoing

    # --- replies of our own --------------------------------------------------------------------------------------------------

    def _refuse(self, caller: Caller, speech: Speech, refused: GearcaseError) -> Reply:
        status = _STATUS.get(refused.code, 403)
        self._recorder.append(DoorRefused("model", refused.code, refused.message, _plain(refused.context)), caller.agent)
        headers = {"content-type": "application/json", "x-should-retry": "true" if status in (429, 503) else "false"}
        headers[REFUSED] = refused.code
        if "resource" in refused.context:
            headers[RESOURCE] = str(refused.context["resource"])
        if "retry_after" in refused.context:
            headers["retry-after"] = str(refused.context["retry_after"])
        headers |= self._remaining(caller)
        text = f"{refused.message}. {refused.remedy}."
        return Reply(status, headers, speech.refusal(status, refused.code, text))

    def _reply(self, call: Call, answered: Answered) -> Reply:
        streamed = not isinstance(answered.body, bytes)
        given = answered.headers.get("content-type")
        headers = {
            **response_headers(answered.headers),
            "content-type": given or content_type(streamed),
            "x-gearcase-call": str(call.number),
            **self._remaining(call.caller),
        }
        if call.cost is not None:
            headers[COST] = str(call.cost)
        if not answered.failed:
            return Reply(answered.status, headers, answered.body)
        text = f"the upstream of {call.route.name} failed: {answered.failed}"
        headers["content-type"] = "application/json"
        if answered.unreached:
            headers[UNREACHED] = "1"
        return Reply(answered.status, headers, call.speech.refusal(answered.status, "upstream", text))

    def _remaining(self, caller: Caller) -> dict[str, str]:
        try:
            free = self._ledger.balance(caller.account, "usd").free
        except UsageError:  # its account is closed
            free = 0
        return {} if free is None else {"x-gearcase-remaining-usd": f"{free / 1e9:.6f}"}

    async def _count(self, caller: Caller, request: HttpRequest, address: Address) -> Reply:
        """How many tokens: free of charge, so it is passed on without a hold where the upstream has it."""
        protocol = address.protocol
        speech = PROTOCOLS[protocol]
        asked = speech.read(_body(request), self._hosted, address)
        route = self.routing.inside(asked.model, protocol)
        body = COUNTING[protocol](asked, route.name)
        headers, data = request_headers(request.headers, []), orjson.dumps(body)
        outgoing = UpstreamRequest(protocol, address.path, route.name, headers, data, body, False, caller.agent, caller.lead, -1)
        json = {"content-type": "application/json"}
        try:
            response = await route.upstream.send(outgoing)
            told = b"".join([chunk async for chunk in response.chunks])
        except (UpstreamDown, OSError, TimeoutError) as error:
            return Reply(502, json, speech.refusal(502, "upstream", f"the upstream of {route.name} failed: {error}"))
        if not load(told):
            status = response.status if response.status >= 400 else 502
            return Reply(status, json, speech.refusal(status, "upstream", "the upstream's answer is no JSON object"))
        return Reply(response.status, json, told)


def _address(request: HttpRequest) -> Address:
    address = address_of(request.path, request.query) if request.method == "POST" else None
    if address is None:
        raise Refused(
            "unknown_path",
            f"the model door does not know {request.method} {request.path[:80]}",
            remedy=f"it speaks {KNOWN_PATHS}",
        )
    return address


def _body(request: HttpRequest) -> dict[str, Any]:
    if request.header(b"content-encoding") not in (b"", b"identity"):
        raise bad_request("a compressed body is not read")
    return read_body(request.body)


def _settle_tier(asked: ModelRequest, route: Route) -> None:
    """Only a tier with a price is asked for."""
    priced = route.price.tiers
    if asked.tier not in ("", "auto", "default", "standard", "standard_only", *priced):
        del asked.body["service_tier"]
        asked.edits.append(f"removed service_tier {asked.tier[:40]}: it has no known price")
        asked.tier = ""
    if route.provider == "openai" and not asked.tier and "priority" in priced:
        # Left out, OpenAI serves the tier that its project is set to. Where that is priority it costs about twice what was held,
        # and nothing in the request would tell. A model without a priority price has one price only, and nothing is added.
        asked.body["service_tier"] = asked.tier = "default"


def _plain(context: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in context.items()}


async def _telling(chunks: AsyncIterator[bytes], on_failure: Callable[[GearcaseError], None]) -> AsyncGenerator[bytes]:
    """The chunks of a stream; what ends a run in the middle of it is told, and the stream breaks off."""
    async with closing_stream(chunks) as stream:
        try:
            async for chunk in stream:
                yield chunk
        except GearcaseError as error:
            on_failure(error)
            raise ConnectionError(error.message) from error
