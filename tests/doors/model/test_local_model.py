"""The real small model behind the real door: metered in every protocol, with tools, frozen, killed, and gone with its host."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from gearcase.doors.model.local.places import Housing
from gearcase.doors.model.local.server import CONTEXT, find_package
from gearcase.doors.model.price import TokenUsage
from gearcase.errors import RunError
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command
from tests.local_model import small

PROTOCOLS = ("anthropic", "chat", "responses", "gemini")
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOLS = {
    "anthropic": ({"name": "bash", "description": "Run a command.", "input_schema": SCHEMA}, {"type": "any"}),
    "chat": (
        {"type": "function", "function": {"name": "bash", "description": "Run a command.", "parameters": SCHEMA}},
        "required",
    ),
    "responses": ({"type": "function", "name": "bash", "description": "Run a command.", "parameters": SCHEMA}, "required"),
    "gemini": (
        {"functionDeclarations": [{"name": "bash", "description": "Run a command.", "parametersJsonSchema": SCHEMA}]},
        {"functionCallingConfig": {"mode": "ANY"}},
    ),
}
TOOL_CALLS = (
    ("anthropic", True),
    ("anthropic", False),
    ("chat", False),
    ("responses", False),
    ("gemini", False),
    ("gemini", True),
)
KILL = "for p in /proc/[0-9]*; do grep -qs models[e]rver $p/cmdline && kill -9 ${p#/proc/}; done; true"


pytestmark = [pytest.mark.local, pytest.mark.timeout(400)]  # a real model, on cores that others use too


class Lent:
    """What a run lends to a server, as its tests see it."""

    def __init__(self, recorder):
        self.driver = NamespacesDriver()
        self.sandboxes = []
        self.stayed = []
        self.housing = Housing(self.driver, recorder, self.adopt, self.release, None)

    async def adopt(self, sandbox):
        self.sandboxes.append(sandbox)

    def release(self, sandbox, residue):
        self.stayed.append(residue)


@pytest.fixture(scope="module")
def played(stands, tmp_path_factory):
    """Everything that is asked of one server, and what came of it; the tests below say what it must be."""
    found = {}

    async def scenario():
        async with AsyncExitStack() as stack:
            folder = tmp_path_factory.mktemp("local")
            stand = stands.Stand(
                folder, model={"lead": "local"}, environment={"GEARCASE_MODEL": str(small())}, accounts=("lead",)
            )
            await stack.enter_async_context(stand)
            lent = Lent(stand.journal)
            stack.push_async_callback(lent.driver.close)
            stand.routing.house(lent.housing)

            async def post(protocol, text="Count from one to twenty.", cap=6, **more):
                before = stand.balance().spent
                answer = await stand.post(protocol, {**stands.ask(protocol, text, cap, **more), "model": "local"})
                return answer, stand.balance().spent - before

            for protocol in PROTOCOLS:
                for stream in (False, True):
                    cold = {} if protocol == "gemini" else {"temperature": 0}  # a warm one may say a single word
                    found[protocol, stream] = await post(protocol, stream=stream, **cold)
            for protocol, stream in TOOL_CALLS:
                tool, choice = TOOLS[protocol]
                wish, more = "Show the names of all files.", {"tools": [tool], "tool_choice": choice, "temperature": 0}
                if protocol == "gemini":
                    more = {"tools": [tool], "toolConfig": choice}
                found[protocol, stream, "tool"] = await post(protocol, wish, 60, stream=stream, **more)
            counted = {"model": "local", "messages": [{"role": "user", "content": "Say yes."}]}
            words = {"contents": [{"parts": [{"text": "Say yes."}]}]}
            found["count in gemini"] = await stand.post("gemini", words, path="/v1beta/models/local:countTokens")
            found["count"] = await stand.post("anthropic", counted, path="/v1/messages/count_tokens")
            form = {"type": "object", "properties": {"level": {"enum": ["low", "high"]}}, "required": ["level"]}
            schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": form}}
            found["schema"] = (await post("chat", "Is fire hot? Answer with a level.", 20, response_format=schema))[0]
            found["long"], found["cost of long"] = await post("chat", "no " * CONTEXT)
            found["sandbox"] = lent.sandboxes[0]
            found["network"] = await lent.sandboxes[0].run(Command(("cat", "/proc/net/dev"), deadline=10))
            write = ("sh", "-c", "echo x >> /opt/local/weights.gguf || touch /opt/local/xllamacpp/x")
            found["write"] = await lent.sandboxes[0].run(Command(write, deadline=10))

            # Frozen, it stands still in the middle of a call, which ends once it is thawed. What it says is long by its form.
            many = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
            long = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": many}}}
            call = asyncio.create_task(post("chat", "Count to twenty.", 300, **long))
            await asyncio.sleep(0.3)
            await lent.sandboxes[0].freeze()
            stood = (await lent.sandboxes[0].usage()).cpu
            await asyncio.sleep(1.0)
            found["frozen"] = (call.done(), (await lent.sandboxes[0].usage()).cpu - stood)
            await lent.sandboxes[0].thaw()
            found["thawed"], _ = await call

            # Killed in the middle of a call: that one fails, the next one is answered by a new server, once.
            call = asyncio.create_task(post("chat", "Count to a hundred.", 2000, **long))
            await asyncio.sleep(0.3)
            await lent.sandboxes[0].run(Command(("/bin/sh", "-c", KILL), deadline=10))
            found["killed"] = await call
            found["again"], _ = await post("chat")
            await lent.sandboxes[1].run(Command(("/bin/sh", "-c", KILL), deadline=10))
            with pytest.raises(RunError) as error:
                for _ in range(2):
                    with suppress(ConnectionError):  # whoever still reaches the dying one
                        await stand.routing.lead().upstream.server.post("/health", b"")
            found["final"] = error.value
            found["warnings"] = stand.routing.warnings()
            found["deaths"] = stand.records("failure")
            found["calls"] = stand.records("model_called")
            await stand.routing.close()
            found["stayed"] = lent.stayed
        return found

    return asyncio.run(scenario())


def text_of(protocol, answer):
    match protocol:
        case "anthropic":
            return answer.json["content"][0]["text"]
        case "chat":
            return answer.json["choices"][0]["message"]["content"]
        case "gemini":
            return answer.json["candidates"][0]["content"]["parts"][0]["text"]
        case _:
            return answer.json["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_comes_in_the_protocol_of_the_request_whole_or_streamed(played, protocol):
    whole, _ = played[protocol, False]
    assert whole.status == 200, whole.body
    assert text_of(protocol, whole).strip()
    streamed, _ = played[protocol, True]
    last = {"anthropic": "message_stop", "responses": ("response.completed", "response.incomplete")}
    ended = streamed.events[-1]
    if protocol == "gemini":  # put into its protocol when it is whole
        assert ended["candidates"][0]["finishReason"] in ("STOP", "MAX_TOKENS") and len(streamed.events) == 2
        return
    assert ended == "[DONE]" if protocol == "chat" else ended["type"] in last[protocol]
    assert len(streamed.events) > 4, "word by word"


@pytest.mark.parametrize(("protocol", "stream"), TOOL_CALLS)
def test_a_call_without_native_tools_comes_back_as_one_of_the_protocol_s_own(played, protocol, stream):
    answer, _ = played[protocol, stream, "tool"]
    assert answer.status == 200, answer.body
    body = answer.body.decode()
    assert {"anthropic": '"tool_use"', "chat": '"tool_calls"', "responses": '"function_call"', "gemini": '"functionCall"'}[
        protocol
    ] in body
    if not stream:
        call = {
            "anthropic": lambda: answer.json["content"][-1]["input"],
            "chat": lambda: json.loads(answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]),
            "responses": lambda: json.loads(answer.json["output"][-1]["arguments"]),
            "gemini": lambda: answer.json["candidates"][0]["content"]["parts"][-1]["functionCall"]["args"],
        }[protocol]()
        assert set(call) == {"command"} and call["command"].strip(), call


def test_every_call_is_metered_at_the_nominal_price_and_within_its_cap(played):
    calls = [call for call in played["calls"] if call.ended == "complete"]
    assert len(calls) >= 11
    for call in calls:
        assert call.usage["output"] >= 1 and call.usage.get("input", 0) + call.usage.get("cache_read", 0) > 5
    for protocol in PROTOCOLS:
        for stream in (False, True):
            _, spent = played[protocol, stream]
            assert 0 < spent <= 100 * 1000 + 6 * 5000, "at most 6 tokens of output at $5 per million"


def test_the_price_of_an_answer_is_that_of_its_usage(played):
    answer, spent = played["chat", False]
    usage = answer.json["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    told = TokenUsage(input=usage["prompt_tokens"] - cached, cache_read=cached, output=usage["completion_tokens"])
    assert spent == (told.input + told.cache_read) * 1000 + told.output * 5000


def test_tokens_are_counted_for_nothing_and_a_schema_is_kept_to(played):
    assert 5 < played["count"].json["input_tokens"] < 100
    assert played["count in gemini"].json == {"totalTokens": played["count"].json["input_tokens"]}
    assert json.loads(text_of("chat", played["schema"]))["level"] in ("low", "high")


def test_a_prompt_that_does_not_fit_is_refused_and_costs_nothing(played):
    assert played["long"].status == 400
    assert "context" in played["long"].json["error"]["message"]
    assert played["cost of long"] == 0


def test_the_server_has_no_network_and_cannot_write_what_it_reads(played):
    lines = played["network"].stdout.text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert played["write"].exit_code != 0


def test_the_server_is_frozen_and_thawed_with_the_run(played):
    done, cpu = played["frozen"]
    assert not done
    assert cpu < 0.1
    assert played["thawed"].status == 200


def test_a_server_that_died_is_started_again_once_and_its_death_is_on_record(played):
    answer, spent = played["killed"]
    assert answer.status == 502
    assert spent > 0, "what a broken call cost is not known: its hold counts as spent"
    assert played["again"].status == 200
    assert played["final"].code == "local_model"
    assert "died 2 times" in played["warnings"][0]
    assert [event.error["code"] for event in played["deaths"]] == ["local_model"] * 2


def test_nothing_of_the_sandboxes_stays(played):
    assert played["stayed"] == [(), ()]


# --- without a driver ------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from gearcase.doors.model.local.server import Server

async def main():
    server = Server("small", Path(sys.argv[1]), Path(sys.argv[2]), lambda: None)
    session = await server.reach()
    print(server._place._process.pid, flush=True)
    if sys.argv[3] == "close":
        await server.close()
        return
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["close", "kill"])
def test_an_ordinary_child_goes_with_its_host(how):
    host = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(find_package()), str(small()), how], stdout=subprocess.PIPE, text=True
    )
    try:
        pid = int(host.stdout.readline())
        assert "GOMP_SPINCOUNT=10000" in Path(f"/proc/{pid}/environ").read_text() if how == "kill" else True
        if how == "kill":
            host.send_signal(signal.SIGKILL)
        host.wait(30)
        deadline = time.monotonic() + 10
        while running(pid):
            assert time.monotonic() < deadline, "it outlived its host"
            time.sleep(0.05)
    finally:
        host.kill()
        host.wait()
        host.stdout.close()


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_file_that_is_no_model_is_told_with_the_server_s_own_words(tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + os.urandom(4096))

    async def scenario():
        from gearcase.doors.model.local.server import Server

        server = Server("own", find_package(), file, lambda: None)
        try:
            with pytest.raises(RunError) as error:
                await server.reach()
        finally:
            await server.close()
        return error.value

    error = asyncio.run(scenario())
    assert error.code == "local_model"
    assert error.cause.strip()
