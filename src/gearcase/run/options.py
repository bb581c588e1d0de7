"""What a person asked for when they started a run, beside the box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gearcase.box import LoadedBox
from gearcase.errors import UsageError
from gearcase.run.terminal import TerminalLink

if TYPE_CHECKING:
    from gearcase.run.again import Dead
    from gearcase.run.forking import Fork


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A run to be started."""

    box: LoadedBox
    out: Path | None = None
    force: bool = False
    name: str = ""
    record: Path | None = None
    cassette: Path | None = None  # `gearcase replay`: what was recorded answers in place of every model
    live_worker: bool = False  # beside a cassette: the box's own worker answers programs, the recorded lead is played
    strict: bool = False  # a replay ends at the first call that is not as recorded
    require_checks: bool = False
    answered: bool = False  # somebody watches and answers, or `unanswered` says what holds where nobody does
    unanswered: Literal["wind-down", "deny"] = "wind-down"
    after: float = 1800.0  # seconds
    program: tuple[str, ...] = ()  # `gearcase exec`: run this in place of an agent
    program_output: int = 1  # descriptor of this process that gets what the program prints
    program_folder: str = "/workspace"
    program_environment: Mapping[str, str] = field(default_factory=dict[str, str])
    home: Mapping[str, str] = field(default_factory=dict[str, str])  # what the program finds in its home: path -> text
    terminal: TerminalLink | None = None  # on which the program's terminal is handed over
    continues: Dead | None = None  # `gearcase recover`: the run whose process died
    forks: Fork | None = None  # `gearcase fork`: whose snapshot is given in place of what the box gives

    def require_complete(self) -> None:
        """Raises UsageError `no_goal`, `no_model`, `no_checks` for an agent that lacks what it needs. A cassette brings its model."""
        box = self.box.box
        if not box.goal.strip() and self.cassette is None:
            raise UsageError(
                "no_goal", "there is no goal", remedy='say what shall be reached: gearcase run "GOAL", or goal = "..." in the box'
            )
        if box.model.lead is None and self.cassette is None:
            raise UsageError(
                "no_model",
                "no model drives the agent",
                remedy="name one: --model anthropic/claude-opus-5-5 (its key in ANTHROPIC_API_KEY), or lead = ... under [model]; without a "
                "key: --model local, or --model manual:../turns to answer yourself",
            )
        if self.require_checks and not box.checks:
            raise UsageError(
                "no_checks",
                "no check is declared",
                remedy="add --check 'COMMAND' or a [[check]]; without one nothing is verified",
            )
