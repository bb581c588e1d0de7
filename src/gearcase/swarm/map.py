"""One map: a prompt over many items, as so many calls at a time, with an account that always adds up.

Items come in bounded batches and wait in line; whoever feeds sees how much room there is (queue, don't deny). Each is asked about until
it has an ending: an answer that fits, a failure of its own, or the end of the map. A transient fault is tried again after a pause
that grows and is counted apart; it keeps its place among the calls at a time, so that a storm of refusals slows the map down by itself.
One terminal fault (a key, a quota, the budget, a model that is unknown) stops the map: what waits is skipped, what is in flight ends.

An item whose answer does not fit may wait for a repair of the prompt (`repair.py`); it is pending until then.

Invariants: an item ends once; the account adds up whenever it is looked at; what `questions.py` says of questions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from gearcase.errors import GearcaseError
from gearcase.events import PromptTried
from gearcase.seams import Recorder
from gearcase.swarm.account import ItemAccount
from gearcase.swarm.desk import Desk
from gearcase.swarm.items import Canary, Ended, Item, Known, MapSpec, Use, Waiting
from gearcase.swarm.known import KnownAnswers
from gearcase.swarm.learned import Learned
from gearcase.swarm.questions import HALTED, Ask, Flights, Judge, Questions, Reply, Tally
from gearcase.swarm.queues import Endings, Line
from gearcase.swarm.repair import Repair
from gearcase.swarm.results import Kept, Results
from gearcase.swarm.telling import End, Telling
from gearcase.swarm.worker import Answered, Fault
from gearcase.units import format_money

QUEUED_BYTES = 8 * 1024 * 1024
"""Of items that wait, and of endings that nobody has taken yet: above it there is no room."""
_UNGATED = 40  # items, after which a map without a gate is held against known answers
_log = logging.getLogger(__name__)


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
        desk: Desk | None = None,
        learned: Learned | None = None,
        known: KnownAnswers | None = None,
        width: int = 0,
        stop_asking: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`ready` is waited for before each call: it returns once the run may spend. `judge` accepts answers; `use`: what commands took.

        `desk`: what a repair of the prompt works with, None for no repair; `learned` by an earlier map; `known`: answers that
        the box's owner knows. `width`: items that are on their way at a time, where they are more than calls, because an engine takes
        them by the shard. `stop_asking` is told when nothing further is to be asked.
        """
        self.name = name
        self.spec = spec
        self.account = ItemAccount()
        self.stopped: Fault | None = None
        self.canary: Canary | None = None
        self.told = Telling(name, spec, recorder, agent)
        self._ask = ask
        self._width = width or spec.concurrency
        self._stop_asking = stop_asking
        self._results = results
        self._tally = Tally()
        self._questions = Questions(results, flights, ready, judge, sleep)
        self._halt = self._questions.halt
        self.use = use or Use()
        self.repair = Repair(spec, desk, self._questions, self, learned) if desk is not None else None
        self._asked = self._first_failed = self._planted = 0
        self._known = known or KnownAnswers((), 0.0)
        self._known_tally = Tally()
        self._gated = False
        self._line = Line()
        self._endings = Endings()
        self._news = asyncio.Event()
        self._workers: set[asyncio.Task[None]] = set()
        self._input_open = True
        self._over = False

    # --- what comes in, what goes out ------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many items are wanted now: none while there is much to hold."""
        full = self._line.bytes > QUEUED_BYTES or self._endings.bytes > QUEUED_BYTES
        return 0 if full or (self.repair is not None and self.repair.full) else self.most_room

    @property
    def most_room(self) -> int:
        """How many may be fed. It shrinks by what is fed alone, so whoever was told of room has it."""
        if not self._input_open:
            return 0
        beside = self.repair.beside if self.repair is not None else 0
        return max(0, 3 * self._width + 64 - self.account.pending - len(self._endings) + beside)

    @property
    def calls(self) -> int:
        """Calls that were made for items; not those of a repair."""
        return self._tally.calls

    @property
    def retries(self) -> int:
        """Those among them that were tried again."""
        return self._tally.retries

    @property
    def spent(self) -> int:
        """Nano-dollars that they cost."""
        return self._tally.spent

    def feed(self, items: Sequence[Item]) -> None:
        """More items. They are pending from now on."""
        self.account = self.account.grown(len(items))
        asked: list[Waiting] = []
        for item in items:
            if item.unreadable:
                self._end(Ended(item, "quarantined", fault=Fault("content", "unreadable", item.unreadable)))
            elif self.stopped is not None:
                self._end(Ended(item, "skipped", fault=self.stopped))
            else:
                asked.append(Waiting(item))
        self._plant(self._known.mix(asked, self.spec.expected - self.account.items))

    def _plant(self, waiting: Sequence[Waiting]) -> None:
        """Put into the line what came, and what the box's owner has planted among it."""
        for one in waiting:
            self._planted += one.known is not None
            self._line.add(one)
        self._put_to_work()

    def _put_to_work(self) -> None:
        for _ in range(min(self._width - len(self._workers), len(self._line))):
            self._workers.add(asyncio.create_task(self._work()))

    def close_input(self) -> None:
        """There is nothing more to come."""
        self._input_open = False
        self._plant_rest()
        self._look_after_repair()

    def _plant_rest(self) -> None:
        if self.stopped is None and not self._halt.is_set():
            self._plant(self._known.rest())

    @property
    def waiting(self) -> int:
        """Endings that nobody has taken yet."""
        return len(self._endings)

    @property
    def finished(self) -> bool:
        """Whether every item has ended and was taken."""
        repairs = self.repair is not None and self.repair.going_on
        busy = repairs or self._planted > 0
        return not self._input_open and self.account.pending == 0 and not self._endings and not busy

    @property
    def settled(self) -> bool:
        """Whether all that came has ended, or waits for more that fail like it."""
        if self.repair is None or self._planted:
            return self.account.pending == 0 == self._planted
        return self.account.pending == self.repair.held and not self.repair.going_on

    async def take(self, most_bytes: int, linger: float, *, gate: bool = False) -> list[Ended]:
        """Endings, in the order in which they happened: as many as fit, after at most `linger` seconds.

        It returns sooner when more items are wanted, but not at a `gate`, where there are none until all that came have ended.
        """
        with_deadline = time.monotonic() + linger
        self._gated = gate
        self._look_after_repair()
        while not self._enough(most_bytes, gate) and (left := with_deadline - time.monotonic()) > 0:
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                break
        self._results.flush()
        taken = self._endings.take(most_bytes)
        if self.repair is not None:
            self.repair.beside -= sum(ended.parked for ended in taken)
        return taken

    def _enough(self, most_bytes: int, gate: bool) -> bool:
        runs_low = self._input_open and not gate and len(self._line) < self._width and self.room > 0
        repairs = self.repair is not None and self.repair.going_on
        ended = self.settled if gate else self.account.pending == 0 and not repairs and not self._planted
        return ended or runs_low or self._endings.bytes >= most_bytes

    def judge(self, free: int | None) -> None:
        """What came so far was the canary, and all of it has ended: go on, or stop. `free`: nano-dollars left, None for no limit."""
        if self.canary is not None or not self.settled or self.stopped is not None:
            return
        account, why = self.account, ""
        held = self.repair.held if self.repair is not None else 0
        failed, looked_at = account.failed + account.quarantined + held, account.done + held
        rate = failed / looked_at if looked_at else 0.0
        _, to_come = self.costs()
        if rate > self.spec.max_failure_rate:
            why = f"{rate:.0%} of the first {looked_at} items failed: mend the prompt, or --max-failure-rate"
        elif free is not None and to_come > free:
            why = f"the rest would cost about {format_money(to_come)}, and {format_money(free)} is left: --no-canary asks all the same"
        self.canary = Canary(looked_at, failed, round(rate, 4), self.projected, why, self._first_failed)
        self.told.canary(self.canary)
        if why:
            self.stop(Fault("terminal", "canary", why))
        self._judge_known()

    # --- its end ----------------------------------------------------------------------------------------------------------------

    def stop(self, fault: Fault) -> None:
        """No further call: what waits is skipped, what is in flight ends."""
        if self.stopped is None:
            self.stopped = fault
            self._stop_all()
            while self._line:
                self._unasked(self._line.next(), fault)
            self._look_after_repair()

    def _stop_all(self) -> None:
        self._halt.set()
        self._stop_asking()

    async def abandon(self) -> None:
        """Nobody takes endings any more: calls in flight end and are kept for whoever asks again, what waits stays pending."""
        self._line.clear()
        self._input_open = False
        self._stop_all()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self.repair is not None:
            await self.repair.close()
        self.finish("abandoned")

    async def cut(self) -> None:
        """The run ends: nothing is waited for."""
        self._line.clear()
        self._stop_all()
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self.repair is not None:
            await self.repair.close(cut=True)
        self.finish("cut")

    def conclude(self) -> None:
        """All has ended: where no gate did, the known answers decide now."""
        if self.stopped is None:
            self.stopped = self._known.verdict()

    def finish(self, how: End) -> None:
        """Put its end on record, once. What never came counts as pending, unless the input was closed."""
        if self._over:
            return
        self._over = True
        self._halt.set()
        if how in ("abandoned", "cut"):
            self.account = self.account.grown(max(0, self.spec.expected - self.account.items))
        elif self.repair is not None:
            self.repair.settle()
        self._results.flush()
        repair = self.repair.as_json() if self.repair is not None and self.repair.tries else {}
        self.told.end(how, self.account, self._tally, self.use, self.stopped, self._known_as_json(), repair)

    def _known_as_json(self) -> dict[str, int]:
        known = self._known
        if not known.known:
            return {}
        return {"asked": known.asked, "right": known.right, "nano_usd": self._known_tally.spent}

    @property
    def projected(self) -> int:
        """Nano-dollars of the whole map, from what its items have cost so far."""
        asked = self.account.done - self.account.skipped + (self.repair.held if self.repair is not None else 0)
        return self.spent * max(self.spec.expected, self.account.items) // asked if asked else 0

    def tell(self) -> None:
        """Put on record how far it is, where that has changed and a second has passed."""
        if not self._over:
            self.told.progress(self.account, self._tally, self.projected, self.repair.held if self.repair is not None else 0)

    # --- one item ---------------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._line:
                one = self._line.next()
                self._asked += 1
                await self._surely(one)
                self._asked -= 1
                self._look_after_repair()
                self.tell()
        finally:
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))  # before anybody counts who works

    async def _surely(self, one: Waiting) -> None:
        """Ask about it, also where something of ours fails: that ends the map."""
        spec = one.spec or (self.repair.default if self.repair else self.spec)
        try:
            # What was answered to the first prompt is not asked of a later one.
            known = self._questions.found(self.spec, one.item.text) if spec is not self.spec and one.known is None else None
            tally = self._known_tally if one.known is not None else self._tally
            reply = known or await self._questions.reply(self._ask, spec, one.item.text, tally)
        except GearcaseError as error:  # the store or the journal refuses
            reply = Reply(Fault("terminal", error.code, f"{error.message}; {error.remedy}"))
        except Exception:
            _log.exception("an item of %s failed", self.name)
            fault = Fault("terminal", "internal", "Gearcase itself failed; the operator finds the cause in the run's log")
            reply = Reply(fault)
        self._sort(one, spec, reply)

    def _sort(self, one: Waiting, spec: MapSpec, reply: Reply) -> None:
        """What becomes of an item after it was asked about."""
        outcome, prompt = reply.outcome, spec.prompt_hash
        if one.known is not None:
            self._sort_known(one, one.known, prompt, reply)
            return
        if isinstance(outcome, Answered):
            if self.repair is not None:
                if one.tries:
                    self.repair.mended += 1
                self.repair.passed(one.item.text, outcome.answer)
            self._end(one.answered(outcome.answer, reply.prompt or prompt, reply.attempts, reply.cost, found=reply.found))
            return
        if outcome.kind == "terminal":
            if outcome.code != HALTED:
                self.stop(outcome)
            self._unasked(replace(one, attempts=one.attempts + reply.attempts, cost=one.cost + reply.cost), outcome)
            return
        one = one.failed(prompt, outcome, reply.attempts, reply.cost)
        self._first_failed += len(one.tries) == 1
        if self.repair is not None and self.repair.takes(one):
            return
        self._end(one.ended("failed" if outcome.kind == "transient" else "quarantined"))

    def _sort_known(self, one: Waiting, known: Known, prompt: str, reply: Reply) -> None:
        """What a planted item came to: counted, and told to nobody inside."""
        outcome = reply.outcome
        if isinstance(outcome, Fault) and outcome.kind == "content" and self.repair is not None:
            one = one.failed(prompt, outcome, reply.attempts, reply.cost)
            if (cure := self.repair.cure(one)) is not None:
                self.again([replace(one, spec=cure)])
                return
        self._planted -= 1
        if isinstance(outcome, Answered):
            self._known.count(known, outcome.answer)
        elif outcome.kind == "content":
            self._known.count(known, None)
        elif outcome.kind == "terminal" and outcome.code != HALTED:
            self.stop(outcome)
        if self.canary is not None or self.account.done > _UNGATED:  # before its gate the prompt may still be repaired
            self._judge_known()
        self._news.set()

    def _unasked(self, one: Waiting, fault: Fault) -> None:
        """It is not asked about any more: skipped, unless it has failed before."""
        if one.known is not None:
            self._planted -= 1
            return
        if self.stopped is not None and one.tries:
            self._end(one.ended("quarantined"))
        else:
            self._end(one.ended("skipped", self.stopped or fault))

    # --- what a repair needs (`repair.Host`) ------------------------------------------------------------------------------------

    def outlook(self) -> tuple[int, int]:
        """How many items were looked at, and how many are to come."""
        in_line = sum(not one.tries for one in self._line)
        held = self.repair.held if self.repair is not None else 0
        to_come = max(0, self.spec.expected - self.account.items) + in_line
        return self.account.done - self.account.skipped + held, to_come

    def _judge_known(self) -> None:
        if fault := self._known.verdict():
            self.stop(fault)

    def costs(self) -> tuple[int, int]:
        """Nano-dollars: of the whole map as projected, and of what is to come."""
        return self.projected, max(0, self.projected - self.spent)

    def end(self, ended: Ended) -> None:
        """An item has ended."""
        self._end(ended)

    def again(self, waiting: Sequence[Waiting]) -> None:
        """Items to be asked about once more, each with the prompt that it names. They come before those that were never asked about."""
        for one in waiting:
            if self.stopped is not None:
                self._unasked(one, self.stopped)
            else:
                self._line.add(one, first=True)
        self._put_to_work()

    def record(self, event: PromptTried) -> None:
        """Put it on record; keep what was found for a later map of the same question."""
        self.told.record(event)
        if event.decision == "refused":
            return
        if self.repair is not None:
            self._results.learn(self.spec.digest(), self.repair.learned())
        if self._known.known:
            self._known.again()
            if not self._input_open:
                self._plant_rest()

    def repaired(self) -> None:
        """A repair has ended: there may be something to do."""
        self._look_after_repair()

    def _look_after_repair(self) -> None:
        if self.repair is None or self._over:
            return
        if self.stopped is not None:
            self.repair.give_up()
        else:
            idle = not self._line and not self._asked
            gate = idle and (self._gated or not self._input_open)
            self.repair.consider(idle=gate, last=idle and not self._input_open)
        self._news.set()

    # --- an ending --------------------------------------------------------------------------------------------------------------

    def _remember(self, ended: Ended) -> None:
        """An answer to a rewritten prompt is the answer to the first one, too: the same map begun again asks nothing that is finished."""
        if ended.state == "ok" and not ended.found and ended.prompt != self.spec.prompt_hash:
            try:
                self._questions.keep(self.spec, ended.item.text, Kept(ended.answer, ended.attempts, ended.cost, ended.prompt))
            except GearcaseError as error:
                self.stop(Fault("terminal", error.code, f"{error.message}; {error.remedy}"))

    def _end(self, ended: Ended) -> None:
        if self.stopped is None and self._halt.is_set() and ended.state == "skipped":
            return  # abandoned, not stopped: it stays pending
        self._remember(ended)
        self.account = self.account.ended(ended.state)
        self._endings.add(ended)
        fault = self.told.ended(ended, self.account)
        self._news.set()
        if fault is not None:
            self.stop(fault)
