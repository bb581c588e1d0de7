"""What a person sees of one command, check, model, and of the hosts outside: the aspects of a run's view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_MOST_NAMES = 50


@dataclass(frozen=True, slots=True)
class CommandView:
    """One command of the agent. `ended` is empty while it runs; times are unix seconds."""

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
    """What went to one model. `usd` is in nano-dollars."""

    calls: int = 0
    failed: int = 0
    usd: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class HostView:
    """What went to one host outside. Bytes."""

    connections: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class Outside:
    """Hosts that were reached, and names that were asked for in vain, each with how often at least."""

    hosts: Mapping[str, HostView] = field(default_factory=dict[str, HostView])
    denied: Mapping[str, int] = field(default_factory=dict[str, int])

    def asked(self, name: str, count: int) -> Outside:
        """A name that may not be reached was asked for, so often until now."""
        if name not in self.denied and len(self.denied) >= _MOST_NAMES:
            name = "(more names)"
        return replace(self, denied={**self.denied, name: max(count, self.denied.get(name, 0))})

    def ended(self, name: str, sent: int, received: int) -> Outside:
        """A connection has ended."""
        if name not in self.hosts and len(self.hosts) >= _MOST_NAMES:
            name = "(more names)"
        before = self.hosts.get(name, HostView())
        after = HostView(before.connections + 1, before.sent + sent, before.received + received)
        return replace(self, hosts={**self.hosts, name: after})
