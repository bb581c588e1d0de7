"""A map in this process, over a model that is scripted by item: its account, what is asked twice, what stops it."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gearcase.events import MapEnded, MapItemFailed, MapProgressed
from gearcase.swarm.items import Item, MapSpec
from gearcase.swarm.map import Map
from gearcase.swarm.questions import ATTEMPTS
from gearcase.swarm.results import Results
from gearcase.swarm.worker import Answered, Fault
from tests.recorder import Facts

COST = 7


class Model:
    """Answers each item by its own plan, a list of outcomes, the last for ever; counts calls and answers."""

    def __init__(self, plans, seconds=0.0):
        self.plans = plans
        self.seconds = seconds
        self.calls = Counter()
        self.answered = Counter()
        self.at_once = self.most_at_once = 0

    async def __call__(self, question):
        item = question.split("\n\n", 1)[1]
        self.calls[item] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        plan = self.plans.get(item, ["ok"])
        what = plan[min(self.calls[item], len(plan)) - 1]
        if what in ("ok", "refuse"):
            self.answered[item] += 1
            return Answered(f'"{item}"', COST)
        cost = COST if what == "content" else 0
        return Fault(what, f"some_{what}", "why", cost)


async def ready():
    """The run may spend."""


async def at_once(seconds):
    """Nobody waits."""
    await asyncio.sleep(0)


def spec(expected=0, **more):
    given = {"prompt": "p", "model": "m", "reference": "r", "split": "lines:1", "concurrency": 4, "allow_failed": 0}
    return MapSpec(**{**given, "max_output": 100, "expected": expected, **more})


class Desk:
    """What the maps of one run share."""

    def __init__(self, folder, model):
        self.model = model
        self.results = Results(folder / "results.sqlite")
        self.flights = {}
        self.record = Facts()
        self.refused = set()

    def map(self, expected=0, wait=ready, **more):
        asked = spec(expected, **more)
        judge = self.judge if asked.validator else None
        return Map(
            "m1", asked, self.model, self.results, self.flights, self.record, "lead", ready=wait, judge=judge, sleep=at_once
        )

    async def judge(self, item, answer):
        """Refuses what its plan says; `refused` are the items that it refused at some time."""
        await asyncio.sleep(0)
        assert answer == f'"{item}"'
        if "refuse" in self.model.plans.get(item, ()):
            self.refused.add(item)
            return Fault("content", "rejected", "no", stage="validator", trace="AssertionError")
        return None


@asynccontextmanager
async def desk(folder, plans=None, seconds=0.0):
    made = Desk(folder, Model(plans or {}, seconds))
    try:
        yield made
    finally:
        made.results.close()


def adds_up(account):
    return account.items == account.ok + account.failed + account.quarantined + account.skipped + account.pending


async def serve(one, texts, until=None):
    """What the program in the box does: give as there is room, take what has ended; stops after `until` endings."""
    waiting = [Item(number, f"f:{number}", text) for number, text in enumerate(texts)]
    endings = []
    while not one.finished:
        batch, waiting = waiting[: one.room], waiting[one.room :]
        one.feed(batch)
        if not waiting:
            one.close_input()
        endings += await one.take(10_000, 0.05)
        assert adds_up(one.account)
        if until is not None and len(endings) >= until:
            return endings
    one.finish("stopped" if one.stopped else "done")
    return endings


def test_every_item_ends_once_and_in_bounded_calls_at_a_time(tmp_path):
    async def scenario():
        async with desk(tmp_path, seconds=0.001) as one:
            made = one.map(500)
            endings = await serve(made, [f"i{n}" for n in range(500)])
            assert sorted(ended.item.number for ended in endings) == list(range(500))
            assert made.account.ok == 500 and made.spent == 500 * COST and made.calls == 500
            assert one.model.most_at_once == 4
            assert one.record.of(MapEnded)[0].account["ok"] == 500

    asyncio.run(scenario())


def test_nothing_over_nothing_is_an_empty_account(tmp_path):
    async def scenario():
        async with desk(tmp_path) as one:
            made = one.map()
            assert await serve(made, []) == [] and made.account.passes(0)
            assert one.record.of(MapEnded)[0].ended == "done"

    asyncio.run(scenario())


def test_a_storm_of_refusals_is_waited_out_and_counted_apart(tmp_path):
    async def scenario():
        plans = {f"i{n}": ["transient"] * (n % ATTEMPTS) + ["ok"] for n in range(50)}
        async with desk(tmp_path, plans) as one:
            made = one.map(50)
            await serve(made, list(plans))
            assert made.account.ok == 50
            assert made.retries == sum(n % ATTEMPTS for n in range(50))

    asyncio.run(scenario())


def test_one_that_never_ends_is_failed_after_so_many_attempts(tmp_path):
    async def scenario():
        async with desk(tmp_path, {"bad": ["transient"]}) as one:
            made = one.map(2)
            endings = {ended.item.text: ended for ended in await serve(made, ["bad", "good"])}
            assert (endings["bad"].state, endings["bad"].attempts) == ("failed", ATTEMPTS)
            assert made.account.failed == 1 and not made.account.passes(0) and made.account.passes(1)
            assert [event.code for event in one.record.of(MapItemFailed)] == ["some_transient"]

    asyncio.run(scenario())


def test_waiting_is_no_attempt(tmp_path):
    async def scenario():
        async with desk(tmp_path, {"a": ["waiting"] * 30 + ["ok"]}) as one:
            made = one.map(1)
            endings = await serve(made, ["a"])
            assert endings[0].state == "ok" and endings[0].attempts == 1 and made.retries == 0

    asyncio.run(scenario())


def test_one_terminal_fault_stops_the_whole_map(tmp_path):
    async def scenario():
        async with desk(tmp_path, {"i20": ["terminal"]}, seconds=0.001) as one:
            made = one.map(1000)
            endings = await serve(made, [f"i{n}" for n in range(1000)])
            assert len(endings) == 1000 and made.account.skipped >= 970
            assert sum(one.model.calls.values()) < 40
            assert made.stopped.code == "some_terminal" and not made.account.passes(1000)
            assert one.record.of(MapEnded)[0].ended == "stopped"

    asyncio.run(scenario())


def test_what_pauses_when_the_map_is_stopped_does_not_wait_on(tmp_path):
    async def scenario():
        async with desk(tmp_path, {"slow": ["transient"], "end": ["ok", "terminal"]}) as one:
            made = Map(
                "m1",
                spec(2),
                one.model,
                one.results,
                one.flights,
                one.record,
                "lead",
                ready=ready,
                sleep=lambda s: asyncio.sleep(99),
            )
            made.feed([Item(0, "f", "slow")])
            await asyncio.sleep(0.05)
            made.stop(Fault("terminal", "budget", "why"))
            async with asyncio.timeout(2):
                assert [ended.state for ended in await serve(made, [])] == ["skipped"]

    asyncio.run(scenario())


def test_the_same_item_is_asked_about_once_even_at_the_same_time(tmp_path):
    async def scenario():
        async with desk(tmp_path, {"bad": ["content"]}, seconds=0.01) as one:
            made = one.map(40)
            endings = await serve(made, ["same", "bad"] * 20)
            assert one.model.calls == {"same": 1, "bad": 1}
            assert made.account.ok == 20 and made.account.quarantined == 20 and made.told.found == 19
            assert sum(ended.cost for ended in endings) == 2 * COST == made.spent

    asyncio.run(scenario())


def test_what_another_map_answered_is_found_and_what_differs_is_not(tmp_path):
    async def scenario():
        async with desk(tmp_path) as one:
            await serve(one.map(2), ["a", "b"])
            again = one.map(3)
            await serve(again, ["c", "b", "a"])
            assert again.told.found == 2 and again.spent == COST
            await serve(one.map(1, max_output=99), ["a"])
            await serve(one.map(1, reference="other"), ["a"])
            assert one.model.calls == {"a": 3, "b": 1, "c": 1}

    asyncio.run(scenario())


def test_an_abandoned_map_keeps_what_was_in_flight_and_leaves_the_rest_pending(tmp_path):
    async def scenario():
        async with desk(tmp_path, seconds=0.02) as one:
            made = one.map(100)
            made.feed([Item(n, "f", f"i{n}") for n in range(20)])
            await asyncio.sleep(0.01)
            await made.abandon()
            assert made.account.items == 100 and made.account.ok == 4 and made.account.pending == 96
            assert one.record.of(MapEnded)[0].ended == "abandoned"
            await serve(one.map(100), [f"i{n}" for n in range(100)])
            assert set(one.model.calls.values()) == {1} and len(one.model.calls) == 100

    asyncio.run(scenario())


def test_unreadable_items_are_quarantined_and_asked_about_by_nobody(tmp_path):
    async def scenario():
        async with desk(tmp_path) as one:
            made = one.map(1)
            made.feed([Item(0, "f:1", "", "it is not UTF-8")])
            endings = await serve(made, [])
            assert endings[0].state == "quarantined" and not one.model.calls
            assert endings[0].as_json()["why"] == "it is not UTF-8"

    asyncio.run(scenario())


def test_a_store_that_refuses_ends_the_map_and_not_the_account(tmp_path):
    async def scenario():
        async with desk(tmp_path / "nowhere") as one:
            made = one.map(10)
            await serve(made, [f"i{n}" for n in range(10)])
            assert made.account.skipped == 10 and made.stopped.code == "results_unwritable"

    asyncio.run(scenario())


def test_progress_is_told_at_most_once_a_second(tmp_path):
    async def scenario():
        async with desk(tmp_path, seconds=0.02) as one:
            made = one.map(300, concurrency=4)
            await serve(made, [f"i{n}" for n in range(300)])
            told = one.record.of(MapProgressed)
            assert 1 <= len(told) <= 4 and told[0].account["pending"] > 0
            assert told[-1].projected == 300 * COST and told[-1].rate > 10

    asyncio.run(scenario())


PLANS = st.dictionaries(
    st.integers(0, 11).map(lambda n: f"i{n}"),
    st.lists(st.sampled_from(["ok", "transient", "content", "waiting", "terminal", "refuse"]), min_size=1, max_size=4).map(
        lambda plan: [*plan, "ok"] if plan[-1] == "waiting" else plan
    ),  # a latch ends at some time
    max_size=8,
)
ROUNDS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 11), max_size=14),  # items, some of them twice
        st.integers(0, 15) | st.none(),  # endings after which the program is killed
        st.sampled_from(["abandon", "cut"]),
        st.integers(1, 5),  # calls at a time
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(plans=PLANS, rounds=ROUNDS, validator=st.sampled_from(["", "check"]))
def test_for_any_order_of_faults_kills_and_resumes_it_adds_up_and_nothing_is_asked_again(
    plans, rounds, validator, tmp_path_factory
):
    async def scenario():
        async with desk(tmp_path_factory.mktemp("map"), plans) as one:
            for numbers, until, how, concurrency in rounds:
                made = one.map(len(numbers), concurrency=concurrency, validator=validator)
                endings = await serve(made, [f"i{n}" for n in numbers], until)
                if until is not None:
                    await getattr(made, how)()  # which is nothing where it has ended
                assert adds_up(made.account) and made.account.items == len(numbers)
                if until is None:
                    assert made.account.pending == 0
                    assert len(endings) == len(numbers)
                last = one.record.of(MapEnded)[-1]
                assert last.account["items"] == len(numbers)
                assert last.spent == made.spent
                assert not one.flights
            accepted = {item: count for item, count in one.model.answered.items() if item not in one.refused}
            assert all(count <= 1 for count in accepted.values()), "an item was asked about after it was answered"

    async def bounded():
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())
