"""What a person asked for when they started a run, beside the box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.box import LoadedBox
from gearcase.run.terminal import TerminalLink


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
    interactive: bool = False
    program: tuple[str, ...] = ()  # `gearcase exec`: run this in place of an agent
    program_output: int = 1  # descriptor of this process that gets what the program prints
    program_folder: str = "/workspace"
    program_environment: Mapping[str, str] = field(default_factory=dict[str, str])
    home: Mapping[str, str] = field(default_factory=dict[str, str])  # what the program finds in its home: path -> text
    terminal: TerminalLink | None = None  # on which the program's terminal is handed over
