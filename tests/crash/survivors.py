"""What is left of a run whose process was killed: processes, and what the next command should have swept.

This process becomes the one to which orphans fall, so that every process that was begun below it, in whatever box and namespace, is found
by its parents alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from gearcase.sandbox import owners

LONGEST = 60.0
"""Seconds after which nobody waits any more for a process that outlives its run."""
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Orphans of processes below this one become its children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no subreaper")


def living(apart: Collection[int]) -> dict[int, str]:
    """Processes below this one that have not ended, but for those of `apart` and what is below them: pid -> what it is."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for text in os.listdir("/proc"):
        if text.isdigit():
            with suppress(OSError):
                name, _, rest = Path(f"/proc/{text}/stat").read_text().rpartition(")")
                state, parent = rest.split()[:2]
                parents[int(text)] = int(parent)
                if state not in "ZX":
                    names[int(text)] = f"{name.partition('(')[2]}, {state}"
                    command = Path(f"/proc/{text}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    names[int(text)] += f": {command[:200]}"
    return {pid: name for pid, name in names.items() if _is_below(pid, parents, apart)}


def _is_below(pid: int, parents: dict[int, int], apart: Collection[int]) -> bool:
    own = os.getpid()
    while pid not in apart and (pid := parents.get(pid, 0)):
        if pid == own:
            return True
    return False


def wait_until_gone(apart: Collection[int], patience: float, longest: float = LONGEST) -> tuple[float, dict[int, str]]:
    """Seconds until no process was left (`longest` at most), and which were left after `patience`. They are buried meanwhile, as by any
    init: the first process of a box ends when nobody of the box waits to be."""
    began = time.monotonic()
    late: dict[int, str] = {}
    while True:
        reap(apart)
        left = living(apart)
        taken = time.monotonic() - began
        if taken > patience:
            late = late or left
        if not left or taken > longest:
            return taken, late
        time.sleep(0.005)


def reap(apart: Collection[int]) -> None:
    """Bury the orphans that have ended; children of `apart` are somebody else's to wait for."""
    for text in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if int(text) not in apart:
            with suppress(ChildProcessError):
                os.waitpid(int(text), os.WNOHANG)


def cgroups_of(run: str) -> list[str]:
    """The cgroups of a run's boxes, as their owner files tell."""
    found: list[str] = []
    for file in Path(owners.runtime_folder(), "boxes").glob(f"{run}*.json"):
        with suppress(OSError, ValueError):
            found += json.loads(file.read_bytes())["cgroups"]
    return found


def residue(folder: Path, cgroups: Collection[str]) -> list[str]:
    """What is left of a dead run once somebody has looked at it. `folder` is the run's."""
    left = [str(file) for file in Path(owners.runtime_folder(), "boxes").glob(f"{folder.name}*.json")]
    left += [group for group in cgroups if Path(group).exists()]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if folder.name in line]
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            left += [str(device)] * (folder.name in device.read_text())
    names = ("asked", "shards", "control.sock")
    return left + [str(folder / name) for name in names if (folder / name).exists()] + [str(one) for one in folder.glob(".*part")]
