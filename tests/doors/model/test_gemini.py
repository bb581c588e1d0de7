"""Gemini's own ways through the model door: what stands in its path, two spellings of a field, thoughts, streams, and its price."""

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.doors.model import pricing
from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import address_of, gemini
from gearcase.doors.model.protocols.answer import Answer, ToolCall
from gearcase.doors.model.protocols.request import ModelRequest
from gearcase.doors.model.protocols.stream import event
from gearcase.doors.model.upstreams.cassette import Cassette, Recording
from gearcase.doors.model.upstreams.scripted import Script, Scripted, Step
from gearcase.errors import Refused, RunError
from gearcase.seams import UpstreamRequest

MODEL = "gemini-2.5-pro"
PATH = f"/v1beta/models/{MODEL}:generateContent"
STREAM = f"/v1beta/models/{MODEL}:streamGenerateContent"
COUNT = f"/v1beta/models/{MODEL}:countTokens"
ASK = {"contents": [{"role": "user", "parts": [{"text": "How many?"}]}]}


def play(stands, folder, *asked, path=PATH, headers=None, **options):
    """Ask once for each body; returns the answers and the closed stand."""

    async def whole():
        async with stands.Stand(folder, **{"keep": "steps" not in options, **options}) as stand:
            return [await stand.post("gemini", json.dumps(body).encode(), headers, path) for body in asked], stand

    return asyncio.run(whole())


def read(body, path=PATH, hosted=()):
    path, _, query = path.partition("?")
    return gemini.read(body, frozenset(hosted), address_of(path, query.encode()))


# --- the path ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent?alt=sse"])
def test_the_model_of_the_path_is_priced_and_asked_for(stands, tmp_path, verb):
    [answer], stand = play(stands, tmp_path, ASK, path=f"/v1beta/models/{MODEL}:{verb}")
    assert answer.status == 200 and b"ok" in answer.body
    [got] = stand.got
    assert got.path == f"/v1beta/models/{MODEL}:{verb.partition('?')[0]}"
    assert got.query == (b"alt=sse" if "?" in verb else b"")
    [called] = stand.records("model_called")
    assert (called.model, called.served, called.ended) == (MODEL, MODEL, "complete")


def test_what_a_client_writes_into_its_query_goes_no_further(stands, tmp_path):
    [answer], stand = play(stands, tmp_path, ASK, path=f"{PATH}?key=only-a-token&fields=candidates&prettyPrint=false")
    assert answer.status == 200
    assert stand.got[0].query == b""
    assert b"usageMetadata" in answer.body


@pytest.mark.parametrize("query", ["", "?alt=json", "?alt=sse&alt=json"])
def test_a_stream_as_one_array_is_refused_with_what_to_ask_for_instead(stands, tmp_path, query):
    [answer], stand = play(stands, tmp_path, ASK, path=STREAM + query)
    assert answer.status == 400
    assert answer.error("gemini")[0] == "INVALID_ARGUMENT" and "?alt=sse" in answer.error("gemini")[1]
    assert stand.got == []


@pytest.mark.parametrize(
    "path",
    [
        f"/v1beta/models/{MODEL}:batchGenerateContent",
        f"/v1beta/models/{MODEL}:generateAnswer",
        f"/v1beta/models/{MODEL}:embedContent",
        f"/v1beta/models/{MODEL}/../../cachedContents:generateContent",
        f"/v1beta/models/{MODEL}%2F..%2F..%2Ffiles:generateContent",
        f"/v1beta/models/{MODEL}%3FuploadType=x:generateContent",
        f"/v1beta/models/{MODEL}:generateContent:generateContent",
        f"/v1beta/models/{'a' * 500}:generateContent",
        "/v1beta/models/:generateContent",
        "/v1beta/tunedModels/mine:generateContent",
        "/v1beta/cachedContents",
        "/v1beta/files",
        "/upload/v1beta/files",
        "/v1alpha/models/gemini-2.5-pro:generateContent",
    ],
)
def test_other_paths_lead_nowhere(stands, tmp_path, path):
    [answer], stand = play(stands, tmp_path, ASK, path=path)
    assert answer.status == 404
    assert stand.got == [] and stand.records("held") == []


def test_a_model_in_the_body_is_not_the_one_that_is_asked_for(stands, tmp_path):
    [answer], stand = play(stands, tmp_path, {**ASK, "model": "models/gemini-3.1-pro-preview"})
    assert answer.status == 200
    assert "model" not in stand.bodies[0]
    assert stand.got[0].path == PATH


def test_models_are_listed_as_the_provider_does(stands, tmp_path):
    async def whole():
        async with (
            stands.Stand(tmp_path, keep=True, model={"lead": f"google/{MODEL}"}) as stand,
            stand.session.get("/v1beta/models") as models,
        ):
            return await models.json()

    assert [one["name"] for one in asyncio.run(whole())["models"]] == [f"models/{MODEL}"]


# --- keys -------------------------------------------------------------------------------------------------------------------


def test_the_key_is_put_in_outside_in_the_header_that_the_provider_knows(stands, tmp_path):
    inside = {"x-goog-api-key": "only-a-token", "authorization": "Bearer inside", "x-goog-user-project": "p", "user-agent": "G/1"}
    environment = {"GEMINI_API_KEY": "sk-outside"}
    _, stand = play(stands, tmp_path, ASK, path=f"{PATH}?key=only-a-token", headers=inside, environment=environment)
    got = dict(stand.got[0].headers)
    assert got[b"x-goog-api-key"] == b"sk-outside"
    assert got[b"user-agent"] == b"G/1"
    assert not got.keys() & {b"authorization", b"x-goog-user-project", b"x-api-key"}
    assert b"only-a-token" not in b"".join([*got.values(), stand.got[0].query, stand.got[0].body])


# --- what is sent -----------------------------------------------------------------------------------------------------------


def test_fields_may_be_spelled_in_two_ways_and_are_sent_in_one(stands, tmp_path):
    body = {
        **ASK,
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {"max_output_tokens": 70, "top_p": 0.5, "thinking_config": {"thinking_budget": 20}},
        "tools": [{"function_declarations": [{"name": "a_b", "parameters": {"properties": {"max_tokens": {}}}}]}],
        "tool_config": {"function_calling_config": {"mode": "AUTO"}},
    }
    [answer], stand = play(stands, tmp_path, body)
    assert answer.status == 200
    [sent] = stand.bodies
    assert sent["generationConfig"] == {"maxOutputTokens": 70, "topP": 0.5, "thinkingConfig": {"thinkingBudget": 20}}
    assert sent["systemInstruction"] == body["system_instruction"]
    assert sent["tools"] == [{"functionDeclarations": [{"name": "a_b", "parameters": {"properties": {"max_tokens": {}}}}]}]
    assert sent.keys() == {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig"}
    assert stand.records("request_edited") == []


@pytest.mark.parametrize(
    "body",
    [
        {**ASK, "generationConfig": {"maxOutputTokens": 10}, "generation_config": {"maxOutputTokens": 60_000}},
        {**ASK, "generationConfig": {"maxOutputTokens": 10, "max_output_tokens": 60_000}},
        {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "mime_type": "audio/wav"}}]}]},
        {**ASK, "tools": [{"functionDeclarations": [], "function_declarations": []}]},
        {**ASK, "generationConfig": [{"maxOutputTokens": 10}]},
        {**ASK, "generationConfig": {"maxOutputTokens": "10"}},
        {**ASK, "generationConfig": {"candidateCount": 0}},
        {**ASK, "tools": {"googleSearch": {}}},
        {"contents": {"parts": [{"fileData": {"fileUri": "http://a"}}]}},
        {"contents": [{"parts": {"fileData": {"fileUri": "http://a"}}}]},
        {"contents": [[{"fileData": {"fileUri": "http://a"}}]]},
        {"contents": []},
        {},
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(stands, tmp_path, body):
    [answer], stand = play(stands, tmp_path, body)
    assert answer.status == 400, body
    assert answer.error("gemini")[0] == "INVALID_ARGUMENT"
    assert stand.got == []


def test_unknown_fields_are_removed_at_every_level_and_on_record(stands, tmp_path):
    body = {
        "contents": [{"role": "user", "parts": [{"text": "hi", "toolCall": {}, "x": 1}], "y": 2}],
        "serviceTier": "priority",
        "store": True,
        "generationConfig": {"enableEnhancedCivicAnswers": True, "thinkingConfig": {"z": 1}},
    }
    _, stand = play(stands, tmp_path, body)
    [sent] = stand.bodies
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert sent.keys() == {"contents", "generationConfig"}
    assert sent["generationConfig"].keys() == {"maxOutputTokens", "thinkingConfig"}
    [edited] = stand.records("request_edited")
    names = ["serviceTier", "store", "generationConfig.enableEnhancedCivicAnswers", "thinkingConfig.z", "contents.y"]
    assert edited.edits == [f"removed unknown field {name}" for name in [*names, "parts.toolCall", "parts.x"]]


def test_what_a_function_was_called_with_and_answered_is_no_content(stands, tmp_path):
    """Arguments and answers are the caller's own, whatever they look like."""
    call = {
        "functionCall": {"name": "see", "args": {"file_data": {"file_uri": "http://a"}, "fileData": 1}},
        "thoughtSignature": "a=",
    }
    told = {"functionResponse": {"name": "see", "response": {"fileData": {"fileUri": "http://a"}}}}
    turns = [*ASK["contents"], {"role": "model", "parts": [call]}, {"role": "user", "parts": [told]}]
    [answer], stand = play(stands, tmp_path, {"contents": turns})
    assert answer.status == 200
    assert stand.bodies[0]["contents"] == turns


HOSTED = [
    "googleSearch",
    "google_search",
    "googleSearchRetrieval",
    "codeExecution",
    "code_execution",
    "urlContext",
    "url_context",
    "fileSearch",
    "googleMaps",
    "computerUse",
    "mcpServers",
    "enterpriseWebSearch",
]


@pytest.mark.parametrize("alone", [False, True])
def test_tools_that_the_provider_hosts_are_taken_out_and_on_record(stands, tmp_path, alone):
    own = {"functionDeclarations": [{"name": "bash"}]}
    tools = [*({name: {}} for name in HOSTED), *([] if alone else [{**own, "googleSearch": {}}])]
    [answer], stand = play(stands, tmp_path, {**ASK, "tools": tools, "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}})
    assert answer.status == 200
    [sent] = stand.bodies
    assert sent.get("tools") == (None if alone else [own])
    assert ("toolConfig" in sent) is not alone
    assert len(stand.records("request_edited")[0].edits) == len(tools)


def test_a_search_that_the_box_opens_passes_and_its_fee_is_held_and_settled(stands, tmp_path):
    options = {"options": {"hosted_tools": ("google_search",)}, "limits": {"usd": 100 * stands.DOLLAR}}
    body = {**ASK, "generationConfig": {"maxOutputTokens": 500}}
    tools = [{"googleSearch": {}}, {"codeExecution": {}}]
    _, stand = play(stands, tmp_path, {**body, "tools": tools}, **options)
    assert stand.bodies[0]["tools"] == [{"googleSearch": {}}]
    [held] = stand.records("held")
    assert held.amounts["tokens"] == 1_048_576 + 500  # what it brings back is bounded by the window only
    # above 200,000 tokens: $2.50 in, $15 out; a search is $0.035
    assert held.amounts["usd"] == 1_048_576 * 2_500 + 500 * 15_000 + 10 * 35_000_000
    grounded = {"candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}]}
    usage = gemini.usage_of({**grounded, "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 10}})
    assert pricing.find("google", MODEL).cost(usage) == 100 * 1_250 + 10 * 10_000 + 2 * 35_000_000


# --- ceilings ---------------------------------------------------------------------------------------------------------------


def test_candidates_multiply_what_is_held(stands, tmp_path):
    asked = [{**ASK, "generationConfig": {"maxOutputTokens": 300, "candidateCount": number}} for number in (1, 4)]
    _, stand = play(stands, tmp_path, *asked)
    one, four = (event.amounts["usd"] for event in stand.records("held"))
    assert four == one + 3 * 300 * 10_000
    assert [body["generationConfig"]["maxOutputTokens"] for body in stand.bodies] == [300, 300]


@pytest.mark.parametrize(
    ("output", "budget", "sent"), [(8_000, 24_000, 5_999), (8_000, 2_000, 2_000), (8_000, -1, -1), (500, 900, 900)]
)
def test_thinking_leaves_room_for_an_answer(output, budget, sent):
    request = read({**ASK, "generationConfig": {"thinkingConfig": {"thinkingBudget": budget}}})
    gemini.cap(request, output)
    assert request.body["generationConfig"] == {"maxOutputTokens": output, "thinkingConfig": {"thinkingBudget": sent}}
    assert (request.edits == ["lowered thinking"]) is (sent != budget)


# --- usage and price --------------------------------------------------------------------------------------------------------


def metadata(**counts):
    return {"usageMetadata": counts}


def test_thoughts_are_billed_as_output_beside_the_candidates_and_cached_input_at_its_own_rate():
    told = metadata(
        promptTokenCount=10_000,
        cachedContentTokenCount=6_000,
        candidatesTokenCount=300,
        thoughtsTokenCount=700,
        toolUsePromptTokenCount=50,
        totalTokenCount=11_050,
    )
    usage = gemini.usage_of(told)
    assert usage == TokenUsage(input=4_050, cache_read=6_000, output=1_000, reasoning=700)
    # $1.25 a million in, $0.125 cached, $10 out
    assert pricing.find("google", MODEL).cost(usage) == 4_050 * 1_250 + 6_000 * 125 + 1_000 * 10_000
    # of a prompt above 200,000 tokens every token has the higher rate: $2.50, $0.25, $15
    long = gemini.usage_of(
        metadata(promptTokenCount=200_001, cachedContentTokenCount=1, candidatesTokenCount=2, thoughtsTokenCount=1)
    )
    assert pricing.find("google", MODEL).cost(long) == 200_000 * 2_500 + 250 + 3 * 15_000


def test_thoughts_that_a_report_has_only_in_its_total_are_paid():
    told = gemini.usage_of(metadata(promptTokenCount=100, candidatesTokenCount=10, totalTokenCount=160))
    assert told == TokenUsage(input=100, output=60, reasoning=50)


def test_a_call_is_settled_at_its_reported_usage_to_the_nano_dollar(stands, tmp_path):
    step = Step("hello", usage={"input": 900, "cache_read": 100, "output": 60, "reasoning": 40})
    for at, path in enumerate((PATH, f"{STREAM}?alt=sse")):
        [answer], stand = play(stands, tmp_path / str(at), ASK, path=path, steps=(step,))
        assert b'"thoughtsTokenCount":40' in answer.body and b'"candidatesTokenCount":20' in answer.body
        [settled] = stand.records("settled")
        assert settled.amounts == {"usd": 900 * 1_250 + 100 * 125 + 60 * 10_000, "tokens": 1_060, "calls": 1}


def test_nothing_left_is_402_in_the_form_of_the_provider(stands, tmp_path):
    [answer], stand = play(stands, tmp_path, ASK, limits={"usd": 1_000})
    assert answer.status == 402
    error = answer.json["error"]
    assert (error["code"], error["status"], error["details"][0]["reason"]) == (402, "FAILED_PRECONDITION", "BUDGET")
    assert "is left" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert stand.got == []


# --- streams ----------------------------------------------------------------------------------------------------------------

ANSWER = Answer("one two three", (ToolCall("c", "bash", {"command": "ls"}),), TokenUsage(input=9, output=4), model="m", pieces=3)


def follow(chunks, choices=1):
    scanner, request = gemini.Scanner(), ModelRequest("gemini", "m", {}, stream=True, choices=choices)
    passed = b"".join([scanner.feed(chunk, request) for chunk in chunks])
    return scanner, passed + scanner.last(request)


def chunk(index=0, finish="", **usage):
    return event({"candidates": [{"index": index, **({"finishReason": finish} if finish else {})}], "usageMetadata": usage})


def test_a_report_in_the_middle_of_a_stream_settles_nothing():
    middle = [chunk(promptTokenCount=9, candidatesTokenCount=at, totalTokenCount=9 + at) for at in (5, 50, 500)]
    scanner, _ = follow(middle)
    assert scanner.usage() is None and not scanner.ended
    assert scanner.deltas == 500, "what was reported so far is a floor of the output"
    scanner, _ = follow([*middle, chunk(finish="STOP", promptTokenCount=9, candidatesTokenCount=600)])
    assert scanner.ended and scanner.usage() == TokenUsage(input=9, output=600)


def test_a_stream_of_several_candidates_ends_with_the_last_of_them():
    chunks = [chunk(0, promptTokenCount=9), chunk(1, "STOP", promptTokenCount=9, candidatesTokenCount=5)]
    scanner, _ = follow(chunks, choices=2)
    assert scanner.usage() is None
    told = json.loads(scanner.ending("length").removeprefix(b"data: "))
    assert [(one["index"], one["finishReason"]) for one in told["candidates"]] == [(0, "MAX_TOKENS")]
    scanner, _ = follow([*chunks, chunk(0, "STOP", promptTokenCount=9, candidatesTokenCount=8)], choices=2)
    assert scanner.usage() == TokenUsage(input=9, output=8)


def test_a_prompt_that_is_blocked_ends_its_stream():
    told = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12}}
    scanner, _ = follow([event(told)])
    assert scanner.ended and scanner.usage() == TokenUsage(input=12)


def test_an_error_in_the_middle_of_a_stream_is_told_as_the_provider_would():
    told = json.loads(gemini.Scanner().ending("the upstream broke off").removeprefix(b"data: "))
    assert told == {"error": {"code": 500, "message": "the upstream broke off", "status": "INTERNAL"}}


@given(
    st.lists(st.text(max_size=40), max_size=6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 2**32),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_a_stream_is_read_the_same_however_its_bytes_arrive(texts, given_, output, seed, end):
    events = [
        chunk(promptTokenCount=given_),
        *(event({"candidates": [{"content": {"parts": [{"text": text}]}}]}) for text in texts),
    ]
    last = chunk(finish="STOP", promptTokenCount=given_, candidatesTokenCount=output)
    data = b"".join([*events, last]).replace(b"\n\n", end * 2)
    cuts, at = random.Random(seed), 0
    pieces = []
    while at < len(data):
        size = cuts.choice((1, 2, 5, 30, 1000))
        pieces.append(data[at : at + size])
        at += size
    scanner, passed = follow(pieces)
    assert passed == data
    assert scanner.ended and scanner.usage() == TokenUsage(input=given_, output=output)
    broken, passed = follow([data[: len(data) - len(last)]])
    assert not broken.ended and broken.usage() is None and data.startswith(passed)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: b"data: " + text.encode() + b"\n\n"))
def test_no_bytes_break_the_reader_or_settle_a_call(data):
    scanner, _ = follow([data])
    assert scanner.usage() is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "contents parts role text fileData file_data inlineData tools functionDeclarations generationConfig".split()
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_a_body_of_any_shape_is_read_or_refused_and_never_sends_a_file_by_address(value):
    body = value if isinstance(value, dict) else {"contents": value}
    try:
        request = read(body)
    except Refused:
        return
    assert isinstance(request.body["contents"], list)
    parts = [part for content in request.body["contents"] for part in content.get("parts") or []]
    assert not [part for part in parts if {"fileData", "file_data"} & part.keys()]
    gemini.cap(request, 100)
    assert request.body["generationConfig"]["maxOutputTokens"] == 100


# --- counting ---------------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_without_a_hold(stands, tmp_path):
    whole = {**ASK, "model": f"models/{MODEL}", "systemInstruction": {"parts": [{"text": "Be brief."}]}}
    asked = [ASK, {"generateContentRequest": whole}, {"generate_content_request": {**whole, "model": "models/other"}}]
    answers, stand = play(stands, tmp_path, *asked, path=COUNT)
    assert [answer.json for answer in answers] == [{"totalTokens": 11}] * 3
    assert stand.bodies == [ASK, {"generateContentRequest": whole}, {"generateContentRequest": whole}]
    assert [got.path for got in stand.got] == [COUNT] * 3
    assert stand.records("held") == []


STORED = {"generateContentRequest": {**ASK, "cachedContent": "cachedContents/1"}}


@pytest.mark.parametrize("body", [STORED, {"contents": [{"parts": [{"fileData": {"fileUri": "a"}}]}]}])
def test_counting_opens_no_other_way_out(stands, tmp_path, body):
    [answer], stand = play(stands, tmp_path, body, path=COUNT)
    assert answer.status == 403
    assert stand.got == []


# --- cassettes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_recorded_call_is_played_back_whatever_its_ceiling_and_the_name_of_its_model(tmp_path, stream):
    def asked(model, ceiling, text="How many?", budget=500):
        config = {"temperature": 0.5, "maxOutputTokens": ceiling, "thinkingConfig": {"thinkingBudget": budget}}
        body = {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}
        path = gemini.STREAM_PATH if stream else gemini.PATH
        return UpstreamRequest("gemini", path, model, {}, json.dumps(body).encode(), body, stream, "lead", False, 0)

    async def told(upstream, request):
        response = await upstream.send(request)
        return b"".join([chunk async for chunk in response.chunks])

    async def whole():
        file = tmp_path / "a.cassette"
        recording = Recording(Scripted(Script((Step("hello", usage={"input": 9, "output": 4}),))), file)
        first = await told(recording, asked(MODEL, 4_000))
        await recording.close()
        cassette = Cassette(file, strict=True)
        assert await told(cassette, asked("cassette", 70, budget=50)) == first
        with pytest.raises(RunError) as missing:
            await told(cassette, asked(MODEL, 4_000, "How few?"))
        return json.loads(file.read_text().splitlines()[1])["usage"], missing.value.code

    usage, code = asyncio.run(whole())
    assert usage["promptTokenCount"] == 9 and usage["candidatesTokenCount"] == 4
    assert code == "cassette_mismatch"
