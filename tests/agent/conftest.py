"""A stage on which a whole agent plays: a scripted model, a real shell in a folder of this machine, a real `gear done`."""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from gearcase.agent.loop import Agent, Surroundings
from gearcase.agent.transcript import Model
from gearcase.doors.server import Reply
from gearcase.seams import CommandResult, Output

PROTOCOLS = ("anthropic", "chat", "responses")


class ListRecorder:
    def __init__(self):
        self.events = []

    def append(self, event, agent=""):
        self.events.append((event, agent))
        return len(self.events)

    def flush(self):
        return None

    async def durable(self):
        return None

    def of(self, kind):
        return [event for event, _ in self.events if isinstance(event, kind)]


def bash(command, id="c1", **more):
    return {"id": id, "name": "bash", "arguments": {"command": command, **more}}


def answer(protocol, text="", calls=(), stop=None, usage=(100, 20), extra=()):
    """A provider's answer. `extra` are blocks or items of its own that come first (thinking, reasoning)."""
    if protocol == "anthropic":
        content = [*extra, *([{"type": "text", "text": text}] if text else [])]
        content += [{"type": "tool_use", "id": c["id"], "name": c["name"], "input": c["arguments"]} for c in calls]
        reason = {"length": "max_tokens"}.get(stop, "tool_use" if calls else "end_turn")
        counted = {"input_tokens": 10, "cache_read_input_tokens": usage[0] - 10, "output_tokens": usage[1]}
        return json.dumps({"role": "assistant", "content": content, "stop_reason": reason, "usage": counted}).encode()

    def written(arguments):
        return arguments if isinstance(arguments, str) else json.dumps(arguments)

    if protocol == "chat":
        message = {"role": "assistant", "content": text or None, "refusal": None, **{k: v for e in extra for k, v in e.items()}}
        if calls:
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": written(c["arguments"])}}
                for c in calls
            ]
        reason = {"length": "length"}.get(stop, "tool_calls" if calls else "stop")
        counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        return json.dumps({"choices": [{"message": message, "finish_reason": reason}], "usage": counted}).encode()
    output = [*extra]
    if text:
        output.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
    output += [
        {"type": "function_call", "call_id": c["id"], "name": c["name"], "arguments": written(c["arguments"])} for c in calls
    ]
    told = {"output": output, "usage": {"input_tokens": usage[0], "output_tokens": usage[1]}, "status": "completed"}
    if stop == "length":
        told |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return json.dumps(told).encode()


def error(status, message="no", kind="api_error", **headers):
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    refused = {"x-gearcase-refused": "budget"} if status == 402 else {}  # as the door says it of its own refusals
    return Reply(status, {**refused, **{name.replace("_", "-"): value for name, value in headers.items()}}, body)


def check_pairing(protocol, body):
    """Fails unless a provider would take the conversation: calls and results paired, signed blocks whole, roles in order."""
    parsed = json.loads(body)
    if protocol == "anthropic":
        _check_anthropic(parsed)
    elif protocol == "chat":
        _check_chat(parsed)
    else:
        _check_responses(parsed)


def _check_anthropic(parsed):
    turns = parsed["messages"]
    assert turns[0]["role"] == "user"
    assert all(one["role"] != two["role"] for one, two in pairwise(turns))
    assert turns[-1]["role"] == "user"
    marks = json.dumps(parsed).count('"cache_control"')
    assert 1 <= marks <= 4
    for at, turn in enumerate(turns):
        assert turn["content"]
        assert all(block["type"] != "text" or block["text"].strip() for block in turn["content"])
        if turn["role"] == "assistant":
            assert turn["content"][-1]["type"] != "thinking"
            calls = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
            results = [block["tool_use_id"] for block in turns[at + 1]["content"] if block["type"] == "tool_result"]
            assert calls == results
            kinds = [block["type"] for block in turns[at + 1]["content"]]
            assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result")
        elif at == 0:
            assert all(block["type"] == "text" for block in turn["content"])


def _check_chat(parsed):
    turns = parsed["messages"]
    assert [turn["role"] for turn in turns[:2]] == ["system", "user"]
    waiting = []
    for turn in turns[1:]:
        if turn["role"] == "tool":
            assert turn["tool_call_id"] == waiting.pop(0)
            continue
        assert waiting == []
        if turn["role"] == "assistant":
            waiting = [call["id"] for call in turn.get("tool_calls", [])]
            assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in turn.get("tool_calls", []))
    assert waiting == []


def _check_responses(parsed):
    waiting, reasoning = [], False
    for item in parsed["input"]:
        if item.get("type") == "function_call_output":
            assert item["call_id"] == waiting.pop(0)
            continue
        if item.get("role") == "user":
            assert waiting == []
            assert not reasoning
        if item.get("type") == "function_call":
            waiting.append(item["call_id"])
        reasoning = item.get("type") == "reasoning"
    assert waiting == []
    assert not reasoning
    assert parsed["store"] is False


@dataclass
class Stage:
    """`script` holds what the model answers, in order: bytes, a Reply, an error to raise, or a function of the request."""

    folder: Path
    protocol: str = "anthropic"
    script: list = field(default_factory=list)
    phases: list = field(default_factory=lambda: ["work"])
    window: int = 100_000
    options: dict = field(default_factory=dict)
    recorder: ListRecorder = field(default_factory=ListRecorder)
    bodies: list = field(default_factory=list)
    sleeps: list = field(default_factory=list)
    commands: list = field(default_factory=list)
    statuses: int = 0
    limit: str = "usd"
    waits_for_upstream: object = None
    agent: Agent | None = None

    def __post_init__(self):
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "workspace").mkdir()
        gear = self.folder / "bin" / "gear"
        gear.write_text(
            '#!/bin/sh\n[ "$1" = done ] && printf "%s" "$3" > "$STAGE/done.part" && mv "$STAGE/done.part" "$STAGE/done"\n'
        )
        gear.chmod(0o755)

    async def ask(self, path, body):
        self.bodies.append(body)
        assert self.script, "the model was asked more often than the script says"
        step = self.script.pop(0)
        if callable(step):
            step = step(json.loads(body))
        if isinstance(step, BaseException):
            raise step
        return step if isinstance(step, Reply) else Reply(200, {"content-type": "application/json"}, step)

    async def shell(self, command, timeout):
        self.commands.append((command, timeout))
        start = time.monotonic()
        with (self.folder / "output").open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                "bash", "-c", command, cwd=self.folder / "workspace", start_new_session=True,
                env={"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "STAGE": str(self.folder)},
                stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        ended = "exited"
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            ended = "deadline"
        output = (self.folder / "output").read_bytes()
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        cap = 64 * 1024
        tail = output[cap:][-cap:]
        kept = Output(output[:cap], tail, len(output))
        seconds = time.monotonic() - start
        return CommandResult(ended, code, kept, Output(b"", b"", 0), b"", seconds, 0.0)

    def keep(self, name, content):
        path = self.folder / "box" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"/box/{name}"

    def status(self):
        self.statuses += 1
        return f"[left: $1.00, turn {self.statuses}]"

    def phase(self):
        return self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]

    def done(self):
        file = self.folder / "done"
        return file.read_text() if file.exists() else None

    async def sleep(self, seconds):
        self.sleeps.append(seconds)

    def kept(self, name):
        return (self.folder / "box" / name).read_text()

    def play(self, goal="Count the lines.", past=None, first=""):
        """`first` is told to it before it begins."""
        model = Model("a-model", self.protocol, self.window, 8000, self.options)
        more = {} if self.waits_for_upstream is None else {"waits_for_upstream": self.waits_for_upstream}
        around = Surroundings(
            self.ask, self.shell, self.keep, self.status, self.phase, lambda: self.limit, self.done, self.sleep, **more
        )
        self.agent = Agent("lead", model, "You work in a box.", goal, around, self.recorder, past)
        if first:
            self.agent.tell(first)
        end = asyncio.run(self.agent.run())
        for body in self.bodies:
            check_pairing(self.protocol, body)
        return end

    def said(self, *arguments, **more):
        """The model answers so; the usage that it reports is a quarter of the request's bytes."""
        self.script.append(lambda body: answer(self.protocol, *arguments, **{"usage": (len(json.dumps(body)) // 4, 20), **more}))
        return self

    def hands_in(self, note=""):
        return self.said(calls=[bash(f"gear done --note '{note}'", id=f"done{len(self.script)}")])

    def body(self, at):
        return json.loads(self.bodies[at])

    def last_results(self, at):
        """The texts of the results at the end of request `at`."""
        body = self.body(at)
        if self.protocol == "anthropic":
            return [block["content"] for block in body["messages"][-1]["content"] if block["type"] == "tool_result"]
        turns, kind, text = (
            (body["messages"], "tool", "content")
            if self.protocol == "chat"
            else (body["input"], "function_call_output", "output")
        )
        found = []
        for turn in reversed(turns):
            if kind not in (turn.get("role"), turn.get("type")):
                break
            found.insert(0, turn[text])
        return found


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "stage")


@pytest.fixture(params=PROTOCOLS)
def any_stage(request, tmp_path):
    """The same play in each protocol."""
    return Stage(tmp_path / "stage", protocol=request.param)


@pytest.fixture(scope="session")
def play():
    """The helpers of this file, for tests that need more than a stage."""

    class Play:
        pass

    helpers = Play()
    helpers.__dict__.update(
        answer=answer,
        bash=bash,
        error=error,
        check_pairing=check_pairing,
        ListRecorder=ListRecorder,
        Stage=Stage,
        PROTOCOLS=PROTOCOLS,
    )
    return helpers
