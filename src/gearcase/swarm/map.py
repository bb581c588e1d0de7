"""One map: a prompt over many items, as so many calls at a time, with an account that always adds up.

Items come in bounded batches and wait in line; whoever feeds sees how much room there is (queue, don't deny). Each is asked about until
it has an ending: an answer that fits, a failure of its own, or the end of the map. A transient fault is tried again after a pause
that grows and is counted apart; it keeps its place among the calls at a time, so that a storm of refusals slows the map down by itself.
One terminal fault (a key, a quota, the budget, a model that is unknown) stops the map: what waits is skipped, what is in flight ends.

Invariants: an item ends once; the account adds up whenever it is looked at; a question that has been answered is never asked again, by
this map or another of its run; a question that is being asked is not asked at the same time by anybody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast

from gearcase.errors import GearcaseError
from gearcase.events import CanaryEnded, MapEnded, MapItemFailed, MapProgressed, MapStarted
from gearcase.seams import Recorder
from gearcase.swarm.account import ItemAccount
from gearcase.swarm.items import Canary, Ended, Item, MapSpec, Use
from gearcase.swarm.results import Kept, Results
from gearcase.swarm.signature import Clusters
from gearcase.swarm.worker import Answered, Fault, Outcome
from gearcase.units import format_money

ATTEMPTS = 8
"""Of one item, before a transient fault counts as its failure."""
LONGEST_PAUSE = 60.0
"""Seconds between two of them, unless the other side asks for longer; then at most LONGEST_TOLD_PAUSE."""
LONGEST_TOLD_PAUSE = 300.0
QUEUED_BYTES = 8 * 1024 * 1024
"""Of items that wait, and of endings that nobody has taken yet: above it there is no room."""
DIFFERENT = 1000
_ON_RECORD = 100
_TELL = 1.0
_REMEMBERED = 10_000  # failures whose like is not asked about again by the same map
_log = logging.getLogger(__name__)

Ask = Callable[[str], Awaitable[Outcome]]
Judge = Callable[[str, str], Awaitable[Fault | None]]
"""Whether the answer (JSON text) to an item's text is accepted: None, or why not."""
Flights = dict[bytes, asyncio.Event]
"""Questions of a run that are being asked now, with what tells when each has ended."""
End = Literal["done", "stopped", "abandoned", "cut"]


class Map:
    """A map that is going on. `feed`, `close_input` and `take` are called by whoever serves the program that asked."""

    def __init__(
        self,
        name: str,
        spec: MapSpec,
        ask: Ask,
        results: Results,
        flights: Flights,
        recorder: Recorder,
        agent: str,
        *,
        ready: Callable[[], Awaitable[Any]],
        judge: Judge | None = None,
        use: Use | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`ready` is waited for before each call: it returns once the run may spend. `judge` accepts answers; `use`: what commands took."""
        self.name = name
        self.spec = spec
        self.account = ItemAccount()
        self.stopped: Fault | None = None
        self.found = self.calls = self.retries = self.spent = 0
        self.classes: Counter[str] = Counter()
        self.clusters = Clusters()
        self._different: set[int] = set()
        self.canary: Canary | None = None
        self._ask = ask
        self._results = results
        self._flights = flights
        self._recorder = recorder
        self._agent = agent
        self._ready = ready
        self._judge = judge
        self.use = use or Use()
        self._sleep = sleep
        self._digest = spec.digest()
        self._queue: deque[Item] = deque()
        self._queued_bytes = 0
        self._endings: deque[Ended] = deque()
        self._ending_bytes = 0
        self._news = asyncio.Event()
        self._halt = asyncio.Event()
        self._workers: set[asyncio.Task[None]] = set()
        self._input_open = True
        self._told: ItemAccount = self.account
        self._hopeless: dict[bytes, Fault] = {}
        self._began = time.monotonic()
        self._spoke = self._began
        self._over = False
        schema = dict(spec.schema.source) if spec.schema else {}
        started = MapStarted(
            map=name,
            prompt=spec.prompt_hash,
            text=spec.run or spec.prompt,
            model=spec.model,
            split=spec.split,
            expected=spec.expected,
            concurrency=spec.concurrency,
            allow_failed=spec.allow_failed,
            schema=schema,
            validator=spec.validator,
        )
        recorder.append(started, agent)

    # --- what comes in, what goes out ------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many items are wanted now: none while there is much to hold."""
        return 0 if self._queued_bytes > QUEUED_BYTES or self._ending_bytes > QUEUED_BYTES else self.most_room

    @property
    def most_room(self) -> int:
        """How many may be fed. It shrinks by what is fed alone, so whoever was told of room has it."""
        if not self._input_open:
            return 0
        return max(0, 3 * self.spec.concurrency + 64 - self.account.pending - len(self._endings))

    def feed(self, items: Sequence[Item]) -> None:
        """More items. They are pending from now on."""
        self.account = self.account.grown(len(items))
        for item in items:
            if item.unreadable:
                self._end(Ended(item, "quarantined", fault=Fault("content", "unreadable", item.unreadable)))
            elif self.stopped is not None:
                self._end(Ended(item, "skipped", fault=self.stopped))
            else:
                self._queue.append(item)
                self._queued_bytes += len(item.text)
        for _ in range(min(self.spec.concurrency - len(self._workers), len(self._queue))):
            self._workers.add(asyncio.create_task(self._work()))

    def close_input(self) -> None:
        """There is nothing more to come."""
        self._input_open = False
        self._news.set()

    @property
    def waiting(self) -> int:
        """Endings that nobody has taken yet."""
        return len(self._endings)

    @property
    def finished(self) -> bool:
        """Whether every item has ended and was taken."""
        return not self._input_open and self.account.pending == 0 and not self._endings

    async def take(self, most_bytes: int, linger: float, *, gate: bool = False) -> list[Ended]:
        """Endings, in the order in which they happened: as many as fit, after at most `linger` seconds.

        It returns sooner when more items are wanted, but not at a `gate`, where there are none until all that came have ended.
        """
        with_deadline = time.monotonic() + linger
        while not self._enough(most_bytes, gate) and (left := with_deadline - time.monotonic()) > 0:
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                break
        self._results.flush()
        taken: list[Ended] = []
        size = 0
        while self._endings and (not taken or size + self._endings[0].size <= most_bytes):
            ended = self._endings.popleft()
            self._ending_bytes -= ended.size
            size += ended.size
            taken.append(ended)
        return taken

    def _enough(self, most_bytes: int, gate: bool) -> bool:
        runs_low = (
            self._input_open and not gate and len(self._queue) < self.spec.concurrency and self._queued_bytes <= QUEUED_BYTES
        )
        return self.account.pending == 0 or runs_low or self._ending_bytes >= most_bytes

    def judge(self, free: int | None) -> None:
        """What came so far was the canary, and all of it has ended: go on, or stop. `free`: nano-dollars left, None for no limit."""
        if self.canary is not None or self.account.pending or self.stopped is not None:
            return
        account, why = self.account, ""
        to_come = self.projected - self.spent
        if account.failure_rate > self.spec.max_failure_rate:
            why = f"{account.failure_rate:.0%} of the first {account.done} items failed: mend the prompt, or --max-failure-rate"
        elif free is not None and to_come > free:
            why = f"the rest would cost about {format_money(to_come)}, and {format_money(free)} is left: --no-canary asks all the same"
        failed = account.failed + account.quarantined
        self.canary = Canary(account.done, failed, round(account.failure_rate, 4), self.projected, why)
        clusters = [cluster.as_json() for cluster in self.clusters.largest(5)]
        event = CanaryEnded(self.name, account.done, failed, self.canary.rate, self.projected, why, clusters)
        self._recorder.append(event, self._agent)
        if why:
            self.stop(Fault("terminal", "canary", why))

    # --- its end ----------------------------------------------------------------------------------------------------------------

    def stop(self, fault: Fault) -> None:
        """No further call: what waits is skipped, what is in flight ends."""
        if self.stopped is None:
            self.stopped = fault
            self._halt.set()
            while self._queue:
                self._end(Ended(self._queue.popleft(), "skipped", fault=fault))
            self._queued_bytes = 0

    async def abandon(self) -> None:
        """Nobody takes endings any more: calls in flight end and are kept for whoever asks again, what waits stays pending."""
        self._queue.clear()
        self._input_open = False
        self._halt.set()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self.finish("abandoned")

    async def cut(self) -> None:
        """The run ends: nothing is waited for."""
        self._queue.clear()
        self._halt.set()
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self.finish("cut")

    def finish(self, how: End) -> None:
        """Put its end on record, once. What never came counts as pending, unless the input was closed."""
        if self._over:
            return
        self._over = True
        self._halt.set()
        if how in ("abandoned", "cut"):
            self.account = self.account.grown(max(0, self.spec.expected - self.account.items))
        self._results.flush()
        self._recorder.append(
            MapEnded(
                map=self.name,
                ended=how,
                account=asdict(self.account),
                found=self.found,
                calls=self.calls,
                retries=self.retries,
                spent=self.spent,
                seconds=round(time.monotonic() - self._began, 3),
                classes=dict(self.classes),
                why=self.stopped.message[:500] if self.stopped else "",
                clusters=[cluster.as_json() for cluster in self.clusters.largest()],
                sandboxes=self.use.sandboxes,
                cpu=round(self.use.cpu, 3),
                different=self.different,
            ),
            self._agent,
        )

    @property
    def projected(self) -> int:
        """Nano-dollars of the whole map, from what its items have cost so far."""
        asked = self.account.done - self.account.skipped
        return self.spent * max(self.spec.expected, self.account.items) // asked if asked else 0

    @property
    def different(self) -> int:
        """How many different answers there are; DIFFERENT of them and more are not told apart."""
        return len(self._different)

    def tell(self) -> None:
        """Put on record how far it is, where that has changed and a second has passed."""
        now = time.monotonic()
        if self._over or now - self._spoke < _TELL or self.account == self._told:
            return
        self._spoke, self._told = now, self.account
        rate = round(self.account.done / (now - self._began), 2)
        self._recorder.append(
            MapProgressed(
                self.name, asdict(self.account), self.found, self.calls, self.retries, self.spent, self.projected, rate
            ),
            self._agent,
        )

    # --- one item ---------------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._queue:
                item = self._queue.popleft()
                self._queued_bytes -= len(item.text)
                self._end(await self._surely(item))
                self.tell()
        finally:
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))  # before anybody counts who works

    async def _surely(self, item: Item) -> Ended:
        """An ending, also where something of ours fails: that ends the map."""
        try:
            return await self._one(item)
        except GearcaseError as error:  # the store or the journal refuses
            fault = Fault("terminal", error.code, f"{error.message}; {error.remedy}")
        except Exception:
            _log.exception("an item of %s failed", self.name)
            fault = Fault("terminal", "internal", "Gearcase itself failed; the operator finds the cause in the run's log")
        self.stop(fault)
        return Ended(item, "skipped", fault=fault)

    async def _one(self, item: Item) -> Ended:
        """Its answer: kept, on its way for somebody else, or asked for."""
        key = hashlib.sha256(self._digest + item.text.encode()).digest()
        while (flight := self._flights.get(key)) is not None:
            await flight.wait()
        if (kept := self._results.get(key)) is not None:
            return Ended(item, "ok", kept.answer, attempts=kept.attempts, found=True)
        if (fault := self._hopeless.get(key)) is not None:
            return Ended(item, "failed" if fault.kind == "transient" else "quarantined", fault=fault)
        if self._halt.is_set():
            return self._skipped(item, 0, 0)
        flight = self._flights[key] = asyncio.Event()
        try:
            ended = await self._until_it_ends(item)
            if ended.state == "ok":
                self._results.put(key, Kept(ended.answer, ended.attempts, ended.cost))
            elif ended.state != "skipped" and ended.fault is not None and len(self._hopeless) < _REMEMBERED:
                self._hopeless[key] = ended.fault
            return ended
        finally:
            del self._flights[key]
            flight.set()

    async def _until_it_ends(self, item: Item) -> Ended:
        question = self.spec.question(item.text)
        attempts = cost = 0
        while True:
            await self._ready()
            if self._halt.is_set():
                return self._skipped(item, attempts, cost)
            outcome = await self._ask(question)
            cost += outcome.cost
            self.spent += outcome.cost
            waiting = isinstance(outcome, Fault) and outcome.kind == "waiting"
            self.calls += not waiting
            attempts += not waiting
            if isinstance(outcome, Answered) and self._judge is not None:
                outcome = await self._judge(item.text, outcome.answer) or outcome
            if isinstance(outcome, Answered):
                return Ended(item, "ok", outcome.answer, attempts=attempts, cost=cost)
            if outcome.kind == "content":
                return Ended(item, "quarantined", fault=outcome, attempts=attempts, cost=cost)
            if outcome.kind == "terminal":
                self.stop(outcome)
                return Ended(item, "skipped", fault=outcome, attempts=attempts, cost=cost)
            if attempts == ATTEMPTS:
                return Ended(item, "failed", fault=outcome, attempts=attempts, cost=cost)
            self.retries += not waiting
            await self._pause(_seconds(outcome, attempts))

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the stop of the map."""
        pause = asyncio.ensure_future(self._sleep(seconds))
        halt = asyncio.ensure_future(self._halt.wait())
        try:
            await asyncio.wait({pause, halt}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            halt.cancel()

    def _skipped(self, item: Item, attempts: int, cost: int) -> Ended:
        fault = self.stopped or Fault("terminal", "abandoned", "the program that asked is gone")
        return Ended(item, "skipped", fault=fault, attempts=attempts, cost=cost)

    def _end(self, ended: Ended) -> None:
        if self.stopped is None and self._halt.is_set() and ended.state == "skipped":
            return  # abandoned, not stopped: it stays pending
        self.account = self.account.ended(ended.state)
        self.found += ended.found
        if ended.state == "ok" and len(self._different) < DIFFERENT:
            self._different.add(hash(ended.answer))
        if ended.fault is not None:
            self.classes[ended.fault.code] += 1
            if ended.state != "skipped":
                self.clusters.add(ended.fault, ended.item.shard)
        self._endings.append(ended)
        self._ending_bytes += ended.size
        self._news.set()
        failures = self.account.failed + self.account.quarantined
        if ended.state in ("failed", "quarantined") and ended.fault is not None and failures <= _ON_RECORD:
            item, fault = ended.item, ended.fault
            code, message = fault.code, fault.message[:500]
            event = MapItemFailed(self.name, item.number, item.shard[:300], ended.state, code, message, ended.attempts)
            self._recorder.append(event, self._agent)


def _seconds(fault: Fault, attempts: int) -> float:
    if fault.wait is not None:
        return min(fault.wait, LONGEST_TOLD_PAUSE)
    return min(LONGEST_PAUSE, 2.0 ** max(0, attempts - 1)) * random.uniform(0.75, 1.25)
