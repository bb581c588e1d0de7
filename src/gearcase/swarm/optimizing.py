"""`--optimizer gepa`: the package gepa searches for a better prompt, with the tests of a repair as its evaluator.

Each round it picks a prompt that it has, one of those that are best for some item, and shows the repair model items that fail under it.
The rewrite is tested on those, then on others: the two looks of a repair. One that helps only some may be the parent of the next. The
best of those that pass both looks is the result; the repair's own rule then decides whom it serves.

gepa is synchronous and thinks in a thread of its own; whatever touches the map, its items or its money is done on the event loop, while
the thread waits for it. Its state stays in memory: it is given no folder, so no pickle of it is written or read.

Invariants: an item that passes is answered and is not asked about again, so prompts are compared by different items; a parent is never
asked anew, its failures are known; nothing is asked after `more` has said no, or after whoever waits for the result was cancelled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import importlib.util
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from gearcase.errors import UsageError
from gearcase.swarm.items import MapSpec, Waiting
from gearcase.swarm.looks import SAMPLE, Candidate, Look

TRIES = 8
"""Rewrites for one signature."""
MAP_TRIES = 24
"""Rewrites for one map."""
_PART = "prompt"  # the one part of a candidate that gepa may change
_log = logging.getLogger(__name__)
T = TypeVar("T")


def require() -> None:
    """Nothing where gepa is installed. Raises UsageError `no_gepa`."""
    if importlib.util.find_spec("gepa") is None:
        raise UsageError(
            "no_gepa",
            "the optimizer gepa is not installed where this box was started",
            remedy="pip install 'gearcase[gepa]' there, beside gearcase; or leave the optimizer out",
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """What a search works with, all of it on the event loop and paid by the repair.

    `more`: whether another rewrite may be asked for. `rewrite` a prompt, from items that fail under it: None where nothing comes of it,
    which is on record. `look` at a rewrite with these items: one that passes has its answer, and waits no more. `refuse` a rewrite: put
    it on record, and why.
    """

    more: Callable[[], bool]
    rewrite: Callable[[MapSpec, Sequence[Waiting]], Awaitable[Candidate | None]]
    look: Callable[[Candidate, Sequence[int]], Awaitable[Look]]
    refuse: Callable[[Candidate, str], None]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What gepa calls an EvaluationBatch."""

    outputs: list[None]
    scores: list[float]
    trajectories: list[int]
    objective_scores: None = None
    num_metric_calls: None = None


class _Over(BaseException):
    """Unwinds gepa, which goes on after any Exception of a round."""


class Search:
    """The search for one cluster. `waiting`: its items by their keys, which the bench keeps up to date; one text is one question."""

    def __init__(self, parent: MapSpec, waiting: Mapping[int, Waiting], bench: Bench) -> None:
        self._first = parent
        self._waiting = waiting
        self._bench = bench
        self._keys = list({one.item.text: key for key, one in waiting.items()}.values())
        self._specs = {parent.prompt: parent}
        self._now: Candidate | None = None
        self._best: Candidate | None = None
        self._over = False
        self._error: BaseException | None = None
        self._doing: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._chance = random.Random(0)
        self._shown: list[int] = []
        self._asked = True

    async def best(self) -> Candidate | None:
        """Search until a prompt has mended all that it was asked with, or there is nothing left to search with."""
        ended = self._loop.create_future()
        threading.Thread(target=self._think, args=(ended,), name="gepa", daemon=True).start()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._stop()
            while not ended.done():  # in a moment: the thread waits for us, or thinks
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({ended})
            self._settle()
            if self._best is not None:
                self._bench.refuse(self._best, "the search was broken off")
            raise
        self._settle()
        if self._error is not None:
            if self._best is not None:
                self._bench.refuse(self._best, "the search failed")
            raise self._error
        return self._best

    def _stop(self) -> None:
        self._over = True
        if self._doing is not None:
            self._doing.cancel()

    # --- on the event loop --------------------------------------------------------------------------------------------------------

    async def _rewritten(self, prompt: str, places: Sequence[int]) -> str:
        """A rewrite of a prompt, from items that fail under it; nothing where none came."""
        self._asked = True
        self._settle()
        if not self._bench.more():
            self._over = True
            return ""
        parent = self._specs[prompt]
        failing = [_under(parent, self._waiting[self._keys[place]]) for place in places]
        self._now = await self._bench.rewrite(parent, failing)
        if self._now is None:
            return ""
        self._specs[self._now.spec.prompt] = self._now.spec
        return self._now.spec.prompt

    async def _scores(self, prompt: str, places: Sequence[int]) -> list[float]:
        """1 for each item that has its answer, 0 for one that fails; a prompt that is not the one being tested is asked nothing."""
        now = self._now
        if now is not None and now.spec.prompt == prompt:
            sample = [self._keys[place] for place in self._open() if place in places and not self._failed(now.spec, place)]
            if sample:  # of a parent that was tested in the last round nothing is left to be asked
                look = await self._bench.look(now, sample)
                perfect = not now.doubt and now.share == 1
                self._over = self._over or perfect or look.stopped is not None
        return [0.0 if self._keys[place] in self._waiting else 1.0 for place in places]

    def _settle(self) -> None:
        """The prompt that was being tested is the best so far, or refused."""
        now, self._now = self._now, None
        if now is None:
            return
        if now.doubt or (self._best is not None and now.share <= self._best.share):
            self._bench.refuse(now, now.doubt or "one that was tried before passes more")
            return
        if self._best is not None:
            self._bench.refuse(self._best, "one that was tried later passes more")
        self._best = now

    async def _serve(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do it for the thread, unless the search is over; None then, and where it ended the search."""
        if self._over:
            return None
        self._doing = asyncio.current_task()
        try:
            result = await work()
        except Exception as error:
            self._error, self._over = error, True
            return None
        finally:
            self._doing = None
        return None if self._over else result

    # --- in the thread: the event loop does nothing with the items meanwhile -------------------------------------------------------

    def _think(self, ended: asyncio.Future[None]) -> None:
        try:
            optimize: Any = importlib.import_module("gepa.api").optimize
            policy: Any = importlib.import_module("gepa.strategies.eval_policy").FullEvaluationPolicy()
            places = list(range(len(self._keys)))
            optimize(
                seed_candidate={_PART: self._first.prompt},
                trainset=places,
                valset=places,
                adapter=self,
                sampling_strategy=self,
                val_evaluation_policy=SimpleNamespace(
                    get_eval_batch=self._others,
                    get_best_program=policy.get_best_program,
                    get_valset_score=policy.get_valset_score,
                ),
                stop_callbacks=_never,  # _Over ends it, in the middle of a round too
                logger=SimpleNamespace(log=_log.debug),
                run_dir=None,
                track_best_outputs=False,
            )
        except _Over:
            pass
        except Exception as error:
            self._error = self._error or error
        self._loop.call_soon_threadsafe(ended.set_result, None)

    def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """What the event loop makes of it."""
        try:
            result = asyncio.run_coroutine_threadsafe(self._serve(work), self._loop).result()
        except concurrent.futures.CancelledError:
            raise _Over from None
        if result is None:
            raise _Over
        return result

    def _open(self) -> list[int]:
        """The places of those that wait still."""
        return [place for place, key in enumerate(self._keys) if key in self._waiting]

    def _failed(self, spec: MapSpec, place: int) -> bool:
        tries = self._waiting[self._keys[place]].tries
        return spec is self._first or any(one.prompt == spec.prompt_hash for one in tries)

    def sample_tasks(self, state: Any, selector: Any, sampler: Any, trainset: Any) -> list[Any]:
        """What gepa asks for at the begin of a round: a prompt, and items that fail under it."""
        if not self._asked:  # it goes on after some errors, and would for ever
            raise RuntimeError("gepa begins another round, and asked for no rewrite in the last one")
        self._asked = False
        waiting = self._open()
        if len(waiting) < 2:  # the second look needs another item
            raise _Over
        index = int(selector.select_candidate_idx(state))
        spec = self._specs[state.program_candidates[index][_PART]]
        failing = [place for place in waiting if self._failed(spec, place)]
        if not failing:  # what it did not mend, another one has
            index, failing = 0, waiting
        self._shown = self._chance.sample(failing, min(SAMPLE, (len(waiting) + 1) // 2, len(failing)))
        task: Any = importlib.import_module("gepa.strategies.proposal_sampling").ProposalTask
        return [task(index, state.program_candidates[index], self._shown, list(self._shown))]

    def _others(self, loader: Any, state: Any, target: Any = None) -> list[int]:
        """The items of the second look: of those that the rewrite was not asked with."""
        others = [place for place in self._open() if place not in self._shown]
        return self._chance.sample(others, min(SAMPLE, len(others)))

    def evaluate(self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False) -> _Batch:
        """Of gepa's adapter: test a prompt."""
        prompt = candidate[_PART]
        scores = self._ask(lambda: self._scores(prompt, batch))
        return _Batch([None] * len(batch), scores, list(batch))

    def make_reflective_dataset(self, candidate: dict[str, str], tested: _Batch, parts: list[str]) -> dict[str, Any]:
        """Of gepa's adapter: the items from which the prompt is rewritten."""
        failing = [place for place, score in zip(tested.trajectories, tested.scores, strict=True) if score == 0]
        return {_PART: [{"place": place} for place in failing]}

    def propose_new_texts(self, candidate: dict[str, str], dataset: Mapping[str, Any], parts: list[str]) -> dict[str, str]:
        """Of gepa's adapter: the rewrite. It is the repair model's, asked for as any repair asks for it."""
        places = [cast("int", one["place"]) for one in dataset[_PART]]
        prompt = candidate[_PART]
        text = self._ask(lambda: self._rewritten(prompt, places))
        return {_PART: text} if text else {}


def _never(_state: object) -> bool:
    return False


def _under(spec: MapSpec, one: Waiting) -> Waiting:
    """An item as it failed under this prompt, whatever it was asked with later."""
    tries = [each for each in one.tries if each.prompt == spec.prompt_hash]
    return replace(one, tries=tuple(tries[-1:])) if tries else one
