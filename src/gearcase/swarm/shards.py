"""Questions become tasks of an engine, and what comes back becomes outcomes.

A map asks item by item. What is asked in one turn, and what stands in line because the engine is full, is cut into shards: as many as
there is room for, so that no node waits for another one's work. What a task did not begin comes back and is asked again; what may
have been in flight on a node that is lost has failed transiently.

Invariants: every question gets one outcome, or its asker is cancelled; a task in which nobody is interested any more is cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gearcase.errors import GearcaseError
from gearcase.seams import Done, Engine, EngineEvent, Lost, Started, Task
from gearcase.swarm.worker import Fault, Outcome, fault_of, outcome_of

UNBEGUN = "unbegun"
"""The class of a question that came back with its task: it was not asked, and can be at once."""
_PAUSE = 1.0  # seconds, where nothing at all was begun


@dataclass(slots=True)
class _Question:
    text: str
    answer: asyncio.Future[Outcome]
    task: str = ""


@dataclass(slots=True)
class _Shard:
    """A task that is under way: its questions by their places, those without an answer in `open`."""

    asking: Asking
    questions: list[_Question]
    open: set[int] = field(default_factory=set[int])
    cancelled: bool = False
    broken: bool = False


class Asking:
    """Asks one kind of question. `work` says how, as plain JSON; `at_once` of a task. Calls never raise but for being cancelled.

    `width`: how many questions keep all that the engine has busy.
    """

    def __init__(self, shards: Shards, work: Mapping[str, Any], at_once: int, width: int) -> None:
        self.work = work
        self.at_once = at_once
        self.width = width
        self.line: deque[_Question] = deque()
        self._shards = shards

    async def __call__(self, text: str) -> Outcome:
        """Ask once."""
        question = _Question(text, asyncio.get_running_loop().create_future())
        self.line.append(question)
        self._shards.asked(self)
        try:
            return await question.answer
        except asyncio.CancelledError:
            self._shards.left(question)
            raise

    def stop(self) -> None:
        """Begin nothing further: what is in line comes back unasked, what is going on ends."""
        self._shards.stop(self)


class Shards:
    """The tasks of one engine. Make it in a running loop; `close` it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.begun: Counter[str] = Counter()
        """Tasks that were begun, by node."""
        self._line: list[Asking] = []
        self._tasks: dict[str, _Shard] = {}
        self._numbers: Iterator[int] = itertools.count(1)
        self._due = False
        self._beginning = 0
        self._helpers: set[asyncio.Task[Any]] = set()
        self._reader = asyncio.create_task(self._read())

    def asking(self, work: Mapping[str, Any], at_once: int, width: int) -> Asking:
        """Who asks in this way."""
        return Asking(self, work, at_once, width)

    async def quiet(self) -> None:
        """Until what was cancelled, or is being begun, has been told to the engine."""
        while self._helpers:
            await asyncio.gather(*self._helpers, return_exceptions=True)

    async def close(self) -> tuple[str, ...]:
        """End the engine and what is going on in it; returns what stayed. Idempotent."""
        stayed = await self.engine.close()
        helpers = [*self._helpers, self._reader]
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        return stayed

    # --- what an asker says -----------------------------------------------------------------------------------------------------

    def asked(self, asking: Asking) -> None:
        """Something stands in its line."""
        if asking not in self._line:
            self._line.append(asking)
        self._soon()

    def left(self, question: _Question) -> None:
        """Nobody waits for this one any more."""
        if (shard := self._tasks.get(question.task)) is None or shard.broken:
            return
        if all(shard.questions[place].answer.done() for place in shard.open):
            shard.cancelled = shard.broken = True
            self._help(self.engine.cancel(question.task, hard=True))

    def stop(self, asking: Asking) -> None:
        """See `Asking.stop`."""
        while asking.line:
            _tell(asking.line.popleft(), Fault("waiting", UNBEGUN, "the map has stopped", wait=0.0))
        for name, shard in self._tasks.items():
            if shard.asking is asking and not shard.cancelled:
                shard.cancelled = True
                self._help(self.engine.cancel(name, hard=False))

    # --- tasks ------------------------------------------------------------------------------------------------------------------

    def _soon(self) -> None:
        """Look after the line once what is asked in this turn is in it."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._due = False
        while self._line and (free := self.engine.capacity().free - self._beginning) > 0:
            asking = self._line.pop(0)
            questions = [one for one in asking.line if not one.answer.done()]
            count = min(self.engine.capacity().shard, -(-len(questions) // free))
            asking.line = deque(questions[count:])
            if asking.line:
                self._line.append(asking)
            if count:
                self._begin(asking, questions[:count])

    def _begin(self, asking: Asking, questions: list[_Question]) -> None:
        task = Task(f"t{next(self._numbers)}", asking.work, tuple(one.text for one in questions), asking.at_once)
        self._tasks[task.id] = _Shard(asking, questions, set(range(len(questions))))
        for one in questions:
            one.task = task.id
        self._beginning += 1  # the engine does not know of it yet
        self._help(self._submit(task))

    async def _submit(self, task: Task) -> None:
        self._beginning -= 1
        if self._line:
            self._soon()
        if self._tasks[task.id].cancelled:
            return self._end(task.id, Fault("waiting", UNBEGUN, "the map has stopped", wait=0.0))
        try:
            await self.engine.submit(task)
        except GearcaseError as error:
            self._end(task.id, fault_of(error))
        return None

    def _help(self, work: Any) -> None:
        helper = asyncio.ensure_future(work)
        self._helpers.add(helper)
        helper.add_done_callback(self._helpers.discard)

    # --- what the engine says ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        async for event in self.engine.events():
            self._happened(event)

    def _happened(self, event: EngineEvent) -> None:
        shard = self._tasks.get(event.task)
        if isinstance(event, Started):
            self.begun[event.node] += 1
        elif shard is None:
            return
        elif isinstance(event, Done):
            for place, told in event.answers:
                shard.open.discard(place)
                _tell(shard.questions[place], outcome_of(told))
            if event.over:
                untouched = len(shard.open) == len(shard.questions)
                pause = _PAUSE if untouched and not shard.cancelled else 0.0
                self._end(event.task, Fault("waiting", UNBEGUN, "its task ended before it", wait=pause))
        else:
            self._lost(event, shard)

    def _lost(self, event: Lost, shard: _Shard) -> None:
        """Items are begun in their order: the first of those without an answer may have been asked, and the others were not."""
        cost, asked = event.spent, 2 * shard.asking.at_once  # the answers of as many may have been on their way
        why = f"it was on node {event.node}, of which nothing more comes: {event.why}"
        for place in sorted(shard.open)[:asked]:
            shard.open.discard(place)
            _tell(shard.questions[place], Fault("transient", "lost", why, cost, wait=0.0))
            cost = 0
        self._end(event.task, Fault("waiting", UNBEGUN, why, wait=0.0))

    def _end(self, name: str, rest: Fault) -> None:
        shard = self._tasks.pop(name)
        for place in shard.open:
            _tell(shard.questions[place], rest)
        if self._line:
            self._soon()


def _tell(question: _Question, outcome: Outcome) -> None:
    if not question.answer.done():
        question.answer.set_result(outcome)
