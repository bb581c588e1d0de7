"""Model traffic on file: `Recording` writes down what another upstream answers, `Cassette` plays it back.

A lead's calls are matched by (agent, ordinal): its conversation differs a little from run to run, so each message is compared
masked, and a difference is an error (`strict`) or counted (`loose`, the default). What it is told first, our own instructions, is not
compared: they change with our versions. Every other call is matched by the digest of its exact content, the model's name excepted (a
replay names the cassette instead); equal calls get their answers in the order in which they were asked.

Invariants: a call that is not on the cassette is an error and never reaches another upstream. A cassette holds no credential:
request headers are not written, response headers by allow-list. What an answer may cost, which depends on the budget that was
left, is not part of a call's identity. How long to wait before another attempt is recorded and not played: nothing is busy here.

Format (`FORMAT`): JSON lines; first `{"cassette": FORMAT}` with the names of the models (`lead`, `worker`) where they are a
provider's, then one call a line: `key`, `order`, `protocol`, `path`, `model`,
`same` (how many messages it has in common with the call before of the same conversation `of`), `messages` (digests of the
others), `texts` (masked text of each digest when it is first seen), `status`, `headers`, `chunks` (text, or `{"base64": ..}`),
`usage`, `broken` (how the answer ended when not in order), `down` (nothing was sent). A last line without its end was being
written when the recorder died, and is left out.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson

from gearcase.doors.model.protocols.stream import table
from gearcase.doors.model.upstreams.conversation import Piece, pieces
from gearcase.doors.model.upstreams.masking import Masked, Masker, canonical, digest
from gearcase.errors import RunError, UsageError
from gearcase.seams import Protocol_, Upstream, UpstreamDown, UpstreamRequest, UpstreamResponse

FORMAT = "1.0"
MOST_MISMATCHES = 100
"""Mismatches that are kept with their texts; the count goes on."""

_WAITS = frozenset({"retry-after", "retry-after-ms"})
_HEADERS = _WAITS | {"content-type", "x-should-retry"}
_NOT_CONTENT = frozenset(
    {"model", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream_options", "metadata", "user", "store"}
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A replayed call that is not the recorded one. `difference` shows the first message that differs, masked."""

    agent: str
    ordinal: int
    message: str
    difference: str

    def __str__(self) -> str:
        return f"call {self.ordinal} of agent {self.agent!r}: {self.message}"


@dataclass(slots=True)
class _Take:
    """One recorded call."""

    line: int
    order: int
    messages: list[str]
    answer: Mapping[str, Any] = field(repr=False)


def key_of(request: UpstreamRequest) -> str:
    """What a call is matched by."""
    if request.lead:
        return f"lead {request.agent} {request.ordinal}"
    content = {key: value for key, value in request.parsed.items() if key not in _NOT_CONTENT}
    if isinstance(content.get("thinking"), dict):
        content["thinking"] = {**content["thinking"], "budget_tokens": 0}  # the door lowers it with the output cap
    if "generationConfig" in content:  # where Gemini has the same two
        config = {key: value for key, value in table(content["generationConfig"]).items() if key != "maxOutputTokens"}
        if thinking := table(config.get("thinkingConfig")):
            config["thinkingConfig"] = {**thinking, "thinkingBudget": 0}
        content["generationConfig"] = config
    return f"content {digest(canonical([request.path, request.stream, content]))}"


DESCRIBED = 500
"""Calls of programs that are recorded with what they said, for whoever looks why a replay differs; the others by their digest alone, by
which all of them are played."""


def _conversation(request: UpstreamRequest) -> str:
    """Calls that are likely to begin alike."""
    return f"lead {request.agent}" if request.lead else f"programs {request.model}"


class _Tape:
    """The file that the recordings of a run write into, line by line."""

    def __init__(self, file: Path, models: Mapping[str, str]) -> None:
        self.users = 0
        self._path = file
        self._masker = Masker()
        self._texts: set[str] = set()
        self._last: dict[str, list[str]] = {}
        self._order = 0
        self._described = 0
        try:
            self._file = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        except OSError as error:
            remedy = "name a file that does not exist yet, in a folder that does"
            raise UsageError("cassette_unwritable", f"cannot record to {file}", cause=str(error), remedy=remedy) from None
        self._write({"cassette": FORMAT, **models})

    def next_order(self) -> int:
        """The place of a call among all that are recorded, taken when it is sent."""
        self._order += 1
        return self._order - 1

    def record(self, request: UpstreamRequest, order: int, answer: dict[str, Any]) -> None:
        """Write one call."""
        self._described += not request.lead
        described = request.lead or self._described <= DESCRIBED
        masked = [self._masker([piece.role, piece.value]) for piece in pieces(request)] if described else []
        digests = [one.digest for one in masked]
        same = _common(self._last.get(_conversation(request), []), digests)
        self._last[_conversation(request)] = digests
        texts = {one.digest: one.text for one in masked if one.digest not in self._texts}
        self._texts.update(texts)
        call = {
            "key": key_of(request),
            "order": order,
            "protocol": request.protocol,
            "path": request.path,
            "model": request.model,
        }
        about = {"of": _conversation(request), "same": same, "messages": digests[same:], "texts": texts}
        self._write(call | about | answer)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(_line(line) + b"\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                "cassette_failed", "the cassette cannot be written", cause=str(error), remedy="make room on the disk"
            ) from None

    def leave(self) -> None:
        """One user less; the last one closes the file."""
        self.users -= 1
        if self.users == 0:
            _TAPES.pop(self._path, None)
            self._file.close()


def _line(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half of a surrogate pair, a number beyond 64 bits
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


_TAPES: dict[Path, _Tape] = {}
"""Tapes that are being written, by path: the recordings of all upstreams of a run share one."""


class Recording:
    """An upstream that passes another one's answers through and writes them down. Several may write to one file."""

    def __init__(self, upstream: Upstream, file: Path, models: Mapping[str, str] | None = None) -> None:
        """`models`: the names of `lead` and `worker`. Raises UsageError when the file is there and no recording of this process
        writes it."""
        path = Path(os.path.abspath(file))  # noqa: PTH100 (the file does not exist yet)
        if path not in _TAPES:
            _TAPES[path] = _Tape(path, models or {})
        self._tape = _TAPES[path]
        self._tape.users += 1
        self._open = True
        self._upstream = upstream

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See `Upstream`."""
        order = self._tape.next_order()
        try:
            response = await self._upstream.send(request)
        except UpstreamDown as error:
            self._tape.record(request, order, {"down": str(error)})
            raise
        return UpstreamResponse(response.status, response.headers, self._passing(request, order, response))

    async def _passing(self, request: UpstreamRequest, order: int, response: UpstreamResponse) -> AsyncIterator[bytes]:
        received: list[bytes] = []
        broken = "not read to its end"
        try:
            async for chunk in response.chunks:
                received.append(chunk)
                yield chunk
            broken = ""
        except Exception as error:
            broken = f"{type(error).__name__}: {error}"
            raise
        finally:
            headers = {name: value for name, value in response.headers.items() if name in _HEADERS}
            chunks = [_written(chunk) for chunk in received]
            answer = {"status": response.status, "headers": headers, "chunks": chunks, "usage": _usage(received)}
            self._tape.record(request, order, answer | ({"broken": broken} if broken else {}))
            close = getattr(response.chunks, "aclose", None)
            if close is not None:
                await close()

    async def close(self) -> None:
        """See `Upstream`."""
        if self._open:
            self._open = False
            self._tape.leave()
        await self._upstream.close()


class Cassette:
    """An upstream that plays a recording back. `mismatches` and `mismatched` say how true the replay was."""

    def __init__(self, file: Path, strict: bool = False) -> None:
        """Raises UsageError for a file that is no cassette."""
        self.file = file
        self._strict = strict
        self._masker = Masker()
        self._takes: dict[str, deque[_Take]] = defaultdict(deque)
        self._texts: dict[str, str] = {}
        self._others: list[_Take] = []
        self._lead: tuple[Protocol_, str] | None = None
        self.models: Mapping[str, str] = {}
        """The recorded names of `lead` and `worker`, where they are a provider's."""
        self.mismatched = 0
        self.mismatches: list[Mismatch] = []
        self._load()

    @property
    def lead(self) -> tuple[Protocol_, str] | None:
        """Protocol and model of the recorded lead, which a replay must speak; None when no lead was recorded."""
        return self._lead

    def unplayed(self, lead_only: bool = False) -> int:
        """Recorded calls that were not asked for yet."""
        return sum(len(takes) for key, takes in self._takes.items() if key.startswith("lead ") or not lead_only)

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See `Upstream`. RunError `cassette_mismatch`: the call is not on the cassette, or differs and it is strict."""
        takes = self._takes.get(key_of(request))
        if not takes:
            raise self._missing(request)
        if request.path != takes[0].answer["path"]:
            told = f"was recorded on {takes[0].answer['path']} and is asked on {request.path}"
            raise self._error(Mismatch(request.agent, request.ordinal, told, ""), "play it with the protocol it was recorded in")
        if request.lead:
            self._compare(request, takes[0])
        take = takes.popleft()
        if "down" in take.answer:
            raise UpstreamDown(take.answer["down"])
        headers = {name: value for name, value in take.answer["headers"].items() if name not in _WAITS}
        return UpstreamResponse(take.answer["status"], headers, _play(take.answer))

    async def close(self) -> None:
        """See `Upstream`."""
        self._takes.clear()

    # --- comparing ----------------------------------------------------------------------------------------------------------

    def _compare(self, request: UpstreamRequest, take: _Take) -> None:
        mismatch = self._first_difference(request, take)
        if mismatch is None:
            return
        self.mismatched += 1
        if len(self.mismatches) < MOST_MISMATCHES:
            self.mismatches.append(mismatch)
        if self._strict:
            raise self._error(mismatch, "record the run again, or play it loosely")

    def _missing(self, request: UpstreamRequest) -> RunError:
        remedy = "record the run again: a call that is not on the cassette is never sent elsewhere"
        recorded = sorted(key for key in self._takes if key.startswith(f"lead {request.agent} "))
        if request.lead:
            told = f"the cassette has {len(recorded)} calls of agent {request.agent!r} and none with ordinal {request.ordinal}"
            return self._error(Mismatch(request.agent, request.ordinal, told, ""), remedy)
        nearest = max(self._others, key=lambda take: _common(take.messages, self._digests(request)), default=None)
        mismatch = self._first_difference(request, nearest) if nearest else None
        told = "no recorded call has this content, or all that have it were played"
        return self._error(mismatch or Mismatch(request.agent, request.ordinal, told, ""), remedy)

    def _digests(self, request: UpstreamRequest) -> list[str]:
        return [self._masked(piece).digest for piece in pieces(request)]

    def _masked(self, piece: Piece) -> Masked:
        return self._masker([piece.role, piece.value])

    def _first_difference(self, request: UpstreamRequest, take: _Take) -> Mismatch | None:
        now = pieces(request)
        digests = self._digests(request)
        if request.lead:
            # What an agent is told first, and of its tool, are our own words, of the version that plays: they are no part of the record.
            ours = sum(1 for _ in takewhile(lambda piece: piece.role in ("system", "tools"), now))
            digests[:ours] = take.messages[:ours]
        if digests == take.messages:
            return None
        at = _common(take.messages, digests)
        before = self._texts.get(take.messages[at], "") if at < len(take.messages) else "(no further message)"
        after = self._masked(now[at]).text if at < len(now) else "(no further message)"
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "recorded", "now", n=1, lineterm="")
        shown = "\n".join(lines) or "(they differ in a part that the cassette does not keep)"
        role = now[at].role if at < len(now) else "end"
        return Mismatch(request.agent, request.ordinal, f"piece {at + 1} of {len(now)} ({role}) differs", shown)

    def _error(self, mismatch: Mismatch, remedy: str) -> RunError:
        return RunError(
            "cassette_mismatch",
            f"{self.file.name}: {mismatch}",
            cause=mismatch.difference,
            remedy=remedy,
            agent=mismatch.agent,
            ordinal=mismatch.ordinal,
        )

    # --- reading ------------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise UsageError("no_cassette", f"cannot read {self.file}", cause=str(error), remedy="name a recorded file") from None
        lines = content.split(b"\n")[:-1]  # what follows the last end of line is empty, or torn
        header = self._object(lines[0], 1) if lines else {}
        if str(header.get("cassette")).partition(".")[0] != FORMAT.partition(".")[0]:
            raise self._unreadable(1, f"it does not begin with a header of format {FORMAT}")
        self.models = {name: header[name] for name in ("lead", "worker") if isinstance(header.get(name), str)}
        last: dict[str, list[str]] = {}
        takes: list[tuple[str, _Take]] = []
        for number, line in enumerate(lines[1:], 2):
            entry = self._object(line, number)
            try:
                messages = last.get(entry["of"], [])[: entry["same"]] + entry["messages"]
                takes.append((entry["key"], _Take(number, entry["order"], messages, entry)))
                last[entry["of"]] = messages
                if self._lead is None and entry["key"].startswith("lead "):
                    self._lead = entry["protocol"], entry["model"]
                self._texts.update(entry["texts"])
            except (KeyError, TypeError) as error:
                raise self._unreadable(number, f"it lacks {error}") from None
        for key, take in sorted(takes, key=lambda pair: pair[1].order):
            self._takes[key].append(take)
            if key.startswith("content "):
                self._others.append(take)

    def _object(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(number, str(error)) from None
        if not isinstance(value, dict):
            raise self._unreadable(number, "it is not an object")
        return value  # pyright: ignore[reportUnknownVariableType]

    def _unreadable(self, number: int, cause: str) -> UsageError:
        remedy = "record it again, or take it from where it came"
        return UsageError("bad_cassette", f"line {number} of {self.file} cannot be used", cause=cause, remedy=remedy)


async def _play(answer: Mapping[str, Any]) -> AsyncIterator[bytes]:
    for chunk in answer["chunks"]:
        yield chunk.encode() if isinstance(chunk, str) else base64.b64decode(chunk["base64"])
    if "broken" in answer:
        raise ConnectionResetError(f"as recorded: {answer['broken']}")


def _common(one: list[str], other: list[str]) -> int:
    """How many elements two lists have in common at their beginning."""
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other)))


def _written(chunk: bytes) -> str | dict[str, str]:
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(chunk).decode()}


def _usage(received: list[bytes]) -> dict[str, Any]:
    """What the provider reported, for who reads the cassette: of a JSON answer, or of the events of a stream put together."""
    body = b"".join(received)
    lines = [line[5:] for line in body.split(b"\n") if line.startswith(b"data:")] or [body]
    found: dict[str, Any] = {}
    for line in lines:
        if b'"usage' not in line:
            continue
        try:
            value = orjson.loads(line)
        except (ValueError, RecursionError):
            continue  # what a provider sends may be garbage; it is recorded as it is
        whole = table(value)
        for holder in (whole, table(whole.get("message")), table(whole.get("response"))):
            found.update(table(holder.get("usage") or holder.get("usageMetadata")))
    return found
