"""Reading streams and answers of each protocol: usage, ends, and how the door itself speaks."""

import json
from random import Random

import pytest

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import PROTOCOLS
from gearcase.doors.model.protocols import stream as sse
from gearcase.doors.model.protocols.answer import Answer, ToolCall
from gearcase.doors.model.protocols.stream import MAX_EVENT, Events

USAGE = TokenUsage(input=20, cache_read=30, output=12)
ANSWER = Answer("one two three four", (ToolCall("c", "bash", {"command": "ls"}),), USAGE, model="m", pieces=4)


def reading(stands, protocol, **more):
    return stands.reads(protocol, stands.ask(protocol, stream=True, **more))


def streamed(protocol, answer=ANSWER):
    return b"".join(PROTOCOLS[protocol].render(answer, True))


def follow(stands, protocol, chunks, **more):
    speech, request = PROTOCOLS[protocol], reading(stands, protocol, **more)
    speech.cap(request, 500)
    scanner = speech.Scanner()
    passed = b"".join([scanner.feed(chunk, request) for chunk in chunks])
    return scanner, passed + scanner.last(request)


# --- events -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_cut_the_same_however_the_bytes_arrive(end):
    data = b"".join([b'event: a%sdata: {"n": %d}%s%s' % (end, at, end, end) for at in range(20)])
    whole = Events().feed(data)
    assert len(whole) == 20
    assert b"".join(event.whole for event in whole) == data
    for seed in range(30):
        random, events, cut, at = Random(seed), Events(), [], 0
        while at < len(data):
            size = random.choice((1, 2, 3, 7, 40, 500))
            cut += events.feed(data[at : at + size])
            at += size
        assert cut == whole
        assert events.last() == []


def test_data_of_several_lines_is_one_event_and_comments_are_none():
    [comment, event] = Events().feed(b": ping\n\ndata: {\ndata: }\n\n")
    assert comment.data == b""
    assert json.loads(event.data) == {}


@pytest.mark.parametrize(
    ("rest", "passed"), [(b"data: [DONE]", 1), (b'data: {"a": 1}\n', 1), (b'data: {"a": ', 0), (b"data:", 0), (b"<html>", 0)]
)
def test_what_is_left_without_a_blank_line_is_an_event_or_nothing(rest, passed):
    events = Events()
    assert events.feed(rest) == []
    last = events.last()
    assert len(last) == passed
    assert all(event.whole.endswith(b"\n\n") for event in last)


def test_bytes_without_end_are_not_kept():
    events = Events()
    with pytest.raises(ValueError, match="without the end of an event"):
        for _ in range(MAX_EVENT // 65_536 + 2):
            events.feed(b"x" * 65_536)


# --- answers ----------------------------------------------------------------------------------------------------------------


def test_a_stream_passes_byte_for_byte_at_any_chunking_and_its_usage_is_read(stands, protocol):
    data = streamed(protocol)
    more = {"stream_options": {"include_usage": True}} if protocol == "chat" else {}
    for size in (1, 7, 1_000_000):
        scanner, passed = follow(stands, protocol, [data[at : at + size] for at in range(0, len(data), size)], **more)
        assert passed == data
        assert scanner.ended
        assert scanner.served == "m"
        told = scanner.usage()
        assert (told.total_input, told.cache_read, told.output) == (50, 30, 12)
        assert scanner.deltas >= 4


def test_a_stream_with_carriage_returns_passes_too(stands, protocol):
    data = streamed(protocol).replace(b"\n", b"\r\n")
    scanner, passed = follow(stands, protocol, [data])
    assert scanner.ended
    assert scanner.usage().output == 12
    assert passed.count(b"data:") == data.count(b"data:") - (protocol == "chat")  # without the usage that only the door wanted
    assert passed.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_of_a_stream_that_breaks_off_only_whole_events_pass_and_there_is_no_usage(stands, protocol, share):
    data = streamed(protocol)
    scanner, passed = follow(stands, protocol, [data[: int(len(data) * share)]])
    assert data.startswith(passed)
    assert passed.endswith(b"\n\n") or passed == b""
    assert not scanner.ended
    if share < 0.9:
        assert scanner.usage() is None


def test_usage_that_is_reported_all_along_counts_only_at_the_end(stands):
    """Some compatible servers report in every chunk what was used so far: half of an answer must not settle a whole call."""
    chunks = [
        sse.event(
            {
                "id": "c",
                "model": "m",
                "choices": [{"index": 0, "delta": {"content": "a"}}],
                "usage": {"prompt_tokens": 9, "completion_tokens": at},
            }
        )
        for at in range(1, 5)
    ]
    scanner, _ = follow(stands, "chat", chunks)
    assert scanner.usage() is None
    scanner, _ = follow(stands, "chat", [*chunks, b"data: [DONE]\n\n"])
    assert scanner.usage().output == 4


def test_a_word_in_a_text_is_no_sign(stands, protocol):
    """What a model writes can look like the protocol's own words."""
    text = '"usage" [DONE] data: {"type": "message_stop"} .delta" "response" "choices":[] content_block_delta'
    answer = Answer(text, (), USAGE, model="m", pieces=1)
    data = streamed(protocol, answer)
    scanner, passed = follow(
        stands, protocol, [data], **({"stream_options": {"include_usage": True}} if protocol == "chat" else {})
    )
    assert passed == data
    assert scanner.usage().output == 12


def test_what_was_written_into_a_cache_is_no_plain_input():
    """It costs more than plain input where it has a rate of its own."""
    details = {
        "cached_tokens": 20,
        "cache_write_tokens": 70,
        "cache_write_tokens_details": {"ttl_30m_tokens": 40, "ttl_12h_tokens": 30},
    }
    wanted = TokenUsage(input=10, cache_read=20, cache_write_5m=40, cache_write_1h=30, output=4)
    chat = {"prompt_tokens": 100, "completion_tokens": 4, "prompt_tokens_details": details}
    assert PROTOCOLS["chat"].usage_of({"usage": chat}) == wanted
    responses = {"input_tokens": 100, "output_tokens": 4, "input_tokens_details": details}
    assert PROTOCOLS["responses"].usage_of({"usage": responses}) == wanted


def test_reasoning_and_cache_writes_are_read():
    chat = {
        "usage": {"prompt_tokens": 50, "completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}},
        "service_tier": "flex",
    }
    assert PROTOCOLS["chat"].usage_of(chat) == TokenUsage(input=50, output=40, reasoning=30, tier="flex")
    told = {"input_tokens": 50, "input_tokens_details": {"cached_tokens": 20}, "output_tokens": 40}
    assert PROTOCOLS["responses"].usage_of({"usage": told}) == TokenUsage(input=30, cache_read=20, output=40)
    anthropic = {
        "input_tokens": 5,
        "cache_creation_input_tokens": 70,
        "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40},
        "cache_read_input_tokens": 9,
        "output_tokens": 3,
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "standard",
    }
    assert PROTOCOLS["anthropic"].usage_of({"usage": anthropic}) == TokenUsage(5, 9, 30, 40, 3, 0, 2, "standard")


@pytest.mark.parametrize(
    "answer", [{}, {"usage": None}, {"usage": {}}, {"usage": 7}, {"usage": {"total_tokens": 9}}, {"error": {"message": "no"}}]
)
def test_an_answer_without_usage_has_none(protocol, answer):
    assert PROTOCOLS[protocol].usage_of(answer) is None


def test_counts_that_are_none_are_nought():
    told = {"usage": {"prompt_tokens": -5, "completion_tokens": "many", "prompt_tokens_details": {"cached_tokens": 10**9}}}
    assert PROTOCOLS["chat"].usage_of(told) == TokenUsage()


# --- the door's own words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 402, 403, 404, 429, 502, 503])
def test_a_refusal_has_the_shape_of_the_protocol(protocol, status):
    told = json.loads(PROTOCOLS[protocol].refusal(status, "some_code", "what and why"))
    assert told["error"]["message"] == "what and why"
    if protocol == "gemini":
        assert told["error"]["code"] == status
        assert told["error"]["status"].isupper()
        assert told["error"]["details"][0]["reason"] == "SOME_CODE"
        return
    assert told["error"]["type"]
    if protocol == "anthropic":
        assert told["type"] == "error"
    else:
        assert told["error"]["code"] == "some_code"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_stream_can_be_ended_as_if_its_length_was_met_at_any_event(stands, protocol, share):
    data = streamed(protocol)
    scanner, passed = follow(stands, protocol, [data[: int(len(data) * share)]])
    whole = passed + scanner.ending("length")
    events = [json.loads(event.data) for event in Events().feed(whole) if event.data != b"[DONE]"]
    last = events[-1]
    if protocol == "anthropic":
        assert last == {"type": "message_stop"}
        assert events[-2]["delta"]["stop_reason"] == "max_tokens"
        opened = sum(event["type"] == "content_block_start" for event in events)
        assert opened == sum(event["type"] == "content_block_stop" for event in events)
    elif protocol == "chat":
        assert last["choices"][0]["finish_reason"] == "length"
        assert whole.endswith(b"data: [DONE]\n\n")
    elif protocol == "gemini":
        assert [one["finishReason"] for one in last["candidates"]] == ["MAX_TOKENS"]
    else:
        assert last["type"] == "response.incomplete"
        assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_the_providers_own_libraries_read_what_is_rendered(protocol):
    """Their types, validated strictly: what the fake provider and a person say is what a provider would."""
    body = b"".join(PROTOCOLS[protocol].render(ANSWER, False))
    if protocol == "anthropic":
        from anthropic.types import Message as Kind
    elif protocol == "chat":
        from openai.types.chat import ChatCompletion as Kind
    else:
        from openai.types.responses import Response as Kind
    assert Kind.model_validate(json.loads(body)).usage is not None
