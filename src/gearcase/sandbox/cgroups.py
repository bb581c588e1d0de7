"""Cgroups of a box, whatever of them this machine lets us have: v2, each v1 controller for itself, both (hybrid), or none.

Purpose: `Machine` is what was found once; `BoxGroups` are the folders of one box, below the caller's own cgroup, named
`gearcase-ID`. Limits stand before anything of an agent's runs. Invariants: every folder made here is removed by `remove`; nothing
but folders of our name is ever written. Threat: one box taking the machine's memory, processes or processors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.seams import Grip

PREFIX = "gearcase-"
_PERIOD = 100_000
_WANTED = ("memory", "pids", "cpu")
_CONTROL_FILE = {
    "memory": "memory.limit_in_bytes",
    "pids": "pids.max",
    "cpu": "cpu.cfs_quota_us",
    "cpuacct": "cpuacct.usage",
    "freezer": "freezer.state",
}


def read(path: str) -> str:
    """The text of a control file, empty when it is not there."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, text: str) -> None:
    """Write a control file."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _number(path: str) -> int:
    text = read(path).strip()
    return int(text) if text.isdigit() else 0


def _keyed(path: str, key: str) -> int:
    found = re.search(rf"^{key} (\d+)$", read(path), re.MULTILINE)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where this process may make cgroups: the v2 folder (or empty), the v2 controllers there, v1 folders by controller."""

    unified: str = ""
    controllers: frozenset[str] = frozenset()
    legacy: Mapping[str, str] = field(default_factory=dict[str, str])

    def means(self, controller: str) -> str:
        """cgroup2, cgroup1 or empty: what limits `controller` here."""
        if controller in self.controllers:
            return "cgroup2"
        return "cgroup1" if controller in self.legacy else ""


def probe(without: Iterable[str] = (), proc: str = "/proc/self") -> Machine:
    """Find what can be used; tries each by making a folder. `without` may name cgroup1 or cgroup2."""
    unified, legacy = _own_folders(proc)
    left_out = set(without)
    if "cgroup2" in left_out or not (unified and _writable(unified, "cgroup.procs")):
        unified = ""
    controllers = _delegate(unified) if unified else frozenset[str]()
    usable: dict[str, str] = {}
    if "cgroup1" not in left_out:
        usable = {name: path for name, path in legacy.items() if name in _CONTROL_FILE and _writable(path, _CONTROL_FILE[name])}
    return Machine(unified, controllers, usable)


def _own_folders(proc: str) -> tuple[str, dict[str, str]]:
    """This process's own folder in the v2 tree and in each v1 controller's, joined from /proc/self/cgroup and mountinfo."""
    paths: dict[str, str] = {}
    for line in read(f"{proc}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else [""]:
            paths[name] = path
    unified, legacy = "", dict[str, str]()
    for line in read(f"{proc}/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split(" ")[3:5]
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2" and not unified and "" in paths:
            unified = _below(point, root, paths[""])
        elif kind == "cgroup":
            for name in options.split(","):
                if name in paths:
                    legacy.setdefault(name, _below(point, root, paths[name]))
    return unified, legacy


def _below(point: str, root: str, path: str) -> str:
    inner = path.removeprefix(root) if root != "/" and path.startswith(root) else path
    joined = os.path.normpath(f"{point}/{inner}")
    return joined if os.path.isdir(joined) else point


def _writable(folder: str, control: str) -> bool:
    trial = f"{folder}/{PREFIX}probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        os.mkdir(trial)
    except OSError:
        return False
    try:
        return os.access(f"{trial}/{control}", os.W_OK) and os.access(f"{trial}/cgroup.procs", os.W_OK)
    finally:
        os.rmdir(trial)


def _delegate(folder: str) -> frozenset[str]:
    """The controllers that children of `folder` have; what can be enabled is. Moves this process to a leaf when it must."""
    offered = set(read(f"{folder}/cgroup.controllers").split()) & set(_WANTED)
    enabled = set(read(f"{folder}/cgroup.subtree_control").split())
    if offered - enabled:
        ask = " ".join(f"+{name}" for name in sorted(offered))
        try:
            _enable(folder, ask)
        except OSError:
            return frozenset(enabled & offered)
    return frozenset(set(read(f"{folder}/cgroup.subtree_control").split()) & offered)


def _enable(folder: str, ask: str) -> None:
    try:
        write(f"{folder}/cgroup.subtree_control", ask)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        leaf = f"{folder}/{PREFIX}host-{os.getpid()}"
        os.makedirs(leaf, exist_ok=True)
        write(f"{leaf}/cgroup.procs", str(os.getpid()))
        try:
            write(f"{folder}/cgroup.subtree_control", ask)
        except OSError:
            write(f"{folder}/cgroup.procs", str(os.getpid()))
            os.rmdir(leaf)
            raise


@dataclass(frozen=True, slots=True)
class Counters:
    """How often a limit has struck since the box began."""

    memory: int = 0
    processes: int = 0


class BoxGroups:
    """The cgroups of one box. With no cgroups at all every question is answered with nothing."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._name = PREFIX + name
        self.unified = f"{machine.unified}/{self._name}" if machine.unified else ""
        self._legacy = {one: f"{folder}/{self._name}" for one, folder in machine.legacy.items()}
        self._outlived: set[str] = set()
        self._made: list[str] = []  # a folder of our name may be another box's: only what was made here is ever touched

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder of this box; one that several controllers share stands once."""
        return tuple(dict.fromkeys([*([self.unified] if self.unified else []), *self._legacy.values()]))

    @property
    def freezer(self) -> str:
        """The v1 freezer's folder, empty where there is none or where v2 freezes."""
        return "" if self.unified else self._legacy.get("freezer", "")

    @property
    def freezes(self) -> bool:
        """Whether a cgroup freezes the box, whatever it starts."""
        return bool(self.unified or self.freezer)

    def create(self) -> None:
        """Make the folders."""
        for folder in self.folders:
            os.mkdir(folder)
            self._made.append(folder)

    def limit(self, memory: int, processes: int, cpus: float, without: Iterable[str]) -> None:
        """Set the limits (bytes, tasks, cores); `without` leaves some of them out."""
        left_out = set(without)
        if "memory" not in left_out:
            self._limit_memory(memory)
        if "pids" not in left_out:
            self._set("pids", "pids.max", "pids.max", str(processes))
        if "cpu" not in left_out:
            quota = max(1000, int(cpus * _PERIOD))
            if "cpu" in self._machine.controllers:
                write(f"{self.unified}/cpu.max", f"{quota} {_PERIOD}")
            elif "cpu" in self._legacy:
                write(f"{self._legacy['cpu']}/cpu.cfs_period_us", str(_PERIOD))
                write(f"{self._legacy['cpu']}/cpu.cfs_quota_us", str(quota))

    def _limit_memory(self, memory: int) -> None:
        self._set("memory", "memory.max", "memory.limit_in_bytes", str(memory))
        if "memory" in self._machine.controllers:
            if os.path.exists(f"{self.unified}/memory.swap.max"):
                write(f"{self.unified}/memory.swap.max", "0")
        elif "memory" in self._legacy and os.path.exists(f"{self._legacy['memory']}/memory.memsw.limit_in_bytes"):
            write(f"{self._legacy['memory']}/memory.memsw.limit_in_bytes", str(memory))

    def _set(self, controller: str, new: str, old: str, value: str) -> None:
        if controller in self._machine.controllers:
            write(f"{self.unified}/{new}", value)
        elif controller in self._legacy:
            write(f"{self._legacy[controller]}/{old}", value)

    def add(self, pid: int, command: str = "") -> None:
        """Move a process in; into the sub-cgroup `command` (see `command_group`) where there is one. Slow: the kernel waits for all
        processors."""
        for folder in self._legacy_folders():
            write(f"{folder}/cgroup.procs", str(pid))
        if self.unified:
            write(f"{command or self.unified}/cgroup.procs", str(pid))

    def _legacy_folders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._legacy.values()))

    def command_group(self, number: int) -> str:
        """A sub-cgroup that holds one command's whole tree; empty where there is no v2."""
        if not self.unified:
            return ""
        folder = f"{self.unified}/command-{number}"
        os.mkdir(folder)
        return folder

    def end_command(self, folder: str) -> bool:
        """Remove the cgroup of a command that has ended. False while something of it lives on."""
        if not folder:
            return True
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError:
            self._outlived.add(folder)
            return False
        self._outlived.discard(folder)
        return True

    def tidy_commands(self) -> None:
        """Remove the cgroups of ended commands whose background processes have ended since."""
        for folder in tuple(self._outlived):
            if not read(f"{folder}/cgroup.procs"):
                self.end_command(folder)

    def kill_command(self, folder: str) -> None:
        """SIGKILL every process of a command's tree at once."""
        with contextlib.suppress(FileNotFoundError):
            write(f"{folder}/cgroup.kill", "1")

    def kill(self) -> None:
        """SIGKILL everything in the box, where v2 can."""
        if self.unified in self._made and os.path.exists(f"{self.unified}/cgroup.kill"):
            write(f"{self.unified}/cgroup.kill", "1")

    def members(self) -> set[int] | None:
        """Pids in the box, None where no cgroup knows."""
        folder = self._legacy.get("pids") or next(iter(self._legacy.values()), "")
        if folder and folder not in self._made:
            return set()
        if folder:
            return {int(pid) for pid in read(f"{folder}/cgroup.procs").split()}
        if not self.unified:
            return None
        found: set[int] = set()
        for base, _, _ in os.walk(self.unified):
            found |= {int(pid) for pid in read(f"{base}/cgroup.procs").split()}
        return found

    def counters(self) -> Counters:
        """Kills for lack of memory and refused forks so far."""
        memory, pids = self._legacy.get("memory"), self._legacy.get("pids")
        return Counters(
            _keyed(f"{self.unified}/memory.events", "oom_kill")
            if "memory" in self._machine.controllers
            else (_keyed(f"{memory}/memory.oom_control", "oom_kill") if memory else 0),
            _keyed(f"{self.unified}/pids.events", "max")
            if "pids" in self._machine.controllers
            else (_keyed(f"{pids}/pids.events", "max") if pids else 0),
        )

    def cpu(self) -> float | None:
        """Processor seconds used, None where nobody counts."""
        if self.unified and (used := _keyed(f"{self.unified}/cpu.stat", "usage_usec")):
            return used / 1e6
        if "cpuacct" in self._legacy:
            return _number(f"{self._legacy['cpuacct']}/cpuacct.usage") / 1e9
        return None

    def memory(self) -> int | None:
        """Bytes used, None where nobody counts."""
        if "memory" in self._machine.controllers:
            return _number(f"{self.unified}/memory.current")
        return _number(f"{self._legacy['memory']}/memory.usage_in_bytes") if "memory" in self._legacy else None

    def freeze(self) -> bool:
        """Ask for a freeze. False where no cgroup can."""
        if self.unified:
            write(f"{self.unified}/cgroup.freeze", "1")
        elif self.freezer:
            write(f"{self.freezer}/freezer.state", "FROZEN")
        else:
            return False
        return True

    def frozen(self) -> bool:
        """Every process stands still.

        The v2 freezer of Linux 6.18 says so a moment too early on a busy machine, where processes were thawed or forked just before. So
        it is looked at, too: none runs or waits in the kernel, and none has come while that was looked at.
        """
        if self.unified:
            said, moving = _keyed(f"{self.unified}/cgroup.events", "frozen") == 1, "RD"
        else:
            said, moving = read(f"{self.freezer}/freezer.state").strip() == "FROZEN", "R"  # whose frozen ones are in state D
        if not said:
            return False
        tasks = self._tasks()
        return not any(_state(task) in moving for task in tasks) and tasks == self._tasks()

    def _tasks(self) -> list[str]:
        """Threads in what freezes."""
        if not self.unified:
            return read(f"{self.freezer}/tasks").split()
        return [task for base, _, _ in os.walk(self.unified) for task in read(f"{base}/cgroup.threads").split()]

    def grip(self) -> Grip | None:
        """What another process freezes it with. None where no cgroup can. Raises OSError where it is gone."""
        if not self.freezes:
            return None
        folder = os.open(self.unified or self.freezer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return Grip("cgroup" if self.unified else "freezer", folder)

    def thaw(self) -> None:
        """Undo a freeze."""
        if self.unified in self._made:
            write(f"{self.unified}/cgroup.freeze", "0")
        elif self.freezer in self._made:
            write(f"{self.freezer}/freezer.state", "THAWED")

    def remove(self) -> list[str]:
        """Remove the folders; those that cannot be (yet) are returned."""
        self._made = [folder for folder in self._made if not remove_tree(folder)]
        return list(self._made)


def _state(task: str) -> str:
    """The state of a task, as in `/proc/TASK/stat`; X where it is gone."""
    text = read(f"/proc/{task}/stat")
    return text[text.rfind(")") + 2 :][:1] if text else "X"


def remove_tree(folder: str) -> bool:
    """Remove a cgroup and those below it. False while a process is in one."""
    for base, below, _ in os.walk(folder, topdown=False):
        for name in below:
            with contextlib.suppress(OSError):
                os.rmdir(f"{base}/{name}")
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not Path(folder).exists()
