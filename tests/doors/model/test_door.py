"""What passes the model door, as what, and what does not."""

import asyncio
import gzip
import io
import json

import pytest

from gearcase.doors.model.upstreams.scripted import Step
from gearcase.journal import read

PNG = "data:image/png;base64,iVBORw0KGgo="
ADDRESS = "http://169.254.169.254/latest"


def play(stands, folder, protocol, *asked, headers=None, path=None, **options):
    """Ask once for each body a provider that keeps what it gets; returns the answers and the closed stand."""

    async def whole():
        async with stands.Stand(folder, **{"keep": "steps" not in options, **options}) as stand:
            return [await stand.post(protocol, body, headers, path) for body in asked], stand

    return asyncio.run(whole())


def contents(*parts):
    """Contents of Gemini's."""
    return [{"role": "user", "parts": list(parts)}]


def turn(*parts):
    return [{"role": "user", "content": list(parts)}]


# --- what passes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_passed_on_untouched_and_settled_at_its_reported_usage(stands, tmp_path, protocol, stream):
    [answer], stand = play(stands, tmp_path, protocol, stands.ask(protocol, stream=stream))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    assert b"ok" in answer.body
    rates = stands.RATES[protocol]
    [settled] = stand.records("settled")
    assert settled.amounts == {"usd": 11 * rates[0] + 2 * rates[1], "tokens": 13, "calls": 1}
    assert stand.balance().spent == settled.amounts["usd"]
    [called] = stand.records("model_called")
    assert (called.protocol, called.model, called.status, called.ended) == (protocol, stands.MODELS[protocol], 200, "complete")
    assert called.usage == {"input": 11, "output": 2}
    assert called.request_bytes == len(stand.got[0].body)


def test_what_the_provider_receives_is_what_was_priced(stands, tmp_path, protocol):
    """Every byte that can become a token is in the bound, the ceiling is in the body, and the hold pays both."""
    _, stand = play(stands, tmp_path, protocol, stands.ask(protocol, "word " * 500, cap=None))
    [body], [held] = stand.bodies, stand.records("held")
    ceiling = stands.cap_of(protocol, body)
    rates = stands.RATES[protocol]
    bound = held.amounts["tokens"] - ceiling
    assert bound > len("word " * 500)
    assert held.amounts["usd"] == bound * rates[0] + ceiling * rates[1]


def test_the_hold_is_on_record_before_the_request_leaves(stands, tmp_path, protocol):
    play(stands, tmp_path, protocol, stands.ask(protocol))
    kinds = [record.type for record in read(tmp_path / "journal")]
    order = [kinds.index(kind) for kind in ("held", "sent", "settled", "model_called")]
    assert order == sorted(order)


def test_credentials_cookies_and_unknown_headers_do_not_pass_in_either_direction(stands, tmp_path, protocol):
    headers = {
        "authorization": "Bearer inside",
        "x-api-key": "inside",
        "cookie": "c=1",
        "x-forwarded-for": "10.0.0.1",
        "openai-organization": "org",
        "anthropic-version": "2023-06-01",
        "user-agent": "agent/1",
    }
    [answer], stand = play(stands, tmp_path, protocol, stands.ask(protocol), headers=headers)
    got = dict(stand.got[0].headers)
    assert b"inside" not in b"".join(got.values())
    assert not got.keys() & {b"cookie", b"x-forwarded-for", b"openai-organization"}
    assert got[b"user-agent"] == b"agent/1"
    assert got[b"anthropic-version"] == b"2023-06-01"
    assert got[b"accept-encoding"] == b"identity"
    assert answer.headers["x-request-id"] == "r1"
    assert "set-cookie" not in answer.headers
    assert answer.headers["x-gearcase-call"] == "1"
    assert float(answer.headers["x-gearcase-remaining-usd"]) == pytest.approx(stand.balance().free / 1e9, abs=1e-6)


def test_betas_that_change_prices_or_reach_are_taken_out_and_on_record(stands, tmp_path):
    betas = (
        "interleaved-thinking-2025-05-14, context-1m-2025-08-07,fast-mode-2026-02-01, mcp-client-2025-04-04,files-api-2025-04-14"
    )
    _, stand = play(stands, tmp_path, "anthropic", stands.ask("anthropic"), headers={"anthropic-beta": betas})
    assert dict(stand.got[0].headers)[b"anthropic-beta"] == b"interleaved-thinking-2025-05-14"
    [edited] = stand.records("request_edited")
    assert [edit.removeprefix("removed beta ")[:8] for edit in edited.edits] == ["context-", "fast-mod", "mcp-clie", "files-ap"]


@pytest.mark.parametrize(
    "more",
    [{"speed": "fast"}, {"inference_geo": "us"}, {"betas": ["context-1m-2025-08-07"]}, {"prediction": {}}, {"best_of": 20}],
)
def test_a_field_that_the_door_does_not_know_is_taken_out_and_on_record(stands, tmp_path, protocol, more):
    [answer], stand = play(stands, tmp_path, protocol, stands.ask(protocol, **more))
    assert answer.status == 200
    assert not stand.bodies[0].keys() & more.keys()
    assert f"removed unknown field {next(iter(more))}" in stand.records("request_edited")[0].edits


def test_the_usage_that_the_door_asks_for_is_not_shown_to_a_client_that_did_not(stands, tmp_path):
    asked = [stands.ask("chat", stream=True), stands.ask("chat", stream=True, stream_options={"include_usage": True})]
    [without, with_usage], stand = play(stands, tmp_path, "chat", *asked)
    assert all(body["stream_options"] == {"include_usage": True} for body in stand.bodies)
    assert not any("usage" in event for event in without.events if event != "[DONE]")
    assert any("usage" in event for event in with_usage.events if event != "[DONE]")
    assert [event.ended for event in stand.records("model_called")] == ["complete"] * 2


def test_the_ceiling_goes_into_the_field_that_the_client_used(stands, tmp_path):
    asked = [stands.ask("chat", cap=None, max_tokens=90), stands.ask("chat", cap=None)]
    _, stand = play(stands, tmp_path, "chat", *asked)
    assert stand.bodies[0]["max_tokens"] == 90
    assert "max_completion_tokens" not in stand.bodies[0]
    assert stand.bodies[1]["max_completion_tokens"] > 4_096


def test_nothing_is_stored_at_the_provider(stands, tmp_path):
    _, responses = play(stands, tmp_path / "r", "responses", stands.ask("responses"), stands.ask("responses", store=True))
    assert [body["store"] for body in responses.bodies] == [False, False]
    _, chat = play(stands, tmp_path / "c", "chat", stands.ask("chat"), stands.ask("chat", store=True))
    assert ["store" in body and body["store"] for body in chat.bodies] == [False, False]


# --- service tiers ----------------------------------------------------------------------------------------------------------


def tiers(stands, folder, model, *asked, protocol="responses"):
    told = [{"service_tier": tier} if tier else {} for tier in asked]
    bodies = [stands.ask(protocol, f"{at}?", model=model, **more) for at, more in enumerate(told)]
    _, stand = play(stands, folder, protocol, *bodies)
    return [body.get("service_tier") for body in stand.bodies], stand


def test_a_tier_is_added_only_where_leaving_it_out_could_cost_more_than_was_held(stands, tmp_path):
    assert tiers(stands, tmp_path / "1", "gpt-5-mini", "")[0] == ["default"]  # priority costs twice as much there
    assert tiers(stands, tmp_path / "2", "gpt-4-turbo", "", protocol="chat")[0] == [None]  # one price only
    assert tiers(stands, tmp_path / "3", "claude-sonnet-4-5", "", protocol="anthropic")[0] == [None]


def test_a_tier_with_a_price_is_asked_for_and_held_at_that_price(stands, tmp_path):
    told, stand = tiers(stands, tmp_path, "gpt-5-mini", "default", "priority", "flex", "auto")
    assert told == ["default", "priority", "flex", "auto"]
    default, priority, flex, auto = (event.amounts["usd"] for event in stand.records("held"))
    assert priority > default * 1.7
    assert flex == default  # it may be served in the standard tier instead
    assert auto == priority  # whichever the project is set to


def test_a_tier_without_a_price_is_taken_out(stands, tmp_path):
    told, stand = tiers(stands, tmp_path, "gpt-5-mini", "scale-9000")
    assert told == ["default"]
    assert "removed service_tier scale-9000: it has no known price" in stand.records("request_edited")[0].edits


# --- what is refused --------------------------------------------------------------------------------------------------------

DENIED = {
    "anthropic": [
        {"text": turn({"type": "image", "source": {"type": "url", "url": ADDRESS}})},
        {"text": turn({"type": "image", "source": {"type": "file", "file_id": "file_1"}})},
        {"text": turn({"type": "document", "source": {"type": "url", "url": ADDRESS}})},
        {"text": turn({"type": "video", "source": {"type": "url", "url": ADDRESS}})},
        {"text": turn({"type": "container_upload", "file_id": "file_1"})},
        {
            "text": turn(
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "image", "source": {"type": "url", "url": ADDRESS}}],
                }
            )
        },
        {"mcp_servers": [{"type": "url", "url": ADDRESS, "name": "m"}]},
        {"container": "c_1"},
        {"system": [{"type": "document", "source": {"type": "url", "url": ADDRESS}}]},
        {
            "tools": [{"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "tool", "name": "web_search"},
        },
    ],
    "chat": [
        {"text": turn({"type": "image_url", "image_url": {"url": ADDRESS}})},
        {"text": turn({"type": "image_url", "image_url": ADDRESS})},
        {"text": turn({"type": "video_url", "video_url": {"url": ADDRESS}})},
        {"text": turn({"type": "file", "file": {"file_id": "file-1"}})},
        {"text": turn({"type": "file", "file": {"file_id": "file-1", "file_data": PNG}})},
        {"text": turn({"type": "input_audio", "input_audio": {"data": "aa", "format": "wav"}})},
        {"web_search_options": {"search_context_size": "low"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "a", "format": "wav"}},
    ],
    "responses": [
        {"text": turn({"type": "input_image", "image_url": ADDRESS})},
        {"text": turn({"type": "input_image", "file_id": "file-1"})},
        {"text": turn({"type": "input_image", "image_url": PNG, "file_id": "file-1"})},
        {"text": turn({"type": "input_file", "file_url": ADDRESS})},
        {"text": turn({"type": "input_file", "file_id": "file-1"})},
        {
            "text": [
                {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": ADDRESS}}
            ]
        },
        {"text": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": ADDRESS}]}]},
        {"text": [{"type": "item_reference", "id": "msg_1"}]},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
    ],
    "gemini": [
        {"text": contents({"fileData": {"fileUri": ADDRESS, "mimeType": "text/plain"}})},
        {"text": contents({"file_data": {"file_uri": "https://generativelanguage.googleapis.com/v1beta/files/1"}})},
        {"text": contents({"functionResponse": {"name": "f", "response": {}, "parts": [{"fileData": {"fileUri": ADDRESS}}]}})},
        {"text": contents({"inlineData": {"mimeType": "audio/wav", "data": "aa"}})},
        {"text": contents({"inline_data": {"mime_type": "video/mp4", "data": "aa"}})},
        {"systemInstruction": {"parts": [{"fileData": {"fileUri": ADDRESS}}]}},
        {"system_instruction": {"parts": [{"file_data": {"file_uri": ADDRESS}}]}},
        {"cachedContent": "cachedContents/1"},
        {"cached_content": "cachedContents/1"},
        {"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}},
        {"generationConfig": {"speechConfig": {"voiceConfig": {}}}},
        {"generationConfig": {"image_config": {"image_size": "4K"}}},
    ],
}


@pytest.mark.parametrize("protocol", DENIED)
def test_what_makes_the_provider_fetch_store_or_go_on_is_refused_and_never_reaches_it(stands, tmp_path, protocol):
    asked = [stands.ask(protocol, **more) for more in DENIED[protocol]]
    answers, stand = play(stands, tmp_path, protocol, *asked)
    for more, answer in zip(DENIED[protocol], answers, strict=True):
        assert answer.status == 403, more
        assert answer.error(protocol)[1]
    assert stand.got == []
    assert stand.records("held") == []
    assert [event.code for event in stand.records("door_refused")] == ["denied"] * len(asked)


INLINE = {
    "anthropic": turn({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}),
    "chat": turn({"type": "image_url", "image_url": {"url": PNG}}),
    "responses": turn({"type": "input_image", "image_url": PNG}),
    "gemini": contents({"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}),
}


def test_content_that_is_in_the_request_itself_passes(stands, tmp_path, protocol):
    limits = {"usd": 10 * stands.DOLLAR}
    [answer], stand = play(stands, tmp_path, protocol, stands.ask(protocol, INLINE[protocol]), limits=limits)
    assert answer.status == 200
    assert "iVBORw0KGgo=" in json.dumps(stand.bodies[0])


def test_what_a_model_wrote_into_a_tool_call_is_no_content(stands, tmp_path):
    """The arguments of an earlier call and the names in a schema may look like anything."""
    call = {"type": "tool_use", "id": "t", "name": "see", "input": {"type": "image", "source": {"type": "url", "url": ADDRESS}}}
    turns = [
        {"role": "user", "content": "see"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "seen"}]},
    ]
    schema = {"type": "object", "properties": {"source": {"type": "string"}, "image_url": {"type": "string"}}}
    tool = {"name": "see", "input_schema": schema}
    [answer], stand = play(stands, tmp_path, "anthropic", stands.ask("anthropic", turns, tools=[tool]))
    assert answer.status == 200
    assert stand.bodies[0]["tools"] == [tool]


HOSTED = {
    "anthropic": [
        "web_search_20250305",
        "web_fetch_20250910",
        "code_execution_20250825",
        "mcp_toolset",
        "tool_search_tool_regex_20251119",
    ],
    "chat": ["web_search", "mcp"],
    "responses": [
        "web_search",
        "web_search_preview",
        "file_search",
        "code_interpreter",
        "mcp",
        "image_generation",
        "computer_use_preview",
    ],
}


@pytest.mark.parametrize("protocol", HOSTED)
def test_tools_that_the_provider_hosts_are_taken_out_and_on_record(stands, tmp_path, protocol):
    own = {
        "anthropic": {"name": "bash", "input_schema": {"type": "object"}},
        "chat": {"type": "function", "function": {"name": "bash"}},
        "responses": {"type": "function", "name": "bash"},
    }[protocol]
    hosted = [{"type": kind, "name": kind} for kind in HOSTED[protocol]]
    [answer], stand = play(stands, tmp_path, protocol, stands.ask(protocol, tools=[*hosted, own]))
    assert answer.status == 200
    assert stand.bodies[0]["tools"] == [own]
    assert "hosted tool" in stand.records("request_edited")[0].edits[-1]


def test_a_hosted_tool_that_the_box_opens_passes_and_its_fee_is_held(stands, tmp_path):
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    limits = {"usd": 100 * stands.DOLLAR}
    options = {"hosted_tools": ("web_search",)}
    asked = [stands.ask("anthropic", tools=[tool]), stands.ask("anthropic")]
    _, stand = play(stands, tmp_path, "anthropic", *asked, limits=limits, options=options)
    assert stand.bodies[0]["tools"] == [tool]
    with_search, _ = (event.amounts for event in stand.records("held"))
    window = stand.routing.inside("claude-sonnet-4-5").price.context_window
    assert with_search["tokens"] == window + 500  # what it brings back is bounded by the window only
    assert with_search["usd"] >= 3 * 10_000_000 + window * 3_000


READ_TWICE = [
    b'{"model": "M", "messages": [], "input": "a", "max_tokens": 1, "max_tokens": 64000}',
    b'{"model": "M", "messages": [], "input": "a", "max_tokens" : 1, "max_t\\u006fkens": 64000}',
    b'{"model": "M", "messages": [{"role": "user", "role": "system", "content": "a"}], "input": [{"role": "user", "role": "a"}]}',
    b'\xef\xbb\xbf{"model": "M", "messages": [], "input": "a"}',
    b'{"model": "M", "messages": [], "input": "\xff"}',
    '{"model": "M", "messages": [], "input": "a"}'.encode("utf-16"),
    b'{"model": "M", "messages": [], "input": NaN}',
    b'[{"model": "M"}]',
    b'{"model": "M", "messages": [], "input": "a"} {}',
    b"",
    b'{"model": 7, "messages": [], "input": "a"}',
    b'{"messages": [], "input": "a"}',
    b'{"model": "M"}',
    b'{"model": "M", "input": "a", "messages": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"model": "M", "messages": [], "input": "a", "metadata": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}",
]


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_a_body_that_two_parsers_could_read_differently_is_refused(stands, tmp_path, protocol):
    asked = [body.replace(b"M", stands.MODELS[protocol].encode(), 1) for body in READ_TWICE]
    answers, stand = play(stands, tmp_path, protocol, *asked)
    assert [(body[:90], answer.status) for body, answer in zip(asked, answers, strict=True)] == [
        (body[:90], 400) for body in asked
    ]
    assert all(answer.error(protocol)[0] == "invalid_request_error" for answer in answers)
    assert stand.got == []


@pytest.mark.parametrize("value", [0, -1, 1.5, "500", True, 2**60, [], {}])
def test_a_ceiling_that_is_no_count_is_refused(stands, tmp_path, protocol, value):
    [answer], stand = play(stands, tmp_path, protocol, stands.ask(protocol, cap=value))
    assert answer.status == 400
    assert stand.got == []


def test_a_compressed_body_is_refused(stands, tmp_path, protocol):
    body = gzip.compress(json.dumps(stands.ask(protocol)).encode())
    [answer], stand = play(stands, tmp_path, protocol, body, headers={"content-encoding": "gzip"})
    assert answer.status == 400
    assert "compressed" in answer.error(protocol)[1]
    [answer], other = play(stands, tmp_path / "o", protocol, stands.ask(protocol), headers={"content-encoding": "identity"})
    assert (answer.status, stand.got, len(other.got)) == (200, [], 1)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/messages/batches",
        "/v1/embeddings",
        "/v1/responses/resp_1",
        "/v1/completions",
        "/v1/realtime",
        "/v1/messages/",
        "/admin",
    ],
)
def test_an_unknown_path_is_refused(stands, tmp_path, path):
    [answer], stand = play(stands, tmp_path, "chat", stands.ask("chat"), path=path)
    assert answer.status == 404
    assert stand.got == []
    assert stand.records("door_refused")[0].code == "unknown_path"


def test_a_body_that_is_too_large_is_refused(stands, tmp_path):
    [answer], stand = play(stands, tmp_path, "chat", io.BytesIO(b"a" * (33 * 1024 * 1024)))
    assert answer.status == 413
    assert stand.got == []


# --- what the door says itself ------------------------------------------------------------------------------------------------


def test_clients_that_look_first_find_a_door(stands, tmp_path):
    async def whole():
        async with (
            stands.Stand(tmp_path, keep=True, model={"lead": "anthropic/claude-sonnet-4-5"}) as stand,
            stand.session.head("/") as head,
            stand.session.get("/v1/models") as models,
        ):
            return head.status, (await models.json())["data"], stand

    head, models, stand = asyncio.run(whole())
    assert head == 200
    assert [model["id"] for model in models] == ["claude-sonnet-4-5"]
    assert stand.got == []


def test_a_web_socket_is_declined_so_that_the_client_falls_back_at_once(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, keep=True) as stand:
            headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "a", "sec-websocket-version": "13"}
            async with stand.session.get("/v1/responses", headers=headers) as response:
                return response.status

    assert asyncio.run(whole()) == 426


def test_a_query_does_not_change_what_a_path_means(stands, tmp_path):
    [answer], _ = play(stands, tmp_path, "anthropic", stands.ask("anthropic"), path="/v1/messages?beta=true")
    assert answer.status == 200


def test_tokens_are_counted_without_a_hold_and_without_what_counting_does_not_take(stands, tmp_path):
    path = "/v1/messages/count_tokens"
    body = stands.ask("anthropic", stream=True, temperature=0.5, metadata={"user_id": "u"})
    [answer], stand = play(stands, tmp_path, "anthropic", body, path=path)
    assert answer.json == {"input_tokens": 11}
    assert stand.got[0].path == path
    assert stand.bodies[0].keys() == {"model", "messages"}
    assert stand.records("held") == []


@pytest.mark.parametrize("body", [{"mcp_servers": [{"type": "url", "url": ADDRESS}]}, {"model": "gpt-0"}])
def test_counting_opens_no_other_way_out(stands, tmp_path, body):
    path = "/v1/messages/count_tokens"
    [answer], stand = play(
        stands, tmp_path, "anthropic", stands.ask("anthropic", **body), path=path, model={"allow": ["anthropic/*"]}
    )
    assert answer.status in (403, 404)
    assert stand.got == []


def test_counting_while_the_upstream_is_down_is_told_in_the_protocol(stands, tmp_path):
    path = "/v1/messages/count_tokens"
    [answer], _ = play(stands, tmp_path, "anthropic", stands.ask("anthropic"), path=path, steps=())
    assert answer.status == 502
    assert "cannot be reached" in answer.error("anthropic")[1]


def test_a_model_served_in_place_of_the_one_asked_for_is_charged_at_the_dearer_price(stands, tmp_path):
    """Whoever swaps a cheap model for a dear one is paid as the dear one, and a cheap one costs what was asked for."""

    async def whole():
        async with stands.Stand(tmp_path, keep=True) as stand:
            call = stands.ask("chat", model="gpt-4.1-mini")
            stand.served = "gpt-4.1"
            await stand.post("chat", call)
            stand.served = "gpt-4.1-nano"
            await stand.post("chat", call)
            return [event.amounts["usd"] for event in stand.records("settled")]

    dear, cheap = asyncio.run(whole())
    assert dear == 11 * 2_000 + 2 * 8_000
    assert cheap == 11 * 400 + 2 * 1_600


def test_the_step_of_a_script_counts_for_every_protocol_alike(stands, tmp_path, protocol):
    told = {"input": 30, "output": 12}
    _, stand = play(stands, tmp_path, protocol, stands.ask(protocol), steps=(Step("hello", usage=told),))
    assert stand.records("model_called")[0].usage == told
