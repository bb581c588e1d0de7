"""Who may call now, and with how large an answer."""

import asyncio
import time

import pytest

from gearcase.doors.model.upstreams.scripted import Step
from gearcase.errors import RunError

SMALL = {"input": 50, "output": 40}


def run(coroutine):
    return asyncio.run(coroutine)


def ceilings(stand):
    return [entry["ceiling"] for entry in stand.asked]


def test_the_ceiling_is_what_the_client_asked_where_that_can_be_paid(stands, tmp_path, protocol):
    async def whole():
        async with stands.Stand(tmp_path, limits={"usd": 100 * stands.DOLLAR}) as stand:
            await stand.post(protocol, stands.ask(protocol, cap=777))
            await stand.post(protocol, stands.ask(protocol, cap=None))
            return stand, stand.routing.inside(stands.MODELS[protocol]).price.max_output

    stand, most = run(whole())
    assert ceilings(stand) == [777, most]  # unasked, the model's own limit is written


def test_the_ceiling_is_lowered_to_what_the_account_can_pay(stands, tmp_path):
    async def whole():
        # Sonnet 4.5 costs 3,000 nano-dollars a token in and 15,000 out.
        async with stands.Stand(tmp_path, limits={"usd": 90_000_000}) as stand:
            answer = await stand.post("anthropic", stands.ask("anthropic", cap=64_000))
            [held] = stand.records("held")
            return answer, stand, held

    answer, stand, held = run(whole())
    assert answer.status == 200
    [ceiling] = ceilings(stand)
    bound = (held.amounts["usd"] - ceiling * 15_000) // 3_000
    assert ceiling == (90_000_000 - bound * 3_000) // 15_000 > 4_096
    assert held.amounts == {"usd": bound * 3_000 + ceiling * 15_000, "tokens": bound + ceiling, "calls": 1}


def test_thinking_is_lowered_with_the_ceiling(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, limits={"usd": 90_000_000}) as stand:
            thinking = {"type": "enabled", "budget_tokens": 63_999}
            await stand.post("anthropic", stands.ask("anthropic", cap=64_000, thinking=thinking))
            return stand

    stand = run(whole())
    assert ceilings(stand)[0] < 64_000
    assert "lowered thinking" in stand.records("request_edited")[0].edits


def test_less_than_a_floor_is_refused_for_good_with_402_in_the_protocol(stands, tmp_path, protocol):
    async def whole():
        async with stands.Stand(tmp_path, limits={"usd": 1_000_000}) as stand:
            return await stand.post(protocol, stands.ask(protocol, cap=64_000)), stand, stand.balance()

    answer, stand, balance = run(whole())
    assert answer.status == 402
    kind, message = answer.error(protocol)
    assert kind == {"anthropic": "billing_error", "gemini": "FAILED_PRECONDITION"}.get(protocol, "insufficient_quota")
    assert "and $0.001 is left" in message
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-gearcase-remaining-usd"] == "0.001000"
    assert stand.asked == []
    assert (balance.held, balance.spent) == (0, 0)
    [refused] = stand.records("door_refused")
    assert (refused.door, refused.code) == ("model", "budget")


def test_a_small_call_fits_where_a_large_one_would_not(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, limits={"usd": 12_000_000}) as stand:
            return [(await stand.post("anthropic", stands.ask("anthropic", cap=cap))).status for cap in (64_000, 400)]

    assert run(whole()) == [402, 200]


@pytest.mark.parametrize(("resource", "limit"), [("tokens", 900), ("calls", 0)])
def test_tokens_and_calls_are_limits_like_money(stands, tmp_path, protocol, resource, limit):
    async def whole():
        async with stands.Stand(tmp_path, limits={"usd": stands.DOLLAR, resource: limit}) as stand:
            return await stand.post(protocol, stands.ask(protocol)), stand

    answer, stand = run(whole())
    assert answer.status == 402
    assert resource in answer.error(protocol)[1]
    assert stand.asked == []


def test_several_choices_are_paid_for(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path) as stand:
            for choices in (1, 4):
                await stand.post("chat", stands.ask("chat", text=f"{choices}?", n=choices))
            return [event.amounts["tokens"] for event in stand.records("held")]

    one, four = run(whole())
    assert four == one + 3 * 500


def test_those_who_wait_share_what_is_free(stands, tmp_path):
    """The first takes what it asks, since it is alone; those who come while it runs find little, wait, and share what it gives back."""

    async def whole():
        steps = (Step("a", fault="slow", delay=0.4, usage=SMALL), *[Step("b", fault="slow", delay=0.2, usage=SMALL)] * 4)
        async with stands.Stand(tmp_path, steps, limits={"usd": 600_000_000}) as stand:
            first = asyncio.create_task(stand.post("anthropic", stands.ask("anthropic", cap=64_000)))
            await stand.until(lambda: len(stand.asked) == 1)
            others = [asyncio.create_task(stand.post("anthropic", stands.ask("anthropic", cap=64_000))) for _ in range(4)]
            answers = await asyncio.gather(first, *others)
            return [answer.status for answer in answers], stand

    statuses, stand = run(whole())
    assert statuses == [200] * 5
    first, *others = ceilings(stand)
    assert first > 35_000
    assert len(others) == 4
    assert all(4_096 <= ceiling < first / 2 for ceiling in others[:3])


def test_who_waits_too_long_is_told_to_come_again(stands, tmp_path, protocol):
    async def whole():
        steps = (Step("a", fault="slow", delay=0.5, usage=SMALL),)
        price = {"anthropic": 80_000_000, "chat": 45_000_000, "responses": 10_000_000, "gemini": 13_000_000}[protocol]
        async with stands.Stand(tmp_path, steps, limits={"usd": price}, patience=stands.Patience(line=0.05)) as stand:
            first = asyncio.create_task(stand.post(protocol, stands.ask(protocol, cap=4_500)))
            await stand.until(lambda: stand.asked)
            second = await stand.post(protocol, stands.ask(protocol, cap=4_500))
            return (await first).status, second

    first, second = run(whole())
    assert first == 200
    assert second.status == 429
    assert second.error(protocol)[0] == ("RESOURCE_EXHAUSTED" if protocol == "gemini" else "rate_limit_error")
    assert second.headers["retry-after"] == "5"
    assert second.headers["x-should-retry"] == "true"


def test_spending_too_fast_is_slowed_down(stands, tmp_path):
    async def whole():
        steps = (Step("a", usage={"input": 100, "output": 100}),)  # 1,800,000 nano-dollars
        async with stands.Stand(tmp_path, steps, options={"usd_per_minute": 24_000_000}) as stand:
            answers = [await stand.post("anthropic", stands.ask("anthropic", cap=1000)) for _ in range(8)]
            return answers, stand.balance().spent

    answers, spent = run(whole())
    statuses = [answer.status for answer in answers]
    fits = statuses.count(200)
    assert 2 <= fits < 8 and statuses == [200] * fits + [429] * (8 - fits)
    assert spent == fits * 1_800_000
    slowed = answers[-1]
    assert 1 <= int(slowed.headers["retry-after"]) <= 60
    assert "were spent in the last minute" in slowed.error("anthropic")[1]


def test_many_calls_at_once_do_not_pass_what_a_minute_may_cost(stands, tmp_path):
    async def whole():
        steps = (Step("a", usage={"input": 100, "output": 400}, delay=0.05),)  # 6,300,000 nano-dollars, held at more
        async with stands.Stand(tmp_path, steps, options={"usd_per_minute": 20_000_000}) as stand:
            answers = await asyncio.gather(*(stand.post("anthropic", stands.ask("anthropic")) for _ in range(20)))
            return [answer.status for answer in answers], [answer.headers.get("retry-after") for answer in answers]

    statuses, waits = run(whole())
    assert 1 <= statuses.count(200) <= 3 and statuses.count(429) == 20 - statuses.count(200)
    assert set(waits) <= {None, "1"}


def test_callers_who_waited_in_line_are_bound_by_the_minute_too(stands, tmp_path):
    async def whole():
        steps = (Step("a", usage={"input": 100, "output": 1000}, delay=0.02),)  # 15,300,000 nano-dollars
        options = {"usd_per_minute": 100_000_000}
        async with stands.Stand(tmp_path, steps, options=options, limits={"tokens": 100_000, "usd": 10**10}) as stand:
            asked = (stand.post("anthropic", stands.ask("anthropic", cap=30_000)) for _ in range(30))
            return [answer.status for answer in await asyncio.gather(*asked)], stand.balance().spent

    statuses, spent = run(whole())
    assert statuses.count(429) >= 20 and 0 < spent <= 100_000_000


def test_a_call_that_no_minute_pays_is_refused_for_good(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, options={"usd_per_minute": 1_000_000}) as stand:
            return await stand.post("anthropic", stands.ask("anthropic", cap=1000)), stand.balance().spent

    answer, spent = run(whole())
    assert answer.status == 402 and "of a whole minute" in answer.error("anthropic")[1] and spent == 0


def test_a_latched_door_takes_no_call_and_lets_those_in_flight_end(stands, tmp_path, protocol):
    async def whole():
        async with stands.Stand(tmp_path, (Step("a", fault="slow", delay=0.2),)) as stand:
            first = asyncio.create_task(stand.post(protocol, stands.ask(protocol)))
            await stand.until(lambda: stand.asked)
            stand.door.latch()
            refused = await stand.post(protocol, stands.ask(protocol))
            done = await first
            stand.door.unlatch()
            return refused, done, await stand.post(protocol, stands.ask(protocol))

    refused, done, after = run(whole())
    assert refused.status == 503
    assert refused.error(protocol)[0] in ("overloaded_error", "server_error", "UNAVAILABLE")
    assert refused.headers["retry-after"] == "5"
    assert (done.status, after.status) == (200, 200)


def test_a_call_that_waits_in_line_is_not_sent_once_the_door_is_latched(stands, tmp_path):
    async def whole():
        steps = (Step("a", fault="slow", delay=0.3, usage=SMALL), Step("b", usage=SMALL))
        async with stands.Stand(tmp_path, steps, limits={"usd": 80_000_000}) as stand:
            first = asyncio.create_task(stand.post("anthropic", stands.ask("anthropic", cap=4_500)))
            await stand.until(lambda: stand.asked)
            second = asyncio.create_task(stand.post("anthropic", stands.ask("anthropic", cap=4_500)))
            await stand.until(lambda: stand.server.connections == 2)
            await asyncio.sleep(0.05)  # it stands in line now; if it does not yet, it meets the latch at the door itself
            stand.door.latch()
            return (await first).status, (await second).status, stand

    first, second, stand = run(whole())
    assert (first, second) == (200, 503)
    assert len(stand.asked) == 1
    assert stand.balance().held == 0


def test_nearly_all_of_a_small_budget_can_be_used_by_many_agents_at_once(stands, tmp_path):
    """32 agents over one account, each asking for 64,000 tokens of output and using few, until all are refused."""
    step = Step("word " * 400, usage={"input": 900, "output": 500}, fault="slow", delay=0.01)

    async def whole():
        limit = 2 * stands.DOLLAR
        async with stands.Stand(tmp_path, (step,), limits={"usd": limit}, options={"durability": "grouped"}) as stand:
            most = 0

            async def agent():
                nonlocal most
                while True:
                    answer = await stand.post("anthropic", stands.ask("anthropic", cap=64_000))
                    most = max(most, stand.balance().spent + stand.balance().held)
                    if answer.status == 402:
                        return
                    assert answer.status == 200

            begun = time.monotonic()
            await asyncio.gather(*(agent() for _ in range(32)))
            return stand, most, time.monotonic() - begun

    stand, most, seconds = run(whole())
    balance = stand.balance()
    used = balance.spent / balance.limit
    print(f"{used:.4%} of the budget used in {len(stand.asked)} calls, {seconds:.1f} s")
    assert used >= 0.95
    assert most <= balance.limit
    assert balance.spent == len(stand.asked) * (900 * 3_000 + 500 * 15_000)


def test_a_provider_s_own_402_costs_nothing_and_does_not_pose_as_a_limit_of_ours(stands, tmp_path, protocol):
    async def whole():
        async with stands.Stand(tmp_path, (Step("a", status=402),)) as stand:
            answer = await stand.post(protocol, stands.ask(protocol))
            return answer, stand.balance()

    answer, balance = run(whole())
    assert answer.status == 402 and "x-gearcase-refused" not in answer.headers
    assert (balance.spent, balance.held) == (0, 0)


def test_what_ends_a_run_is_told_to_it_and_to_the_program_that_asked(stands, tmp_path, protocol, monkeypatch):
    async def whole():
        async with stands.Stand(tmp_path) as stand:

            async def full():
                raise RunError("journal_failed", "the journal cannot be written", remedy="make room")

            monkeypatch.setattr(stand.journal, "durable", full)
            return await stand.post(protocol, stands.ask(protocol)), list(stand.failures)

    answer, failures = run(whole())
    assert answer.status == 503 and "the journal cannot be written" in answer.error(protocol)[1]
    assert [one.code for one in failures] == ["journal_failed"]
