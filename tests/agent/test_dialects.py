"""Each provider's own protocol: what is asked for, what comes back, and what is sent back as it came."""

import json

import pytest

from gearcase.agent.dialects import DIALECTS
from gearcase.agent.transcript import BadAnswer, Model, Ran, Said, Told


def ask(protocol, messages, name="m", **options):
    return json.loads(DIALECTS[protocol].request(Model(name, protocol, 100_000, 8000, options), "System.", messages, 777))


def test_anthropic_asks_for_its_tool_its_cap_and_its_cache(play):
    said = DIALECTS["anthropic"].parse(play.answer("anthropic", "ok", calls=[play.bash("ls", "c1")])).said
    body = ask(
        "anthropic", [Told("goal"), said, Ran("c1", "out"), Told("more")], thinking={"type": "enabled", "budget_tokens": 500}
    )
    assert body["max_tokens"] == 777
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 500}
    assert body["tools"][0]["input_schema"]["required"] == ["command"]
    assert body["system"] == [{"type": "text", "text": "System.", "cache_control": {"type": "ephemeral"}}]
    first, _, last = body["messages"]
    assert first["content"][-1]["cache_control"] == {"type": "ephemeral"}
    assert [block["type"] for block in last["content"]] == ["tool_result", "text"]
    assert ["cache_control" in block for block in last["content"]] == [False, True]


def test_anthropic_thinking_comes_back_untouched():
    blocks = [
        {"type": "thinking", "thinking": "", "signature": "EqoBCkgIAR"},
        {"type": "redacted_thinking", "data": "EmwKAhgB"},
        {"type": "text", "text": "Now."},
        {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
    ]
    answer = DIALECTS["anthropic"].parse(json.dumps({"content": blocks, "stop_reason": "tool_use"}).encode())
    assert answer.tokens.input is None
    assert ask("anthropic", [Told("goal"), answer.said, Ran("toolu_1", "x")])["messages"][1]["content"] == blocks


def test_anthropic_is_not_sent_blocks_that_it_refuses(play):
    cut = json.dumps({"content": [{"type": "text", "text": " "}, {"type": "thinking", "thinking": "a", "signature": "b"}]})
    said = DIALECTS["anthropic"].parse(cut.encode()).said
    body = ask("anthropic", [Told("goal"), said, Told("go on")])
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_anthropic_counts_cached_tokens_as_input():
    usage = {"input_tokens": 3, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200, "output_tokens": 7}
    answer = DIALECTS["anthropic"].parse(json.dumps({"content": [], "usage": usage}).encode())
    assert (answer.tokens.input, answer.tokens.output) == (1203, 7)


def test_chat_names_the_cap_as_the_server_knows_it():
    assert ask("chat", [Told("goal")], name="openai/gpt-5-mini")["max_completion_tokens"] == 777
    assert ask("chat", [Told("goal")], name="http://127.0.0.1:11434/v1#qwen3")["max_tokens"] == 777


def test_chat_sends_back_what_its_server_put_beside_the_text():
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "bash", "arguments": '{"command": "ls"}'},
        "extra_content": {"google": {"thought_signature": "abc"}},
    }
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "refusal": None,
        "annotations": [],
        "tool_calls": [call],
    }
    said = DIALECTS["chat"].parse(json.dumps({"choices": [{"message": message}]}).encode()).said
    sent = ask("chat", [Told("goal"), said, Ran("c1", "x")])["messages"][2]
    assert sent == {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]}


def test_chat_joins_what_is_told_in_a_row():
    assert [turn["content"] for turn in ask("chat", [Told("goal"), Told("note")])["messages"]] == ["System.", "goal\n\nnote"]


def test_responses_is_stateless_and_gets_its_encrypted_reasoning_back():
    output = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "bash",
            "arguments": '{"command": "ls"}',
            "status": "completed",
        },
    ]
    said = DIALECTS["responses"].parse(json.dumps({"output": output, "status": "completed"}).encode()).said
    body = ask("responses", [Told("goal"), said, Ran("c1", "x")], name="openai/gpt-5")
    assert body["input"][1:3] == output
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["max_output_tokens"] == 777
    assert "include" not in ask("responses", [Told("goal")], name="openai/gpt-4.1")


def test_responses_that_failed_are_no_answer():
    with pytest.raises(BadAnswer, match="overloaded"):
        DIALECTS["responses"].parse(
            b'{"status": "failed", "output": [], "error": {"code": "server_error", "message": "overloaded"}}'
        )


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_text_that_is_no_unicode_is_sent_all_the_same(protocol):
    assert "a" in json.dumps(ask(protocol, [Told("a\ud800b")]))


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_an_answer_of_nothing_known_is_an_empty_answer(play, protocol):
    said = DIALECTS[protocol].parse(play.answer(protocol, extra=[{"type": "unheard_of"}] if protocol != "chat" else ())).said
    assert isinstance(said, Said)
    assert (said.text, said.calls, said.stop) == ("", (), "end")
