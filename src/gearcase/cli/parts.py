"""What a view is made of: one command, one check, one model, one host outside, one thread of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gearcase.events import ModelCalled


@dataclass(frozen=True, slots=True)
class CommandView:
    """One command of the agent. `ended` is empty while it runs; `started` is in seconds of the run's own time."""

    number: int
    text: str
    started: float
    ended: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    limits: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than with exit 0."""
        return bool(self.ended) and (self.ended != "exited" or self.exit_code != 0)


@dataclass(frozen=True, slots=True)
class CheckView:
    """The last verdict of a check, and its best score."""

    verdict: str
    score: float | None
    best: float | None
    final: bool
    runs: int
    output: str


@dataclass(frozen=True, slots=True)
class ModelView:
    """What went to one model. `usd` is in nano-dollars; calls are `unbilled` where nobody sends an invoice."""

    calls: int = 0
    unbilled: int = 0
    failed: int = 0
    usd: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    why: str = ""  # the last one that failed did

    def and_call(self, call: ModelCalled, tokens: Mapping[str, int]) -> ModelView:
        """With one call more; `tokens` are those of all of them. Its money comes by another event."""
        failed = call.ended == "failed"
        unread = "its answer could not be read, or told no usage" if call.status == 200 else f"status {call.status}"
        why = call.why or unread if failed else ""
        return ModelView(
            self.calls + 1, self.unbilled + (not call.billed), self.failed + failed, self.usd, tokens, why or self.why
        )


@dataclass(frozen=True, slots=True)
class HostView:
    """What went to one host outside. Bytes."""

    connections: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class ThreadView:
    """What a thread of a program's asked for, by the program's own word. `usd` is in nano-dollars."""

    parent: str = ""
    calls: int = 0
    usd: int = 0
