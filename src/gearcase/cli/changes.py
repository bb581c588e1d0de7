"""How a change of a repository is shown: counts of lines, what to look at first, what did not come along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from gearcase.cli.shapes import counted, grid
from gearcase.cli.text import neutral
from gearcase.doors.changes import Changed, contents
from gearcase.doors.patches import MOST_FILE
from gearcase.run.change import Change
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import Refusal
from gearcase.sandbox.textdiff import changes, is_text, split_lines

_SHOWN = 40
"""Remarks and paths that a person is shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Lines:
    """How many lines came and went."""

    added: int
    removed: int


def counted_lines(one: Changed, store: BlobStore, staged: int) -> Lines | None:
    """Of one file; None where it is not text, or too long to be compared by lines."""
    old, new = contents(one, store, staged, MOST_FILE)
    before, after = (b"" if one.before is None else old), (b"" if one.after is None else new)
    if before is None or after is None or not is_text(before) or not is_text(after):
        return None
    blocks = changes(split_lines(before), split_lines(after))
    return Lines(sum(block.d - block.c for block in blocks), sum(block.b - block.a for block in blocks))


def stat_table(change: Change, staged: int) -> Table:
    """Each file with its lines, and the sum."""
    table = grid(None, None, 1)
    table.columns[0].no_wrap = False
    total = Lines(0, 0)
    for one in change.files:
        lines = counted_lines(one, change.store, staged)
        if lines is None:
            shown = Text("no text", "dim")
        else:
            total = Lines(total.added + lines.added, total.removed + lines.removed)
            shown = Text.assemble((f"+{lines.added}", "green"), " ", (f"-{lines.removed}", "red"))
        table.add_row(printable(one.path), one.what, shown)
    table.add_row(counted(len(change.files), "file"), "", f"+{total.added} -{total.removed}")
    return table


def remark_lines(change: Change) -> Iterator[Text]:
    """What to look at before the change is used, risky files first named."""
    for remark in change.remarks[:_SHOWN]:
        yield Text.assemble(
            ("! ", "bold yellow"), printable(remark.path), (f"  {remark.flag}: {neutral(remark.reason)}", "yellow")
        )
    if len(change.remarks) > _SHOWN:
        yield Text(f"! and {len(change.remarks) - _SHOWN:,} more; --json names all", "yellow")


def left_out_lines(left_out: Iterable[Refusal]) -> Iterator[Text]:
    """What is not part of the change, with the reason."""
    all_of_them = tuple(left_out)
    for refusal in all_of_them[:_SHOWN]:
        yield Text.assemble(("left out  ", "yellow"), printable(refusal.path), (f"  {neutral(refusal.reason)}", "dim"))
    if len(all_of_them) > _SHOWN:
        yield Text(f"left out  and {len(all_of_them) - _SHOWN:,} more; --json names all", "yellow")


def remarks_as_json(change: Change) -> list[dict[str, str]]:
    """The remarks for a program."""
    return [{"path": printable(one.path), "flag": one.flag, "reason": one.reason} for one in change.remarks]
