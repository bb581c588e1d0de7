"""Upper bounds of input tokens, without a tokenizer."""

from copy import deepcopy
from dataclasses import replace

import pytest

from gearcase.doors.model import pricing
from gearcase.doors.model.bounds import MOST_REMEMBERED, Bounds
from gearcase.doors.model.price import TokenUsage
from gearcase.errors import Refused

PRICE = replace(pricing.nominal("m"), context_window=1_000_000)


def read(stands, protocol, *arguments, **more):
    return stands.reads(protocol, stands.ask(protocol, *arguments, **more))


def turns(*texts, protocol=""):
    if protocol == "gemini":
        return [{"role": "model" if at % 2 else "user", "parts": [{"text": text}]} for at, text in enumerate(texts)]
    return [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]


@pytest.mark.parametrize("text", ["word " * 3_000, "\u4f60\u597d" * 900, "\U0001f980" * 500, "\x00\x01" * 400, 'a"\\' * 300])
def test_no_text_has_more_tokens_than_its_bytes(stands, protocol, text):
    assert Bounds().bound(read(stands, protocol, text), PRICE) >= len(text.encode())


def test_everything_but_what_adds_nothing_counts(stands, protocol):
    """A schema, a tool and instructions become part of the prompt, wherever a protocol puts them."""
    long = {"type": "object", "properties": {f"field_{at}": {"type": "string"} for at in range(500)}}
    places = {
        "anthropic": [
            {"system": "s" * 9_000},
            {"tools": [{"name": "t", "input_schema": long}]},
            {"output_format": {"type": "json_schema", "schema": long}},
            {"output_config": {"format": {"type": "json_schema", "schema": long}}},
        ],
        "chat": [
            {"tools": [{"type": "function", "function": {"name": "t", "parameters": long}}]},
            {"functions": [{"name": "t", "parameters": long}]},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": long}}},
        ],
        "responses": [
            {"instructions": "s" * 9_000},
            {"tools": [{"type": "function", "name": "t", "parameters": long}]},
            {"text": {"format": {"type": "json_schema", "name": "s", "schema": long}}},
        ],
        "gemini": [
            {"systemInstruction": {"parts": [{"text": "s" * 9_000}]}},
            {"tools": [{"functionDeclarations": [{"name": "t", "parametersJsonSchema": long}]}]},
            {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": long}},
        ],
    }[protocol]
    bare = Bounds().bound(read(stands, protocol), PRICE)
    for more in places:
        request = stands.reads(protocol, {**stands.ask(protocol), **more})
        assert Bounds().bound(request, PRICE) > bare + 8_000, more


def test_an_answered_prefix_is_counted_as_the_provider_did_and_only_the_tail_by_its_bytes(stands, protocol):
    bounds = Bounds()
    first = read(stands, protocol, turns("word " * 10_000, protocol=protocol))
    loose = bounds.bound(first, PRICE)
    assert loose > 50_000
    bounds.learn(first, TokenUsage(input=2_000, cache_read=10_500, output=300))
    then = read(stands, protocol, turns("word " * 10_000, "done", "and now?", protocol=protocol))
    bound = bounds.bound(then, PRICE)
    assert 12_500 + 300 + len("done" + "and now?") < bound < 12_500 + 300 + 1_500
    assert bounds.bound(read(stands, protocol, turns("word " * 10_000, protocol=protocol)), PRICE) < 12_500 + 300 + 1_500


@pytest.mark.parametrize("change", ["first message", "system", "model", "tools", "betas"])
def test_a_prefix_that_differs_in_anything_is_counted_by_its_bytes(stands, change):
    def asked(**more):
        text = more.pop("text", "word " * 10_000)
        return read(stands, "anthropic", turns(text, "done", "and now?"), **{"system": "Be brief.", **more})

    bounds = Bounds()
    first = read(stands, "anthropic", turns("word " * 10_000), system="Be brief.")
    bounds.learn(first, TokenUsage(input=12_500, output=300))
    assert bounds.bound(asked(), PRICE) < 15_000
    other = {
        "first message": {"text": "Word " + "word " * 9_999},
        "system": {"system": "Be brief!"},
        "model": {"model": "claude-haiku-4-5"},
        "tools": {"tools": [{"name": "t", "input_schema": {"type": "object"}}]},
        "betas": {},
    }[change]
    request = asked(**other)
    if change == "betas":
        request.betas = "interleaved-thinking-2025-05-14"
    assert bounds.bound(request, PRICE) > 50_000


def test_cache_marks_and_ceilings_may_move_within_a_conversation(stands):
    def marked(text):
        return {"role": "user", "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}

    def bare(text):
        return {"role": "user", "content": [{"type": "text", "text": text}]}

    bounds = Bounds()
    bounds.learn(read(stands, "anthropic", [marked("word " * 10_000)], cap=500), TokenUsage(input=12_500, output=10))
    again = [bare("word " * 10_000), {"role": "assistant", "content": "ok"}, marked("next")]
    assert bounds.bound(read(stands, "anthropic", again, cap=900, stream=True, temperature=0.1), PRICE) < 15_000


def test_an_answer_that_reports_no_input_teaches_nothing(stands, protocol):
    bounds = Bounds()
    request = read(stands, protocol, "word " * 10_000)
    bounds.learn(request, TokenUsage(output=10))
    assert bounds.bound(request, PRICE) > 50_000


def test_the_context_window_is_the_most_there_can_be(stands, protocol):
    request = read(stands, protocol, "word " * 10_000)
    assert Bounds().bound(request, replace(PRICE, context_window=8_000)) == 8_000


DOCUMENTS = {
    "anthropic": {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
    "chat": {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
    "responses": {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
    "gemini": {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
}


def turn(protocol, *parts):
    return [{"role": "user", "parts" if protocol == "gemini" else "content": list(parts)}]


def test_what_only_the_window_bounds_takes_the_whole_window_or_is_refused(stands, protocol):
    request = read(stands, protocol, turn(protocol, DOCUMENTS[protocol]))
    assert Bounds().bound(request, replace(PRICE, context_window=70_000)) == 70_000
    with pytest.raises(Refused) as raised:
        Bounds().bound(request, replace(PRICE, context_window=0))
    assert raised.value.code == "denied"


IMAGES = {
    "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
    "chat": {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    "responses": {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
    "gemini": {"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}},
}


def test_an_image_counts_however_few_bytes_it_has(stands, protocol):
    def bound(number):
        text = {"text": "see"} if protocol == "gemini" else {"type": "text", "text": "see"}
        images = [deepcopy(IMAGES[protocol]) for _ in range(number)]
        return Bounds().bound(read(stands, protocol, turn(protocol, text, *images)), PRICE)

    assert bound(3) >= bound(0) + 3 * 5_000


@pytest.mark.parametrize(
    ("provider", "model", "each"),
    [("anthropic", "claude-sonnet-4-5", 5_000), ("openai", "gpt-4o-mini", 48_169), ("google", "gemini-2.5-pro", 0)],
)
def test_an_image_counts_as_its_provider_counts_or_takes_the_window(stands, provider, model, each):
    price = pricing.find(provider, model)
    request = read(stands, "chat", [{"role": "user", "content": [IMAGES["chat"]]}])
    bound = Bounds().bound(request, price)
    assert each <= bound < price.context_window if each else bound == price.context_window


def test_what_is_remembered_is_bounded(stands):
    bounds = Bounds()
    for at in range(MOST_REMEMBERED + 50):
        bounds.learn(read(stands, "chat", f"{at} " + "word " * 100), TokenUsage(input=120, output=1))
    assert len(bounds._known) == MOST_REMEMBERED
