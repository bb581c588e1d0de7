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
PER_IMAGE = 5000
"""Tokens of one image, at most."""

_BLANK_BEFORE_COLON = re.compile(rb'"[ \t\r\n]+:')


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
    edits: list[str] = field(default_factory=list[str])
    added_usage: bool = False  # chat: the usage chunk was asked for by the door, not by the client
    prefix: list[bytes] = field(default_factory=list[bytes])  # digest after the fixed part and after each message
    sizes: list[int] = field(default_factory=list[int])  # bytes of the fixed part and of each message

    def byte_bound(self, since: int = 0) -> int:
        """Upper bound of the input tokens of the fixed part and messages from index `since` of `sizes` on: one token a byte."""
        tail = self.sizes[since:]
        return sum(tail) + PER_MESSAGE * len(tail) + PER_IMAGE * self.images + HIDDEN


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
    if _may_have_duplicates(body, whole):
        try:
            json.loads(body, object_pairs_hook=_unique)
        except RecursionError:
            raise bad_request("the body is nested too deeply") from None
    return whole


def _may_have_duplicates(body: bytes, parsed: dict[str, Any]) -> bool:
    """Where no blank stands before a colon, each key is one `":` and text can only add more: as many as keys, and none was lost."""
    return _BLANK_BEFORE_COLON.search(body) is not None or _keys(parsed) != body.count(b'":')


def _keys(value: dict[str, Any]) -> int:
    count, todo = 0, list[Any]([value])
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            count += len(item)  # pyright: ignore[reportUnknownArgumentType]
            todo.extend(item.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        elif isinstance(item, list):
            todo.extend(item)  # pyright: ignore[reportUnknownArgumentType]
    return count


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


def measure(request: ModelRequest, fixed: Any, messages: list[Any]) -> None:
    """Digests and sizes of the fixed part (tools, system, model) and of each message, for the prefix rule."""
    state = hashlib.sha256()
    for part in (fixed, *messages):
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


def objects(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Every JSON object inside a value. Raises Refused for nesting beyond MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise bad_request("the body is nested too deeply")
    if isinstance(value, dict):
        yield value  # pyright: ignore[reportUnknownVariableType]
        for item in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from objects(item, depth + 1)
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from objects(item, depth + 1)


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
