"""`gearcase apply`: the change of a run as a new branch of the given repository, or as a patch file."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.changes import left_out_lines, remark_lines, remarks_as_json
from gearcase.cli.console import err, out, print_json
from gearcase.cli.shapes import counted
from gearcase.cli.text import first_line, neutral
from gearcase.doors.branches import Branch, commits_since, make_branch
from gearcase.doors.patches import Patch, as_patch
from gearcase.errors import UsageError
from gearcase.run.change import DELIVERED, Change, change_of, run_with_change
from gearcase.sandbox.beneath import explaining, printable
from gearcase.sandbox.copying import Refusal


def apply(
    run: o.RunReference = "",
    branch: Annotated[str, typer.Option("--branch", help="Name of the new branch; default gearcase/NAME.")] = "",
    patch: Annotated[Path | None, typer.Option("--patch", help="Write a patch to this new file; make no branch.")] = None,
    as_json: o.Json = False,
) -> None:
    """Put a run's change on a new branch. It begins at the commit that was given.

    Your files, what is staged and what is checked out stay as they are; no hook, filter or other program of the repository runs.
    """
    change = change_of(run_with_change(run, Path.cwd()))
    _demand(change, branch, patch)
    if patch is not None:
        _write_patch(change, patch, as_json)
        return
    folder = change.folder
    with tempfile.TemporaryDirectory(prefix="apply-", dir=folder.path) as scratch:
        made = make_branch(
            change.repository,
            change.files,
            change.store,
            folder.delivered,
            Path(scratch),
            name=branch or f"gearcase/{folder.name}",
            title=first_line(folder.goal, 72) or f"gearcase run {folder.name}",
            body=_body(change),
            run=folder.name,
            at=folder.created,
        )
        ahead = commits_since(change.repository, Path(scratch))
    if as_json:
        print_json({"branch": made.name, **_facts(change, made.left_out), **_commits(made), "ahead": ahead})
        return
    _warn(change, made.left_out)
    out().print(_made(change, made))
    for line in _next(change, made, ahead):
        out().print(line, soft_wrap=True)


def _demand(change: Change, branch: str, patch: Path | None) -> None:
    name, status = change.folder.name, change.record.status
    if branch and patch is not None:
        raise UsageError("bad_options", "--branch and --patch exclude each other", remedy="name one of them")
    if status not in DELIVERED:
        raise UsageError(
            "not_delivered",
            f"run {name} ended {status}: its files were not delivered",
            remedy=f"look at them with `gearcase diff {name}`, or in {change.folder.delivered}; then run the goal again",
        )
    if not change.files:
        remedy = f"see what it did: gearcase report {name}; what may leave is for --take to say"
        raise UsageError("no_change", f"run {name} changed no file of {change.repository.path}", remedy=remedy)


def _write_patch(change: Change, file: Path, as_json: bool) -> None:
    made = as_patch(change.files, change.store, change.folder.delivered)
    with explaining(os.fsencode(file), "writing"):
        try:
            with file.open("xb") as target:
                target.write(made.data)
        except FileExistsError:
            remedy = "name a file that does not exist yet"
            raise UsageError("exists", f"{file} exists: a patch is never written over", remedy=remedy) from None
    if as_json:
        print_json({"patch": str(file), "bytes": len(made.data), **_facts(change, made.left_out)})
        return
    _warn(change, made.left_out)
    out().print(_written(made, file, len(change.files)))


def _written(made: Patch, file: Path, files: int) -> Text:
    shown = neutral(file)
    return Text.assemble(
        ("✓ ", "green"), f"{shown}: {counted(files - len(made.left_out), 'file')}; use it with `git apply {shown}`"
    )


def _warn(change: Change, left_out: tuple[Refusal, ...]) -> None:
    if change.record.status != "accepted":
        err().print(Text(f"! the run ended {change.record.status}: no check vouches for this change", "yellow"))
    for line in (*remark_lines(change), *left_out_lines(left_out)):
        err().print(line, soft_wrap=True)


def _body(change: Change) -> str:
    record, folder = change.record, change.folder
    checks = ", ".join(f"{neutral(check['name'])} {neutral(check['verdict'])}" for check in record.checks) or "none declared"
    facts = [f"Gearcase-Run: {neutral(folder.name)} ({folder.id}), {record.status}", f"Gearcase-Checks: {checks}"]
    return "\n".join([*facts, f"Gearcase-Journal: {record.journal_head}"])


def _facts(change: Change, left_out: tuple[Refusal, ...]) -> dict[str, Any]:
    return {
        "run": change.folder.id,
        "name": change.folder.name,
        "status": change.record.status,
        "repository": str(change.repository.path),
        "files": [{"path": printable(one.path), "change": one.what} for one in change.files],
        "left_out": [{"path": printable(refusal.path), "reason": refusal.reason} for refusal in (*change.left_out, *left_out)],
        "remarks": remarks_as_json(change),
    }


def _commits(made: Branch) -> dict[str, Any]:
    return {"base": made.base, "uncommitted": made.uncommitted, "commit": made.commit, "fresh": made.fresh}


def _made(change: Change, made: Branch) -> Text:
    where = f"{made.base[:12]}{f' ({neutral(change.repository.branch)})' if change.repository.branch else ''}"
    files = counted(len(change.files) - len(made.left_out), "file")
    state = "made" if made.fresh else "is there already, just so"
    return Text.assemble(("✓ ", "green"), ("branch ", ""), (neutral(made.name), "bold"), f" {state}: {files} on {where}")


def _next(change: Change, made: Branch, ahead: int | None) -> list[Text]:
    name, agent = neutral(made.name), made.commit[:12]
    told = [f"look    git -C {shlex.quote(neutral(change.repository.path))} show {agent}"]
    if made.uncommitted:
        told.append(f"note    your uncommitted work as given is the commit before it, {made.uncommitted[:12]}")
        told.append(f"take    git cherry-pick {agent}   (onto your own commits, without that one)")
    else:
        told.append(f"take    git merge {name}   or   git switch {name}")
    if ahead:
        told.append(
            f"note    {neutral(change.repository.branch)} has moved on by {counted(ahead, 'commit')} since: merge or rebase"
        )
    elif ahead is None and change.repository.branch:
        told.append(
            f"note    {neutral(change.repository.branch)} no longer holds the commit that was given: git cherry-pick {agent}"
        )
    return [Text(f"  {line}", "dim") for line in told]
