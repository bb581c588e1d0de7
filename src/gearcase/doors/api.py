"""The api door: one API outside, reached inside as plain http://NAME.box, with the operator's credential put in outside.

What may be called is a list of methods and paths; a path is judged in its normal form, and that form is sent. The agent's own
credentials, cookies and whatever would say the method or the path a second time do not leave. Bodies and answers are streamed. An answer's
headers and body are searched for the secrets (see masks.py); a redirect is not followed, and leads through the door where it can.

Threat: an agent that wants the secret, or a call that is not allowed: by a spelling of the path, a second header, a redirect, an answer
that echoes what was sent; one that calls without end. So: a rate, the limit of bytes, and every call on record, without its query.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from gearcase.box.calls import ApiDoor as Declared
from gearcase.box.calls import CallRule, Rate, normal_path, parse_call, parse_rate
from gearcase.doors.addresses import resolve
from gearcase.doors.callrecord import CallRecord, Counter, refusal, shown, status_of
from gearcase.doors.forwarding import Forwarder, Pairs, Passage, outgoing_headers, paid
from gearcase.doors.masks import Mask
from gearcase.doors.patterns import fits
from gearcase.doors.secrets import filled, find_secret, references
from gearcase.doors.server import HttpRequest, Reply, Server, ServerLimits, serve
from gearcase.errors import GearcaseError, Refused
from gearcase.events import ApiCalled
from gearcase.seams import Housing, Place

MOST_PATH = 8 * 1024
_LIMITS = ServerLimits(connections=64)

_OWN = frozenset(
    "authorization cookie proxy-authorization forwarded via range if-range x-http-method-override x-http-method x-method-override "
    "x-original-url x-rewrite-url x-original-method x-real-ip".split()
)
"""Headers of a request that do not leave: credentials, what says method, path or sender a second time, and ranges, which could cut an
echoed secret into pieces that no mask sees."""
_NOT_BACK = frozenset({"set-cookie"})


class ApiDoor:
    """One API; a `Door`."""

    def __init__(self, name: str, declared: Declared, environment: Mapping[str, str]) -> None:
        """Raises UsageError `missing_secret`, `bad_secret`."""
        self.id = f"api.{name}"
        self._host = f"{name}.box"
        self.places: Sequence[Place] = (Place(self._host, 80),)
        variable = name.upper().replace("-", "_")
        self.environment = {f"{variable}_API_URL": f"http://{self._host}"}
        self._declared = declared
        self._base = urlsplit(declared.upstream)
        self._rules = tuple(map(parse_call, declared.allow))
        files = declared.key_files
        names = references(declared.headers.values())
        secrets = [find_secret(one, files.get(one), environment, f"[doors.{self.id}]") for one in names]
        self._headers: Pairs = [(key, filled(text, secrets)) for key, text in declared.headers.items()]
        whole = [text for (_, text), given in zip(self._headers, declared.headers.values(), strict=True) if text != given]
        self.secrets = tuple(secret.value for secret in secrets)
        self._mask = Mask([*self.secrets, *whole])
        self._put_in = frozenset(_folded(key) for key in declared.headers)
        self._rate = Bucket(parse_rate(declared.rate)) if declared.rate else None
        self._forwarder = Forwarder(self._locate, declared.ca)
        self._servers: dict[str, list[Server]] = {}  # by agent
        self._running = asyncio.Event()
        self._running.set()
        self._record = CallRecord(self.id, self._mask)

    async def open(self, housing: Housing) -> None:
        """See `Door`. An upstream that is an address is judged here, since nobody looks it up later. Raises Refused."""
        self._record.recorder = housing.recorder
        host = self._base.hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return  # a name is judged when it is dialled
        await self._locate(host, 0)

    async def serve(self, agent: str, place: Place, sock: socket.socket, pay: Callable[[int], None]) -> None:
        """See `Door`."""
        handler = functools.partial(self._handle, agent, pay)
        server = await serve(sock, handler, limits=_LIMITS, cancel=True, streaming=True)
        self._servers.setdefault(agent, []).append(server)

    async def leave(self, agent: str) -> None:
        """See `Door`."""
        for server in self._servers.pop(agent, ()):
            await server.close()

    def describe(self) -> Mapping[str, Any]:
        """See `Door`."""
        told: dict[str, Any] = {
            "address": f"http://{self._host}",
            "purpose": f"{self._base.hostname}; its credential is put in outside",
            "allowed": [str(rule) for rule in self._rules],
        }
        return {**told, "rate": self._rate.said()} if self._rate else told

    def latch(self) -> None:
        """See `Door`: new calls wait."""
        self._running.clear()

    def unlatch(self) -> None:
        """See `Door`."""
        self._running.set()

    async def close(self) -> tuple[str, ...]:
        """See `Door`."""
        for agent in list(self._servers):
            await self.leave(agent)
        await self._forwarder.close()
        return ()

    # --- one call ----------------------------------------------------------------------------------------------------------

    async def _handle(self, agent: str, pay: Callable[[int], None], request: HttpRequest) -> Reply:
        await self._running.wait()
        began, sent, path = time.monotonic(), Counter(pay), self._mask.text(shown(request.raw_path))

        def record(status: int, why: str, received: int) -> None:
            seconds = round(time.monotonic() - began, 3)
            self._record.ended(ApiCalled(self.id, request.method, path, status, sent.count, received, seconds, why), agent)

        try:
            judged = self._judge(request)
            sent(len(request.raw_path) + sum(len(name) + len(value) for name, value in request.headers))
            headers = [*outgoing_headers(request, self._is_own), *self._headers]
            body = paid(request.chunks, sent) if request.chunks is not None and request.has_body else None
            answer = await self._forwarder.forward(request.method, self._url(judged, request.query), headers, body)
        except GearcaseError as error:
            self._record.refused(error, agent)
            record(status_of(error), error.code, 0)
            return refusal(error)
        except asyncio.CancelledError:
            record(0, "cut", 0)
            raise
        passage = Passage(answer, self._mask, pay, lambda why, received: record(answer.status, why, received))
        return Reply(
            answer.status, {}, passage, [self._inward(name, value) for name, value in answer.headers if name not in _NOT_BACK]
        )

    def _judge(self, request: HttpRequest) -> bytes:
        """The path in its normal form. Raises Refused."""
        try:
            if len(request.raw_path) + len(request.query) > MOST_PATH:
                raise ValueError(f"it is longer than {MOST_PATH} bytes")
            path = normal_path(request.raw_path)
        except ValueError as error:
            remedy = "write it as the API's documentation does"
            raise Refused("bad_path", f"the path cannot be judged: {error}", remedy=remedy) from None
        if not any(covers(rule, request.method, path) for rule in self._rules):
            allowed = ", ".join(map(str, self._rules))
            remedy = f"allowed here: {allowed}; ask the operator for more: gear ask-for limit"
            raise Refused("call_not_allowed", f"{request.method} {shown(path)} is not allowed", remedy=remedy)
        if self._rate is not None and (wait := self._rate.take()):
            remedy = f"wait {math.ceil(wait)} s"
            raise Refused("rate", f"the door passes {self._rate.said()}", remedy=remedy, retry_after=math.ceil(wait))
        return path

    def _is_own(self, name: str) -> bool:
        return name in _OWN or name.startswith("x-forwarded-") or _folded(name) in self._put_in

    def _url(self, path: bytes, query: bytes) -> str:
        asked = f"?{query.decode('latin-1')}" if query else ""
        return f"{self._declared.upstream}{path.decode()}{asked}"

    def _inward(self, name: str, value: str) -> tuple[str, str]:
        if name in ("location", "content-location"):
            value = self._through_the_door(value)
        return name, self._mask.text(value)

    def _through_the_door(self, location: str) -> str:
        """A redirect within the upstream leads through the door; any other stays as it is, and is not reachable by it."""
        base, to = self._base, urlsplit(location)
        here = not to.netloc or (to.scheme or base.scheme, to.netloc.lower()) == (base.scheme, base.netloc.lower())
        below = to.path == base.path or to.path.startswith(f"{base.path}/")
        if not here or not below or (not to.netloc and not location.startswith("/")):
            return location
        rest = to.path[len(base.path) :] or "/"
        return f"http://{self._host}{rest}" + (f"?{to.query}" if to.query else "") + (f"#{to.fragment}" if to.fragment else "")

    async def _locate(self, host: str, port: int) -> list[tuple[str, int]]:
        try:
            return [(address, port) for address in await resolve(host, private=self._declared.allow_private)]
        except Refused as error:
            if error.code == "private_address":
                error.remedy = f"if you mean it, say so in the box: [doors.{self.id}] allow_private = true"
            raise


class Bucket:
    """A rate: so many calls at once, and as many again over its time."""

    def __init__(self, rate: Rate, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._left = float(rate.calls)
        self._at = now()

    def said(self) -> str:
        """For a reader."""
        return self._rate.said()

    def take(self) -> float:
        """Take one; returns 0, or the seconds after which there is one."""
        now, speed = self._now(), self._rate.calls / self._rate.seconds
        self._left = min(float(self._rate.calls), self._left + (now - self._at) * speed)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / speed
        self._left -= 1
        return 0.0


def covers(rule: CallRule, method: str, path: bytes) -> bool:
    """Whether a rule allows a method on a path in its normal form. Who may GET may ask for the head."""
    if method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        return False
    if rule.methods and method not in rule.methods and not (method == "HEAD" and "GET" in rule.methods):
        return False
    places = {0}
    for segment in path[1:].split(b"/"):
        places = set(_step(rule.segments, places, segment))
    return len(rule.segments) in places


def _step(pattern: Sequence[bytes], places: Iterable[int], segment: bytes) -> Iterable[int]:
    """Where a pattern may stand after one more segment: `**` takes one or more."""
    for place in places:
        if place == len(pattern):
            continue
        if pattern[place] == b"**":
            yield from (place, place + 1)
        elif _segment_fits(pattern[place], segment):
            yield place + 1


def _segment_fits(pattern: bytes, segment: bytes) -> bool:
    """An encoded slash is met only by one that the pattern spells out."""
    wanted, parts = pattern.split(b"%2F"), segment.split(b"%2F")
    return len(wanted) == len(parts) and all(
        fits(one, part) and bool(part) == bool(one) for one, part in zip(wanted, parts, strict=True)
    )


def _folded(name: str) -> str:
    """Some servers take _ for - in names."""
    return name.lower().replace("_", "-")
