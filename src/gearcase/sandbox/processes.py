"""Processes of a box as the host sees them, without trusting anything that a process can say about itself.

Every process in a box descends from its pid 1 or from a command that the launcher started: parents cannot be forged, so the tree is
complete where no cgroup lists it. A command's own tree is found by a mark: a limit (RLIMIT_MSGQUEUE) of its own value, inherited by
everything it starts, that the filter lets nobody change.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gearcase.errors import RunError

_FIRST_MARK = 819_200  # the kernel's default of the limit: marks count down from here
_LINE = 4096  # bytes: more than a line of the process table has


def mark(number: int, ceiling: int) -> int:
    """The value that marks command `number`; `ceiling` is the hard limit that the launcher has."""
    return min(_FIRST_MARK, ceiling) - 1 - number


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    state: str
    ticks: int
    started: int


def look(pid: int) -> Process | None:
    """The process, None when it is gone."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(file, _LINE)
        finally:
            os.close(file)
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), fields[0].decode(), int(fields[11]) + int(fields[12]), int(fields[19]))


def table() -> dict[int, Process]:
    """Every process of this machine that we may see."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {one.pid: one for one in found if one}


def descendants(roots: Iterable[int]) -> list[Process]:
    """`roots` that live, and everything below them."""
    everybody = table()
    children: dict[int, list[int]] = {}
    for one in everybody.values():
        children.setdefault(one.parent, []).append(one.pid)
    waiting, found = [pid for pid in roots if pid in everybody], dict[int, Process]()
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = everybody[pid]
            waiting += children.get(pid, [])
    return list(found.values())


def has_mark(pid: int, value: int) -> bool:
    """Whether a process belongs to the command with this mark."""
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            return any(line.startswith("Max msgqueue size") and line.split()[-3:-1] == [str(value)] * 2 for line in file)
    except OSError:
        return False


def send(pid: int, what: signal.Signals) -> None:
    """Signal a process; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def proportional_memory(pids: Iterable[int]) -> dict[int, int]:
    """Bytes of each process, shared pages divided among those who share them; resident size where that cannot be read."""
    sizes: dict[int, int] = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                sizes[pid] = sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except OSError:
            sizes[pid] = resident_memory(pid)
    return sizes


def resident_memory(pid: int) -> int:
    """Resident bytes of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def stop_groups(leaders: Iterable[int]) -> None:
    """Stop the process groups that these lead, each at one stroke: what is in them keeps no processor from whoever looks for the rest."""
    for pid in leaders:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGSTOP)


async def stop_all(tree: Callable[[], list[Process]], patience: float) -> None:
    """Without a freezer: stop what runs, again and again, until nothing does. Raises RunError `not_frozen` after `patience` seconds."""
    began = time.monotonic()
    while going := [one for one in tree() if one.state not in "TtZX"]:
        if time.monotonic() - began > patience:
            names = ", ".join(str(one.pid) for one in going[:5])
            raise RunError("not_frozen", f"processes {names} could not be stopped", remedy="kill the run")
        for one in going:
            send(one.pid, signal.SIGSTOP)
        await asyncio.sleep(0.002)
