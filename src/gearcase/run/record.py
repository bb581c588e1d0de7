"""How a run ended: one record, the same for the terminal, `--json`, the API and a parent agent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from gearcase.events import Amounts

Kind = Literal["agent", "program", "door"]
"""What runs: an agent in a box, a program in a box, or nothing but the door."""

Status = Literal["accepted", "unverified", "rejected", "exhausted", "stopped", "failed", "frozen"]

UNENDING = 366 * 86400.0
"""Seconds that a door may stand whose box writes no `wall`: as long as a box can say."""

EXIT_CODES: dict[str, int] = {
    "accepted": 0,
    "unverified": 0,
    "usage": 2,
    "unsafe": 3,
    "rejected": 10,
    "exhausted": 11,
    "stopped": 12,
    "failed": 13,
    "frozen": 14,
}
"""Exit code of the command for each ending. `usage` and `unsafe` end before there is a run."""


@dataclass(frozen=True, slots=True)
class EndRecord:
    """The ending. Amounts are in the units of events.py; `residue` empty is the promise of teardown."""

    run: str
    name: str
    status: Status
    limit: str = ""
    spent: Amounts = field(default_factory=dict[str, int])
    remaining: Amounts = field(default_factory=dict[str, int])
    delivered: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refused: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    out: str = ""
    unchecked: bool = False
    checks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    alarms: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    warnings: list[str] = field(default_factory=list[str])
    note: str = ""
    how_to_resume: str = ""
    journal_head: str = ""
    seconds: float = 0.0
    residue: list[str] = field(default_factory=list[str])
    error: dict[str, Any] | None = None
    kind: Kind = "agent"
    exit: int | None = None  # of the program that `gearcase exec` ran

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return EXIT_CODES[self.status] if self.exit is None else self.exit

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, with the exit code."""
        return {**dataclasses.asdict(self), "exit_code": self.exit_code}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EndRecord:
        """The record as it stands in a journal; fields that this version does not know are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})
