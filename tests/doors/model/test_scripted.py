"""The fake provider: its script, its faults, its log."""

import asyncio
import json
import subprocess
import sys
import urllib.request

import pytest

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import PROTOCOLS
from gearcase.doors.model.protocols.stream import Events
from gearcase.doors.model.upstreams.scripted import FAULTS, Script, Scripted, Step, read_script
from gearcase.errors import UsageError
from gearcase.seams import UpstreamDown, UpstreamRequest

BASH = {
    "anthropic": {"name": "bash", "input_schema": {"type": "object"}},
    "chat": {"type": "function", "function": {"name": "bash"}},
    "responses": {"type": "function", "name": "bash"},
    "gemini": {"functionDeclarations": [{"name": "bash"}]},
}


def script(folder, told):
    file = folder / "script.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return file


def ask(stands, upstream, protocol, **more):
    stream = more.get("stream") is True
    parsed = stands.place(protocol, stands.ask(protocol, **more))[1]
    body = json.dumps(parsed).encode()
    path = stands.PATHS[protocol].replace("generate", "streamGenerate") if stream else stands.PATHS[protocol]
    request = UpstreamRequest(protocol, path, stands.MODELS[protocol], {}, body, parsed, stream, "lead", True, 0)

    async def whole():
        response = await upstream.send(request)
        return response.status, b"".join([chunk async for chunk in response.chunks])

    return asyncio.run(whole())


def usage(protocol, body):
    return PROTOCOLS[protocol].usage_of(json.loads(body))


def test_steps_are_used_in_order_and_the_last_one_for_ever(stands, tmp_path, protocol):
    upstream = Scripted.from_file(script(tmp_path, [{"text": "one"}, {"text": "two"}]))
    told = [ask(stands, upstream, protocol)[1] for _ in range(4)]
    assert [(b"one" in body, b"two" in body) for body in told] == [(True, False), *[(False, True)] * 3]


def test_a_script_may_stand_below_steps(tmp_path):
    assert read_script(script(tmp_path, {"steps": [{"text": "a", "commands": ["true"]}]})) == (Step("a", ("true",)),)


@pytest.mark.parametrize(
    "told",
    [
        "",
        "{",
        "[]",
        '[{"commands": 7}]',
        "7",
        '["a"]',
        '[{"txt": "a"}]',
        '[{"fault": "explode"}]',
        '{"steps": []}',
        '[{"commands": 7, "tex": 1}]',
    ],
)
def test_what_is_no_script_is_told_with_what_one_is(tmp_path, told):
    with pytest.raises(UsageError) as raised:
        read_script(script(tmp_path, told))
    assert raised.value.code == "script"
    assert raised.value.remedy


def test_a_script_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError):
        read_script(tmp_path / "none.json")


def test_usage_is_a_quarter_of_the_bytes_within_the_ceiling(stands, protocol):
    upstream = Scripted(
        Script((Step("word " * 400), Step("word " * 400, cached=0.5), Step("a", usage={"input": 3, "output": 4})))
    )
    size = len(json.dumps(stands.place(protocol, stands.ask(protocol, cap=300))[1]).encode())
    quarter, cached, given = (usage(protocol, ask(stands, upstream, protocol, cap=300)[1]) for _ in range(3))
    assert quarter == TokenUsage(input=size // 4, output=300, tier=quarter.tier)
    assert cached.cache_read == size // 4 // 2
    assert cached.total_input == size // 4
    assert (given.input, given.output) == (3, 4)


def test_the_log_tells_what_is_billed_before_anything_is_answered(stands, tmp_path, protocol):
    log = tmp_path / "witness.jsonl"
    upstream = Scripted(Script((Step("a", usage={"input": 9, "output": 4}, fault="drop"), Step(status=529)), log))
    with pytest.raises(ConnectionError):
        ask(stands, upstream, protocol, cap=77)
    assert ask(stands, upstream, protocol)[0] == 529
    billed, refused = (json.loads(line) for line in log.read_text().splitlines())
    assert (billed["billed"], billed["ceiling"], billed["fault"]) == ({"input": 9, "output": 4}, 77, "drop")
    assert (billed["path"], billed["model"]) == (stands.PATHS[protocol], stands.MODELS[protocol])
    assert (refused["billed"], refused["status"]) == ({}, 529)


def test_commands_are_answered_only_where_the_tool_is_offered(stands, protocol):
    upstream = Scripted(Script((Step("look", ("ls -l",)),)))
    assert b"ls -l" not in ask(stands, upstream, protocol)[1]
    for stream in (False, True):
        assert b"ls -l" in ask(stands, upstream, protocol, tools=[BASH[protocol]], stream=stream)[1]


def test_a_stream_says_the_same_as_an_answer(stands, protocol):
    upstream = Scripted(Script((Step("one two three", pieces=4, usage={"input": 9, "output": 4}),)))
    _, body = ask(stands, upstream, protocol, stream=True, stream_options={"include_usage": True})
    scanner = PROTOCOLS[protocol].Scanner()
    request = stands.reads(protocol, stands.ask(protocol))
    assert scanner.feed(body, request) == body
    assert scanner.ended
    assert (scanner.usage().input, scanner.usage().output) == (9, 4)
    assert scanner.deltas >= 4
    assert scanner.served == stands.MODELS[protocol]
    assert len(Events().feed(body)) == body.count(b"data:")


def test_down_is_provably_not_sent_and_not_billed(stands, protocol):
    upstream = Scripted(Script((Step(fault="down"),)))
    with pytest.raises(UpstreamDown):
        ask(stands, upstream, protocol)
    assert upstream.script.entries == []


def test_every_fault_is_known():
    assert set(FAULTS) == {"", "drop", "stall", "garbage", "truncated", "no_usage", "over_cap", "ignore_cap", "slow", "down"}


def test_it_is_a_server_of_its_own(stands, tmp_path):
    log = tmp_path / "witness.jsonl"
    file = script(tmp_path, [{"text": "hello"}])
    command = [sys.executable, "-m", "gearcase.doors.model.upstreams.scripted", "--script", file, "--log", log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            body = json.dumps(stands.ask("chat", user="me")).encode()
            headers = {"content-type": "application/json"}
            with urllib.request.urlopen(
                urllib.request.Request(address + "/v1/chat/completions", body, headers), timeout=30
            ) as answer:
                told = json.loads(answer.read())
        finally:
            process.kill()
    assert told["choices"][0]["message"]["content"] == "hello"
    assert json.loads(log.read_text())["caller"] == "me"
