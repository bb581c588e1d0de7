"""What an agent asks its operator for while the run goes on: a host, money, time, bytes, calls; and how that is answered.

A request stands on record and in the run's control socket (`gearcase requests`). An answer is applied at once, without a restart:
`gearcase allow RUN N [--for 1h]`, `gearcase deny RUN N --say "use the mirror"`. Who waited and got no answer in the run's time for answers
is denied; where nobody watches the run, the request stays open and the agent is told so.

Threat: an agent that floods its operator with requests, or puts terminal codes into them. So: at most `MOST` in a run, short texts, and
what it asks for is parsed here, before a person sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gearcase.box.hosts import HostRule, parse_rule
from gearcase.doors.http import HttpDoor
from gearcase.errors import GearcaseError, Refused, UsageError
from gearcase.events import HostsChanged, RequestAnswered, RequestMade
from gearcase.notify.page import Words
from gearcase.run.accounts import LEAD, RUN
from gearcase.run.questions import Questions, clock
from gearcase.seams import Recorder
from gearcase.units import format_bytes, format_duration, format_money, parse_bytes, parse_duration, parse_money

MOST = 50
"""Requests of one run."""
MOST_TEXT = 500
"""Characters of what is asked for and why."""

State = Literal["open", "allowed", "denied", "unanswered"]
_SAID = {"net": "a host", "other": "something of its own words"}
"""What is paged of requests whose text is the agent's."""
KINDS = ("net", "usd", "time", "egress", "tokens", "calls", "other")


@dataclass(slots=True)
class Request:
    """One request. `what` is written as the operator would write it; `amount` in nano-dollars, milliseconds, bytes or counts."""

    number: int
    kind: str
    what: str
    why: str
    agent: str
    amount: int = 0
    asked: float = field(default_factory=time.time)
    state: State = "open"
    said: str = ""
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def shown(self) -> dict[str, Any]:
        """For a list."""
        told = {"request": self.number, "kind": self.kind, "what": self.what, "why": self.why, "state": self.state}
        return {**told, "said": self.said, "agent": self.agent, "asked": round(self.asked, 3)}


class Requests:
    """The requests of one run. `http` is the run's door, once it has one; `timed` says whether its time can be extended."""

    def __init__(self, questions: Questions, recorder: Recorder) -> None:
        self._questions = questions
        self._recorder = recorder
        self._all: list[Request] = []
        self._ends: dict[HostRule, asyncio.TimerHandle] = {}
        self.http: HttpDoor | None = None
        self.timed = True

    # --- the agent's side --------------------------------------------------------------------------------------------------

    async def ask_for(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`gear ask-for`: put a request before the operator, and wait unless told not to. Raises Refused, UsageError."""
        kind, what, why = (str(arguments.get(key) or "").strip() for key in ("kind", "what", "why"))
        if len(what) > MOST_TEXT or len(why) > MOST_TEXT or not (what + why).isprintable():
            raise UsageError("bad_request_text", "the text is too long or not plain", remedy=f"say it in {MOST_TEXT} characters")
        what, amount = self._read(kind, what)
        if (known := self._known(kind, what)) is None:
            if len(self._all) >= MOST:
                raise Refused("too_many_requests", f"{MOST} requests were made, which is all", remedy="go on with what you have")
            known = Request(len(self._all) + 1, kind, what, why, agent, amount)
            self._all.append(known)
            self._recorder.append(RequestMade(known.number, kind, what, why), agent)
            self._page()
        if arguments.get("wait") is False:
            return known.shown()
        await self._wait(known)
        return self._outcome(known)

    async def list(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`gear requests`: what was asked for and what came of it."""
        return {"requests": [one.shown() for one in self._all]}

    def _read(self, kind: str, what: str) -> tuple[str, int]:
        """What is asked for, as it is shown and as it is counted. Raises UsageError."""
        match kind:
            case "net":
                return str(parse_rule(what)), 0
            case "usd":
                amount = parse_money(what)
                text = format_money(amount)
            case "time":
                amount = round(parse_duration(what) * 1000)
                text = format_duration(amount / 1000)
            case "egress":
                amount = parse_bytes(what)
                text = format_bytes(amount)
            case "tokens" | "calls":
                amount = int(what.replace("_", "")) if what.replace("_", "").isdecimal() else 0
                text = str(amount)
            case _:
                if not what:
                    raise UsageError("bad_request_text", "nothing is asked for", remedy="gear ask-for other 'TEXT' --why 'TEXT'")
                return what, 0
        if not 0 < amount < 2**53:
            raise UsageError("bad_amount", f"{what!r} is no amount of {kind}", remedy=f"gear ask-for {kind} AMOUNT --why 'TEXT'")
        return text, amount

    def _known(self, kind: str, what: str) -> Request | None:
        """The same, asked for already and not answered."""
        return next((one for one in self._all if (one.kind, one.what, one.state) == (kind, what, "open")), None)

    async def _wait(self, request: Request) -> None:
        if not self._questions.answered or request.state != "open":
            return
        try:
            async with asyncio.timeout(self._questions.after):
                await request.answered.wait()
        except TimeoutError:
            if request.state == "open":
                self._answer(request, "unanswered", f"nobody answered for {format_duration(self._questions.after)}", "nobody")

    def _outcome(self, request: Request) -> dict[str, Any]:
        if request.state == "open":
            remedy = "go on without it; `gear requests` shows whether it was answered later"
            raise Refused("nobody_watches", "nobody watches this run; the request stays open", remedy=remedy)
        if request.state != "allowed":
            say = f": {request.said}" if request.said else ""
            message = f"request {request.number} ({request.kind} {request.what}) was denied{say}"
            raise Refused("denied", message, remedy="go on without it, or hand in what you have", request=request.number)
        return request.shown()

    # --- the operator's side -----------------------------------------------------------------------------------------------

    def verbs(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        """What the control socket answers."""

        async def requests(request: Mapping[str, Any]) -> dict[str, Any]:
            return await self.list("", request)

        async def allow(request: Mapping[str, Any]) -> dict[str, Any]:
            seconds = float(request.get("seconds") or 0)
            if host := str(request.get("host") or ""):
                return self.allow_host(parse_rule(host), seconds)
            return self.allow(self._numbered(request), seconds)

        async def deny(request: Mapping[str, Any]) -> dict[str, Any]:
            if host := str(request.get("host") or ""):
                return self.deny_host(parse_rule(host))
            one = self._numbered(request)
            self._answer(one, "denied", str(request.get("say") or "")[:MOST_TEXT], "operator")
            return one.shown()

        return {"requests": requests, "allow": allow, "deny": deny}

    def allow(self, request: Request, seconds: float = 0.0) -> dict[str, Any]:
        """Give what is asked for. `seconds`: of a host, for how long. Raises GearcaseError where it cannot be given; it stays open."""
        if seconds and request.kind != "net":
            raise UsageError("not_for_a_time", "only a host is allowed for a time", remedy="leave --for out")
        if request.kind == "net":
            self.allow_host(parse_rule(request.what), seconds)
        elif request.kind == "time":
            self._more_time(request.amount)
        elif request.kind != "other":
            self._questions.grant(request.amount, request.kind)
        self._answer(request, "allowed", f"for {format_duration(seconds)}" if seconds else "", "operator")
        return request.shown()

    def allow_host(self, rule: HostRule, seconds: float = 0.0) -> dict[str, Any]:
        """A host from now on, for so many seconds or to the end. Raises UsageError `no_http_door`."""
        door = self._door()
        if ending := self._ends.pop(rule, None):
            ending.cancel()
        door.allow(rule)
        self._recorder.append(HostsChanged(str(rule), True, "operator", seconds))
        if seconds:
            self._ends[rule] = asyncio.get_running_loop().call_later(seconds, self._over, rule)
        return {"host": str(rule), "state": "allowed", "seconds": seconds}

    def deny_host(self, rule: HostRule) -> dict[str, Any]:
        """A host no more: its open connections are cut. Raises UsageError `no_http_door`."""
        if ending := self._ends.pop(rule, None):
            ending.cancel()
        cut = self._door().remove(rule)
        self._recorder.append(HostsChanged(str(rule), False, "operator"))
        return {"host": str(rule), "state": "denied", "cut": cut}

    def close(self) -> None:
        """No answer comes any more."""
        for ending in self._ends.values():
            ending.cancel()
        for one in self._all:
            one.answered.set()

    def _over(self, rule: HostRule) -> None:
        self._ends.pop(rule, None)
        with contextlib.suppress(GearcaseError):  # the run is ending, and its door with it
            self._door().remove(rule)
            self._recorder.append(HostsChanged(str(rule), False, "time"))

    def _more_time(self, milliseconds: int) -> None:
        if not self.timed:
            remedy = "deny it; begin again with a longer --wall"
            raise UsageError("fixed_time", "the time of a program was fixed when it began", remedy=remedy)
        self._questions.grant(milliseconds, "wall")
        self._questions.pace.more_wall += milliseconds / 1000

    def _door(self) -> HttpDoor:
        if self.http is None:
            raise UsageError("no_http_door", "the run reaches no host, or not yet", remedy="try again when its box is up")
        return self.http

    def _numbered(self, request: Mapping[str, Any]) -> Request:
        number = int(request.get("number") or 0)
        found = next((one for one in self._all if one.number == number), None)
        open_ones = ", ".join(str(one.number) for one in self._all if one.state == "open") or "none"
        if found is None:
            raise UsageError(
                "no_request", f"there is no request {number}", remedy=f"open are: {open_ones}; see gearcase requests"
            )
        if found.state != "open":
            raise UsageError("answered", f"request {number} was {found.state} already", remedy=f"open are: {open_ones}")
        return found

    def _answer(self, request: Request, state: State, said: str, by: str) -> None:
        request.state, request.said = state, said
        self._recorder.append(RequestAnswered(request.number, state, by, said), request.agent or LEAD)
        request.answered.set()
        self._page()

    def _page(self) -> None:
        """One page for all that are open: who asks for much does not fill the operator's night. No text of the agent's is in it."""
        waiting = [one for one in self._all if one.state == "open"]
        questions = self._questions
        if not waiting:
            questions.paging.answered("requests")
            return
        asked = ", ".join(_SAID.get(one.kind, one.what) for one in waiting[:5]) + (" and more" if waiting[5:] else "")
        limit = questions.ledger.balance(RUN, "usd").limit
        left = f", and at most {format_money(limit - questions.ledger.subtree_spent(RUN)['usd'])} more is spent" if limit else ""
        until = f"It waits until {clock(questions.after)}, then goes on without" if questions.answered else "It goes on without"
        name, number = questions.name, waiting[0].number
        answers = (f"gearcase requests {name}", f"gearcase allow {name} {number}", f"gearcase deny {name} {number}")
        words = Words("request", f"asks for {asked}.", f"{until}; its clock runs{left}.", answers, "normal")
        questions.paging.call("requests", words)
