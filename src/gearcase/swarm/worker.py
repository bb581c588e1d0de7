"""A worker: one model call over one shard, and what its answer comes to.

Every outcome is sorted by what can be done about it. A *transient* one may be different in a moment; a *terminal* one will be the same
for every other item of the map; a *content* one is about this item and this prompt; *waiting* says that nothing was asked yet
(a latched run, a minute's money that is used up). Nothing is retried here: that is the map's affair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gearcase.agent.asking import miss_of, read_whole
from gearcase.agent.dialects import DIALECTS
from gearcase.agent.transcript import BadAnswer, Said
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.headers import COST, REFUSED
from gearcase.doors.model.routing import Route
from gearcase.doors.server import Reply
from gearcase.errors import GearcaseError
from gearcase.swarm.asking import http_request, request_body, value_of
from gearcase.swarm.schema import Schema, Violation

Kind = Literal["transient", "terminal", "content", "waiting"]

_TERMINAL = {401: "key", 402: "quota", 403: "key", 404: "unknown_model"}
_OURS_WAITING = frozenset({"latched", "busy", "velocity"})
_OURS_TERMINAL = frozenset({"budget", "no_account", "unknown_model", "stopped_model", "unknown_path"})


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that fits, as JSON text. Nano-dollars."""

    answer: str
    cost: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is none. `code` is the class, `path` and `keyword` say which part of the schema, `answer` what was answered.

    `cost` in nano-dollars: an answer that does not fit is paid for. `wait`: seconds that the other side asked for. Where a command
    failed, `stage` says which, `trace` is the end of what it wrote to standard error, `path` the top frame and `keyword` the exception.
    """

    kind: Kind
    code: str
    message: str
    cost: int = 0
    wait: float | None = None
    path: str = ""
    keyword: str = ""
    answer: str = ""
    stage: Literal["", "validator", "command"] = ""
    trace: str = ""


Outcome = Answered | Fault

KEPT = 4000
"""Characters of an answer that does not fit, and of a trace, which are kept as evidence."""


class Worker:
    """Asks one model one kind of question. Calls never raise but for being cancelled."""

    def __init__(self, door: ModelDoor, caller: Caller, route: Route, schema: Schema | None, max_output: int) -> None:
        self._door = door
        self._caller = caller
        self._route = route
        self._schema = schema
        self._max_output = max_output

    async def __call__(self, prompt: str) -> Outcome:
        """Ask once."""
        schema = self._schema.source if self._schema else None
        body = request_body(self._route, prompt, "", schema, self._max_output)
        dialect = DIALECTS[self._route.protocol]
        cost = 0
        try:
            reply = await self._door.exchange(self._caller, http_request(dialect.path, body))
            cost = int(reply.headers.get(COST, 0))
            received = await read_whole(reply)
            if reply.status != 200:
                return _fault(reply, received, cost)
            said = dialect.parse(received).said
        except BadAnswer as error:
            return Fault("transient", "bad_answer", str(error), cost)
        except GearcaseError as error:  # what would end a run: a cassette that does not match, books that cannot be written
            return replace(fault_of(error), cost=cost)
        except (OSError, EOFError) as error:
            return Fault("transient", "connection", f"the connection failed ({type(error).__name__}: {error})", cost)
        return judge(said, self._schema, cost)


def judge(said: Said, schema: Schema | None, cost: int) -> Outcome:
    """Whether an answer fits."""
    text = said.text[:KEPT]
    if said.stop == "refused":
        return Fault("content", "declined", "the model declines to answer", cost, answer=text)
    if schema is None:
        if said.stop == "length":
            return Fault("content", "cut_off", "the answer is cut off at its output limit", cost, answer=text)
        if not said.text.strip():
            return Fault("content", "empty", "the answer is empty", cost)
        return Answered(json.dumps(said.text, ensure_ascii=False), cost)
    return _judge_value(said, schema, cost)


def _judge_value(said: Said, schema: Schema, cost: int) -> Outcome:
    text = said.text[:KEPT]
    if not said.text.strip() and not said.calls:
        return Fault("content", "empty", "the answer is empty", cost)
    try:
        value = value_of(said)
        answer = json.dumps(value, ensure_ascii=False, allow_nan=False)
        answer.encode()  # half of a surrogate pair is no text
        violation = schema.first_violation(value)
    except (ValueError, RecursionError) as error:
        code, why = ("cut_off", "cut off at its output limit") if said.stop == "length" else ("not_json", "not JSON")
        return Fault("content", code, f"the answer is {why}: {error}", cost, answer=text)
    if violation is None:
        return Answered(answer, cost)
    return _misfit(violation, cost, text or answer[:KEPT])


def _misfit(violation: Violation, cost: int, answer: str) -> Fault:
    message = f"the answer does not fit the schema at {violation.path or '/'}: {violation.message}"
    return Fault("content", "schema", message, cost, path=violation.path, keyword=violation.keyword, answer=answer)


def _fault(reply: Reply, body: bytes, cost: int) -> Fault:
    """An answer that is an error: of our own door, or of the provider."""
    headers = {key.lower(): value for key, value in reply.headers.items()}
    miss = miss_of(reply.status, headers, body)
    detail = miss.fault.detail
    if ours := headers.get(REFUSED, ""):
        if ours in _OURS_WAITING:
            return Fault("waiting", ours, detail, cost, miss.wait)
        kind: Kind = "terminal" if ours in _OURS_TERMINAL else "content"
        return Fault(kind, ours, detail, cost)
    if miss.again:
        return Fault("transient", f"status_{reply.status}", detail, cost, miss.wait)
    if miss.fault.kind == "too_long":
        return Fault("content", "too_long", detail, cost)
    if miss.never or reply.status in _TERMINAL:
        return Fault("terminal", _TERMINAL.get(reply.status, "quota"), detail, cost)
    return Fault("content", "refused", detail, cost)


def fault_of(error: GearcaseError) -> Fault:
    """What an error of ours means for a question that was not asked because of it."""
    told = f"{error.message}; {error.remedy}"
    if error.code in _OURS_WAITING:
        return Fault("waiting", error.code, told, wait=error.context.get("retry_after"))
    return Fault("terminal", error.code, told)


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as it crosses to another process."""
    return {"answer": outcome.answer, "cost": outcome.cost} if isinstance(outcome, Answered) else asdict(outcome)


def outcome_of(told: Mapping[str, Any]) -> Outcome:
    """The outcome that crossed."""
    return Fault(**told) if "kind" in told else Answered(**told)


def fault_as_json(fault: Fault) -> dict[str, Any]:
    """What is told of a fault inside the box: its evidence, without what is empty."""
    told = {"class": fault.code, "why": fault.message, "path": fault.path, "keyword": fault.keyword, "answer": fault.answer}
    told |= {"stage": fault.stage, "trace": fault.trace}
    return {key: value for key, value in told.items() if value}
