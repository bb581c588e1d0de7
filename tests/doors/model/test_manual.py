"""A person answers the calls of a run, through files."""

import asyncio
import dataclasses
import json
import os
import threading
import time

import pytest

from gearcase.agent.dialects import DIALECTS
from gearcase.doors.model.upstreams.manual import Manual
from gearcase.errors import UsageError
from gearcase.seams import UpstreamRequest

PATHS = {
    "anthropic": "/v1/messages",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "gemini": "/v1beta/models/{model}:generateContent",
}


def call(protocol, turns, *, tool=True, lead=True, stream=False, agent="lead", **more):
    parsed = {"model": "manual:d", **more}
    schema = {"type": "object", "properties": {"command": {"type": "string"}}}
    if protocol == "anthropic":
        parsed |= {"system": "You work in a box.", "max_tokens": 500, "messages": turns}
        tools = [{"name": "bash", "input_schema": schema}]
    elif protocol == "chat":
        parsed |= {"max_tokens": 500, "messages": [{"role": "system", "content": "You work in a box."}, *turns]}
        tools = [{"type": "function", "function": {"name": "bash", "parameters": schema}}]
    elif protocol == "gemini":
        del parsed["model"]
        system = {"parts": [{"text": "You work in a box."}]}
        parsed |= {"systemInstruction": system, "generationConfig": {"maxOutputTokens": 500}, "contents": turns}
        tools = [{"functionDeclarations": [{"name": "bash", "parametersJsonSchema": schema}]}]
    else:
        parsed |= {"instructions": "You work in a box.", "max_output_tokens": 500, "input": turns}
        tools = [{"type": "function", "name": "bash", "parameters": schema}]
    if tool:
        parsed["tools"] = tools
    if stream:
        parsed["stream"] = True
    return UpstreamRequest(protocol, PATHS[protocol], "manual:d", {}, json.dumps(parsed).encode(), parsed, stream, agent, lead, 0)


def user(text):
    return {"role": "user", "content": text}


class Player(threading.Thread):
    """Answers each request with the next of `answers`: an object, or raw bytes. What it saw is in `pages`."""

    def __init__(self, folder, answers):
        super().__init__(daemon=True)
        self.folder, self.answers, self.pages = folder, answers, {}

    def run(self):
        end = time.monotonic() + 30
        while self.answers and time.monotonic() < end:
            for page in sorted(self.folder.glob("*.request.md")):
                name = page.name[:4]
                answer = self.folder / f"{name}.answer.json"
                bad = self.folder / f"{name}.error.txt"
                if self.answers and not answer.exists() and (name not in self.pages or bad.exists()):
                    self.pages[name] = page.read_text()
                    bad.unlink(missing_ok=True)
                    told = self.answers.pop(0)
                    part = self.folder / f"{name}.answer.json.new"
                    part.write_bytes(told if isinstance(told, bytes) else json.dumps(told).encode())
                    part.rename(answer)
            time.sleep(0.01)


def answered(manual, folder, requests, answers):
    """(status, body) of each request, and the player."""
    player = Player(folder, answers)
    player.start()

    async def all_of_them():
        found = []
        for request in requests:
            response = await asyncio.wait_for(manual.send(request), 30)
            found.append((response.status, b"".join([chunk async for chunk in response.chunks])))
        return found

    replies = asyncio.run(all_of_them())
    player.join()
    return replies, player


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_text_and_commands_become_an_answer_in_the_callers_protocol(tmp_path, protocol):
    folder = tmp_path / "desk"
    request = call(protocol, [user("Count the lines.")])
    [(status, body)], _ = answered(Manual(folder), folder, [request], [{"text": "I count.", "commands": ["wc -l a", "ls"]}])
    answer = DIALECTS[protocol].parse(body)
    assert status == 200
    assert answer.said.text == "I count."
    assert [(one.name, one.arguments) for one in answer.said.calls] == [
        ("bash", {"command": "wc -l a"}),
        ("bash", {"command": "ls"}),
    ]
    assert answer.tokens.input == pytest.approx(len(request.body) / 4, abs=1)
    assert answer.tokens.output >= 5


def test_a_person_gives_commands_more_time(tmp_path):
    folder = tmp_path / "desk"
    answers = [{"commands": ["ls"], "timeout": "long"}, {"commands": ["make", "make test"], "timeout": 1800}]
    [(_, body)], player = answered(Manual(folder), folder, [call("anthropic", [user("Build.")])], answers)
    calls = DIALECTS["anthropic"].parse(body).said.calls
    assert [one.arguments for one in calls] == [{"command": "make", "timeout": 1800}, {"command": "make test", "timeout": 1800}]
    assert '"timeout": 600' in player.pages["0001"]


def test_who_speaks_gemini_is_answered_in_it_and_its_turns_are_on_the_page(tmp_path):
    folder = tmp_path / "desk"
    turns = [
        {"role": "user", "parts": [{"text": "Count the lines."}]},
        {"role": "model", "parts": [{"text": "I look."}, {"functionCall": {"name": "bash", "args": {"command": "wc -l a"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "bash", "response": {"output": "42 a"}}}]},
    ]
    for stream in (False, True):
        request = call("gemini", turns, lead=False, stream=stream)
        [(status, body)], player = answered(Manual(folder), folder, [request], [{"text": "Again.", "commands": ["ls"]}])
        told = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")] or [json.loads(body)]
        assert status == 200 and len(told) == (3 if stream else 1)
        parts = [part for one in told for part in one["candidates"][0]["content"]["parts"]]
        assert {"text": "Again."} in parts
        assert [part["functionCall"]["args"] for part in parts if "functionCall" in part] == [{"command": "ls"}]
        assert told[-1]["candidates"][0]["finishReason"] == "STOP"
    page = player.pages["0001"] if "0001" in player.pages else (folder / "0001.request.md").read_text()
    for shown in ("You work in a box.", "Count the lines.", "I look.", "call of bash", "wc -l a", "42 a", "At most 500 tokens"):
        assert shown in page


@pytest.mark.parametrize(
    ("protocol", "path", "key"),
    [
        ("anthropic", "/v1/messages/count_tokens", "input_tokens"),
        ("gemini", "/v1beta/models/{model}:countTokens", "totalTokens"),
    ],
)
def test_tokens_are_counted_without_asking_anybody(tmp_path, protocol, path, key):
    folder = tmp_path / "desk"
    request = dataclasses.replace(call(protocol, [user("How long?")]), path=path, ordinal=-1)
    [(status, body)], _ = answered(Manual(folder), folder, [request], [])
    assert (status, json.loads(body)) == (200, {key: -(-len(request.body) // 4)})
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_a_program_that_wants_a_stream_gets_one(tmp_path, protocol):
    folder = tmp_path / "desk"
    request = call(protocol, [user("Say hello.")], tool=False, lead=False, stream=True)
    [(_, body)], player = answered(Manual(folder), folder, [request], [{"text": "hello there"}])
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
    assert len(events) >= 2
    assert "hello" in body.decode()
    assert "This call has no tool: text only." in player.pages["0001"]


def test_the_page_has_goal_and_messages_and_then_only_what_is_new(tmp_path):
    folder = tmp_path / "desk"
    first = [user("Count the lines.")]
    second = [
        *first,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "bash", "input": {"command": "wc -l a"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "42 a\n[exit 0]"}]},
    ]
    requests = [call("anthropic", first), call("anthropic", second)]
    _, player = answered(Manual(folder), folder, requests, [{"commands": ["wc -l a"]}, {"commands": ["gear done"]}])
    one, two = player.pages["0001"], player.pages["0002"]
    assert "You work in a box." in one
    assert "Count the lines." in one
    assert "0001.answer.json" in one
    assert "At most 500 tokens." in one
    assert "as in 0001.request.md" in two
    assert "Count the lines." not in two
    assert "## call of bash\n\n~~~~\nwc -l a\n~~~~" in two
    assert "42 a\n[exit 0]" in two
    whole = json.loads((folder / "0002.request.json").read_text())
    assert whole["body"]["messages"] == second


def test_a_conversation_that_was_shortened_is_shown_from_there_on(tmp_path):
    folder = tmp_path / "desk"
    turns = [user("goal"), {"role": "assistant", "content": "old"}, user("more")]
    requests = [call("chat", turns), call("chat", [turns[0], {"role": "assistant", "content": "new"}, user("now")])]
    _, player = answered(Manual(folder), folder, requests, [{"text": "a"}, {"text": "b"}])
    assert "From part 4 on the conversation was changed" in player.pages["0002"]
    assert "new" in player.pages["0002"]


def test_a_wanted_schema_is_shown(tmp_path):
    folder = tmp_path / "desk"
    request = call("chat", [user("x")], tool=False, response_format={"type": "json_schema", "json_schema": {"name": "verdict"}})
    _, player = answered(Manual(folder), folder, [request], [{"text": "{}"}])
    assert '"verdict"' in player.pages["0001"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"text": ', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not an object"),
        (b"{}", "neither text nor commands"),
        (b'{"text": 5}', '"text" is not a text'),
        (b'{"commands": "ls"}', '"commands" is not a list'),
        (b'{"commands": ["ls", 3]}', '"commands" is not a list'),
        (b'{"comands": ["ls"]}', "the key 'comands'"),
        (b" " * (4 * 1024 * 1024 + 1), "over 4194304 bytes"),
    ],
)
def test_an_answer_that_cannot_be_used_is_put_aside_with_the_reason_and_the_call_waits_on(tmp_path, bad, why):
    folder = tmp_path / "desk"
    manual = Manual(folder)
    reasons = []

    player = Player(folder, [bad])

    async def both():
        player.start()
        pending = asyncio.create_task(manual.send(call("chat", [user("x")])))
        error = folder / "0001.error.txt"
        while not error.exists():
            await asyncio.sleep(0.01)
        reasons.append(error.read_text())
        (folder / "0001.answer.json.new").write_text('{"text": "better"}')
        (folder / "0001.answer.json.new").rename(folder / "0001.answer.json")
        response = await asyncio.wait_for(pending, 30)
        return b"".join([chunk async for chunk in response.chunks])

    assert b"better" in asyncio.run(both())
    assert why in reasons[0]
    assert (folder / "0001.answer.json.bad").read_bytes() == bad
    assert not (folder / "0001.error.txt").exists()


def test_commands_for_a_call_without_a_tool_are_not_usable(tmp_path):
    folder = tmp_path / "desk"
    request = call("chat", [user("x")], tool=False)
    [(_, body)], _ = answered(Manual(folder), folder, [request], [{"commands": ["ls"]}, {"text": "words"}])
    assert b"words" in body


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_only_a_regular_file_is_an_answer(tmp_path, kind):
    folder = tmp_path / "desk"
    manual = Manual(folder)
    (tmp_path / "secret.json").write_text('{"text": "elsewhere"}')
    answer = folder / "0001.answer.json"
    {"link": lambda: answer.symlink_to(tmp_path / "secret.json"), "folder": answer.mkdir, "fifo": lambda: os.mkfifo(answer)}[
        kind
    ]()

    async def wait_for_reason():
        pending = asyncio.create_task(manual.send(call("chat", [user("x")])))
        while not (folder / "0001.error.txt").exists():
            await asyncio.sleep(0.01)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)

    asyncio.run(wait_for_reason())
    assert os.path.lexists(folder / "0001.answer.json.bad")


def test_what_an_agent_wrote_cannot_speak_to_a_terminal_nor_leave_its_fence(tmp_path):
    folder = tmp_path / "desk"
    hostile = "\x1b]0;owned\x07 \x9b2J \u202eabc\u2066 \r over\n~~~~~~\n## Your answer\n~~~~~~"
    _, player = answered(Manual(folder), folder, [call("chat", [user(hostile)])], [{"text": "ok"}])
    page = player.pages["0001"]
    assert not any(character in page for character in "\x1b\x07\x9b\u202e\u2066\r")
    assert "\\u001b]0;owned\\u0007" in page
    assert "~~~~~~~\n\\u001b" in page


def test_calls_that_overlap_have_each_their_own_number(tmp_path):
    folder = tmp_path / "desk"
    manual = Manual(folder)
    player = Player(folder, [{"text": f"answer {number}"} for number in range(1, 6)])
    player.start()

    async def at_once():
        requests = [call("chat", [user(f"question {number}")], lead=False, tool=False) for number in range(1, 6)]
        responses = await asyncio.gather(*(manual.send(request) for request in requests))
        return [b"".join([chunk async for chunk in response.chunks]) for response in responses]

    bodies = asyncio.run(at_once())
    assert all(f"answer {number}".encode() in body for number, body in enumerate(bodies, 1))


def test_numbers_go_on_where_a_folder_was_used_before(tmp_path):
    folder = tmp_path / "desk"
    answered(Manual(folder), folder, [call("chat", [user("x")])], [{"text": "a"}])
    (folder / "0007.request.md").write_text("x")
    asyncio.run(_given_up(Manual(folder)))
    assert (folder / "0008.request.md").exists()


async def _given_up(manual):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(manual.send(call("chat", [user("x")])), 0.3)


def test_a_call_that_is_given_up_says_so(tmp_path):
    folder = tmp_path / "desk"
    asyncio.run(_given_up(Manual(folder)))
    assert "Nobody waits" in (folder / "0001.error.txt").read_text()


def test_the_folder_is_made_for_its_owner_alone(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    for folder in (tmp_path / "open", tmp_path / "new" / "deep"):
        Manual(folder)
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("folder", ["data", "data/desk", ".", "link"])
def test_a_folder_that_meets_what_a_box_is_given_or_delivers_is_refused(tmp_path, folder):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(UsageError) as raised:
        Manual(tmp_path / folder, [tmp_path / "data"])
    assert raised.value.code == "manual_folder"
    assert raised.value.remedy


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError):
        Manual(tmp_path / "file")
