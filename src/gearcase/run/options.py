"""What a person asked for when they started a run, beside the box."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gearcase.box import LoadedBox


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A run to be started."""

    box: LoadedBox
    out: Path | None = None
    force: bool = False
    name: str = ""
    record: Path | None = None
    cassette: Path | None = None  # `gearcase replay`: what was recorded answers in place of every model
    strict: bool = False  # a replay ends at the first call that is not as recorded
    require_checks: bool = False
    answered: bool = False  # somebody watches and answers, or `unanswered` says what holds where nobody does
    unanswered: Literal["wind-down", "deny"] = "wind-down"
    after: float = 1800.0  # seconds
    program: tuple[str, ...] = ()  # `gearcase exec`: run this in place of an agent
    program_output: int = 1  # descriptor of this process that gets what the program prints
