"""The questions of a map: each is a prompt, and an item that it is asked about. Kept answers, questions on their way, attempts.

Invariants: a question that has been answered is never asked again, by this map or another of its run; a question that is being asked
is not asked at the same time by anybody else. A transient fault is tried again after a pause that grows; nothing waits beyond the
halt of the map.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from gearcase.swarm.items import MapSpec
from gearcase.swarm.results import Kept, Results
from gearcase.swarm.worker import Answered, Fault, Outcome

ATTEMPTS = 8
"""Of one question, before a transient fault counts as its failure."""
LONGEST_PAUSE = 60.0
"""Seconds between two of them, unless the other side asks for longer; then at most LONGEST_TOLD_PAUSE."""
LONGEST_TOLD_PAUSE = 300.0
_REMEMBERED = 10_000  # failures whose like is not asked about again by the same map

Ask = Callable[[str], Awaitable[Outcome]]
Judge = Callable[[str, str], Awaitable[Fault | None]]
"""Whether the answer (JSON text) to an item's text is accepted: None, or why not."""
Flights = dict[bytes, asyncio.Event]
"""Questions of a run that are being asked now, with what tells when each has ended."""
HALTED = "halted"
"""The class of a question that was not asked because the map had stopped or was left."""


@dataclass(slots=True)
class Tally:
    """What was asked from one account: calls, those among them that were tried again, nano-dollars."""

    calls: int = 0
    retries: int = 0
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a question came to. `attempts` and `cost` (nano-dollars) are those of now, of the answer where it was `found`; then
    `prompt` is the hash of the one that it was given to, "" for the one that was asked with."""

    outcome: Outcome
    attempts: int = 0
    cost: int = 0
    found: bool = False
    prompt: str = ""


class Questions:
    """Asks what is not known yet. `ready` is waited for before each call: it returns once the run may spend. `judge` accepts answers."""

    def __init__(
        self,
        results: Results,
        flights: Flights,
        ready: Callable[[], Awaitable[Any]],
        judge: Judge | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.halt = asyncio.Event()
        self._results = results
        self._flights = flights
        self._ready = ready
        self._judge = judge
        self._sleep = sleep
        self._hopeless: dict[bytes, Fault] = {}
        self._digests: dict[str, bytes] = {}

    async def reply(self, ask: Ask, spec: MapSpec, text: str, tally: Tally) -> Reply:
        """The answer to one question: kept, on its way for somebody else, or asked for and paid into `tally`."""
        key = self._key(spec, text)
        while (flight := self._flights.get(key)) is not None:
            await self._unless_halted(flight.wait())
            if self.halt.is_set() and not flight.is_set():
                return Reply(Fault("terminal", HALTED, "the map has ended"))
        if (found := self._found(key)) is not None:
            return found
        if (fault := self._hopeless.get(key)) is not None:
            return Reply(fault)
        flight = self._flights[key] = asyncio.Event()
        try:
            reply = await self.until_it_ends(ask, spec.question(text), tally, text)
            if isinstance(reply.outcome, Answered):
                self._results.put(key, Kept(reply.outcome.answer, reply.attempts, reply.cost))
            elif reply.outcome.kind != "terminal" and len(self._hopeless) < _REMEMBERED:
                self._hopeless[key] = reply.outcome
            return reply
        finally:
            del self._flights[key]
            flight.set()

    def found(self, spec: MapSpec, text: str) -> Reply | None:
        """The answer to a question, where it is kept."""
        found = self._found(self._key(spec, text))
        return replace(found, prompt=found.prompt or spec.prompt_hash) if found is not None else None

    def _found(self, key: bytes) -> Reply | None:
        kept = self._results.get(key)
        return Reply(Answered(kept.answer), kept.attempts, found=True, prompt=kept.prompt) if kept is not None else None

    def keep(self, spec: MapSpec, text: str, kept: Kept) -> None:
        """An answer that was given to another prompt counts for this one too: who asks again has it. What is there already stays."""
        self._results.put(self._key(spec, text), kept)

    def _key(self, spec: MapSpec, text: str) -> bytes:
        return hashlib.sha256(self._digest(spec) + text.encode()).digest()

    def _digest(self, spec: MapSpec) -> bytes:
        if spec.prompt not in self._digests:  # one for each prompt of the map
            self._digests[spec.prompt] = spec.digest()
        return self._digests[spec.prompt]

    async def until_it_ends(self, ask: Ask, question: str, tally: Tally, item: str | None = None) -> Reply:
        """Ask one question, as often as needed. What it comes to is kept by nobody; of an `item` the answer is judged."""
        attempts = cost = 0
        while True:
            if not self.halt.is_set():
                await self._ready()
            if self.halt.is_set():
                return Reply(Fault("terminal", HALTED, "the map has ended"), attempts, cost)
            outcome = await ask(question)
            cost += outcome.cost
            tally.spent += outcome.cost
            waiting = isinstance(outcome, Fault) and outcome.kind == "waiting"
            tally.calls += not waiting
            attempts += not waiting
            if isinstance(outcome, Answered) and self._judge is not None and item is not None:
                outcome = await self._judge(item, outcome.answer) or outcome
            if isinstance(outcome, Answered) or outcome.kind in ("content", "terminal") or attempts == ATTEMPTS:
                return Reply(outcome, attempts, cost)
            tally.retries += not waiting
            await self._pause(_seconds(outcome, attempts))

    async def _pause(self, seconds: float) -> None:
        await self._unless_halted(self._sleep(seconds))

    async def _unless_halted(self, waiting: Awaitable[Any]) -> None:
        """Wait, but not beyond the halt of the map."""
        pause = asyncio.ensure_future(waiting)
        halt = asyncio.ensure_future(self.halt.wait())
        try:
            await asyncio.wait({pause, halt}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            halt.cancel()


def _seconds(fault: Fault, attempts: int) -> float:
    if fault.wait is not None:
        return min(fault.wait, LONGEST_TOLD_PAUSE)
    return min(LONGEST_PAUSE, 2.0 ** max(0, attempts - 1)) * random.uniform(0.75, 1.25)
