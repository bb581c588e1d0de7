"""An answer in no provider's words: what an upstream that is not a provider has to say, before it is put into a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gearcase.doors.model.price import TokenUsage


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the request offered."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    namespace: str = ""  # of responses: the group of tools that it is one of


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, then tool calls; `usage` None leaves the report out, as a broken provider does. `pieces` cuts the streamed text."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    usage: TokenUsage | None = field(default_factory=TokenUsage)
    stop: Literal["end", "length"] = "end"
    model: str = ""
    id: str = "answer"
    pieces: int = 1

    def parts(self) -> list[str]:
        """The text in the pieces in which it is streamed."""
        if self.pieces <= 1 or not self.text:
            return [self.text] if self.text else []
        size = max(1, -(-len(self.text) // self.pieces))
        return [self.text[at : at + size] for at in range(0, len(self.text), size)]
