"""The protocols that the model door speaks: what each needs to be priced, capped, followed, refused and answered.

One module a protocol, all with the same functions: `read`, `cap`, `usage_of`, `Scanner`, `refusal`, `render`. There is no translation
between protocols: a request is passed on in the one it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import orjson

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import anthropic, chat, gemini, responses
from gearcase.doors.model.protocols.answer import Answer
from gearcase.doors.model.protocols.request import Address, ModelRequest
from gearcase.seams import Protocol_


class Follower(Protocol):
    """Follows one streamed answer. `deltas` is a floor of the output tokens so far, `ended` whether it came to its end."""

    served: str
    deltas: int
    ended: bool

    def feed(self, chunk: bytes, request: ModelRequest) -> bytes:
        """Read a chunk; returns the events that are passed on. Raises ValueError for what cannot be a stream of events."""
        ...

    def last(self, request: ModelRequest) -> bytes:
        """The upstream has ended: what it left without a blank line, if that is an event."""
        ...

    def usage(self) -> TokenUsage | None:
        """The reported usage, once it has come."""
        ...

    def ending(self, reason: str) -> bytes:
        """What ends the stream in the protocol: `length`, else an error that says why."""
        ...


class Speech(Protocol):
    """What each protocol's module offers."""

    def read(self, body: dict[str, Any], hosted: frozenset[str], address: Address) -> ModelRequest:
        """What the door must know of a call. Raises Refused `bad_request`, `denied`."""
        ...

    def cap(self, request: ModelRequest, output: int) -> None:
        """Write the output ceiling into the body."""
        ...

    def usage_of(self, answer: Mapping[str, Any]) -> TokenUsage | None:
        """The usage that a whole answer reports."""
        ...

    def Scanner(self) -> Follower:
        """A follower for one stream."""
        ...

    def refusal(self, status: int, code: str, message: str) -> bytes:
        """An error body as the provider writes it."""
        ...

    def render(self, answer: Answer, stream: bool) -> Iterator[bytes]:
        """An answer in this protocol: one JSON document, or the events of a stream."""
        ...


PROTOCOLS: dict[Protocol_, Speech] = {
    "anthropic": anthropic,
    "chat": chat,
    "responses": responses,
    "gemini": gemini,
}  # type: ignore[dict-item]

KNOWN_PATHS = "/v1/messages, /v1/messages/count_tokens, /v1/chat/completions, /v1/responses, /v1beta/models/MODEL:generateContent"

_ADDRESSES = {
    anthropic.PATH: Address("anthropic", anthropic.PATH),
    anthropic.COUNT_PATH: Address("anthropic", anthropic.COUNT_PATH, counts=True),
    chat.PATH: Address("chat", chat.PATH),
    "/chat/completions": Address("chat", chat.PATH),
    responses.PATH: Address("responses", responses.PATH),
    "/responses": Address("responses", responses.PATH),
}

COUNTING: dict[Protocol_, Callable[[ModelRequest, str], dict[str, Any]]] = {
    "anthropic": anthropic.counting,
    "gemini": gemini.counting,
}
"""The body that asks how many tokens a request for the model of this name has."""

_COUNTED = {anthropic.COUNT_PATH: "input_tokens", gemini.COUNT_PATH: "totalTokens"}


def address_of(path: str, query: bytes = b"") -> Address | None:
    """What a call to this path means; None for a path that no protocol has."""
    return _ADDRESSES.get(path) or gemini.address(path, query)


def counted(path: str, tokens: int) -> bytes | None:
    """The answer to a call that asks how many tokens there are; None for the path of any other call."""
    return orjson.dumps({_COUNTED[path]: tokens}) if path in _COUNTED else None


def speech_of(path: str) -> Speech:
    """In which protocol a request to this path is refused, whether the door knows the path or not."""
    if path.startswith(anthropic.PATH):
        return PROTOCOLS["anthropic"]
    if path.startswith(gemini.ROOT):
        return PROTOCOLS["gemini"]
    address = address_of(path)
    return PROTOCOLS[address.protocol if address else "chat"]


def content_type(stream: bool) -> str:
    """The content type of an answer."""
    return "text/event-stream; charset=utf-8" if stream else "application/json"
