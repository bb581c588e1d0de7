"""Tool calls of a model that has none: what it wrote, in whatever form, becomes the calls it meant or stays text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.doors.model.local import shim
from gearcase.doors.model.local.calls import read
from gearcase.doors.model.protocols import gemini
from gearcase.seams import UpstreamRequest

BASH = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOLS = {"bash": BASH, "read": {"type": "object", "properties": {"path": {"type": "string"}}}}
FORMS = {
    "bare": lambda call: json.dumps(call),
    "indented": lambda call: json.dumps(call, indent=2),
    "fenced": lambda call: f"```json\n{json.dumps(call)}\n```",
    "fence without a language": lambda call: f"```\n{json.dumps(call)}\n```",
    "tagged": lambda call: f"<tool_call>\n{json.dumps(call)}\n</tool_call>",
    "parameters": lambda call: json.dumps({"name": call["name"], "parameters": call["arguments"]}),
    "tool": lambda call: json.dumps({"tool": call["name"], "input": call["arguments"]}),
    "arguments as text": lambda call: json.dumps({**call, "arguments": json.dumps(call["arguments"])}),
    "function": lambda call: json.dumps({"type": "function", "function": call}),
    "list": lambda call: json.dumps([call]),
    "tool_calls": lambda call: json.dumps({"tool_calls": [call]}),
}

words = st.text(st.characters(exclude_characters="{}[]`<>", exclude_categories=["Cs"]), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(st.text(max_size=10), values, max_size=4)


@pytest.mark.parametrize("form", FORMS)
@given(before=words, after=words, name=st.sampled_from(sorted(TOOLS)), given_=arguments)
def test_a_call_is_found_in_every_form_between_any_words(form, before, after, name, given_):
    written = f"{before}\n{FORMS[form]({'name': name, 'arguments': given_})}\n{after}"
    found = read(written, TOOLS)
    assert found.calls == ((name, given_),)
    assert found.text.split() == f"{before} {after}".split(), "what stands around it stays text"


@given(st.text(st.sampled_from('{}[]":,`<>/\\ntrue01 abashnmeodgurts_cl'), max_size=300) | st.text(max_size=300))
def test_no_text_breaks_the_reader_or_becomes_a_call_of_a_tool_that_was_not_offered(written):
    found = read(written, TOOLS)
    assert all(name in TOOLS for name, _ in found.calls)
    assert found.calls or found.text == written or '"answer"' in written


@settings(deadline=None)  # it reads a hundred thousand characters
@given(st.recursive(st.just("{"), lambda inner: inner.map(lambda text: text * 10), max_leaves=4))
def test_nesting_without_end_is_text(opening):
    deep = '{"a":' * 20_000
    assert read(deep + opening, TOOLS).calls == ()


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "rm", "arguments": {"path": "/"}}',
        '{"name": "bash", "arguments": {"command": "ls"',
        '{"name": "bash", "arguments": "not json"}',
        '{"name": "bash"}',
        '{"command": "ls"}',
        "I would call bash with ls.",
        "",
    ],
    ids=["not offered", "cut off", "broken arguments", "none", "of two tools", "words", "nothing"],
)
def test_what_is_no_call_of_an_offered_tool_stays_text(written):
    found = read(written, TOOLS)
    assert (found.text, found.calls) == (written, ())


def test_arguments_alone_mean_the_only_tool():
    found = read('Sure:\n```json\n{"command": "ls -la"}\n```', {"bash": BASH})
    assert found.calls == (("bash", {"command": "ls -la"}),)
    assert found.text == "Sure:"


def test_several_calls_keep_their_order_and_an_answer_is_words():
    found = read('{"name": "bash", "arguments": {"command": "a"}}\n{"name": "read", "arguments": {"path": "b"}}', TOOLS)
    assert [name for name, _ in found.calls] == ["bash", "read"]
    assert read('{"answer": "it is 42"}', TOOLS).text == "it is 42"


# --- the request -----------------------------------------------------------------------------------------------------------


def request(protocol, body, lead=False):
    path = {"anthropic": "/v1/messages", "chat": "/v1/chat/completions", "responses": "/v1/responses"}.get(protocol, gemini.PATH)
    return UpstreamRequest(protocol, path, "small", {}, json.dumps(body).encode(), body, False, "a", lead, 0)


SAME = {
    "anthropic": {
        "system": "You work.",
        "max_tokens": 50,
        "tools": [{"name": "bash", "description": "Run it.", "input_schema": BASH}],
        "messages": [
            {"role": "user", "content": "list"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "bash", "input": {"command": "ls"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "a.txt"}]},
        ],
    },
    "chat": {
        "max_completion_tokens": 50,
        "tools": [{"type": "function", "function": {"name": "bash", "description": "Run it.", "parameters": BASH}}],
        "messages": [
            {"role": "system", "content": "You work."},
            {"role": "user", "content": "list"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "a.txt"},
        ],
    },
    "responses": {
        "instructions": "You work.",
        "max_output_tokens": 50,
        "tools": [{"type": "function", "name": "bash", "description": "Run it.", "parameters": BASH}],
        "input": [
            {"role": "user", "content": "list"},
            {"type": "function_call", "call_id": "1", "name": "bash", "arguments": '{"command": "ls"}'},
            {"type": "function_call_output", "call_id": "1", "output": "a.txt"},
        ],
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "You work."}]},
        "generationConfig": {"maxOutputTokens": 50},
        "tools": [{"functionDeclarations": [{"name": "bash", "description": "Run it.", "parametersJsonSchema": BASH}]}],
        "contents": [
            {"role": "user", "parts": [{"text": "list"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "bash", "args": {"command": "ls"}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "bash", "response": {"output": "a.txt"}}}]},
        ],
    },
}


def test_the_same_conversation_is_told_alike_in_every_protocol():
    told = {}
    for protocol, body in SAME.items():
        one = request(protocol, body)
        told[protocol] = shim.asked(one, shim.offered(one))
    assert told["anthropic"] == told["chat"] == told["responses"] == told["gemini"]
    system, goal, call, result = told["chat"]["messages"]
    assert system["content"].startswith("You work.") and "Run it." in system["content"]
    assert (goal["content"], result["content"]) == ("list", "Result of the call:\na.txt")
    assert json.loads(call["content"]) == {"name": "bash", "arguments": {"command": "ls"}}
    assert told["chat"]["max_tokens"] == 50


def test_gemini_without_tools_is_asked_with_its_own_settings_and_the_form_that_it_wants():
    """The server does not speak it, so every request is put into the one that it does."""
    schema = {"type": "OBJECT", "properties": {"level": {"type": "STRING", "enum": ["low", "high"]}}, "required": ["level"]}
    config = {"temperature": 0.1, "topP": 0.9, "topK": 5, "seed": 7, "stopSequences": ["."], "maxOutputTokens": 40}
    config |= {"responseMimeType": "application/json", "responseSchema": schema, "candidateCount": 1}
    body = {"contents": [{"role": "user", "parts": [{"text": "Is fire hot?"}]}], "generationConfig": config}
    told = shim.asked(request("gemini", body), {})
    form = told.pop("response_format")["json_schema"]["schema"]
    assert form["properties"] == {"level": {"enum": ["low", "high"]}} and form["required"] == ["level"]
    settings = {"temperature": 0.1, "top_p": 0.9, "top_k": 5, "seed": 7, "stop": ["."], "max_tokens": 40}
    assert told == {**settings, "model": "small", "messages": [{"role": "user", "content": "Is fire hot?"}]}


@pytest.mark.parametrize(
    ("config", "offered", "forced"),
    [
        ({}, ["a", "b"], False),
        ({"mode": "AUTO"}, ["a", "b"], False),
        ({"mode": "ANY"}, ["a", "b"], True),
        ({"mode": "ANY", "allowedFunctionNames": ["b"]}, ["b"], True),
        ({"mode": "NONE"}, [], False),
    ],
)
def test_gemini_says_which_tools_may_be_called(config, offered, forced):
    tools = [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}]
    body = {**SAME["gemini"], "tools": tools, "toolConfig": {"functionCallingConfig": config}}
    one = request("gemini", body)
    assert sorted(shim.offered(one)) == offered
    if offered:
        assert ('"answer"' not in json.dumps(shim.asked(one, shim.offered(one))["response_format"])) is forced


def forms(one):
    schema = shim.asked(one, shim.offered(one))["response_format"]["json_schema"]["schema"]
    return [set(form["properties"]) for form in schema.get("anyOf", [schema])]


def test_an_answer_in_words_is_allowed_unless_a_call_is_demanded():
    body = SAME["chat"]
    call, words_ = {"name", "arguments"}, {"answer"}
    assert forms(request("chat", body)) == [call, words_]
    assert forms(request("chat", {**body, "tool_choice": "required"})) == [call]
    assert forms(request("anthropic", {**SAME["anthropic"], "tool_choice": {"type": "tool", "name": "bash"}})) == [call]
    assert forms(request("chat", body, lead=True)) == [call], "an agent's own loop takes nothing but calls"
    assert shim.offered(request("chat", {**body, "tool_choice": "none"})) == {}


schemas = st.recursive(
    st.sampled_from(
        [{}, {"type": "string"}, {"type": "integer"}, {"enum": ["a", 1]}, {"$ref": "#/x"}, {"type": ["string", "null"]}]
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: {"type": "array", "items": one}),
        st.lists(inner, min_size=1, max_size=2).map(lambda many: {"anyOf": many}),
        st.dictionaries(st.text(max_size=4), inner, max_size=3).map(lambda some: {"type": "object", "properties": some}),
    ),
    max_leaves=10,
)


@given(schemas)
def test_whatever_a_tool_asks_for_every_text_and_list_has_an_end(schema):
    def look(one):
        if one.get("type") == "string":
            assert one["maxLength"] <= shim.LONGEST
        if one.get("type") == "array":
            assert one["maxItems"]
            look(one["items"])
        for inner in [*one.get("anyOf", ()), *one.get("properties", {}).values()]:
            look(inner)
        assert one.keys() & {"type", "anyOf", "enum", "const"}

    look(shim.bounded(schema))


def answer(content, finish="stop"):
    one = request("chat", SAME["chat"])
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    told = {"id": "chatcmpl-x", "choices": [{"message": {"content": content}, "finish_reason": finish}], "usage": usage}
    return shim.answered(told, one, shim.offered(one))


def test_an_answer_that_was_cut_holds_no_call_and_says_so():
    whole = '{"name": "bash", "arguments": {"command": "ls"}}'
    assert [call.name for call in answer(whole).calls] == ["bash"]
    cut = answer(whole, "length")
    assert (cut.calls, cut.stop, cut.text) == ((), "length", whole)
    assert (cut.usage.input, cut.usage.output) == (5, 3)
