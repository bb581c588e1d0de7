"""Old runs taken off the disk, whole: snapshots, deliverables and record. What a day has come to stands elsewhere and stays.

Invariants: a run that lives, frozen or not, is never touched: its lock is held while its folder goes; one whose process died is put in
order first, so that what it had leased is settled. A folder that was half removed is no run any more, and the next prune ends it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gearcase.doors.files import discard
from gearcase.errors import RunError, UsageError
from gearcase.run.recovery import recover
from gearcase.runs import RunFolder, all_runs, own, state_folder

_GONE = ".gone"


def old_runs(before: float) -> list[RunFolder]:
    """Runs that began before a moment (unix seconds) and that no process drives."""
    return [folder for folder in all_runs() if folder.created < before and not folder.owner_pid()]


def size_of(folder: RunFolder) -> int:
    """Bytes that its files take on the disk."""
    total = 0
    for path, _folders, names in os.walk(folder.path):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(path, name).lstat().st_blocks * 512
    return total


def prune(folder: RunFolder) -> bool:
    """Remove a run; False for one that lives after all. Raises RunError where it cannot be put in order or removed."""
    try:
        recover(folder)
    except RunError as error:
        if error.code not in ("journal_damaged", "ledger_unreadable"):
            raise  # a record that nobody can read any more is in order as it is
    try:
        owner = own(folder)
    except UsageError:
        return False
    try:
        gone = folder.path.with_name(f"{_GONE}-{folder.id}")
        folder.path.rename(gone)
        (gone / "run.json").unlink(missing_ok=True)
        discard(gone)
    finally:
        owner.release()
    return True


def sweep() -> None:
    """End what an earlier prune had begun."""
    for path in Path(state_folder(), "runs").glob(f"{_GONE}-*"):
        discard(path)
