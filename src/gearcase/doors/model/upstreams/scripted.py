"""The fake provider: answers by a script, in every protocol, with faults, and keeps a log that is the witness of a test.

A script is a list of steps, used in order by each agent for itself, the last one for ever after: a JSON file with a list (or
`{"steps": [...]}`), each step an object of `text`, `commands` (bash calls), `uses` (other tools' names, each with its arguments),
`usage` (`{"input": 10, "output": 5}`; without it bytes / 4, within the ceiling, of which the share `cached` of the input was read from
a cache), `pieces` and `delay` (a streamed text in so many pieces, seconds apart), `fault` and `status`. Faults: drop, stall, garbage,
truncated, no_usage, over_cap (reports more output than the ceiling), ignore_cap (streams on above it), slow (waits `delay` before the
headers), down. A `status` of 400 and up answers with that error. A step with `when` answers, `times` times or for ever, every request
whose last message holds that text, before any step without; it takes no turn of theirs. Steps with `agent` are that agent's alone,
which then gets no others. The log tells how each last message ends. Commands are answered as calls of the shell that a request offers,
by whatever name and form known agents give it; a request that does not offer what a step calls (a title, a summary on the side) is
answered `ok` and uses up no such step.

In a run: `scripted:FILE`. As a real server of its own: `python -m gearcase.doors.model.upstreams.scripted --port 0 --log FILE
--key KEY`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import uvloop

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import PROTOCOLS, Speech, address_of, content_type, counted
from gearcase.doors.model.protocols.answer import Answer, ToolCall
from gearcase.doors.model.protocols.stream import items, load, table
from gearcase.doors.model.upstreams.conversation import ceiling_of, pieces, readable, tools_of
from gearcase.doors.server import HttpRequest, Reply, serve
from gearcase.errors import UsageError
from gearcase.seams import UpstreamDown, UpstreamRequest, UpstreamResponse

Fault = Literal["", "drop", "stall", "garbage", "truncated", "no_usage", "over_cap", "ignore_cap", "slow", "down"]
FAULTS = ("", "drop", "stall", "garbage", "truncated", "no_usage", "over_cap", "ignore_cap", "slow", "down")
STALL = 3600.0
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of a script."""

    text: str = ""
    commands: tuple[str, ...] = ()
    uses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    usage: Mapping[str, int] | None = None
    cached: float = 0.0
    pieces: int = 1
    delay: float = 0.0
    fault: Fault = ""
    status: int = 200
    when: str = ""
    times: int = 0
    agent: str = ""


@dataclass(slots=True)
class Script:
    """Steps and where they stand; shared by every call."""

    steps: Sequence[Step] = (Step("ok"),)
    log: Path | None = None
    used: Counter[str] = field(default_factory=Counter[str])  # steps, by agent
    met: Counter[int] = field(default_factory=Counter[int])  # how often each step with `when` has answered
    numbers: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def next(self, request: UpstreamRequest) -> Step:
        """The next step; the last one is used for ever. Counting tokens uses none up."""
        if counted(request.path, 0) is not None:
            return Step()
        if (met := self._met(request)) is not None:
            return met
        steps = [step for step in self.steps if not step.when]
        own = request.agent if any(step.agent == request.agent for step in steps) else ""
        turns = [step for step in steps if step.agent == own] or [Step("ok")]
        step = turns[min(self.used[request.agent], len(turns) - 1)]
        if (step.commands and not _shell(request.parsed)) or not _offered(request.parsed).issuperset(step.uses):
            return Step("ok")
        self.used[request.agent] += 1
        return step

    def _met(self, request: UpstreamRequest) -> Step | None:
        if not any(step.when for step in self.steps):
            return None
        text = _last(request)
        for at, step in enumerate(self.steps):
            if (
                step.when
                and step.when in text
                and step.agent in ("", request.agent)
                and (not step.times or self.met[at] < step.times)
            ):
                self.met[at] += 1
                return step
        return None

    def witness(self, entry: dict[str, Any]) -> None:
        """Put on the log what was asked and what is billed, before the answer leaves."""
        self.entries.append(entry)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")


class BrokenOff(ConnectionError):
    """The fake provider drops the connection in the middle."""


class Scripted:
    """The fake provider as an upstream of a run."""

    def __init__(self, script: Script) -> None:
        self.script = script

    @classmethod
    def from_file(cls, file: Path) -> Scripted:
        """Raises UsageError `script` for a file that is not a script."""
        return cls(Script(read_script(file)))

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See `Upstream`."""
        step = self.script.next(request)
        if step.fault == "down":
            raise UpstreamDown("the script says that it is down")
        status, chunks = await answer(self.script, step, request)
        return UpstreamResponse(status, {"content-type": content_type(request.stream and status == 200)}, chunks)

    async def close(self) -> None:
        """See `Upstream`. Nothing is held."""


def read_script(file: Path) -> tuple[Step, ...]:
    """The steps of a script file."""
    try:
        told: Any = json.loads(file.read_text())
        rows = items(table(told).get("steps")) or items(told)
        steps = tuple(_step(row) for row in rows)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = 'a script is a JSON list of steps, such as [{"text": "hello", "commands": ["gear done"]}]'
        raise UsageError("script", f"{file} is not a script", cause=str(error), remedy=remedy) from error
    wrong = [step.fault for step in steps if step.fault not in FAULTS]
    if not steps or wrong:
        message = f"{file} knows no fault {wrong[0]!r}" if wrong else f"{file} has no steps"
        raise UsageError("script", message, remedy=f"faults: {', '.join(FAULTS[1:])}")
    return steps


def _step(row: Any) -> Step:
    commands: Any = row.get("commands", [])
    if not isinstance(commands, list):
        raise TypeError("`commands` is a list")
    told: dict[str, Any] = {**row, "commands": tuple(cast("list[str]", commands))}
    return Step(**told)


async def answer(script: Script, step: Step, request: UpstreamRequest, client: str = "") -> tuple[int, AsyncIterator[bytes]]:
    """Status and body for one request. The log entry is written before anything leaves. `client` is who it says that it is."""
    script.numbers += 1
    number, body, size = script.numbers, request.parsed, len(request.body)
    if (told := counted(request.path, size // 4)) is not None:
        return 200, _once(told)
    speech = PROTOCOLS[request.protocol]
    ceiling = ceiling_of(body) or 10**6
    entry: dict[str, Any] = {"number": number, "time": time.time(), "path": request.path, "model": request.model}
    entry |= {"ceiling": ceiling, "fields": sorted(body), "caller": _caller(body), "client": client}
    entry["asked"] = _last(request)[-_SHOWN:]
    if step.status >= 400:
        script.witness({**entry, "status": step.status, "billed": {}})
        return step.status, _once(speech.refusal(step.status, "scripted", f"scripted status {step.status}"))
    made = _answer(step, request, ceiling, size, number)
    billed = _usage(step, made, ceiling, size)
    script.witness({**entry, "status": 200, "billed": {k: v for k, v in asdict(billed).items() if v}, "fault": step.fault})
    if step.fault == "slow":
        await asyncio.sleep(step.delay)
    if step.fault == "garbage":
        return 200, _once(b"\x00\xff<html>not what you asked for</html>" * 20)
    return 200, _body(step, speech, made, request.stream)


def _answer(step: Step, request: UpstreamRequest, ceiling: int, size: int, number: int) -> Answer:
    shell = _shell(request.parsed)
    calls = tuple(ToolCall(f"call_{number}_{at}", shell, _SHELLS[shell](text)) for at, text in enumerate(step.commands) if shell)
    for name, arguments in step.uses.items():
        group, _, own = name.rpartition("/")
        calls += (ToolCall(f"call_{number}_{own}", own, arguments, group),)
    bare = Answer(step.text, calls, model=request.model, id=f"{number}", pieces=step.pieces)
    usage = _usage(step, bare, ceiling, size)
    return Answer(step.text, calls, None if step.fault == "no_usage" else usage, "end", bare.model, bare.id, step.pieces)


def _usage(step: Step, made: Answer, ceiling: int, size: int) -> TokenUsage:
    if step.usage is not None:
        return TokenUsage(**dict(step.usage))  # type: ignore[arg-type]
    written = len(step.text) + sum(len(str(call.arguments)) for call in made.calls)
    output = max(1, min(written // 4, ceiling))
    if step.fault in ("over_cap", "ignore_cap"):
        output = ceiling * 2 + 100
    given = max(1, size // 4)
    read = int(given * step.cached)
    return TokenUsage(input=given - read, cache_read=read, output=output)


async def _body(step: Step, speech: Speech, made: Answer, stream: bool) -> AsyncIterator[bytes]:
    if step.fault == "ignore_cap" and stream:
        made = Answer("x " * (made.usage.output if made.usage else 1), (), made.usage, "end", made.model, made.id, 10**9)
    parts = list(speech.render(made, stream))
    if step.fault == "truncated":
        parts = [parts[0][: len(parts[0]) // 2]] if not stream else parts[: max(1, len(parts) // 2)]
    for at, part in enumerate(parts):
        yield part
        if step.fault in ("drop", "stall") and at == len(parts) // 2:
            if step.fault == "drop":
                raise BrokenOff("the script drops the connection")
            await asyncio.sleep(STALL)
        if stream and step.delay and step.fault != "slow":
            await asyncio.sleep(step.delay)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _caller(body: Mapping[str, Any]) -> str:
    """Who asks, where the request says it: each protocol has a field for the client's own user."""
    return str(body.get("user") or table(body.get("metadata")).get("user_id") or "")


def _last(request: UpstreamRequest) -> str:
    """The text of the last message."""
    return "".join(text for _, text in readable(pieces(request)[-1])) if pieces(request) else ""


_SHELLS: dict[str, Callable[[str], dict[str, Any]]] = {
    "bash": lambda text: {"command": text},
    "Bash": lambda text: {"command": text, "description": "scripted"},
    "shell": lambda text: {"command": ["sh", "-c", text]},
    "shell_command": lambda text: {"command": text},
    "exec_command": lambda text: {"cmd": text},
    "run_shell_command": lambda text: {"command": text, "description": "scripted"},
}
"""How agents call their shell, and what they take."""


def _shell(body: Mapping[str, Any]) -> str:
    """The name of the shell that a request offers; empty when it offers none."""
    names = _offered(body)
    return next((name for name in _SHELLS if name in names), "")


def _offered(body: Mapping[str, Any]) -> set[Any]:
    """The names of a request's tools; of one in a group, as `GROUP/NAME`."""
    groups = [table(tool) for tool in items(body.get("tools"))]
    grouped = {f"{group.get('name')}/{table(one).get('name')}" for group in groups for one in items(group.get("tools"))}
    return grouped | {tool.get("name") for tool in tools_of(body)}


# --- as a server of its own ----------------------------------------------------------------------------------------------------


async def serve_script(script: Script, sock: socket.socket, key: str = "") -> Any:
    """Serve the fake provider over HTTP; returns the server, to be closed. With a `key`, who does not show it is refused."""

    async def handle(request: HttpRequest) -> Reply:
        address = address_of(request.path, request.query) if request.method == "POST" else None
        if address is None or address.array:
            return Reply(404, {"content-type": "application/json"}, b'{"error": {"message": "unknown path"}}')
        shown = [request.header(b"authorization").removeprefix(b"Bearer ")]
        shown += [request.header(name) for name in (b"x-api-key", b"x-goog-api-key")]
        if key and key.encode() not in shown:
            text = PROTOCOLS[address.protocol].refusal(401, "key", "that is no key")
            return Reply(401, {"content-type": "application/json"}, text)
        body = load(request.body)
        model, stream = address.model or str(body.get("model") or ""), address.stream or body.get("stream") is True
        asked = UpstreamRequest(address.protocol, address.path, model, {}, request.body, body, stream, "", False, 0)
        step, client = script.next(asked), request.header(b"user-agent").decode("latin-1")
        status, chunks = await answer(script, step, asked, client)
        streamed = stream and status == 200
        if not streamed and step.fault not in ("drop", "stall"):
            return Reply(status, {"content-type": content_type(False)}, b"".join([chunk async for chunk in chunks]))
        return Reply(status, {"content-type": content_type(streamed)}, chunks)

    return await serve(sock, handle)


def main() -> None:
    """Serve a script until the process is ended; prints the address on one line."""
    parser = argparse.ArgumentParser(description="The fake provider, as a server.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--key", default="")
    options = parser.parse_args()
    script = Script(read_script(options.script) if options.script else (Step("ok"),), options.log)

    async def run() -> None:
        sock = socket.create_server(("127.0.0.1", options.port))
        print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
        await serve_script(script, sock, options.key)
        await asyncio.Event().wait()

    uvloop.run(run())


if __name__ == "__main__":
    main()
