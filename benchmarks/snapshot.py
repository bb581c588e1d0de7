"""A snapshot of a large workspace after a few changes: how long the box stands frozen, and how long it takes to tell what changed; beside
`cp -a` of the same tree, and git (`add -A`, `write-tree`) with an index that is warm.

python benchmarks/snapshot.py

The workspace is a live box's, filled by its own programs. git and cp work on a copy of it on the host's disk.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from figures import Figure, show

from gearcase.events import Event
from gearcase.run.steps import Steps
from gearcase.run.workspace import Workspace
from gearcase.runs import RunFolder
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import difference
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.states import States
from gearcase.seams import Command, Limits, Sandbox, SandboxSpec

FILES, FILE_BYTES, FOLDERS, CHANGES = 10_000, 100_000, 100, 100
ROUNDS = 5
LIMITS = Limits(memory=1 << 30, cpus=2.0, disk=3 << 30, processes=64)
FILL = f"""
import os
for number in range({FILES}):
    folder = f"d{{number % {FOLDERS}}}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{{folder}}/f{{number}}.bin", "wb") as file:
        file.write(os.urandom({FILE_BYTES}))
"""
CHANGE = f"""
import os
for number in range(ROUND * 37 % {FILES // CHANGES}, {FILES}, {FILES // CHANGES}):
    with open(f"d{{number % {FOLDERS}}}/f{{number}}.bin", "r+b") as file:
        file.write(os.urandom(1000))
"""


class Silent:
    """Takes events and keeps none."""

    def append(self, event: Event, agent: str = "") -> int:
        return 0

    def flush(self) -> None:
        """Nothing to do."""

    async def durable(self) -> None:
        """Nothing to do."""


class Timed:
    """A sandbox that notes how long it stood still."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self.workspace = box.workspace
        self.owner = box.owner
        self.frozen = list[float]()

    @asynccontextmanager
    async def still(self) -> AsyncGenerator[None]:
        began = time.perf_counter()
        async with self._box.still():
            yield
        self.frozen.append(time.perf_counter() - began)


async def execute(box: Sandbox, script: str) -> None:
    """A program in the box; it must end well."""
    done = await box.run(Command(("python3", "-c", script), deadline=600))
    if done.exit_code:
        raise RuntimeError(f"it ended with {done.exit_code}: {done.stderr.tail!r}")


def seconds_of(*command: str | Path, cwd: Path | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cwd)
    return time.perf_counter() - began


async def rounds(folder: Path) -> dict[str, list[float]]:
    """Seconds of every round, ours and theirs in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ("frozen", "difference", "cp", "git")}
    driver = NamespacesDriver()
    box = await driver.open(SandboxSpec(f"bench-{os.getpid()}", LIMITS))
    try:
        await execute(box, FILL)
        copy, store, tree = folder / "copy", folder / "git", f"/proc/{os.getpid()}/fd/{box.workspace}/."
        seconds_of("cp", "-a", tree, copy)
        seconds_of("git", "init", "--quiet", "--bare", store)
        git = ("git", f"--git-dir={store}", f"--work-tree={copy}")
        seconds_of(*git, "add", "-A")
        run = RunFolder("id", "name", "goal", 0.0, folder / "run")
        run.path.mkdir()
        blobs, timed = BlobStore(run.blobs), Timed(box)
        space = Workspace(timed, blobs, Silent())  # type: ignore[arg-type]
        steps = Steps(run, blobs, 2 << 30, 3600.0)
        space.begin(await space.state(), steps)
        for number in range(ROUNDS):
            script = CHANGE.replace("ROUND", str(number + 1))
            await execute(box, script)
            seconds_of(sys.executable, "-c", script, cwd=copy)
            await asyncio.sleep(0.1)  # a change as fresh as a clock's tick is read again, by git and by us
            before = len(timed.frozen)
            name = (await space.keep()).name
            seconds["frozen"] += timed.frozen[before:]
            began = time.perf_counter()
            states = States(run.states)
            change = difference(states.manifest(f"s{number}"), states.manifest(name))
            seconds["difference"].append(time.perf_counter() - began)
            if len(change.changed) != CHANGES or change.added or change.removed:
                raise RuntimeError(f"{CHANGES} files changed, and told are {len(change.changed)}")
            seconds["git"].append(seconds_of(*git, "add", "-A") + seconds_of(*git, "write-tree"))
            seconds["cp"].append(seconds_of("cp", "-a", tree, folder / "again"))
            shutil.rmtree(folder / "again")
    finally:
        await box.close()
        await driver.close()
    return seconds


def measure() -> list[Figure]:
    """Every figure of a snapshot, medians."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # on the disk that runs are kept on, which /tmp need not be
        middle = {name: statistics.median(values) * 1000 for name, values in uvloop.run(rounds(Path(folder))).items()}
    what = f"{CHANGES} changes in {FILES * FILE_BYTES / 1e9:.0f} GB, {FILES:,} files"
    frozen, told = f"{middle['frozen']:.0f} ms", f"{middle['difference']:.0f} ms"
    copying, adding = f"cp -a {middle['cp']:,.0f} ms", f"git add -A, write-tree {middle['git']:.0f} ms"
    return [
        Figure(f"snapshot after {what}: frozen", frozen, "", middle["frozen"], at_most=150, unit="ms"),
        Figure(f"snapshot after {what}", frozen, copying, middle["frozen"] / middle["cp"]),
        Figure(f"snapshot after {what}", frozen, adding, middle["frozen"] / middle["git"]),
        Figure(
            f"difference of two snapshots, {what}, from the run's folder", told, "", middle["difference"], at_most=150, unit="ms"
        ),
    ]


if __name__ == "__main__":
    sys.exit(show(measure()))
