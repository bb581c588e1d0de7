"""Repair of a map's prompt: items that fail in the same way wait while the prompt is rewritten and the rewrite is tested on them.

The largest cluster comes first. A rewrite is accepted if more than half of a sample of the cluster passes, and then more than half of
another sample: two looks at different items, because what has passed is that item's answer and is not asked about again. Where it would
become the prompt of what is still to come, none of KEEPERS items that passed before may fail with it; else it serves its own cluster
alone. Then the rest of the cluster runs again with it, and only that.

Invariants: an item that waits here is pending; it ends once, here or after it was given back; whatever the repair asks is paid from an
account of its own, carved out of the map's; a signature is tried TRIES times without success, a map MAP_TRIES times, a prompt once for
an item.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gearcase.errors import GearcaseError
from gearcase.events import PromptTried
from gearcase.swarm import optimizing
from gearcase.swarm.desk import Desk, Host
from gearcase.swarm.items import MapSpec, Waiting, hash_of
from gearcase.swarm.learned import Learned
from gearcase.swarm.looks import SAMPLE, Candidate, Look
from gearcase.swarm.questions import HALTED, Questions, Reply, Tally
from gearcase.swarm.rewriting import FAILING, PASSING, Evidence, Rewrite, Tried, read, request
from gearcase.swarm.signature import Signature, signature_of
from gearcase.swarm.worker import Answered, Fault

TRIES = 2
"""Rewrites for one signature."""
MAP_TRIES = 6
"""Rewrites for one map."""
KEEPERS = 24
"""Items that passed before, of which none may fail."""
WORTH = 20
"""Failures of one signature that are worth a rewrite while the map goes on; when it has come to its end or its gate, LEAST are."""
LEAST = 2
MOST_PARKED = 500
"""Items that wait here before no more are fed."""
_AT_ONCE = 8
_TOLD = 3  # earlier rewrites that the repair model is told of
_log = logging.getLogger(__name__)
_LONGEST_KEEPER = 16 * 1024
_NOT_OF_THE_PROMPT = frozenset({"unreadable", "too_long", "refused", "bad_request", "denied", "lost", "time", "limit", "signal"})


@dataclass(slots=True)
class _Cluster:
    signature: Signature
    parked: list[Waiting] = field(default_factory=list[Waiting])
    tries: int = 0
    variant: MapSpec | None = None
    before: list[Tried] = field(default_factory=list[Tried])


class Repair:
    """The repair of one map's prompt. `default` is the prompt of items that are still to come; `held` items wait here.

    `beside` counts those that waited here and were not taken yet: they take no room of others.
    """

    def __init__(self, spec: MapSpec, desk: Desk, questions: Questions, host: Host, learned: Learned | None = None) -> None:
        self.default = spec
        self.tally = Tally()
        self.tries = self.accepted = self.mended = 0
        self.budget: int | None = 0
        self.over = ""
        self.held = self.held_bytes = self.beside = 0
        self._desk = desk
        self._questions = questions
        self._host = host
        self._opened = False
        self._clusters: dict[Signature, _Cluster] = {}
        self._used = {spec.prompt}
        self._keepers: list[tuple[str, str]] = []
        self._passes = 0
        self._chance = random.Random(0)
        self._task: asyncio.Task[None] | None = None
        self._tries = TRIES, MAP_TRIES
        if spec.optimizer:
            self._tries = optimizing.TRIES, optimizing.MAP_TRIES
        if learned is not None:
            self.default = replace(spec, prompt=learned.default)
            self._used |= {learned.default, *learned.variants.values()}
            for signature, text in learned.variants.items():
                self._clusters[signature] = _Cluster(signature, variant=replace(spec, prompt=text))

    def learned(self) -> Learned:
        """What another map of the same question can begin with."""
        variants = {one.signature: one.variant.prompt for one in self._clusters.values() if one.variant is not None}
        return Learned(self.default.prompt, variants)

    # --- what comes in --------------------------------------------------------------------------------------------------------

    @property
    def going_on(self) -> bool:
        """Whether a rewrite is being made or tested."""
        return self._task is not None

    @property
    def full(self) -> bool:
        """Whether so much waits here that no more should come."""
        return self.held >= MOST_PARKED or self.held_bytes >= 4 * 1024 * 1024

    def passed(self, text: str, answer: str) -> None:
        """An item passed: a few of them, spread over all, are what a rewrite must not break."""
        self._passes += 1
        if len(text) + len(answer) > _LONGEST_KEEPER:
            return
        if len(self._keepers) < KEEPERS:
            self._keepers.append((text, answer))
        elif (at := self._chance.randrange(self._passes)) < KEEPERS:
            self._keepers[at] = (text, answer)

    def cure(self, one: Waiting) -> MapSpec | None:
        """The prompt of the cluster that an item fails like, where it was not tried with it."""
        cluster = self._clusters.get(signature_of(one.tries[-1].fault))
        return cluster.variant if cluster is not None and cluster.variant is not None and _untried(one, cluster.variant) else None

    def takes(self, one: Waiting) -> bool:
        """Whether something is left to be tried for an item that failed; then it waits here, or goes back into the line."""
        fault = one.tries[-1].fault
        if fault.kind != "content" or fault.code in _NOT_OF_THE_PROMPT or self._questions.halt.is_set():
            return False
        cluster = self._clusters.get(signature_of(fault))
        if (cure := self.cure(one)) is not None:
            self._host.again([replace(one, spec=cure)])
            return True
        if not self._open(cluster):
            return False
        if cluster is None:
            if len(self._clusters) >= 200:  # failures that have nothing in common are no cluster
                return False
            cluster = self._clusters[signature_of(fault)] = _Cluster(signature_of(fault))
        self._park(cluster, one)
        return True

    def _open(self, cluster: _Cluster | None) -> bool:
        """Whether a rewrite for it may still come."""
        most, most_of_map = self._tries
        if self.over or (cluster is not None and cluster.tries >= most):
            return False
        return self.tries < most_of_map

    def _park(self, cluster: _Cluster, one: Waiting) -> None:
        self.beside += not one.parked
        cluster.parked.append(replace(one, parked=True))
        self.held += 1
        self.held_bytes += len(one.item.text)

    def _unpark(self, cluster: _Cluster) -> list[Waiting]:
        taken, cluster.parked = cluster.parked, []
        self._let_go(taken)
        return taken

    def _let_go(self, waiting: Sequence[Waiting]) -> None:
        self.held -= len(waiting)
        self.held_bytes -= sum(len(one.item.text) for one in waiting)

    # --- what happens with it -------------------------------------------------------------------------------------------------

    def consider(self, *, idle: bool, last: bool) -> None:
        """Begin a rewrite where one is worth it. `idle`: nothing else is going on; `last`: and nothing more will come."""
        if self._task is not None or self._questions.halt.is_set():
            return
        least = LEAST if idle or self.full else WORTH
        worth = [one for one in self._clusters.values() if self._open(one) and _different(one.parked) >= least]
        if worth:
            largest = max(worth, key=lambda cluster: len(cluster.parked))
            self._task = asyncio.create_task(self._surely(largest))
        elif last or self.full or self.over or self.tries >= self._tries[1]:
            self.give_up()

    def give_up(self) -> None:
        """Nothing more is tried for those that wait."""
        for cluster in self._clusters.values():
            self._quarantine(self._unpark(cluster))

    async def close(self, *, cut: bool = False) -> None:
        """Wait until what goes on has ended, or `cut` it; then settle. What waits stays pending."""
        if self._task is not None:
            if cut:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not cut:  # what is cut is settled with the run's accounts
            self.settle()

    def settle(self) -> None:
        """Give back what is left of the money. Idempotent."""
        if self._opened:
            self._opened = False
            self._desk.close()

    def as_json(self) -> dict[str, Any]:
        """For the account of the map. Nano-dollars."""
        told: dict[str, Any] = {"tries": self.tries, "accepted": self.accepted, "mended": self.mended, "calls": self.tally.calls}
        told |= {"nano_usd": self.tally.spent, "budget": self.budget, "prompt": self.default.prompt_hash}
        return {**told, "over": self.over} if self.over else told

    def _quarantine(self, waiting: Sequence[Waiting]) -> None:
        for one in waiting:
            self._host.end(one.ended("quarantined"))

    async def _surely(self, cluster: _Cluster) -> None:
        taken = self._unpark(cluster)
        self.held += len(taken)  # they are ours until each has gone somewhere
        self.held_bytes += sum(len(one.item.text) for one in taken)
        open_items = {id(one): one for one in taken}
        try:
            await self._mend(cluster, taken, open_items)
        except GearcaseError as error:
            self.over = f"{error.message}; {error.remedy}"
        except Exception:  # whatever it was would come again with the next try
            _log.exception("a repair of %s failed", self._host.name)
            self.over = "Gearcase itself failed; the operator finds the cause in the run's log"
        finally:
            rest = list(open_items.values())
            self._let_go(rest)
            for one in rest:
                self._park(cluster, one)
            self._task = None
        if not self._open(cluster):
            self._quarantine(self._unpark(cluster))
        self._host.repaired()

    async def _mend(self, cluster: _Cluster, taken: list[Waiting], mine: dict[int, Waiting]) -> None:
        """One rewrite for a cluster, and its test; or a search for one. What leaves `mine` went somewhere."""
        if not self._opened:
            self.budget = self._desk.open(*self._host.costs())
            self._opened = True
        parent = cluster.variant or self.default
        if parent.optimizer:
            await self._optimize(cluster, parent, mine)
            return
        failing = _evidence(taken)
        candidate = await self._rewrite(cluster, parent, parent, failing, len(taken))
        if candidate is not None:
            await self._test(cluster, candidate, failing, mine)

    async def _optimize(self, cluster: _Cluster, first: MapSpec, mine: dict[int, Waiting]) -> None:
        """Search for a prompt that mends a cluster. Those that are tried on the way are on record, too."""
        failing = len(mine)
        bench = optimizing.Bench(
            more=lambda: self._open(cluster) and not self._questions.halt.is_set(),
            rewrite=lambda parent, shown: self._rewrite(cluster, first, parent, shown[:FAILING], failing),
            look=lambda candidate, sample: self._look(sample, candidate, mine),
            refuse=lambda candidate, why: self._refuse(cluster, candidate, why, mine),
        )
        best = await optimizing.Search(first, mine, bench).best()
        if best is not None:
            await self._accept(cluster, best, mine)

    async def _rewrite(
        self, cluster: _Cluster, first: MapSpec, parent: MapSpec, shown: Sequence[Waiting], failing: int
    ) -> Candidate | None:
        """Ask for a rewrite of `parent`, from those that are `shown` of so many that fail; None where nothing comes of it, which is on
        record. What a rewrite may be is held against the `first` prompt: a step at a time it could grow without bound."""
        self.tries += 1
        cluster.tries += 1
        began = self.tally.spent
        evidence = Evidence(cluster.signature, shown, self._keepers[:PASSING], cluster.before[-_TOLD:])
        reply = await self._questions.until_it_ends(self._desk.rewrite, request(parent, evidence), self.tally)
        if isinstance(reply.outcome, Fault) and reply.outcome.code == HALTED:
            return None
        if isinstance(reply.outcome, Fault) and reply.outcome.kind != "content":
            self.over = f"the repair model cannot be asked: {reply.outcome.message}"
            rewrite = Rewrite(why=self.over)
        else:
            rewrite = read(reply.outcome, first, self._used)
        event = PromptTried(
            map=self._host.name,
            parent=parent.prompt_hash,
            prompt=hash_of(rewrite.prompt) if rewrite.prompt else "",
            text=rewrite.prompt,
            model=self._desk.model,
            signature={name: getattr(cluster.signature, name) for name in ("stage", "code", "path", "keyword", "message")},
            failing=failing,
            evidence=[one.item.number for one in shown],
            attempt=cluster.tries,
            diagnosis=rewrite.diagnosis,
            optimizer=parent.optimizer,
        )
        candidate = Candidate(replace(parent, prompt=rewrite.prompt), event, self.tally.spent - began)
        if rewrite.why:
            self._refuse(cluster, candidate, rewrite.why, {})
            return None
        self._used.add(rewrite.prompt)
        return candidate

    async def _test(self, cluster: _Cluster, candidate: Candidate, shown: Sequence[Waiting], mine: dict[int, Waiting]) -> None:
        # Those that the repair model has not seen come first: it may have written the prompt for the others alone. Each text is asked
        # about once: what is found would be no second look.
        keys = {one.item.text: key for key, one in mine.items()}
        seen = [keys.pop(one.item.text) for one in shown]
        sample = [*keys.values(), *seen]
        first = sample[: min(SAMPLE, (len(sample) + 1) // 2)]
        if (await self._look(first, candidate, mine)).most:
            await self._look(sample[len(first) :][:SAMPLE], candidate, mine)
        if why := candidate.doubt:
            self._refuse(cluster, candidate, why, mine)
            failed = [mine.pop(key) for look in candidate.looks for key in look.failed]
            self._let_go(failed)
            self._sort(failed, cluster)
        else:
            await self._accept(cluster, candidate, mine)

    def _refuse(self, cluster: _Cluster, candidate: Candidate, why: str, mine: Mapping[int, Waiting]) -> None:
        """Put it on record; what came of it is told with the next request for the cluster."""
        last = candidate.looks[-1] if candidate.looks else None
        said = f"{why}: {last.passed} of {last.seen}" if last is not None else why
        passed = [pair for look in candidate.looks for pair in look.answers]
        failed = [mine[key] for look in candidate.looks for key in look.failed if key in mine]
        cluster.before.append(Tried(candidate.spec.prompt, said, passed[:PASSING], failed[:PASSING]))
        self._host.record(candidate.told().but(decision="refused", why=why))

    async def _accept(self, cluster: _Cluster, candidate: Candidate, mine: dict[int, Waiting]) -> None:
        """It is the prompt of its cluster, or of all that is to come; what failed and was not asked with it is asked now."""
        decision, why, kept = await self._scope(candidate, candidate.event.failing)
        event = candidate.told()
        if kept is not None:
            event = event.but(kept=kept.as_json())
        if decision == "default":
            self.default = candidate.spec
            self._meet_default(cluster)
        cluster.variant = candidate.spec
        cluster.tries = 0  # the cap is for rewrites that do not help
        self.accepted += 1
        self._host.record(event.but(decision=decision, why=why))
        rest = [*mine.values(), *self._unpark(cluster)]
        self._let_go(list(mine.values()))
        mine.clear()
        self._host.again([replace(one, spec=candidate.spec) for one in rest if _untried(one, candidate.spec)])
        self._sort([one for one in rest if not _untried(one, candidate.spec)], cluster)

    def _meet_default(self, but: _Cluster) -> None:
        """Ask again about what other clusters hold: it failed under the prompt that was the default before, and may not under this."""
        for cluster in self._clusters.values():
            if cluster is but or cluster.variant is not None:
                continue
            waiting = self._unpark(cluster)
            self._host.again([replace(one, spec=self.default) for one in waiting if _untried(one, self.default)])
            for one in waiting:
                if not _untried(one, self.default):
                    self._park(cluster, one)

    def _sort(self, failed: Sequence[Waiting], cluster: _Cluster) -> None:
        """What failed in a test too: there may be another prompt for it, or one more try."""
        for one in failed:
            if not self.takes(one):
                self._quarantine([one])

    async def _scope(self, candidate: Candidate, failing: int) -> tuple[str, str, Look | None]:
        """Whom an accepted prompt serves: the default of all that is to come, or its own cluster."""
        looked_at, to_come = self._host.outlook()
        likely = failing * to_come / max(1, looked_at)
        if likely <= len(self._keepers):  # asking these few twice is cheaper than the test
            return "cluster", "few items to come would need it" if to_come else "nothing is to come", None
        kept, began = Look(), self.tally.spent
        for at in range(0, len(self._keepers), _AT_ONCE):
            some = self._keepers[at : at + _AT_ONCE]
            replies = await asyncio.gather(*(self._reply(candidate.spec, text) for text, _ in some))
            kept.seen += len(replies)
            kept.passed += sum(isinstance(reply.outcome, Answered) for reply in replies)
            if kept.passed < kept.seen:
                break
        candidate.spent += self.tally.spent - began
        if kept.passed < kept.seen:
            return "cluster", "an item that passed before fails with it, or could not be asked about", kept
        return "default", "", kept

    async def _look(self, sample: Sequence[int], candidate: Candidate, mine: dict[int, Waiting]) -> Look:
        """Ask about some of them. An answer that fits is that item's answer, whatever becomes of the prompt."""
        look, began = Look(), self.tally.spent
        candidate.looks.append(look)
        await asyncio.gather(*(self._one(key, candidate.spec, look, mine) for key in sample))
        candidate.spent += self.tally.spent - began
        if look.stopped is not None and look.stopped.code != HALTED:
            self.over = f"the test cannot be paid for or asked: {look.stopped.message}"
        return look

    async def _one(self, key: int, candidate: MapSpec, look: Look, mine: dict[int, Waiting]) -> None:
        one = mine[key]
        reply = await self._reply(candidate, one.item.text)
        outcome = reply.outcome
        if isinstance(outcome, Answered):
            look.seen += 1
            look.passed += 1
            look.answers.append((one.item.text, outcome.answer))
            self._let_go([mine.pop(key)])
            self.mended += 1
            prompt = candidate.prompt_hash
            self._host.end(one.answered(outcome.answer, prompt, reply.attempts, reply.cost, found=reply.found))
            for twin in [other for other, waiting in mine.items() if waiting.item.text == one.item.text]:
                same = mine.pop(twin)  # one text is one question, whatever becomes of the rewrite
                self._let_go([same])
                self.mended += 1
                self._host.end(same.answered(outcome.answer, prompt, 0, 0, found=True))
        elif outcome.kind == "content":
            look.seen += 1
            look.failed.append(key)
            mine[key] = one.failed(candidate.prompt_hash, outcome, reply.attempts, reply.cost)
        else:
            look.stopped = outcome
            mine[key] = replace(one, attempts=one.attempts + reply.attempts, cost=one.cost + reply.cost)

    async def _reply(self, candidate: MapSpec, text: str) -> Reply:
        """What a test's question came to, also where something of ours fails: that ends the test, and loses no item."""
        try:
            return await self._questions.reply(self._desk.ask, candidate, text, self.tally)
        except GearcaseError as error:  # the store or the journal refuses
            return Reply(Fault("terminal", error.code, f"{error.message}; {error.remedy}"))


def _different(waiting: Sequence[Waiting]) -> int:
    return len({one.item.text for one in waiting})


def _untried(one: Waiting, spec: MapSpec) -> bool:
    return all(before.prompt != spec.prompt_hash for before in one.tries)


def _evidence(waiting: Sequence[Waiting]) -> list[Waiting]:
    """At most FAILING, of different texts, spread over those that wait."""
    different = list({one.item.text: one for one in waiting}.values())
    count = min(FAILING, len(different))
    return [different[(2 * at + 1) * len(different) // (2 * count)] for at in range(count)]
