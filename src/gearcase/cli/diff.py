"""`gearcase diff`: what a run changed in the repository that was given to it, or between two snapshots of its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from gearcase.cli import compared
from gearcase.cli import options as o
from gearcase.cli.changes import counted_lines, remark_lines, remarks_as_json, stat_table
from gearcase.cli.console import err, out, print_json
from gearcase.cli.shapes import counted
from gearcase.cli.text import neutral
from gearcase.doors.changes import Changed, contents
from gearcase.doors.patches import MOST_FILE
from gearcase.doors.repositories import has_change
from gearcase.run.change import Change, change_of, run_with_change
from gearcase.runs import RunFolder
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.textdiff import unified

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def diff(
    run: o.RunReference = "",
    before: Annotated[str, typer.Argument(metavar="[A]", help="A snapshot; default: s0.", show_default=False)] = "",
    after: Annotated[str, typer.Argument(metavar="[B]", help="A later one; default: now.", show_default=False)] = "",
    stat: Annotated[bool, typer.Option("--stat", help="Only the files and how many lines changed.")] = False,
    as_json: o.Json = False,
) -> None:
    """Show what a run changed, or how two of its snapshots differ.

    A and B are names of `gearcase snapshots`, or `now`. Without them, where a repository was given and the run has ended, it is the
    change that the run hands over. Control characters of the files are shown escaped; `gearcase apply --patch FILE` writes the exact patch.
    """
    folder = run_with_change(run, Path.cwd())
    if before or after or folder.owner_pid() or (folder.states.exists() and not has_change(folder.path)):
        _between(folder, before or "s0", after or compared.NOW, stat, as_json)
        return
    change = change_of(folder)
    staged = os.open(change.folder.delivered, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if as_json:
            print_json(_as_json(change, staged, stat))
            return
        err().print(_title(change))
        for line in remark_lines(change):
            err().print(line, soft_wrap=True)
        if stat:
            out().print(stat_table(change, staged))
            return
        for one in change.files:
            _print_file(one, _difference(one, change, staged))
    finally:
        os.close(staged)


def _between(folder: RunFolder, before: str, after: str, stat: bool, as_json: bool) -> None:
    """What differs between two snapshots. The later one first: it may be made at this moment."""
    second = compared.resolve(folder, after)
    found = compared.compare(folder, compared.resolve(folder, before), second)
    if as_json:
        print_json({"run": folder.id, "name": folder.name, **compared.as_json(found, texts=not stat)})
        return
    what = (
        counted(len(found.files), "path") + (" differs" if len(found.files) == 1 else " differ")
        if found.files
        else "no difference"
    )
    err().print(Text.assemble((neutral(folder.name), "bold"), f" from {found.before} to {found.after}: {what}"))
    if stat:
        out().print(compared.table(found))
    else:
        for number, one in enumerate(found.files[: compared.MOST_LISTED]):
            _print(compared.title(one), found.text(one) if number < compared.MOST_TEXTS else "")
    for line in compared.rest(found):
        err().print(line)


def _title(change: Change) -> Text:
    repository, record = change.repository, change.record
    base = f"{repository.commit[:12]}" if repository.commit else "no commit"
    where = f" ({neutral(repository.branch)})" if repository.branch else ""
    ignored = f"; {counted(change.ignored, 'file')} that git ignores left aside" if change.ignored else ""
    what = counted(len(change.files), "file") + " changed" if change.files else "nothing changed"
    if not record.delivered:
        what = "nothing was delivered, so nothing is known to have changed"
    return Text.assemble((neutral(change.folder.name), "bold"), f" ({record.status}) on {base}{where}: {what}{ignored}")


def _difference(one: Changed, change: Change, staged: int) -> str:
    old, new = contents(one, change.store, staged, MOST_FILE)
    missing_old, missing_new = one.before is None, one.after is None
    before = b"" if missing_old else old
    after = b"" if missing_new else new
    if one.what == "mode" or (before is not None and before == after):
        return ""
    return unified(before, after, b"" if missing_old else b"a/" + one.path, b"" if missing_new else b"b/" + one.path)


def _print_file(one: Changed, text: str) -> None:
    _print(f"{one.what} {printable(one.path)}{_mode(one)}", text)


def _print(line: str, text: str) -> None:
    title = f"{line}\n"
    console = out()
    if not console.is_terminal:
        console.file.write(title + text)  # tabs and long lines as they are, at once
        return
    shown = Text()
    shown.append(title, "bold")
    for number, line in enumerate(text.splitlines(keepends=True)):
        shown.append(line, "bold" if number < 2 else _STYLES.get(line[0], ""))
    console.print(shown, end="", soft_wrap=True)


def _mode(one: Changed) -> str:
    was, now = (one.before.mode & 0o100 if one.before else 0), (one.after.mode & 0o100 if one.after else 0)
    if one.after is None or bool(was) == bool(now):
        return ""
    return " (executable)" if now else " (no longer executable)"


def _as_json(change: Change, staged: int, stat: bool) -> dict[str, Any]:
    files: list[dict[str, Any]] = []
    for one in change.files:
        lines = counted_lines(one, change.store, staged)
        row: dict[str, Any] = {
            "path": printable(one.path),
            "change": one.what,
            "binary": lines is None,
            "added": lines.added if lines else None,
            "removed": lines.removed if lines else None,
            "size": one.after.size if one.after else 0,
        }
        files.append(row if stat else {**row, "diff": _difference(one, change, staged)})
    repository = change.repository
    return {
        "run": change.folder.id,
        "name": change.folder.name,
        "status": change.record.status,
        "repository": str(repository.path),
        "commit": repository.commit,
        "branch": repository.branch,
        "files": files,
        "ignored": change.ignored,
        "left_out": [{"path": printable(refusal.path), "reason": refusal.reason} for refusal in change.left_out],
        "remarks": remarks_as_json(change),
    }
