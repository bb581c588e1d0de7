"""Who owns which box on this machine, and the sweep of what the dead left behind.

An owner file per box lies in a folder of the user's own (mode 0700, checked) and is locked as long as its owner lives. It says where
the box's cgroups are, and which processes it began with. The sweep takes the lock of each: a lock that can be taken is a dead
owner's. Invariants: only folders with our name are removed, only processes with the recorded start time are killed, no link is
followed. Threat: residue after a kill of the host process, and two Gearcases that tidy up each other's live boxes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gearcase.errors import RunError
from gearcase.sandbox import cgroups, processes

_KILL_SECONDS = 5.0


def runtime_folder() -> str:
    """Where owner files and locks lie: /run/gearcase as root, else the user's runtime folder, else one in /tmp."""
    if os.getuid() == 0:
        return "/run/gearcase"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.stat(runtime).st_uid == os.getuid():
        return f"{runtime}/gearcase"
    return f"/tmp/gearcase-{os.getuid()}"


def private_folder(path: str) -> str:
    """The folder, made when it is missing. Raises RunError when it is not ours alone."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(path, mode=0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise RunError(
            "runtime_folder",
            f"{path} is not a folder of this user's own",
            remedy=f"remove {path}, or set XDG_RUNTIME_DIR to a folder of mode 0700 that is yours",
        )
    return path


def boot_id() -> str:
    """This boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@dataclass(slots=True)
class OwnerFile:
    """The record of one live box, locked by us."""

    path: str
    _descriptor: int

    @classmethod
    def create(cls, folder: str, name: str, record: Mapping[str, Any]) -> OwnerFile:
        """Write and lock the record of box `name`. Raises RunError when a box of that name lives."""
        path = f"{private_folder(folder)}/{name}.json"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileExistsError:
                raise _exists(name) from None
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # a sweep had its lock first, and removed it
        mine = cls(path, descriptor)
        mine.write(record)
        return mine

    def rename(self, name: str) -> None:
        """Let it be the record of box `name`. Raises RunError when a box of that name lives."""
        path = f"{os.path.dirname(self.path)}/{name}.json"
        try:
            os.link(self.path, path)
        except FileExistsError:
            raise _exists(name) from None
        os.unlink(self.path)
        self.path = path

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace the record."""
        data = json.dumps(record).encode()
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))

    def close(self) -> None:
        """The box is gone, and so is its record. Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            os.close(self._descriptor)
            self._descriptor = -1


def _exists(name: str) -> RunError:
    return RunError("sandbox_exists", f"a box with the id {name!r} exists", remedy="close it, or use another id")


def record(folders: Iterable[str], pids: Iterable[int]) -> dict[str, Any]:
    """What an owner file says."""
    begun = {str(one.pid): one.started for one in map(processes.look, pids) if one}
    return {"format": 1, "owner": os.getpid(), "boot": boot_id(), "cgroups": list(folders), "processes": begun}


def sweep(folder: str | None = None) -> tuple[str, ...]:
    """Remove what dead owners left; returns what was removed. Never touches a live one's."""
    boxes = folder or f"{runtime_folder()}/boxes"
    removed: list[str] = []
    if not os.path.isdir(boxes):
        return ()
    private_folder(boxes)
    for name in sorted(os.listdir(boxes)):
        if name.endswith(".json"):
            removed += _sweep_one(f"{boxes}/{name}")
    return tuple(removed)


def _sweep_one(path: str) -> list[str]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        if not os.fstat(descriptor).st_nlink:  # its owner ended since; the path may be another's by now
            return []
        removed = _remove_leftovers(_parse(os.pread(descriptor, 1 << 20, 0)))
        os.unlink(path)
        return [*removed, path]
    finally:
        os.close(descriptor)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(data)
    except ValueError:
        return {}  # the owner died while it wrote: nothing was made yet
    known = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return known if known.get("boot") == boot_id() else {}


def _remove_leftovers(found: Mapping[str, Any]) -> list[str]:
    removed: list[str] = []
    for text, started in found.get("processes", {}).items():
        if (one := processes.look(int(text))) and one.started == started and one.state != "Z":
            processes.send(one.pid, signal.SIGKILL)
            removed.append(f"process {one.pid}")
    for folder in found.get("cgroups", []):
        if os.path.basename(folder).startswith(cgroups.PREFIX) and os.path.exists(f"{folder}/cgroup.procs"):
            _empty(folder)
            cgroups.remove_tree(folder)
            removed.append(folder)
    return removed


def _empty(folder: str) -> None:
    """Kill everything in a cgroup of ours; a v1 freezer lets nobody die before it thaws."""
    until = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < until:
        members: list[str] = []
        for base, _, _ in os.walk(folder):
            members += cgroups.read(f"{base}/cgroup.procs").split()
        if not members:
            return
        for pid in members:
            processes.send(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            cgroups.write(f"{folder}/freezer.state", "THAWED")
        time.sleep(0.01)
