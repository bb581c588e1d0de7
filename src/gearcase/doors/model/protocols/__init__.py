"""The protocols that the model door speaks: what each needs to be priced, capped, followed, refused and answered.

One module a protocol, all with the same functions: `read`, `cap`, `usage_of`, `Scanner`, `refusal`, `render`. There is no translation
between protocols: a request is passed on in the one it came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import anthropic, chat, responses
from gearcase.doors.model.protocols.answer import Answer
from gearcase.doors.model.protocols.request import ModelRequest
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

    PATH: str

    def read(self, body: dict[str, Any], hosted: frozenset[str]) -> ModelRequest:
        """What the door must know of a body. Raises Refused `bad_request`, `denied`."""
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


PROTOCOLS: dict[Protocol_, Speech] = {"anthropic": anthropic, "chat": chat, "responses": responses}  # type: ignore[dict-item]

BY_PATH: dict[str, Protocol_] = {anthropic.PATH: "anthropic", chat.PATH: "chat", responses.PATH: "responses"}
BY_PATH["/chat/completions"] = "chat"
BY_PATH["/responses"] = "responses"


def speech_of(path: str) -> Speech:
    """In which protocol a request to this path is refused, whether the door knows the path or not."""
    return PROTOCOLS["anthropic" if path.startswith("/v1/messages") else BY_PATH.get(path, "chat")]


def content_type(stream: bool) -> str:
    """The content type of an answer."""
    return "text/event-stream; charset=utf-8" if stream else "application/json"
