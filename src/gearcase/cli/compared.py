"""Two states of a run's files, side by side: for `gearcase diff` and `gearcase rewind`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from gearcase.cli.shapes import counted, grid
from gearcase.control import command
from gearcase.errors import GearcaseError, UsageError
from gearcase.runs import RunFolder
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Entry, difference
from gearcase.sandbox.snapshots import text_difference
from gearcase.sandbox.states import States
from gearcase.units import format_bytes

NOW = "now"
MOST_TEXTS = 200
"""Files whose difference is shown by lines; of the others only that they differ."""
MOST_LISTED = 2000


@dataclass(frozen=True, slots=True)
class Differs:
    """One path. `what`: added | changed | removed | moved."""

    what: str
    path: bytes
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of state `before` until `after`. `in_git`: how many of what differs lies below a .git."""

    before: str
    after: str
    files: tuple[Differs, ...]
    in_git: int
    store: BlobStore

    def text(self, one: Differs) -> str:
        """The difference of one file by lines; empty for what is no file."""
        kinds = {entry.kind for entry in (one.before, one.after) if entry is not None}
        if not kinds <= {"file", "link"} or one.what == "moved" or _same_content(one):
            return ""
        for entry in (one.before, one.after):
            if entry is not None and entry.kind == "file" and entry.digest not in self.store:
                return f"(not shown: a content of {_size(one)} that is not kept)\n"
        return text_difference(one.before, one.after, self.store)


def resolve(folder: RunFolder, name: str) -> str:
    """The snapshot that a name means; `now`: of a run that lives one of this moment, of one that has ended the last."""
    if name != NOW:
        return name
    if folder.owner_pid():
        try:
            return str(command(folder, "snapshot")["snapshot"])
        except GearcaseError as error:
            if error.code not in ("not_at_work", "not_running"):
                raise
    last = States(folder.states).last
    if last is None:
        raise _nothing(folder)
    return last.name


def compare(folder: RunFolder, before: str, after: str) -> Compared:
    """What differs between two snapshots. Raises UsageError `no_snapshot`."""
    states = States(folder.states)
    if not states.states and before == after == "s0":
        return Compared(before, after, (), 0, BlobStore(folder.blobs))  # of a run that lives: nothing has changed yet
    first, second = states.manifest(before), states.manifest(after)
    change = difference(first, second)
    found = [
        *(Differs("added", entry.path, None, entry) for entry in change.added),
        *(Differs("changed", pair.after.path, pair.before, pair.after) for pair in change.changed),
        *(Differs("removed", entry.path, entry, None) for entry in change.removed),
        *(Differs("moved", pair.after.path, pair.before, pair.after) for pair in change.moved),
    ]
    shown = [one for one in found if b".git" not in one.path.split(b"/")]
    store = BlobStore(folder.pool, BlobStore(folder.blobs))
    return Compared(before, after, tuple(sorted(shown, key=lambda one: one.path)), len(found) - len(shown), store)


def title(one: Differs) -> str:
    """A line that says what became of a path."""
    came = f" (from {printable(one.before.path)})" if one.what == "moved" and one.before is not None else ""
    mode = ""
    if one.before is not None and one.after is not None and one.before.mode != one.after.mode:
        mode = f" (mode {one.before.mode:o} became {one.after.mode:o})"
    entry = one.after or one.before
    kind = "" if entry is None or entry.kind == "file" else f" ({entry.kind})"
    return f"{one.what} {printable(one.path)}{kind}{came}{mode}"


def table(compared: Compared, most: int = MOST_LISTED) -> Table:
    """Every path with what became of it and its size."""
    shown = grid(None, None, None)
    shown.columns[0].no_wrap = False
    style = {"added": "green", "removed": "red"}
    for one in compared.files[:most]:
        shown.add_row(printable(one.path), Text(one.what, style.get(one.what, "")), Text(_size(one), "dim"))
    return shown


def rest(compared: Compared, most: int = MOST_LISTED) -> Iterator[Text]:
    """What is counted and not listed."""
    if len(compared.files) > most:
        yield Text(f"and {counted(len(compared.files) - most, 'path')} more; --json names all", "yellow")
    if compared.in_git:
        yield Text(f"and {counted(compared.in_git, 'path')} below .git", "dim")


def as_json(compared: Compared, texts: bool) -> dict[str, Any]:
    """For a program."""
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(compared.files):
        entry = one.after or one.before
        row: dict[str, Any] = {
            "path": printable(one.path),
            "change": one.what,
            "kind": entry.kind if entry is not None else "",
            "size_before": one.before.size if one.before else None,
            "size": one.after.size if one.after else None,
        }
        rows.append({**row, "diff": compared.text(one) if number < MOST_TEXTS else ""} if texts else row)
    return {"from": compared.before, "to": compared.after, "files": rows, "below_git": compared.in_git}


def _same_content(one: Differs) -> bool:
    return one.before is not None and one.after is not None and one.before.digest == one.after.digest != ""


def _size(one: Differs) -> str:
    sizes = [format_bytes(entry.size) for entry in (one.before, one.after) if entry is not None and entry.kind == "file"]
    return " → ".join(sizes)


def _nothing(folder: RunFolder) -> UsageError:
    return UsageError(
        "no_snapshot",
        f"nothing is kept of the files of run {folder.name}: they did not change, or it was over before they were looked at",
        remedy=f"see what it did: gearcase logs {folder.name}",
    )
