"""Ask the model through its door, with bounded patience.

Waiting helps against 408, 409, 425, 429, 5xx, a broken connection and an answer that is none: they are tried again with
exponential back-off, or when `Retry-After` says, and each such miss is told at once. Nothing else is. What is left over becomes a
`Fault`, sorted by what can help.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from gearcase.agent.transcript import Answer, BadAnswer, Dialect, read_object, table
from gearcase.doors.model.headers import UNREACHED, is_out_of_budget
from gearcase.doors.server import Reply
from gearcase.events import AttemptFailed

Ask = Callable[[str, bytes], Awaitable[Reply]]
"""One call of the model door: (path, body) -> reply. May wait as long as the run is frozen."""
Sleep = Callable[[float], Awaitable[None]]
Tell = Callable[[AttemptFailed], None]

ATTEMPTS = 8
FIRST_ATTEMPTS = 5
"""Where nothing was ever answered and nothing can be reached: an address is wrong more often than a network is down."""
LONGEST_WAIT = 60.0
"""Seconds of one wait of our own choice."""
LONGEST_TOLD_WAIT = 300.0
"""Seconds of one wait that the other side asked for."""
MAX_ANSWER = 64 * 1024 * 1024

_AGAIN = frozenset({408, 409, 425, 429})
_TOO_LONG = (
    "context_length_exceeded",
    "prompt is too long",
    "maximum context length",
    "exceed context limit",
    "exceed_context_size",
    "exceeds the context window",
    "exceeds the available context size",
    "input is too long",
)
_NEVER = ("insufficient_quota", "billing_hard_limit")
_REMEDIES = {
    402: "pay in at the provider, or choose another; nothing was charged here",
    401: "check the key of this provider: the environment variable, key file or keyring entry that the box names",
    403: "the key may not use this model, or the box does not allow it: check [model] and the provider's console",
    404: "check the model's name at the provider",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no answer. `budget`: the account cannot pay; `too_long`: over the window; `down`: nobody answered, however often
    it was tried; `failed`: nothing helps."""

    kind: Literal["budget", "too_long", "down", "failed"]
    detail: str


@dataclass(frozen=True, slots=True)
class Miss:
    """One attempt that failed. `wait` is what the other side asked for, in seconds; None where it did not say.

    `never`: the provider says that nothing at all will be answered, whatever is asked. `unreached`: nothing was sent to it.
    """

    fault: Fault
    again: bool
    wait: float | None = None
    never: bool = False
    unreached: bool = False


async def ask_model(ask: Ask, dialect: Dialect, body: bytes, sleep: Sleep, tell: Tell, answered: bool) -> Answer | Fault:
    """The answer, after as many attempts as make sense. A GearcaseError of the door (a cassette mismatch) is raised.

    `tell` hears of each attempt that is made again. `answered`: this model has answered this agent before.
    """
    attempt = 1
    while True:
        outcome = await _attempt(ask, dialect, body)
        if isinstance(outcome, Answer):
            return outcome
        if not outcome.again:
            return outcome.fault
        attempts = FIRST_ATTEMPTS if outcome.unreached and not answered else ATTEMPTS
        if attempt >= attempts:
            remedy = "the provider is down or overloaded; try again later, or choose another model"
            if outcome.unreached:
                remedy = "nothing was sent and nothing is charged; see that this machine reaches it: address, DNS, proxy, VPN"
            return Fault("down", f"{attempt} attempts failed, the last so: {outcome.fault.detail}. Remedy: {remedy}")
        backoff = _backoff(attempt) * random.uniform(0.75, 1.25)
        wait = backoff if outcome.wait is None else min(outcome.wait, LONGEST_TOLD_WAIT)
        until = time.time() + wait + sum(map(_backoff, range(attempt + 1, attempts)))
        tell(AttemptFailed(attempt, attempts, outcome.fault.detail[:500], round(wait, 3), round(until, 3), outcome.unreached))
        await sleep(wait)
        attempt += 1


def _backoff(attempt: int) -> float:
    return min(LONGEST_WAIT, 2.0 ** (attempt - 1))


async def _attempt(ask: Ask, dialect: Dialect, body: bytes) -> Answer | Miss:
    try:
        reply = await ask(dialect.path, body)
        received = await read_whole(reply)
        if reply.status == 200:
            return dialect.parse(received)
    except BadAnswer as error:
        return Miss(Fault("failed", str(error)), again=True)
    except (OSError, EOFError) as error:
        return Miss(Fault("failed", f"the connection failed ({type(error).__name__}: {error})"), again=True)
    return miss_of(reply.status, {key.lower(): value for key, value in reply.headers.items()}, received)


async def read_whole(reply: Reply) -> bytes:
    """The body of a reply. Raises BadAnswer where it is too large, what its stream raises where that breaks off."""
    if isinstance(reply.chunks, bytes):
        return reply.chunks
    received = bytearray()
    async for chunk in reply.chunks:
        received += chunk
        if len(received) > MAX_ANSWER:
            raise BadAnswer(f"the answer is over {MAX_ANSWER} bytes")
    return bytes(received)


def miss_of(status: int, headers: Mapping[str, str], body: bytes) -> Miss:
    """What an answer that is no 200 says: whose fault it is, and whether and when to try again. Header names in lower case."""
    told = _told(body)
    detail = f"status {status}: {told}"
    lowered = told.lower()
    if is_out_of_budget(headers):
        return Miss(Fault("budget", detail), again=False)
    if status in (400, 413) and any(sign in lowered for sign in _TOO_LONG):
        return Miss(Fault("too_long", f"{detail}. Remedy: a model with a larger window, or a shorter goal"), again=False)
    if any(sign in lowered for sign in _NEVER):
        return Miss(Fault("failed", f"{detail}. Remedy: pay in at the provider, or choose another"), again=False, never=True)
    if headers.get(UNREACHED):
        return Miss(Fault("failed", told.partition(" failed: ")[2] or told), again=True, unreached=True)
    if (status in _AGAIN or status >= 500) and headers.get("x-should-retry") != "false":
        return Miss(Fault("failed", detail), again=True, wait=_wait(headers))
    remedy = _REMEDIES.get(status, "the provider refuses the request itself: see its message")
    return Miss(Fault("failed", f"{detail}. Remedy: {remedy}"), again=False)


def _told(body: bytes) -> str:
    """Type, code and message of an error in any of the providers' shapes; else the beginning of the body."""
    try:
        answer = read_object(body)
    except BadAnswer:
        return body[:300].decode("utf-8", "replace") or "(no body)"
    error = table(answer.get("error", answer)) or {"message": answer.get("error")}
    parts = [str(error[key]) for key in ("type", "code", "message") if error.get(key)]
    return " ".join(parts)[:500] or body[:300].decode("utf-8", "replace")


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the answer asks to wait, in any of the three ways; None when it does not say, or says nonsense."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "")
        if value.replace(".", "", 1).isdecimal():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
