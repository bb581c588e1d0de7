"""The door to a cloud account, at http://aws.box: clients of AWS work unmodified with credentials that are worth nothing.

Every call is read as one operation of one service (see `calls`), held against the list of what is allowed, counted, and put on record. In a
simulated account it goes to a server in a sandbox of its own. In a live one it is signed again outside with the operator's credentials for
one region; what it makes is tagged with the run and removed when the run ends, or listed where that fails.

Threat: an agent that wants the credentials, or an operation that is not allowed, or to leave behind what costs money; bodies without end.
"""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from gearcase.box.doors import AwsDoor as Declared
from gearcase.doors.addresses import resolve
from gearcase.doors.aws import made
from gearcase.doors.aws.account import Account
from gearcase.doors.aws.calls import Call, plain_body, read_call
from gearcase.doors.aws.prices import estimate
from gearcase.doors.aws.simulator import SOCKET, open_simulator
from gearcase.doors.forwarding import HOP_BY_HOP, Answer, Forwarder, Passage
from gearcase.doors.housed import Housed
from gearcase.doors.masks import Mask
from gearcase.doors.server import HttpRequest, Reply, Server, ServerLimits, serve
from gearcase.errors import GearcaseError, Refused
from gearcase.events import CloudCalled, CloudMade, CloudRemoved, DoorRefused
from gearcase.seams import Housing, Place
from gearcase.units import format_money

HOST = "aws.box"
MOST_BODY = 32 << 20
_AT_ONCE = 16
"""Calls whose bodies are held at once."""
_LIMITS = ServerLimits(connections=128, body_bytes=MOST_BODY)
_MOST_ANSWER = 1 << 20
"""Bytes of an answer that tells what was made."""
_MOST_RECORDS = 5000
_REMOVING = 120.0
"""Seconds for all that a run made."""
_STATUS = {"budget": 402, "call_not_allowed": 403, "bad_call": 400, "calls": 429, "slow_upstream": 504}
_KEY = "AKIAONLYATOKENNOTAKEY"


class AwsDoor:
    """One account; a `Door`."""

    id = "aws"
    places: Sequence[Place] = (Place(HOST, 80),)

    def __init__(self, declared: Declared) -> None:
        """Raises UsageError `missing_credentials` for a live account without."""
        self._declared = declared
        live = declared.mode == "live"
        self._account = Account(declared.region, declared.profile, declared.endpoint) if live else None
        self.secrets = tuple(self._account.secrets() if self._account else ())
        self._mask = Mask(self.secrets)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": "only-a-token",
            "AWS_REGION": declared.region,
            "AWS_DEFAULT_REGION": declared.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._housing: Housing | None = None
        self._housed: Housed | None = None
        self._forwarder: Forwarder | None = None
        self._servers: dict[str, list[Server]] = {}  # by agent
        self._made: list[made.Made] = []
        self._holding = asyncio.Semaphore(_AT_ONCE)
        self._running = asyncio.Event()
        self._running.set()
        self._count = 0
        self._estimate = 0
        self._refused: dict[str, int] = {}

    async def open(self, housing: Housing) -> None:
        """See `Door`. Raises UsageError `missing_extra`, RunError `door_failed`."""
        self._housing = housing
        if self._account is None:
            self._housed = await open_simulator(housing, self._declared.memory)
            self._forwarder = Forwarder(unix=self._housed.path_of(SOCKET))
        else:
            self._forwarder = Forwarder(self._locate)

    async def serve(self, agent: str, place: Place, sock: socket.socket, pay: Callable[[int], None]) -> None:
        """See `Door`. What reaches a simulated account has not left: nothing is paid."""
        handler = functools.partial(self._handle, agent, pay if self._account else _free)
        server = await serve(sock, handler, limits=_LIMITS, cancel=self._account is None, streaming=True)
        self._servers.setdefault(agent, []).append(server)

    async def leave(self, agent: str) -> None:
        """See `Door`."""
        for server in self._servers.pop(agent, ()):
            await server.close()

    def describe(self) -> Mapping[str, Any]:
        """See `Door`."""
        told: dict[str, Any] = {
            "address": f"http://{HOST}",
            "purpose": f"a cloud account ({self._declared.mode}, {self._declared.region}): aws, boto3 and others find it by themselves",
            "allowed": list(self._declared.allow) or ["*"],
            "calls": self._count,
            "estimated": format_money(self._estimate),
        }
        return told if self._declared.calls is None else {**told, "calls_left": max(0, self._declared.calls - self._count)}

    def latch(self) -> None:
        """See `Door`: new calls wait."""
        self._running.clear()

    def unlatch(self) -> None:
        """See `Door`."""
        self._running.set()

    async def close(self) -> tuple[str, ...]:
        """See `Door`. What the run made in a live account is removed; what stays is told."""
        for agent in list(self._servers):
            await self.leave(agent)
        if self._forwarder is not None:
            await self._forwarder.close()
        if self._housed is not None:
            await self._housed.close()
            self._housed = None
        return await self._remove_all()

    # --- one call ----------------------------------------------------------------------------------------------------------

    async def _handle(self, agent: str, pay: Callable[[int], None], request: HttpRequest) -> Reply:
        await self._running.wait()
        async with self._holding:
            began = time.monotonic()
            headers = {name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in request.headers}
            call: Call | None = None
            body = b""
            try:
                body = await _whole(request.chunks)
                call = read_call(request.method, request.raw_path, request.query, headers, body)
                self._judge(call)
                pay(len(request.raw_path) + len(request.query) + sum(map(len, headers.values())) + len(body))
                if self._account is None:
                    return await self._simulated(agent, pay, request, headers, body, call, began)
                return await self._live(agent, pay, request, headers, body, call, began)
            except GearcaseError as error:
                self._count_refusal(agent, error)
                status = _STATUS.get(error.code, 502)
                self._record(agent, call, status, len(body), began, error.code, 0)
                return _refusal(status, error, headers)

    def _judge(self, call: Call) -> None:
        allow, most = self._declared.allow, self._declared.calls
        if allow and not any(fnmatch.fnmatchcase(str(call).lower(), rule.lower()) for rule in allow):
            remedy = f"allowed here: {', '.join(allow)}; tell the operator what else the goal needs: gear ask"
            raise Refused("call_not_allowed", f"{call} is not allowed", remedy=remedy)
        if most is not None and self._count >= most:
            raise Refused("calls", f"the {most} calls of this box are used up", remedy="tell the operator: gear ask")
        self._count += 1
        self._estimate += estimate(call)

    async def _simulated(
        self,
        agent: str,
        pay: Callable[[int], None],
        request: HttpRequest,
        headers: Mapping[str, str],
        body: bytes,
        call: Call,
        began: float,
    ) -> Reply:
        assert self._forwarder is not None
        kept = [(name, value) for name, value in headers.items() if name.encode() not in HOP_BY_HOP and name != "host"]
        # The simulator tells a bucket in the host's name from one in the path by whether it knows the host.
        host = "localhost" if call.service == "s3" else HOST
        query = f"?{request.query.decode('latin-1')}" if request.query else ""
        url = f"http://{host}{request.raw_path.decode('latin-1')}{query}"
        answer = await self._forwarder.forward(request.method, url, kept, body or None)
        return self._reply(agent, pay, answer, call, len(body), began)

    async def _live(
        self,
        agent: str,
        pay: Callable[[int], None],
        request: HttpRequest,
        headers: Mapping[str, str],
        body: bytes,
        call: Call,
        began: float,
    ) -> Reply:
        account, forwarder = self._account, self._forwarder
        assert account is not None and forwarder is not None
        kept, plain = plain_body({name: value for name, value in headers.items() if name.encode() not in HOP_BY_HOP}, body)
        kept |= {"accept-encoding": "identity"}
        making = made.makes(call)
        there = making and await asyncio.to_thread(made.was_there, account, call, plain)
        signed = await asyncio.to_thread(account.sign, request.method, call, kept, plain)
        answer = await forwarder.forward(
            request.method, f"{account.address_of(call.service)}{call.target}", signed, plain or None
        )
        if not making or there or answer.status >= 300:
            return self._reply(agent, pay, answer, call, len(body), began)
        passage = self._passage(agent, pay, answer, call, len(body), began)
        told = await _whole(passage, _MOST_ANSWER)
        await self._note(agent, account, call, plain, answer, told)
        return Reply(answer.status, {}, told, self._inward(answer))

    async def _note(self, agent: str, account: Account, call: Call, plain: bytes, answer: Answer, told: bytes) -> None:
        """What was made, on record, tagged with the run."""
        assert self._housing is not None
        one = made.read_made(account, call, plain, answer.status, dict(answer.headers), told)
        self._made.append(one)
        failed = await asyncio.to_thread(made.tag, account, one, self._housing.folder.name)
        self._housing.recorder.append(CloudMade(self.id, one.service, one.noun, one.name, not failed, failed), agent)

    def _reply(self, agent: str, pay: Callable[[int], None], answer: Answer, call: Call, sent: int, began: float) -> Reply:
        return Reply(answer.status, {}, self._passage(agent, pay, answer, call, sent, began), self._inward(answer))

    def _passage(self, agent: str, pay: Callable[[int], None], answer: Answer, call: Call, sent: int, began: float) -> Passage:
        def over(why: str, received: int) -> None:
            self._record(agent, call, answer.status, sent, began, why, received)

        return Passage(answer, self._mask, pay, over)

    def _inward(self, answer: Answer) -> list[tuple[str, str]]:
        return [(name, self._mask.text(value)) for name, value in answer.headers]

    async def _locate(self, host: str, port: int) -> list[tuple[str, int]]:
        return [(address, port) for address in await resolve(host, private=self._declared.allow_private)]

    # --- the end -----------------------------------------------------------------------------------------------------------

    async def _remove_all(self) -> tuple[str, ...]:
        """Remove what was made, the last one first."""
        account, stayed = self._account, list[str]()
        until = time.monotonic() + _REMOVING
        while self._made and account is not None and self._housing is not None:
            one = self._made.pop()
            why = "there was no time left" if time.monotonic() > until else await asyncio.to_thread(made.remove, account, one)
            self._housing.recorder.append(CloudRemoved(self.id, one.service, one.noun, one.name, why))
            if why:
                stayed.append(f"in the cloud account: {one} ({why})")
        return tuple(stayed)

    # --- on record ---------------------------------------------------------------------------------------------------------

    def _record(self, agent: str, call: Call | None, status: int, sent: int, began: float, why: str, received: int) -> None:
        if self._count > _MOST_RECORDS or self._housing is None:
            return
        service, operation = (call.service, call.operation) if call else ("", "")
        seconds = round(time.monotonic() - began, 3)
        money = estimate(call) if call and status < 400 else 0
        self._housing.recorder.append(
            CloudCalled(self.id, service, operation, status, sent, received, seconds, why, money), agent
        )
        if self._count == _MOST_RECORDS:
            message = f"{_MOST_RECORDS} calls are on record: further ones are counted, not recorded"
            self._housing.recorder.append(DoorRefused(self.id, "too_many_records", message), agent)

    def _count_refusal(self, agent: str, error: GearcaseError) -> None:
        """On record: the first of its kind, then at powers of ten."""
        count = self._refused[error.code] = self._refused.get(error.code, 0) + 1
        if str(count).strip("0") == "1" and self._housing is not None:
            self._housing.recorder.append(
                DoorRefused(self.id, error.code, error.message, {"cause": error.cause, "count": count}), agent
            )


async def _whole(chunks: AsyncIterator[bytes] | None, most: int = MOST_BODY) -> bytes:
    parts: list[bytes] = []
    size = 0
    if chunks is not None:
        async for chunk in chunks:
            size += len(chunk)
            if size > most:
                remedy = f"send it in parts of at most {most >> 20} MiB (multipart upload)"
                raise Refused("too_large", "the body is larger than the door holds", remedy=remedy)
            parts.append(chunk)
    return b"".join(parts)


def _refusal(status: int, error: GearcaseError, headers: Mapping[str, str]) -> Reply:
    """An error in the form that the client of the service reads, so that it shows the message."""
    code, message = f"gearcase.{error.code}", f"gearcase: {error.message}; {error.remedy}"
    if "/s3/aws4_request" in headers.get("authorization", "") or headers.get("content-type", "").startswith(
        "application/x-www-form"
    ):
        told = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        whole = (
            f"<Error>{told}</Error>"
            if "/s3/" in headers.get("authorization", "")
            else f"<ErrorResponse><Error>{told}</Error></ErrorResponse>"
        )
        return Reply(status, {"content-type": "application/xml"}, whole.encode())
    body = json.dumps({"__type": code, "message": message, "error": error.envelope()})
    return Reply(status, {"content-type": "application/x-amz-json-1.0", "x-amzn-errortype": code}, body.encode())


def _free(count: int) -> None:
    """What reaches a simulated account has not left: nothing is paid."""
