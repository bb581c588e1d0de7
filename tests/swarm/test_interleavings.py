"""Agents, maps, repairs, failures, kills and crashes in any order, over one real ledger and one real store: what adds up, and is paid once.

The model writes its own bill before it answers: that is the witness. What a kill of the process leaves is what was on disk at that
moment; the next one begins from there, with the money that the last one left.
"""

import asyncio
import json
import os
import shutil
from collections import Counter

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from gearcase.errors import Refused
from gearcase.events import AccountOpened, MapEnded
from gearcase.ledger import Ledger
from gearcase.swarm.desk import Desk
from gearcase.swarm.items import Item
from gearcase.swarm.looks import SAMPLE
from gearcase.swarm.map import Map
from gearcase.swarm.questions import Questions
from gearcase.swarm.results import Results
from gearcase.swarm.worker import Answered, Fault
from tests.recorder import Facts
from tests.swarm.test_map import adds_up, at_once, ready, spec
from tests.test_ledger import Memory

EXAMPLES = int(os.environ.get("GEARCASE_EXAMPLES", "2000")) // 20
WORST, COST = 9, 7
KINDS = ("ok", "ok", "a", "b", "bad", "flaky")
TEXTS = [f"{KINDS[n % len(KINDS)]}{n}" for n in range(40)]


class Model:
    """`ok` fits, `a` and `b` with a prompt that says so, `flaky` the second time, `bad` never. `lost`: paid for, and kept by nobody."""

    def __init__(self):
        self.asked, self.answered, self.lost = Counter(), Counter(), Counter()
        self.billed = 0

    def bill(self, question):
        prompt, text = question.split("\n\n", 1)
        self.asked[prompt, text] += 1
        kind = text.rstrip("0123456789")
        if kind == "flaky" and self.asked[prompt, text] % 2:
            return Fault("transient", "busy", "later"), 0
        self.billed += COST
        if kind in ("ok", "flaky") or f"+{kind}" in prompt:
            self.answered[prompt, text] += 1
            return Answered(f'"{text}"', COST), COST
        return Fault("content", f"is_{kind}", "it does not fit", COST, answer="{}"), COST


class Process:
    """One life of a run's process: ledger, store, maps."""

    def __init__(self, folder, model, limit):
        self.folder, self.model, self.limit = folder, model, limit
        self.dead = False
        self.events, self.record = Memory(), Facts()
        self.ledger = Ledger(self.events)
        self.ledger.open("run", {"usd": limit})
        self.ledger.open("lead", {"usd": limit}, parent="run", agent="lead")
        self.results, self.flights = Results(folder / "results.sqlite"), {}
        self.agents, self.maps, self.numbers = ["lead"], [], Counter()

    def pays(self, account):
        async def ask(question):
            try:
                hold = self.ledger.hold(account, {"usd": WORST})
            except Refused as error:
                return Fault("terminal", "budget", error.message)
            try:
                self.ledger.sent(hold)
                await asyncio.sleep(0)
                outcome, cost = self.model.bill(question)
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not self.dead:
                    self.ledger.cut(hold, "cancelled")
                raise
            self.ledger.settle(hold, {"usd": cost})
            return outcome

        return ask

    def spawn(self, number):
        parent = self.agents[number % len(self.agents)]
        free = self.ledger.balance(parent, "usd").free
        name = f"{parent}.{self.numbers['agent']}"
        self.numbers["agent"] += 1
        self.ledger.open(name, {"usd": free * (number % 4) // 4}, parent=parent, agent=name)
        self.agents.append(name)

    def begin(self, number):
        agent = self.agents[number % len(self.agents)]
        texts = [text for at, text in enumerate(TEXTS) if (at * 7 + number) % 3]
        self.numbers["map"] += 1
        account = f"{agent} repair {self.numbers['map']}"

        def carve(projected, to_come):
            self.ledger.open(account, {"usd": self.ledger.balance(agent, "usd").free // 2}, parent=agent, agent=agent)
            return

        async def rewrite(question):
            outcome = await self.pays(account)("rewrite\n\nok")
            if isinstance(outcome, Fault):
                return outcome
            kinds = "".join(f" +{kind}" for kind in "ab" if f"is_{kind}" in question or number % 2)
            return Answered(json.dumps({"prompt": f"p{kinds}"}), COST)

        desk = Desk("lead", rewrite, self.pays(account), carve, lambda: self.ledger.close(account)) if number % 5 else None
        asked = spec(len(texts), concurrency=1 + number % 4, repair=desk is not None, optimizer="gepa" * (number % 3 == 0))
        shared = (self.results, self.flights, self.record, agent)
        learned = self.results.learned(asked.digest())
        made = Map("m", asked, self.pays(agent), *shared, ready=ready, desk=desk, learned=learned, sleep=at_once)
        self.maps.append((made, agent, [Item(at, f"f:{at}", text) for at, text in enumerate(texts)]))

    async def serve(self, number, turns=4):
        """Feed and take for a while."""
        if not self.maps:
            return
        made, _, waiting = self.maps[number % len(self.maps)]
        for _ in range(turns):
            batch = [waiting.pop(0) for _ in range(min(made.room, len(waiting), 8 if number % 2 else 99))]
            made.feed(batch)
            if not waiting:
                made.close_input()
            await made.take(10_000, 0.001)
            assert adds_up(made.account)
        if made.finished:
            self.maps = [one for one in self.maps if one[0] is not made]
            made.finish("stopped" if made.stopped else "done")
            assert made.account.pending == 0

    def feed(self, number):
        """As many as there is room for; nothing is taken."""
        if self.maps:
            made, _, waiting = self.maps[number % len(self.maps)]
            made.feed([waiting.pop(0) for _ in range(min(made.room, len(waiting)))])

    async def kill(self, number):
        """The program that gives items is killed."""
        if self.maps:
            made, _, _ = self.maps.pop(number % len(self.maps))
            await made.abandon()

    async def stop(self, number):
        """A sub-agent ends, with its maps and all below it."""
        if len(self.agents) == 1:
            return
        name = self.agents[1 + number % (len(self.agents) - 1)]
        below = {one for one in self.agents if one == name or one.startswith(f"{name}.")}
        for made, agent, _ in self.maps:
            if agent in below:
                await made.cut()
        self.maps = [one for one in self.maps if one[1] not in below]
        self.agents = [one for one in self.agents if one not in below]
        self.ledger.close(name)
        self.look_for_lost(self.folder, None)

    def look_for_lost(self, folder, bound):
        """Answers that were paid for and that the store does not have: calls in flight when something was cut."""
        store = Results(folder / "results.sqlite")
        questions = Questions(store, {}, ready)
        lost = 0
        for (prompt, text), count in self.model.answered.items():
            if prompt != "rewrite" and questions.found(spec(prompt=prompt), text) is None:
                lost += count > self.model.lost[prompt, text]
                self.model.lost[prompt, text] = count
        store.close()
        assert bound is None or lost <= bound

    async def crash(self, folder):
        """SIGKILL: what is on disk at this moment is all that is left. Returns the next life."""
        shutil.copytree(self.folder, folder)
        self.dead = True
        bound = sum(made.spec.concurrency + (SAMPLE if made.spec.repair else 0) for made, _, _ in self.maps)
        events = list(self.events.events)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.results.close()
        self.look_for_lost(folder, bound)
        ledger = Ledger.recover(events, Memory())
        spent = ledger.subtree_spent("run").get("usd", 0)
        return Process(folder, self.model, self.limit - spent), spent

    def conserved(self, before):
        """Money over the whole tree, at any moment. `before`: what earlier lives spent."""
        balances = {name: self.ledger.balance(name, "usd") for name, _ in self.ledger.accounts()}
        for one in balances.values():
            assert min(one.spent, one.held, one.carved, one.free) >= 0 == one.over
            assert one.limit == one.spent + one.held + one.carved + one.free
        assert sum(one.spent + one.held + one.free for one in balances.values()) == self.limit
        spent = sum(one.spent + one.held for one in balances.values())
        assert self.model.billed <= before + spent, "the model billed more than is on the books"
        for made, _, _ in self.maps:
            assert adds_up(made.account)


ACTS = ["spawn", "begin", "begin", "feed", "serve", "serve", "serve", "turn", "turn", "kill", "stop", "crash"]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 60)), max_size=40), limit=st.sampled_from([40, 400, 5000]))
@example(acts=[("begin", 5), ("feed", 0), ("turn", 60), ("crash", 0)], limit=5000)  # answered, and nobody has taken it yet
def test_whatever_happens_items_and_money_add_up_and_no_answer_is_paid_twice(acts, limit, tmp_path_factory):
    async def scenario():
        model, folder, before = Model(), tmp_path_factory.mktemp("life"), 0
        process = Process(folder, model, limit)
        for at, (act, number) in enumerate(acts):
            if act == "crash":
                process, spent = await process.crash(folder.with_name(f"{folder.name}-{at}"))
                before += spent
                assert before + process.limit == limit
            elif act in ("spawn", "begin", "feed"):
                getattr(process, act)(number)
            elif act == "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
            else:
                await getattr(process, act)(number)
            process.conserved(before)
        process.begin(1)  # all goes on, to its end
        while process.maps:
            await process.serve(0)
            process.conserved(before)
        for account in [event.account for event in process.events.of(AccountOpened)][:0:-1]:
            if account in {name for name, _ in process.ledger.accounts()}:
                process.ledger.close(account)
        whole = process.ledger.balance("run", "usd")
        assert whole.held == whole.carved == 0 and whole.spent + whole.free == process.limit
        assert model.billed <= before + whole.spent <= limit
        process.results.close()
        for ended in process.record.of(MapEnded):
            told = dict(ended.account)
            assert told.pop("items") == sum(told.values())
        twice = {one: n for one, n in model.answered.items() if one[0] != "rewrite" and n > 1 + model.lost[one]}
        assert not twice, "a question was paid for after its answer was kept"

    async def bounded():
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())
