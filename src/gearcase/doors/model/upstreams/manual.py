"""`manual:DIR`: a person (or a program that plays one) answers the calls, through files.

Each call becomes `NNNN.request.md`, to be read, and `NNNN.request.json`, the whole of it. The answer is `NNNN.answer.json`, an
object `{"text": "...", "commands": ["...", ...], "timeout": 600}` that must appear whole, by rename. An answer that cannot be used is
renamed to `NNNN.answer.json.bad` with `NNNN.error.txt` beside it, and the call goes on waiting, however long.

Threat: whoever can write into DIR answers for the model, and what an agent wrote is read on a terminal. So DIR is its owner's
alone, is refused where a box is given things or delivers them, answers are opened without following links and read to a cap, and
control characters of the conversation are shown, never passed on.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, cast

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import PROTOCOLS, content_type, counted
from gearcase.doors.model.protocols.answer import Answer, ToolCall
from gearcase.doors.model.protocols.stream import table
from gearcase.doors.model.upstreams.conversation import Piece, ceiling_of, offers_tool, pieces, readable
from gearcase.errors import UsageError
from gearcase.seams import UpstreamRequest, UpstreamResponse

POLL = 0.1
"""Seconds between two looks for an answer."""
MAX_ANSWER = 4 * 1024 * 1024
MAX_SHOWN = 100_000
"""Characters of one text in `request.md`; `request.json` has all."""
TOOL = "bash"
BYTES_PER_TOKEN = 4

_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_OUTPUT_FORMATS = ("response_format", "output_config", "output_format", "text")


class _Unusable(Exception):
    """Why an answer cannot be used, for who wrote it."""


class Manual:
    """An upstream whose answers come from a folder. Calls may overlap: each has its own number."""

    def __init__(self, folder: Path, forbidden: Iterable[Path] = ()) -> None:
        """`forbidden` are the paths that a box is given or delivers to. Raises UsageError for a folder that is not safe."""
        self._folder = _safe_folder(folder, forbidden)
        taken = [int(file.name[:4]) for file in self._folder.glob("[0-9][0-9][0-9][0-9].*")]
        self._number = max(taken, default=0)
        self._shown: dict[str, tuple[str, list[Piece]]] = {}

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See `Upstream`. Waits until there is an answer that can be used; tokens are counted without asking anybody."""
        if (told := counted(request.path, _tokens(request))) is not None:
            return UpstreamResponse(200, {"content-type": content_type(False)}, _once(told))
        self._number += 1
        name = f"{self._number:04d}"
        whole = {"agent": request.agent, "lead": request.lead, "path": request.path, "body": dict(request.parsed)}
        self._put(f"{name}.request.json", json.dumps(whole, ensure_ascii=False, indent=1))
        self._put(f"{name}.request.md", self._page(name, request))
        try:
            text, commands = await self._answer(name, offers_tool(request, TOOL))
        except asyncio.CancelledError:
            self._put(f"{name}.error.txt", "Nobody waits for this answer any more: the call was given up.\n")
            raise
        return _response(request, name, text, commands)

    async def close(self) -> None:
        """See `Upstream`. The files stay."""

    def _put(self, name: str, text: str) -> None:
        part = self._folder / f".{name}.part"
        part.write_bytes(text.encode("utf-8", "replace"))
        part.replace(self._folder / name)

    # --- the answer ---------------------------------------------------------------------------------------------------------

    async def _answer(self, name: str, with_tool: bool) -> tuple[str, list[dict[str, Any]]]:
        file = self._folder / f"{name}.answer.json"
        while True:
            if os.path.lexists(file):
                try:
                    answer = _usable(_read(file), with_tool)
                except _Unusable as why:
                    file.replace(file.with_name(f"{file.name}.bad"))
                    self._put(f"{name}.error.txt", f"{file.name} cannot be used: {why}\nWrite it again; the call is waiting.\n")
                else:
                    (self._folder / f"{name}.error.txt").unlink(missing_ok=True)
                    return answer
            await asyncio.sleep(POLL)

    # --- the page -----------------------------------------------------------------------------------------------------------

    def _page(self, name: str, request: UpstreamRequest) -> str:
        who = f"lead {request.agent}" if request.lead else f"{request.agent} {request.model}"
        now = pieces(request)
        before_name, before = self._shown.get(who, ("", []))
        self._shown[who] = name, now
        same = next(
            (at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), min(len(before), len(now))
        )
        caller = "the agent" if request.lead else "a program"
        parts = [f"# Request {name}: {caller} {_shown(request.agent)!r} asks {_shown(request.model)!r}\n"]
        if same:
            parts.append(f"The first {same} of {len(now)} parts are as in {before_name}.request.md and not repeated.\n")
        if same < len(before):
            parts.append(f"From part {same + 1} on the conversation was changed (shortened, or another one).\n")
        for piece in now[same:]:
            parts += [_section(label, text) for label, text in readable(piece) if piece.role != "tools"]
        parts.append(_how_to_answer(name, request))
        return "\n".join(parts)


def _how_to_answer(name: str, request: UpstreamRequest) -> str:
    """What is asked for, in which form, and how much of it."""
    body = request.parsed
    if offers_tool(request, TOOL):
        example = '{"text": "what you think", "commands": ["ls -la", "wc -l data/*"]}'
        form = f"`commands` are run with {TOOL}, in order; what they print comes in the next request. Any key may be left out; "
        form += f'`"timeout": 600` gives each of them so many seconds, within what {TOOL} allows.'
    else:
        example, form = '{"text": "your answer"}', "This call has no tool: text only."
    cap = ceiling_of(body)
    limit = f" At most {cap} tokens." if cap else ""
    wanted = {key: body[key] for key in _OUTPUT_FORMATS if key in body}
    config = table(body.get("generationConfig"))
    wanted |= {key: value for key, value in config.items() if key.startswith("response") and key != "responseModalities"}
    schema = _section("the form that the text must have", json.dumps(wanted, ensure_ascii=False, indent=1)) if wanted else ""
    return (
        f"{schema}\n## Your answer\n\nWrite `{name}.answer.json.new`, then rename it to `{name}.answer.json`:\n\n"
        f"    {example}\n\n{form}{limit}\n"
    )


def _section(label: str, text: str) -> str:
    """A text in a fence that it cannot close."""
    if len(text) > MAX_SHOWN:
        half = MAX_SHOWN // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters, see the .json ...]\n{text[-half:]}"
    longest = max((len(run) for run in re.findall("~+", text)), default=0)
    fence = "~" * max(4, longest + 1)
    return f"## {_shown(label)}\n\n{fence}\n{_shown(text)}\n{fence}\n"


def _shown(text: str) -> str:
    """The text with control and direction characters spelled out, so that a terminal shows them and does not obey."""
    return _UNSHOWABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _read(file: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _Unusable(f"it cannot be opened ({error.strerror}); links are not followed") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _Unusable("it is not a regular file")
    with os.fdopen(descriptor, "rb") as opened:
        content = opened.read(MAX_ANSWER + 1)
    if len(content) > MAX_ANSWER:
        raise _Unusable(f"it is over {MAX_ANSWER} bytes")
    return content


def _usable(content: bytes, with_tool: bool) -> tuple[str, list[dict[str, Any]]]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"it is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise _Unusable('it is not an object; write {"text": "...", "commands": ["..."]}')
    answer = cast("dict[str, Any]", value)
    if unknown := sorted(answer.keys() - {"text", "commands", "timeout"}):
        raise _Unusable(f"it has the key {unknown[0][:80]!r}; only text, commands and timeout are known")
    text, commands = answer.get("text", ""), answer.get("commands", [])
    if not isinstance(text, str):
        raise _Unusable('"text" is not a text')
    told: list[Any] = cast("list[Any]", commands) if isinstance(commands, list) else [None]
    listed = [command for command in told if isinstance(command, str) and command.strip()]
    if len(listed) != len(told):
        raise _Unusable('"commands" is not a list of commands, each a text')
    if listed and not with_tool:
        raise _Unusable("this call has no tool: answer with text only")
    if not text.strip() and not listed:
        raise _Unusable("it has neither text nor commands")
    seconds = answer.get("timeout")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise _Unusable('"timeout" is not a number of seconds')
    more = {} if seconds is None else {"timeout": seconds}
    return text, [{"command": command, **more} for command in listed]


def _safe_folder(folder: Path, forbidden: Iterable[Path]) -> Path:
    remedy = "name a new folder of your own, away from what the box is given and delivers to"
    own = folder.resolve()
    for path in forbidden:
        other = path.resolve()
        if own.is_relative_to(other) or other.is_relative_to(own):
            raise UsageError("manual_folder", f"{folder} and {path} contain one another", remedy=remedy)
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        if own.stat().st_uid != os.geteuid():
            raise UsageError("manual_folder", f"{folder} belongs to another user, who could answer", remedy=remedy)
        own.chmod(0o700)
    except OSError as error:
        raise UsageError("manual_folder", f"{folder} cannot be used", cause=str(error), remedy=remedy) from None
    return own


def _response(request: UpstreamRequest, name: str, text: str, commands: list[dict[str, Any]]) -> UpstreamResponse:
    calls = tuple(ToolCall(f"call_{name}_{at}", TOOL, arguments) for at, arguments in enumerate(commands))
    written = len(text.encode()) + sum(len(one["command"].encode()) for one in commands)
    usage = TokenUsage(input=_tokens(request), output=max(1, -(-written // BYTES_PER_TOKEN)))
    answer = Answer(text, calls, usage, model=request.model, id=name)

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in PROTOCOLS[request.protocol].render(answer, request.stream):
            yield chunk

    return UpstreamResponse(200, {"content-type": content_type(request.stream)}, chunks())


def _tokens(request: UpstreamRequest) -> int:
    return -(-len(request.body) // BYTES_PER_TOKEN)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
