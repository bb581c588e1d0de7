"""What left a box, as the report tells it: what is news first. What was given and came back as it was is counted, not listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from gearcase.cli.shapes import counted, grid
from gearcase.cli.text import neutral
from gearcase.doors.files import link_reason
from gearcase.doors.repositories import recall
from gearcase.errors import GearcaseError
from gearcase.run.change import noted_delivery
from gearcase.run.record import EndRecord
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.manifest import Entry
from gearcase.units import format_bytes

_FILES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Told:
    """The files and refusals that are news, and how many files are as they were given in a repository."""

    files: list[dict[str, Any]]
    refused: list[dict[str, str]]
    as_given: int


def news(record: EndRecord, folder: Path) -> Told:
    """What of a delivery is news. `folder` is the run's."""
    noted = noted_delivery(folder)
    all_of_it = noted.record() if noted is not None and record.delivered else {}
    delivered: list[dict[str, Any]] = all_of_it.get("files", record.delivered)
    given: dict[str, Entry] = {}
    with suppress(GearcaseError):  # what was noted is damaged: then all is news
        for repository in recall(folder):
            given |= {printable(entry.path): entry for entry in repository.start.entries if entry.kind in ("file", "link")}
    files = [file for file in delivered if not _is_as_given(file, given.get(str(file.get("path", ""))))]
    refused = [one for one in record.refused if not _was_a_link(one, given.get(one.get("path", "")))]
    return Told(files, refused, len(delivered) - len(files))


def shown(told: Told) -> Iterator[RenderableType]:
    """Lines of the report."""
    table = grid(None, None, None)
    table.columns[0].no_wrap = False
    table.columns[1].justify = "right"
    for file in told.files[:_FILES_SHOWN]:
        flags = ", ".join(str(flag) for flag in file.get("flags", ()))
        size = format_bytes(int(file.get("size", file.get("bytes", 0))))
        table.add_row(neutral(file.get("path", "")), size, Text(neutral(flags), "yellow"))
    if told.files:
        yield table
    rest = len(told.files) - _FILES_SHOWN
    if rest > 0:
        yield Text(f"and {counted(rest, 'file')} more", "dim")
    if told.as_given:
        yield Text(f"{'and ' if told.files else ''}{counted(told.as_given, 'file')} as given, unchanged", "dim")
    if not told.files and not told.as_given:
        yield Text("nothing left the box", "yellow")
    for one in told.refused[:_FILES_SHOWN]:
        name, why = neutral(one.get("path", "")), neutral(one.get("reason", one.get("why", "")))
        yield Text.assemble(("refused  ", "yellow"), name, (f"  {why}", "dim"))


def _is_as_given(file: dict[str, Any], entry: Entry | None) -> bool:
    if entry is None or entry.kind != "file" or entry.size != file.get("size"):
        return False
    return entry.digest == file.get("sha256") and bool(entry.mode & 0o100) == bool(int(str(file.get("mode", "0")), 8) & 0o100)


def _was_a_link(refused: dict[str, str], entry: Entry | None) -> bool:
    """A link that was given, and has not changed: links never leave, and nobody made this one."""
    return entry is not None and entry.kind == "link" and refused.get("reason") == link_reason(entry.target)
