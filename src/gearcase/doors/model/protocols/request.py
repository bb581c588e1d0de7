"""A model request that has been read: what it may cost at most, and the object that will be sent.

Threat: parser differences are money holes. A body that two parsers could read differently (duplicate keys, a byte order mark, bytes
that are not UTF-8) is refused, and what is sent is always the object that was priced, serialised again. Fields are known by name:
an unknown one is removed and put on record. What makes the provider fetch, store, or spend in ways that cannot be bounded is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from gearcase.doors.model.price import CacheWrite
from gearcase.errors import Refused
from gearcase.seams import Protocol_

MAX_DEPTH = 200
PER_MESSAGE = 64
"""Tokens of a chat template around one message, at most."""
HIDDEN = 1000
"""Tokens of text that a provider adds by itself (tool preamble), at most."""

_ADDS_NOTHING = frozenset(
    "max_tokens max_completion_tokens max_output_tokens n stream stream_options temperature top_p top_k min_p seed stop stop_sequences "
    "metadata client_metadata user safety_identifier prompt_cache_key service_tier store include logprobs top_logprobs".split()
)
"""Fields that put no token into a prompt, and may differ from call to call of one conversation."""

_ADDRESSES = frozenset("image_url video_url audio_url file_url file_id file_ids vector_store_ids".split())

_BLANK_BEFORE_COLON = re.compile(rb'"[ \t\r\n]+:')


@dataclass(frozen=True, slots=True)
class Address:
    """What the path and the query of a call say. `path` is the one that upstreams are asked at, where `{model}` stands for a name that
    this protocol puts there; only then `model` and `stream` are told here and not in the body."""

    protocol: Protocol_
    path: str
    model: str = ""
    stream: bool = False
    counts: bool = False  # asks only how many tokens a request has
    array: bool = False  # a stream that is wanted as one JSON array, not as events


@dataclass(slots=True)
class ModelRequest:
    """Read from a body. `body` is owned by the door and edited by it; nothing else refers to it."""

    protocol: Protocol_
    model: str
    body: dict[str, Any]
    stream: bool = False
    asked: int | None = None  # output tokens, when the client says
    choices: int = 1
    cache_write: CacheWrite = "none"
    tier: str = ""
    images: int = 0
    unbounded: bool = False  # its input is bounded by the context window only
    web_searches: int = 0
    betas: str = ""  # what the headers ask for beyond the body
    edits: list[str] = field(default_factory=list[str])
    added_usage: bool = False  # chat: the usage chunk was asked for by the door, not by the client
    prefix: list[bytes] = field(default_factory=list[bytes])  # digest after the fixed part and after each message
    sizes: list[int] = field(default_factory=list[int])  # bytes of the fixed part and of each message

    def byte_bound(self, since: int = 0) -> int:
        """Upper bound of the tokens of the texts from index `since` of `sizes` on (0 is the fixed part): one token a byte."""
        tail = self.sizes[since:]
        return sum(tail) + PER_MESSAGE * len(tail) + HIDDEN


def read_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises Refused `bad_request` for anything that two parsers could read differently."""
    if body[:3] == b"\xef\xbb\xbf":
        raise bad_request("the body begins with a byte order mark")
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise bad_request("the body is not a JSON object")
    whole = cast("dict[str, Any]", parsed)
    keys = _keys(whole)
    if keys != body.count(b'":') or _BLANK_BEFORE_COLON.search(body):
        json.loads(body, object_pairs_hook=_unique)
    return whole


def _keys(value: dict[str, Any]) -> int:
    """How many keys its objects have. Where no blank stands before a colon, each key is one `":` in the bytes and text can only add
    more: as many of them as keys, and none was lost. Raises Refused for nesting beyond MAX_DEPTH."""
    count, level = 0, list[Any]([value])
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                count += len(item)  # pyright: ignore[reportUnknownArgumentType]
                below.extend(item.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            elif isinstance(item, list):
                below.extend(item)  # pyright: ignore[reportUnknownArgumentType]
        if not below:
            return count
        level = below
    raise bad_request("the body is nested too deeply")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise bad_request("the body has an object with a key twice")
    return made


def keep_known(request: ModelRequest, known: frozenset[str]) -> None:
    """Remove what the door does not know, on record: an unknown field has no price and no egress class."""
    for name in [name for name in request.body if name not in known]:
        del request.body[name]
        request.edits.append(f"removed unknown field {name[:40]}")


def deny(body: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Refuse fields that are set and would store, fetch, or spend out of sight; `fields` says why."""
    for name, why in fields.items():
        if body.get(name):
            raise denied(f"`{name}` is denied: {why}")


def measure(request: ModelRequest, key: str, messages: list[Any]) -> None:
    """Digests and sizes of the fixed part (all but the messages, which stand below `key`) and of each message.

    What a schema or a tool choice adds to the prompt is told by no provider, so every field counts that is not known to add nothing.
    """
    fixed = {name: value for name, value in request.body.items() if name != key and name not in _ADDS_NOTHING}
    state = hashlib.sha256()
    for part in (sorted(fixed.items()), *messages):
        data = orjson.dumps(_without_marks(part))
        state.update(len(data).to_bytes(8, "little") + data)
        request.prefix.append(state.digest())
        request.sizes.append(len(data))


def _without_marks(value: Any) -> Any:
    """Cache marks wander from message to message and are no content."""
    if isinstance(value, dict):
        return {key: _without_marks(item) for key, item in value.items() if key != "cache_control"}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_without_marks(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object inside a value, but for what a tool was called with: that is the model's own text."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(cast("list[Any]", item))
        elif isinstance(item, dict):
            found = cast("dict[str, Any]", item)
            yield found
            written = str(found.get("type")).endswith("tool_use")
            todo.extend(part for name, part in found.items() if not (written and name == "input"))


def deny_addresses(item: Mapping[str, Any]) -> None:
    """Refuse what a provider would fetch or keeps, whatever kind of content it stands in. Content itself is a `data:` address."""
    for name in _ADDRESSES & item.keys():
        value = item[name]
        address = cast("dict[str, Any]", value).get("url") if isinstance(value, dict) else value
        if address and not str(address).startswith("data:"):
            raise denied(f"`{name}`: the provider would fetch it, or keeps it")


def whole_number(body: Mapping[str, Any], name: str, least: int = 1) -> int | None:
    """A count from the body; None when it is not there. Raises Refused when it is no whole number from `least` up."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least or value > 2**40:
        raise bad_request(f"`{name}` must be a whole number from {least} up")
    return value


def bad_request(message: str) -> Refused:
    """The client's request cannot be read."""
    return Refused("bad_request", message, remedy="send one plain JSON object as the provider documents it")


def denied(message: str) -> Refused:
    """The request asks for something that the box does not open."""
    return Refused(
        "denied", message, remedy="put the content itself into the request; the operator can open hosted tools in the box"
    )
