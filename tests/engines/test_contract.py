"""What both engines do alike: the local one, and the one over a Ray cluster whose nodes are processes of their own."""

import asyncio
import itertools
import json
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from gearcase.brake import Level
from gearcase.errors import GearcaseError
from gearcase.events import ModelCalled, Settled
from gearcase.seams import Done, Lost, Started, Task
from gearcase.swarm.worker import Answered, Fault, outcome_of
from tests.engines.bench import KEY, opened

SLOW = {"text": "ok", "usage": {"input": 20, "output": 5}, "fault": "slow", "delay": 0.3}


@pytest.fixture(params=["local", "ray"])
def engine(request, tmp_path):
    """Opens a bench with one of the engines."""
    address = request.getfixturevalue("on_cluster").address if request.param == "ray" else ""

    @asynccontextmanager
    async def open_one(model="http://127.0.0.1:9/v1#none", **options):
        async with opened(request.param, tmp_path, model, address=address, **options) as bench:
            yield bench

    return open_one


def items(count, begin=0):
    return tuple(f"item {number}." for number in range(begin, begin + count))


def test_each_item_of_a_task_has_one_outcome_and_the_money_is_that_of_the_upstreams_log(engine, upstream):
    server = upstream()

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            work = bench.ask()
            handle = await bench.engine.submit(Task("t1", work, items(40), 4))
            events = await bench.ended(handle)
            assert isinstance(events[0], Started) and sum(isinstance(one, Started) for one in events) == 1
            assert [one.over for one in events[1:]].count(True) == 1
            outcomes = bench.outcomes(handle)
            assert sorted(outcomes) == list(range(40))
            assert {outcome_of(told).answer for told in outcomes.values()} == {'"ok"'}
            await bench.until(lambda: bench.balance().held == 0)
            calls = bench.facts.of(ModelCalled)
            assert len(calls) == len(server.billed) == 40 and Counter(server.billed) == Counter(items(40))
            assert len({call.call for call in calls}) == 40 == len({call.hold for call in calls})
            assert {call.label for call in calls} == {"map m1"}
            spent = sum(told["cost"] for told in outcomes.values())
            assert bench.balance().spent == spent > 0
            costs = {event.hold: event.amounts["usd"] for event in bench.facts.of(Settled) if "usd" in event.amounts}
            assert sum(costs[call.hold] for call in calls) == spent

    asyncio.run(scenario())


def test_an_outcome_says_what_can_be_done_about_it(engine, upstream):
    server = upstream(
        {"text": "ok"}, {"status": 429, "when": "item 1."}, {"text": "", "when": "item 2."}, {"status": 401, "when": "item 3."}
    )

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            shards = bench.shards()
            asking = shards.asking(bench.ask(), 4, 4)
            told = await asyncio.gather(*(asking(text) for text in items(4)))
            assert isinstance(told[0], Answered)
            assert [(one.kind, one.code) for one in told[1:]] == [
                ("transient", "status_429"),
                ("content", "empty"),
                ("terminal", "key"),
            ]
            await shards.close()

    asyncio.run(scenario())


def test_money_that_does_not_pay_a_call_ends_it_before_anything_is_sent(engine, upstream):
    server = upstream()

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini", usd=1000) as bench:
            shards = bench.shards()
            asking = shards.asking(bench.ask(), 4, 4)
            told = await asyncio.gather(*(asking(text) for text in items(6)))
            assert {(one.kind, one.code) for one in told} == {("terminal", "budget")}
            assert server.asked == [] and bench.balance().spent == bench.balance().held == 0
            await shards.close()

    asyncio.run(scenario())


def test_nothing_is_overspent_where_money_runs_out_in_the_middle(engine, upstream):
    server = upstream({"text": "x", "usage": {"input": 30, "output": 60}})

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini", usd=3_000_000) as bench:
            shards = bench.shards()
            asking = shards.asking(bench.ask(), 4, 60)

            async def one(text):
                while True:
                    outcome = await asking(text)
                    if not (isinstance(outcome, Fault) and outcome.kind == "waiting"):
                        return outcome

            told = await asyncio.gather(*(one(text) for text in items(60)))
            await bench.until(lambda: bench.balance().held == 0)
            answered = sum(isinstance(outcome, Answered) for outcome in told)
            assert 0 < answered < 60 and {one.code for one in told if isinstance(one, Fault)} == {"budget"}
            assert max(Counter(server.billed).values()) == 1 and len(server.billed) == answered
            assert bench.balance().spent == sum(outcome.cost for outcome in told) <= 3_000_000
            await shards.close()

    asyncio.run(scenario())


def test_a_task_that_is_cancelled_begins_nothing_further_and_ends_what_goes_on(engine, upstream):
    server = upstream(SLOW)

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            handle = await bench.engine.submit(Task("t1", bench.ask(), items(50), 2))
            await bench.until(lambda: len(server.asked) >= 2)
            await bench.engine.cancel(handle, hard=False)
            begun = len(server.asked)
            events = await bench.ended(handle)
            assert isinstance(events[-1], Done) and events[-1].over
            assert begun <= len(server.asked) <= begun + 2, "two at a time may have been about to leave"
            assert len(bench.outcomes(handle)) == len(server.asked) < 50
            await bench.until(lambda: bench.balance().held == 0)
            await asyncio.sleep(0.5)
            assert len(server.asked) <= begun + 2

    asyncio.run(scenario())


def test_a_task_that_is_cancelled_hard_is_lost_at_once_and_what_had_left_is_paid(engine, upstream):
    server = upstream({**SLOW, "delay": 1.5})

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            handle = await bench.engine.submit(Task("t1", bench.ask(), items(50), 2))
            await bench.until(lambda: len(server.asked) == 2)
            cancelling = asyncio.create_task(bench.engine.cancel(handle, hard=True))
            events = await bench.ended(handle, 1)
            assert isinstance(events[-1], Lost) and bench.outcomes(handle) == {}
            await cancelling
            await bench.until(lambda: bench.balance().held == 0)
            assert len(server.asked) == 2 == len(bench.facts.of(ModelCalled)) and bench.balance().spent > 0

    asyncio.run(scenario())


def test_a_question_whose_asker_has_gone_is_cancelled_with_its_task(engine, upstream):
    server = upstream({**SLOW, "delay": 1.0})

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            shards = bench.shards()
            asking = shards.asking(bench.ask(), 2, 50)
            questions = [asyncio.create_task(asking(text)) for text in items(50)]
            await bench.until(lambda: len(server.asked) >= 2)
            for one in questions:
                one.cancel()
            await asyncio.gather(*questions, return_exceptions=True)
            await shards.quiet()
            asked = len(server.asked)
            await bench.until(lambda: bench.balance().held == 0)
            await asyncio.sleep(0.5)
            assert len(server.asked) == asked <= 2 * bench.engine.capacity().most + 50 * (bench.kind == "local")
            assert bench.engine.capacity().free == bench.engine.capacity().most
            await shards.close()

    asyncio.run(scenario())


def test_there_is_room_until_there_is_none_and_none_after_the_end(engine, upstream):
    server = upstream({**SLOW, "delay": 8.0})  # longer than it takes to submit all of them

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            before = bench.engine.capacity()
            assert before.free == before.most > 0 and before.shard > 1
            names = [await bench.engine.submit(Task(f"t{at}", bench.ask(), items(2, at), 2)) for at in range(before.most)]
            if bench.kind == "ray":
                assert bench.engine.capacity().free == 0
            for name in names:
                await bench.ended(name)
            assert bench.engine.capacity().free == before.free
        assert bench.engine.capacity().free == 0
        assert await bench.engine.close() == () == bench.stayed

    asyncio.run(scenario())


def test_the_end_breaks_off_what_goes_on_and_leaves_nothing_held(engine, upstream):
    server = upstream({**SLOW, "delay": 30})

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            await bench.engine.submit(Task("t1", bench.ask(), items(10), 2))
            await bench.until(lambda: len(server.asked) == 2)
        assert bench.stayed == () and bench.balance().held == 0 and bench.balance().spent > 0
        assert isinstance(bench.told["t1"][-1], Lost)
        assert len(server.asked) == 2

    asyncio.run(scenario())


def test_a_command_has_a_sandbox_for_each_item_sees_the_files_and_no_key(engine):
    look = "cat data/table.txt && cat $ITEM && env && ls -a ~ && (cat /proc/*/environ | tr '\\0' '\\n' || true)"

    async def scenario():
        async with engine() as bench:
            (bench.work_folder / "data").mkdir()
            (bench.work_folder / "data/table.txt").write_text("a table\n")
            work = await bench.command(f"if grep -q 3 $ITEM; then echo why >&2; exit 7; fi; {look}")
            handle = await bench.engine.submit(Task("t1", work, items(5), 2))
            await bench.ended(handle)
            told = {place: outcome_of(one) for place, one in bench.outcomes(handle).items()}
            assert sorted(told) == list(range(5))
            text = json.loads(told[0].answer)
            assert text.startswith("a table\nitem 0.") and KEY not in text and "RAY" not in text and "XDG_STATE" not in text
            assert (told[3].kind, told[3].code, told[3].trace) == ("content", "exit", "why")
            assert bench.use.sandboxes == 5 and bench.use.cpu > 0
            assert bench.balance().spent == 0 and bench.facts.of(ModelCalled) == []
        assert bench.stayed == () and bench.residue == []

    asyncio.run(scenario())


def test_a_frozen_run_calls_nothing_and_goes_on_where_it_stood(engine, upstream):
    server = upstream(SLOW)

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            shards = bench.shards()
            asking = shards.asking(bench.ask(), 2, 40)

            async def one(text):
                while True:
                    await bench.brake.wait_for(lambda level: level is Level.RUNNING)
                    outcome = await asking(text)
                    if not (isinstance(outcome, Fault) and outcome.kind == "waiting"):
                        return outcome

            asked = [asyncio.create_task(one(text)) for text in items(40)]
            await bench.until(lambda: len(server.asked) >= 4)
            await bench.brake.pull(Level.FROZEN, "operator")
            await asyncio.sleep(0.1)
            stood = len(server.asked)
            await asyncio.sleep(1.2)
            assert len(server.asked) == stood, "calls in flight end, none begins"
            await bench.brake.pull(Level.RUNNING, "operator")
            told = await asyncio.gather(*asked)
            assert all(isinstance(outcome, Answered) for outcome in told)
            assert Counter(server.billed) == Counter(items(40)), "nothing is paid twice"
            await shards.close()

    asyncio.run(scenario())


def test_a_frozen_run_freezes_its_commands(engine):
    count = "for i in $(seq 1 150); do date +%s.%N; sleep 0.05; done"

    async def scenario():
        async with engine() as bench:
            handle = await bench.engine.submit(Task("t1", await bench.command(count, deadline=60), items(1), 1))
            await asyncio.sleep(4.0)  # by then it has begun
            await bench.brake.pull(Level.FROZEN, "operator")
            await asyncio.sleep(2.0)
            assert bench.outcomes(handle) == {}
            await bench.brake.pull(Level.RUNNING, "operator")
            await bench.ended(handle)
            moments = [float(line) for line in json.loads(outcome_of(bench.outcomes(handle)[0]).answer).splitlines()]
            assert len(moments) == 150
            assert max(after - before for before, after in itertools.pairwise(moments)) > 1.5

    asyncio.run(scenario())


def test_what_crosses_is_plain_json_without_a_key(engine, upstream):
    server = upstream()

    async def scenario():
        async with engine(f"{server.base}/v1#gpt-5-mini") as bench:
            works = [bench.ask(), await bench.command("true")]
            whole = json.dumps([works, getattr(bench, "plan", {})])
            assert json.loads(whole)[0] == works and KEY not in whole

    asyncio.run(scenario())


def test_a_worker_that_fails_by_itself_is_a_fault_and_no_hang(engine):
    async def scenario():
        async with engine() as bench:
            work = await bench.command("true")
            if bench.kind == "local":

                async def broken(text):
                    raise RuntimeError("a defect of ours")

                bench.workers["r1"] = broken
                handle = await bench.engine.submit(Task("t1", work, items(2), 2))
                await bench.ended(handle)
                assert {one["code"] for one in bench.outcomes(handle).values()} == {"internal"}
            else:
                with pytest.raises(GearcaseError, match="cannot be read"):
                    await bench.engine.submit(Task("t1", {**work, "manifest": "{}"}, items(2), 2))
                assert bench.engine.capacity().free == bench.engine.capacity().most

    asyncio.run(scenario())
