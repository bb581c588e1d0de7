"""The options by which `run` and `exec` make or change a box, and how they become its values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from gearcase.cli.console import err
from gearcase.cli.text import neutral

if TYPE_CHECKING:  # what reads a box takes a tenth of a second to import: commands that have none need not wait for it
    from gearcase.box import LoadedBox, Override

BoxFile = Annotated[Path | None, typer.Option("--file", "-f", help="Box file; options add to it or replace its values.")]
Give = Annotated[list[str] | None, typer.Option("--give", help="Copy this into /workspace (repeat).", metavar="PATH")]
See = Annotated[list[str] | None, typer.Option("--see", help="Show this read-only under /given (repeat).", metavar="PATH")]
Take = Annotated[list[str] | None, typer.Option("--take", help="What may leave, such as 'out/**' (repeat).", metavar="PATTERN")]
CheckOption = Annotated[
    list[str] | None,
    typer.Option(
        "--check", help="Acceptance check: finds what is delivered under $DELIVERED; exit 0 passes (repeat).", metavar="COMMAND"
    ),
]
Usd = Annotated[str | None, typer.Option("--usd", help="Most dollars for model calls.", metavar="DOLLARS")]
UsdPerMinute = Annotated[str | None, typer.Option("--usd-per-minute", help="Most dollars in any minute.", metavar="DOLLARS")]
Tokens = Annotated[str | None, typer.Option("--tokens", help="Most tokens of model calls.", metavar="COUNT")]
Wall = Annotated[str | None, typer.Option("--wall", help="Most time, such as 45m.", metavar="TIME")]
Steps = Annotated[str | None, typer.Option("--steps", help="Most turns of the agent.", metavar="COUNT")]
Memory = Annotated[str | None, typer.Option("--memory", help="Memory, such as 4GiB.", metavar="SIZE")]
Cpus = Annotated[float | None, typer.Option("--cpus", help="Processor cores.", metavar="COUNT")]
Disk = Annotated[str | None, typer.Option("--disk", help="Space of /workspace.", metavar="SIZE")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Drives the agent: PROVIDER/MODEL.", metavar="MODEL")]
Worker = Annotated[str | None, typer.Option("--worker", help="Answers `gear ask`; default: the model.", metavar="MODEL")]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="Model that programs inside may call (repeat).", metavar="MODEL")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the deliverables; default ./gearcase-out/NAME.")]
Force = Annotated[bool, typer.Option("--force", help="Deliver over existing files.")]
RunName = Annotated[str, typer.Option("--name", help="Name of the run; default two words.")]
Record = Annotated[Path | None, typer.Option("--record", help="Record the model traffic to this cassette.")]
RequireChecks = Annotated[bool, typer.Option("--require-checks", help="Refuse to start without a check.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
RunReference = Annotated[
    str, typer.Argument(metavar="[RUN]", help="Id, name, or a unique prefix of one; default: the latest.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class BoxOptions:
    """What was typed about the box. `None` and empty mean: not typed."""

    file: Path | None = None
    goal: str = ""
    give: list[str] | None = None
    see: list[str] | None = None
    take: list[str] | None = None
    check: list[str] | None = None
    allow: list[str] | None = None
    usd: str | None = None
    tokens: str | None = None
    wall: str | None = None
    steps: str | None = None
    memory: str | None = None
    cpus: float | None = None
    disk: str | None = None
    model: str | None = None
    worker: str | None = None
    usd_per_minute: str | None = None


def loaded(options: BoxOptions) -> LoadedBox:
    """The box of the file and the options. Raises UsageError that lists every mistake."""
    from gearcase.box import box_from_options, load_box

    typed = list(overrides(options))
    if options.file is not None:
        return load_box(options.file, typed)
    return box_from_options(typed)


def warn_of_doubts(box: LoadedBox) -> None:
    """Tell what looks like a mistake of the box, on stderr."""
    from gearcase.box import doubts

    for doubt in doubts(box.box, box.folder):
        err().print(Text(neutral(doubt), "yellow"), soft_wrap=True)


def overrides(options: BoxOptions) -> Iterable[Override]:
    """What was typed, as values of a box."""
    from gearcase.box import Override

    if options.goal:
        yield Override(("goal",), options.goal, "GOAL")
    for key in ("give", "see", "take"):
        for value in getattr(options, key) or ():
            yield Override(("files", key), value, f"--{key}")
    for number, run in enumerate(options.check or (), 1):
        yield Override(("check",), {"name": f"check-{number}", "run": run}, "--check")
    for value in options.allow or ():
        yield Override(("model", "allow"), value, "--allow")
    for key in ("usd", "usd_per_minute", "wall", "memory", "cpus", "disk"):
        value: Any = getattr(options, key)
        if value is not None:
            yield Override(("limits", key), value, f"--{key.replace('_', '-')}")
    for key in ("tokens", "steps"):
        text: str | None = getattr(options, key)
        if text is not None:
            yield Override(("limits", key), _count(text), f"--{key}")
    if options.model is not None:
        yield Override(("model", "lead"), options.model, "--model")
    if options.worker is not None:
        yield Override(("model", "worker"), options.worker, "--worker")


def _count(text: str) -> int | str:
    """A whole number as people write it (20_000_000, 20,000,000); other text is left for the box to refuse."""
    digits = text.replace("_", "").replace(",", "")
    return int(digits) if digits.isdecimal() and len(digits) < 20 else text
