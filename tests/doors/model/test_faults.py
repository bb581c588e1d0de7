"""Every way in which an upstream can fail or a client can leave: what the client is told, and what is booked."""

import asyncio
import json

import aiohttp
import pytest

from gearcase.doors.model import pricing
from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.upstreams.scripted import Step

TEXT = "word " * 60


def play(stands, folder, protocol, *steps, bodies=1, stream=False, **options):
    """Ask once for each body; returns the answers and the closed stand."""
    asked = [stands.ask(protocol, stream=stream)] * bodies if isinstance(bodies, int) else bodies

    async def whole():
        async with stands.Stand(folder, steps, **options) as stand:
            return [await stand.post(protocol, body) for body in asked], stand

    return asyncio.run(whole())


def bookings(stand):
    """(held, kind, spent) of the calls in order."""
    held = {event.hold: event.amounts["usd"] for event in stand.records("held")}
    ends = {}
    for event in stand.records("settled"):
        ends[event.hold] = ("settled", event.amounts["usd"])
    for event in stand.records("cut"):
        ends[event.hold] = ("cut", held[event.hold])
    for event in stand.records("released"):
        ends[event.hold] = ("released", 0)
    assert ends.keys() == held.keys()
    return [(held[number], *ends[number]) for number in sorted(held)]


def price(stands, stand, protocol):
    [entry] = stand.asked
    return pricing.find(stands.PROVIDERS[protocol], entry["model"]).cost(TokenUsage(**entry["billed"]))


def ended(stand):
    return [event.ended for event in stand.records("model_called")]


def ending(answer, protocol):
    """How a stream ended: `length`, `error: MESSAGE`, or `` where nothing is amiss."""
    events = answer.events
    if protocol == "anthropic":
        if events[-1]["type"] == "error":
            return f"error: {events[-1]['error']['message']}"
        assert events[-1]["type"] == "message_stop"
        return {"max_tokens": "length"}.get(events[-2]["delta"]["stop_reason"], "")
    if protocol == "chat":
        assert events[-1] == "[DONE]"
        if "error" in events[-2]:
            return f"error: {events[-2]['error']['message']}"
        return {"length": "length"}.get(events[-2]["choices"][0]["finish_reason"], "")
    if protocol == "gemini":
        if "error" in events[-1]:
            return f"error: {events[-1]['error']['message']}"
        return {"MAX_TOKENS": "length"}.get(events[-1]["candidates"][0]["finishReason"], "")
    if events[-1]["type"] == "response.failed":
        return f"error: {events[-1]['response']['error']['message']}"
    return {"response.completed": "", "response.incomplete": "length"}[events[-1]["type"]]


# --- upstreams --------------------------------------------------------------------------------------------------------------


def test_an_upstream_that_is_down_is_told_in_the_protocol_and_costs_nothing(stands, tmp_path, protocol):
    [answer], stand = play(stands, tmp_path, protocol)
    assert answer.status == 502
    kind, message = answer.error(protocol)
    assert kind in ("api_error", "server_error", "INTERNAL")
    assert "cannot be reached" in message
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("released", 0)
    assert held > 0
    assert ended(stand) == ["failed"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_upstream_is_waited_for_and_settled_exactly(stands, tmp_path, protocol, stream):
    step = Step(TEXT, fault="slow", delay=0.2)
    [answer], stand = play(stands, tmp_path, protocol, step, stream=stream)
    assert answer.status == 200
    assert bookings(stand)[0][1:] == ("settled", price(stands, stand, protocol))
    assert ended(stand) == ["complete"]


@pytest.mark.parametrize("fault", ["drop", "truncated"])
def test_a_stream_that_breaks_off_ends_with_an_error_of_its_protocol_and_counts_whole(stands, tmp_path, protocol, fault):
    [answer], stand = play(stands, tmp_path, protocol, Step(TEXT, pieces=8, fault=fault), stream=True)
    assert answer.status == 200
    assert ending(answer, protocol).startswith("error: the upstream ")
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)
    assert ended(stand) == [{"drop": "failed", "truncated": "cut"}[fault]]


@pytest.mark.parametrize("fault", ["drop", "truncated", "garbage"])
def test_an_answer_that_cannot_be_read_becomes_an_error_of_the_protocol_and_counts_whole(stands, tmp_path, protocol, fault):
    [answer], stand = play(stands, tmp_path, protocol, Step(TEXT, fault=fault))
    assert answer.status == 502
    assert "the upstream of" in answer.error(protocol)[1]
    assert b"html" not in answer.body
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)
    assert ended(stand) == ["failed"]


def test_garbage_in_place_of_a_stream_never_reaches_the_client(stands, tmp_path, protocol):
    [answer], stand = play(stands, tmp_path, protocol, Step(fault="garbage"), stream=True)
    assert answer.status == 200
    assert len(answer.events) == {"chat": 2}.get(protocol, 1)
    assert ending(answer, protocol).startswith("error: ")
    assert bookings(stand)[0][1] == "cut"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_usage_is_passed_on_and_counts_whole(stands, tmp_path, protocol, stream):
    [answer], stand = play(stands, tmp_path, protocol, Step(TEXT, fault="no_usage"), stream=stream)
    assert answer.status == 200
    assert b"word word" in answer.body
    if stream:
        assert ending(answer, protocol) == ""
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)


@pytest.mark.parametrize("stream", [False, True])
def test_usage_above_the_hold_is_booked_and_alarmed_and_the_model_is_stopped(stands, tmp_path, protocol, stream):
    told = {"input": 100_000, "output": 900}
    [first, second], stand = play(stands, tmp_path, protocol, Step("ok", usage=told), bodies=2, stream=stream)
    assert first.status == 200
    assert second.status == 403
    assert "is stopped" in second.error(protocol)[1]
    [(held, how, spent)] = bookings(stand)
    assert how == "settled"
    assert spent == price(stands, stand, protocol) > held
    [failure] = stand.records("failure")
    assert failure.error["code"] == "over_hold"
    assert failure.error["context"]["over"]["usd"] == spent - held


def test_a_stream_above_its_ceiling_is_ended_cleanly_and_the_model_is_stopped(stands, tmp_path, protocol):
    body = stands.ask(protocol, cap=40, stream=True)
    [first, second], stand = play(stands, tmp_path, protocol, Step(fault="ignore_cap", delay=0.002), bodies=[body, body])
    assert ending(first, protocol) == "length"
    assert 40 < len(first.events) < 2 * stand.asked[0]["billed"]["output"]
    assert second.status == 403
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)
    assert ended(stand) == ["clamped"]
    assert stand.records("failure")[0].error["code"] == "ignores_ceiling"


@pytest.mark.parametrize("status", [400, 401, 429, 503, 529])
def test_an_error_that_proves_that_nothing_was_generated_is_passed_on_and_costs_nothing(stands, tmp_path, protocol, status):
    for at, stream in enumerate((False, True)):
        [answer], stand = play(stands, tmp_path / str(at), protocol, Step(status=status), stream=stream)
        assert answer.status == status
        assert f"scripted status {status}" in answer.error(protocol)[1]
        assert bookings(stand)[0][1:] == ("released", 0)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_error_that_may_have_been_billed_counts_whole(stands, tmp_path, protocol, status):
    [answer], stand = play(stands, tmp_path, protocol, Step(status=status))
    assert answer.status == status
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)


def test_a_retry_is_a_call_of_its_own(stands, tmp_path, protocol):
    answers, stand = play(stands, tmp_path, protocol, Step(status=529), Step(TEXT), bodies=2)
    assert [answer.status for answer in answers] == [529, 200]
    assert [how for _, how, _ in bookings(stand)] == ["released", "settled"]


def test_an_unknown_model_is_refused_with_what_is_allowed(stands, tmp_path, protocol):
    body = stands.ask(protocol, model="gpt-0")
    [answer], stand = play(stands, tmp_path, protocol, Step(), bodies=[body], model={"allow": [], "lead": "openai/gpt-4.1"})
    assert answer.status == 404
    assert "'gpt-0' is not allowed in this box" in answer.error(protocol)[1]
    assert "openai/gpt-4.1" in answer.error(protocol)[1]
    assert stand.asked == []
    assert bookings(stand) == []


def test_a_missing_key_is_an_error_of_the_protocol_that_names_the_variable(stands, tmp_path, protocol):
    [answer], stand = play(stands, tmp_path, protocol, Step(), model={"providers": {}})
    assert answer.status == 403
    assert f"set {stands.KEYS[protocol]}" in answer.error(protocol)[1]
    assert answer.headers["x-should-retry"] == "false"
    assert stand.asked == []


# --- clients that leave -----------------------------------------------------------------------------------------------------


def leave(stands, folder, protocol, step, *, patience, stream=True, after_first_byte=True):
    """A client that goes away; returns the stand once the call is settled and the upstream's connection is closed."""

    async def whole():
        async with stands.Stand(folder, (step,), patience=patience) as stand:
            path, asked = stands.place(protocol, stands.ask(protocol, stream=stream))
            body = json.dumps(asked).encode()
            if after_first_byte:
                async with stand.session.post(path, data=body) as response:
                    await response.content.readany()
                    response.close()
            else:
                asking = asyncio.create_task(stand.post(protocol, body, path=path))
                await stand.until(lambda: stand.asked)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await stand.until(lambda: stand.door.in_flight == 0)
            await stand.until(lambda: stand.server.connections == 0)
            if patience.silence < 1:
                await stand.until(lambda: stand.provider.connections == 0)
            assert stand.balance().held == 0
            return stand

    return asyncio.run(whole())


def test_a_stream_whose_client_left_is_read_on_for_its_usage(stands, tmp_path, protocol):
    stand = leave(stands, tmp_path, protocol, Step(TEXT, pieces=20, delay=0.01), patience=stands.Patience())
    assert bookings(stand)[0][1:] == ("settled", price(stands, stand, protocol))
    assert ended(stand) == ["cut"]


def test_a_stalled_stream_whose_client_left_counts_whole_and_its_connection_is_closed(stands, tmp_path, protocol):
    stand = leave(stands, tmp_path, protocol, Step(TEXT, pieces=4, fault="stall"), patience=stands.Patience(silence=0.1))
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)
    assert spent >= price(stands, stand, protocol)


def test_an_answer_that_is_not_streamed_is_awaited_though_its_client_left(stands, tmp_path, protocol):
    step = Step(TEXT, fault="slow", delay=0.3)
    stand = leave(stands, tmp_path, protocol, step, patience=stands.Patience(), stream=False, after_first_byte=False)
    assert bookings(stand)[0][1:] == ("settled", price(stands, stand, protocol))


def test_an_answer_that_does_not_come_is_awaited_for_a_bounded_time(stands, tmp_path, protocol):
    step = Step(TEXT, fault="slow", delay=3600)
    patience = stands.Patience(drain=0.1, silence=0.1)
    stand = leave(stands, tmp_path, protocol, step, patience=patience, stream=False, after_first_byte=False)
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)


def test_a_client_that_leaves_the_line_is_not_served(stands, tmp_path):
    async def whole():
        steps = (Step("a", fault="slow", delay=0.5, usage={"input": 10, "output": 10}), Step("b"))
        limits = {"usd": 80_000_000}  # room for one call of 4,096 tokens of output at $15 per million
        async with stands.Stand(tmp_path, steps, limits=limits) as stand:
            first = asyncio.create_task(stand.post("anthropic", stands.ask("anthropic", cap=4_500)))
            await stand.until(lambda: stand.asked)
            second = asyncio.create_task(stand.post("anthropic", stands.ask("anthropic", cap=4_500)))
            await stand.until(lambda: stand.server.connections == 2)
            second.cancel()
            await stand.until(lambda: stand.server.connections == 1)
            assert (await first).status == 200
            return stand

    stand = asyncio.run(whole())
    assert len(stand.asked) == 1
    assert len(stand.records("held")) == 1


def test_a_client_that_reads_slowly_loses_nothing(stands, tmp_path, protocol):
    async def whole():
        async with stands.Stand(tmp_path, (Step("word " * 40_000, pieces=400),)) as stand:
            path, asked = stands.place(protocol, stands.ask(protocol, cap=60_000, stream=True))
            body = json.dumps(asked).encode()
            async with stand.session.post(path, data=body) as response:
                got = b""
                while chunk := await response.content.read(20_000):
                    got += chunk
                    await asyncio.sleep(0)
            return got, stand

    got, stand = asyncio.run(whole())
    assert got.count(b"word ") >= 40_000
    assert bookings(stand)[0][1] == "settled"


# --- the end of the door ----------------------------------------------------------------------------------------------------


def test_a_call_whose_account_is_closed_meanwhile_is_counted_once_and_on_record(stands, tmp_path, protocol):
    async def whole():
        async with stands.Stand(tmp_path, (Step(TEXT, fault="slow", delay=0.3),), accounts=("run",)) as stand:
            stand.ledger.open("lead", {"usd": stands.DOLLAR // 2}, parent="run", agent="lead")
            asking = asyncio.create_task(stand.post(protocol, stands.ask(protocol)))
            await stand.until(lambda: stand.asked)
            stand.ledger.close("lead")
            answer = await asking
            after = await stand.post(protocol, stands.ask(protocol))
            return answer, after, stand, stand.balance("run").spent

    answer, after, stand, spent = asyncio.run(whole())
    assert answer.status == 200
    assert answer.headers["x-gearcase-remaining-usd"] == "0.000000"
    [(held, how, booked)] = bookings(stand)
    assert how == "cut"
    assert spent == booked == held
    assert ended(stand) == ["complete"]
    assert after.status == 402
    assert "is closed" in after.error(protocol)[1]


def test_a_door_that_closes_counts_a_stalled_call_whole_and_breaks_its_stream_off(stands, tmp_path, protocol):
    async def whole():
        step = Step(TEXT, pieces=4, fault="stall")
        async with stands.Stand(tmp_path, (step,), patience=stands.Patience(closing=0.1)) as stand:
            path, asked = stands.place(protocol, stands.ask(protocol, stream=True))
            body = json.dumps(asked).encode()
            async with stand.session.post(path, data=body) as response:
                await response.content.readany()
                await stand.door.close()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            assert stand.door.in_flight == 0
            return stand

    stand = asyncio.run(whole())
    [(held, how, spent)] = bookings(stand)
    assert (how, spent) == ("cut", held)
