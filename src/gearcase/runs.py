"""Where runs live on disk: their folders, names and owners.

A run is a folder `$XDG_STATE_HOME/gearcase/runs/ID/` of mode 0700 that holds `box.toml` (effective), `journal/`, `blobs/`,
`delivered/`, `control.sock` and `level`. The folder outlives the run. Whether a run is alive is told by its owner file, which
names a process by pid, start time and boot id: a pid alone may belong to somebody else by now. A lock keeps a second owner away.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gearcase.errors import UsageError

_ADJECTIVES = (
    "amber brave brisk calm clear cool crisp dark deep dry early even fair fast firm fresh full gentle glad grand green keen "
    "kind late light lively long loud low lucky mild neat new odd plain prime proud quick quiet rapid rare red round sharp "
    "short shy silent slow small smooth soft solid spare steady still strong sunny sure swift tall tidy true warm wide young"
).split()
_NOUNS = (
    "anchor arch axle badge barn beacon bell bolt bridge brook cable cairn camel canal cedar chain cliff cloud comet coral "
    "crane creek crown delta drum dune eagle ember fern field flint forge fox gate glade grove gull harbor hawk hazel heron "
    "hill ivy jetty kite lake lantern larch lark ledge lever lynx maple meadow mill moss oak orbit otter owl path pear pier "
    "pine plum pond quarry raven reed ridge river robin rook sail shore sparrow spring stone stork summit tern thistle tide "
    "tower trail vale wharf willow wren"
).split()
_REMOTE_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "fuse.sshfs", "lustre"}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk. `created` is unix seconds."""

    id: str
    name: str
    goal: str
    created: float
    path: Path

    @property
    def journal(self) -> Path:
        """Folder of the journal's segments."""
        return self.path / "journal"

    @property
    def blobs(self) -> Path:
        """Content-addressed store of the run's snapshots."""
        return self.path / "blobs"

    @property
    def states(self) -> Path:
        """The states of the lead's files that were kept."""
        return self.path / "states.jsonl"

    @property
    def pool(self) -> Path:
        """Contents of the states that were kept by themselves, within a limit; `blobs` holds the rest."""
        return self.path / "pool"

    @property
    def delivered(self) -> Path:
        """What left the box, as it was checked."""
        return self.path / "delivered"

    @property
    def cassette(self) -> Path:
        """Recorded model traffic of this run."""
        return self.path / "cassette.jsonl"

    @property
    def conversation(self) -> Path:
        """What the lead and its model said, as far as it came."""
        return self.path / "conversation.jsonl"

    @property
    def results(self) -> Path:
        """What the maps of this run have paid for, by content."""
        return self.path / "results.sqlite"

    @property
    def box_file(self) -> Path:
        """The effective box."""
        return self.path / "box.toml"

    @property
    def box_digest(self) -> str:
        """SHA-256 of the effective box."""
        return hashlib.sha256(self.box_file.read_bytes()).hexdigest()

    def owner_pid(self) -> int:
        """Pid of the process that drives this run now; 0 when none does."""
        try:
            owner = json.loads((self.path / "owner").read_text())
        except (FileNotFoundError, ValueError):
            return 0
        alive = owner["boot_id"] == boot_id() and start_time(owner["pid"]) == owner["start_time"]
        return int(owner["pid"]) if alive else 0


@dataclass(slots=True)
class Ownership:
    """Held by the process that drives a run, from start to teardown."""

    descriptor: int

    def release(self) -> None:
        """Let go of the run. The owner file stays and names a dead process."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot, as the kernel prints it; empty when there is none, or a dead one's rest."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""


def state_folder() -> Path:
    """The folder of this user's runs, made if needed. Raises UsageError on a network file system, where locks do not hold."""
    base = os.environ.get("XDG_STATE_HOME", "")
    root = (Path(base) if base.startswith("/") else Path.home() / ".local/state") / "gearcase"
    try:
        (root / "runs").mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "state_folder",
            f"cannot make the folder of runs, {root / 'runs'}",
            cause=str(error),
            remedy="point XDG_STATE_HOME at a local folder that you can write to",
        ) from error
    kind = _file_system(root)
    if kind in _REMOTE_FILE_SYSTEMS:
        raise UsageError(
            "state_folder",
            f"{root} is on a network file system ({kind}), where locks and syncs do not hold",
            remedy="point XDG_STATE_HOME at a local folder",
        )
    return root


def create(goal: str, name: str = "") -> tuple[RunFolder, Ownership]:
    """A new run folder, owned by this process. Raises UsageError `state_folder` when it cannot be written."""
    runs = state_folder() / "runs"
    taken = {run.name for run in all_runs()}
    if name and name in taken:
        raise UsageError("name_taken", f"a run named {name!r} exists", remedy="choose another name, or leave it out")
    while not name or name in taken:
        name = f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}"
    identity = secrets.token_hex(4)
    folder = RunFolder(identity, name, goal, time.time(), runs / identity)
    facts = {"id": folder.id, "name": folder.name, "goal": folder.goal, "created": folder.created}
    try:
        folder.path.mkdir(mode=0o700)
        write_atomically(folder.path / "run.json", json.dumps(facts).encode())
        return folder, own(folder)
    except OSError as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise UsageError(
            "state_folder",
            f"cannot write a new run in {runs}",
            cause=str(error),
            remedy="make room there, or point XDG_STATE_HOME at a local folder that you can write to",
        ) from error


def own(folder: RunFolder) -> Ownership:
    """Make this process the owner of a run. Raises UsageError `owned` while another one is."""
    descriptor = os.open(folder.path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(
            "owned",
            f"run {folder.name} is driven by process {folder.owner_pid()}",
            remedy=f"watch it with `gearcase logs -f {folder.name}` or end it with `gearcase kill {folder.name}`",
        ) from None
    pid = os.getpid()
    owner = {"pid": pid, "start_time": start_time(pid), "boot_id": boot_id()}
    try:
        write_atomically(folder.path / "owner", json.dumps(owner).encode())
    except OSError:
        os.close(descriptor)
        raise
    return Ownership(descriptor)


def all_runs() -> list[RunFolder]:
    """Every run of this user, newest first."""
    found: list[RunFolder] = []
    for path in (state_folder() / "runs").iterdir():
        try:
            facts = cast("dict[str, Any]", json.loads((path / "run.json").read_text()))
        except (FileNotFoundError, NotADirectoryError):
            continue  # a folder that a killed process had only begun: it holds nothing
        found.append(RunFolder(facts["id"], facts["name"], facts["goal"], facts["created"], path))
    return sorted(found, key=lambda run: run.created, reverse=True)


def find(reference: str = "") -> RunFolder:
    """The run meant by a name or a unique prefix of an id or name; the latest when nothing is said."""
    runs = all_runs()
    if not runs:
        raise UsageError("no_run", "there is no run yet", remedy='start one: gearcase run "GOAL" --usd 2')
    if not reference:
        return runs[0]
    exact = [run for run in runs if reference in (run.id, run.name)]
    near = exact or [run for run in runs if run.id.startswith(reference) or run.name.startswith(reference)]
    if len(near) == 1:
        return near[0]
    if not near:
        raise UsageError("no_run", f"no run is called {reference!r}", remedy=_near(reference, runs))
    names = ", ".join(run.name for run in near[:5])
    raise UsageError("which_run", f"{reference!r} fits {len(near)} runs: {names}", remedy="write more of the name")


def _near(reference: str, runs: list[RunFolder]) -> str:
    near = difflib.get_close_matches(reference, [run.name for run in runs], n=1)
    return f"did you mean {near[0]}?" if near else "see `gearcase ps --all` for their names"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all, durably."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            while data:  # a disk that is nearly full takes a part first, and then says so
                data = data[os.write(descriptor, data) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def short_path(folder: Path, name: str) -> Generator[str]:
    """A path of what is called `name` in a folder, short enough for the address of a socket, for as long as this lasts."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _file_system(path: Path) -> str:
    """Type of the file system that holds a path, by the longest mount point above it."""
    path = path.resolve()
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        fields = line.split(" ")
        point = fields[1].encode().decode("unicode_escape")
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, fields[2]
    return kind
