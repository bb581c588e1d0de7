"""`gearcase prune`: old runs are taken off the disk."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err, interactive, out, print_json
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.run.pruning import old_runs, size_of, sweep
from gearcase.run.pruning import prune as remove
from gearcase.runs import RunFolder
from gearcase.units import format_bytes, parse_duration


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Only runs that began longer ago, such as 12h or 30d.", metavar="TIME")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: o.Json = False,
) -> None:
    """Remove old runs that have ended. Snapshots, deliverables kept with them, record: all of it. `gearcase spend` forgets them too."""
    sweep()
    found = [(folder, size_of(folder)) for folder in old_runs(time.time() - parse_duration(older_than))]
    total = format_bytes(sum(size for _, size in found))
    counted = f"{len(found)} run{'' if len(found) == 1 else 's'}"
    if found and not dry_run and not yes:
        _confirm(f"{counted}, {total}", older_than, as_json)
    gone = [(folder, size) for folder, size in found if dry_run or remove(folder)]
    if as_json:
        print_json([_facts(folder, size, removed=not dry_run) for folder, size in gone])
        return
    if dry_run:
        for folder, size in gone:
            out().print(f"{neutral(folder.name)}  {folder.id}  {format_bytes(size)}")
    told = f"{counted}, {total}, would go" if dry_run else f"{len(gone)} removed, {total} free again"
    out().print(Text(told if found else f"no run began longer than {older_than} ago and has ended", "dim"))


def _facts(folder: RunFolder, size: int, *, removed: bool) -> dict[str, object]:
    return {"run": folder.id, "name": folder.name, "created": folder.created, "bytes": size, "removed": removed}


def _confirm(what: str, older_than: str, as_json: bool) -> None:
    if as_json or not interactive():
        remedy = f"look first: gearcase prune --older-than {older_than} --dry-run; then add --yes"
        raise UsageError("not_confirmed", f"prune would remove {what}, with their record", remedy=remedy)
    err().print(f"{what} go for good, with their record. Remove them? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not_confirmed", "nothing was removed", remedy="say y, or add --yes")
