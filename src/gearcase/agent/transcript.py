"""The conversation of an agent with its model, in no provider's words.

Three kinds of message: `Told` (to the model), `Said` (by the model), `Ran` (what a command of the model did). A `Said` keeps its
provider's own blocks as they came (`native`), because signed thinking and encrypted reasoning are only accepted back unaltered.
Invariant, kept by whoever builds a transcript and needed by every provider: each call of a `Said` is followed by exactly one
`Ran` before the next `Said`, and the first message is `Told`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import orjson

from gearcase.seams import Protocol_

Stop = Literal["end", "calls", "length", "refused"]

CLIP = 32 * 1024
"""Most characters of one text of the model that stay in the conversation, and of a command that was refused for its size."""

MAX_COMMAND = 100_000
"""Most bytes of one command: Linux refuses an argument of 128 KiB, and a file that long is better written in pieces."""

TOOL = "bash"
TOOL_DESCRIPTION = (
    "Run a command with bash in the box. Each call is a new shell in /workspace: files stay, shell variables and `cd` do not. "
    "Standard output and standard error come back together; a long output is kept whole in a file that is named. "
    "Background processes go on after the call."
)
TOOL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "description": "What bash runs."},
        "timeout": {
            "type": "number",
            "description": "Seconds after which the command is killed: 300 where it is left out, 3600 at most.",
        },
    },
    "required": ["command"],
}


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call. `arguments` is the parsed object, or None when it could not be read; then `fault` says why."""

    id: str
    name: str
    arguments: Mapping[str, Any] | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """Text for the model: the goal, a nudge, a note."""

    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the model. `native` are the provider's blocks, sent back as they are."""

    text: str
    calls: tuple[Call, ...] = ()
    native: tuple[Mapping[str, Any], ...] = ()
    stop: Stop = "end"


@dataclass(frozen=True, slots=True)
class Ran:
    """The outcome of one call, as the model is shown it."""

    call: str
    text: str
    failed: bool = False


Message = Told | Said | Ran


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider reported for one call. `input` counts cached tokens too; None where nothing was reported."""

    input: int | None = None
    output: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer and what it used."""

    said: Said
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Model:
    """The model that drives an agent. Window and output cap in tokens; `options` are added to each request as they are."""

    name: str
    protocol: Protocol_
    context_window: int
    max_output: int
    options: Mapping[str, Any] | None = None


class BadAnswer(ValueError):
    """What came with status 200 is not an answer in the provider's protocol. Never leaves the package."""


class Dialect(Protocol):
    """One provider's native protocol, not streamed. Stateless."""

    path: str

    def request(self, model: Model, system: str, messages: list[Message], max_output: int) -> bytes:
        """The request's body for a transcript that holds the invariant of this module."""
        ...

    def parse(self, body: bytes) -> Answer:
        """The answer. Raises BadAnswer; never anything else, whatever the bytes are."""
        ...


def clip(text: str, limit: int = CLIP) -> str:
    """At most about `limit` characters: head and tail, and how much is left out between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object, or BadAnswer."""
    try:
        value = orjson.loads(body)
    except ValueError:
        value = _lenient(body)  # half of a surrogate pair is no reason to pay twice
    if not isinstance(value, dict):
        raise BadAnswer("the answer is not a JSON object")
    return table(cast("object", value))


def _lenient(body: bytes) -> object:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the answer is not JSON: {str(error)[:200]}") from None


def read_arguments(id: str, name: str, arguments: object) -> Call:
    """A call whose arguments are JSON text or an object. What is wrong with them becomes the call's `fault`, for the model."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}", parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return Call(id, name, None, f"the arguments are not JSON ({str(error)[:200]})")
    if not isinstance(arguments, dict):
        return Call(id, name, None, "the arguments are not a JSON object")
    return Call(id, name, table(cast("object", arguments)))


def table(value: object) -> dict[str, Any]:
    """A JSON object; anything else is an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def listing(value: object) -> list[Mapping[str, Any]]:
    """The objects of a JSON array; anything else in it, or no array, is left out."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def count(value: object) -> int:
    """A token count of a provider: a whole number from 0 up, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def clip_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments, each text cut that is too long to be run: it is refused, and need not be sent again and again."""
    return {
        key: clip(value) if isinstance(value, str) and len(value.encode("utf-8", "replace")) > MAX_COMMAND else value
        for key, value in arguments.items()
    }


def own_id(id: object, taken: set[str]) -> str:
    """The call's id, or one of ours where a server left it out or used it twice in one answer."""
    name = id if isinstance(id, str) and id and id not in taken else f"call_{len(taken)}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def encode(body: Mapping[str, Any]) -> bytes:
    """JSON as every dialect sends it: UTF-8, compact; text that is no Unicode (lone surrogates) becomes question marks."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
