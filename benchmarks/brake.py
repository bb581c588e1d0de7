"""The brake, pulled from another process while 500 busy processes of a box keep two cores: how long until the doors take nothing new, and
until every process stands still; beside a sweep that sends SIGSTOP to the same processes, in turn. Then whether they really stand still.

python benchmarks/brake.py [--tries N]

Time begins in the process that asks, before it connects to the run's socket. The slowest try counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import uvloop
from figures import Figure, show

from gearcase import runs
from gearcase.brake import BoxClock, Brake, Control, Level
from gearcase.journal import Journal
from gearcase.sandbox import processes
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

BUSY, TRIES, STILL = 500, 30, 10.0
PAUSE = 0.2
"""Seconds in which all are busy again between two tries."""
LIMITS = Limits(memory=2 << 30, cpus=2.0, disk=64 << 20, processes=BUSY + 40)
HOGS = f"""
import os
waiting, going = os.pipe()
for _ in range({BUSY}):
    if not os.fork():
        os.close(going)
        os.read(waiting, 1)
        while True: pass
os.close(going)
os.wait()
"""
ASK = """
import sys, time
from gearcase import runs
from gearcase.brake import command
folder = runs.find(sys.argv[1])
for _ in sys.stdin:
    began = time.perf_counter()
    command(folder, "freeze")
    print(began, flush=True)
"""
MEANS = {"with a freezer": frozenset[str](), "without cgroups": frozenset({"cgroup1", "cgroup2"})}


class Door:
    """A door that notes when it was latched."""

    def __init__(self) -> None:
        self.at = 0.0

    def latch(self) -> None:
        self.at = self.at or time.perf_counter()

    def unlatch(self) -> None:
        self.at = 0.0


@dataclass(slots=True)
class Seconds:
    """Of every try, in seconds; `ticks` is what the frozen processes used in ten seconds."""

    latched: list[float] = field(default_factory=list[float])
    frozen: list[float] = field(default_factory=list[float])
    swept: list[float] = field(default_factory=list[float])
    ticks: int = -1


def hogs() -> list[processes.Process]:
    """The busy processes: those that one process below us has begun, once it has begun them all."""
    found = processes.descendants([os.getpid()])
    begun = Counter(one.parent for one in found)
    return [one for one in found if begun[one.parent] >= BUSY]


def sweep(pids: list[int]) -> float:
    """Send SIGSTOP to each, until the kernel says of all that they are stopped; then set them going again."""
    began = time.perf_counter()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    going = pids
    while going:
        going = [pid for pid in going if (one := processes.look(pid)) is not None and one.state not in "Tt"]
    seconds = time.perf_counter() - began
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return seconds


async def tries(count: int, without: frozenset[str]) -> Seconds:
    """Freeze and sweep in turn, so many times."""
    seconds, door, frozen = Seconds(), Door(), list[float]()
    folder, owner = runs.create("bench")
    journal = Journal.create(folder.journal)
    brake = Brake(folder, journal, BoxClock())

    async def freeze(_request: Mapping[str, Any]) -> dict[str, Any]:
        await brake.pull(Level.FROZEN, "operator")
        frozen.append(time.perf_counter())
        return {}

    control = Control(folder, {"freeze": freeze})
    await control.start()
    brake.add_door(door)
    driver = NamespacesDriver(without)
    box = await driver.open(SandboxSpec(f"bench-{os.getpid()}", LIMITS))
    await brake.add_sandbox(box)
    busy = asyncio.create_task(box.run(Command(("python3", "-c", HOGS))))
    pipe = asyncio.subprocess.PIPE
    asker = await asyncio.create_subprocess_exec(sys.executable, "-c", ASK, folder.id, stdin=pipe, stdout=pipe)
    assert asker.stdin is not None and asker.stdout is not None
    try:
        while len(pids := [one.pid for one in hogs()]) < BUSY:
            await asyncio.sleep(0.1)
        for number in range(count):
            await asyncio.sleep(PAUSE)
            asker.stdin.write(b"\n")
            began = float(await asker.stdout.readline())
            seconds.latched.append(door.at - began)
            seconds.frozen.append(frozen[-1] - began)
            if number == count - 1:
                seconds.ticks = await ticks(pids)
            await brake.pull(Level.RUNNING, "operator")
            await asyncio.sleep(PAUSE)
            seconds.swept.append(sweep(pids))
    finally:
        asker.stdin.close()
        await asker.wait()
        await brake.pull(Level.RUNNING, "operator")
        await box.close()
        await asyncio.gather(busy, return_exceptions=True)
        await driver.close()
        await control.close()
        journal.close()
        owner.release()
    return seconds


async def ticks(pids: list[int]) -> int:
    """Clock ticks that they use in ten seconds."""
    before = [processes.look(pid) for pid in pids]
    await asyncio.sleep(STILL)
    after = [processes.look(pid) for pid in pids]
    if None in before or None in after:
        raise RuntimeError("a frozen process is gone")
    return sum(one.ticks for one in after if one) - sum(one.ticks for one in before if one)


def measure(count: int = TRIES) -> list[Figure]:
    """Every figure of the brake."""
    figures = list[Figure]()
    for means, without in MEANS.items():
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            os.environ["XDG_STATE_HOME"] = folder
            found = uvloop.run(tries(count, without))
        latched, frozen, swept = (max(values) * 1000 for values in (found.latched, found.frozen, found.swept))
        what = f"{BUSY} busy processes on two cores, {means}, slowest of {count}"
        told, beside = f"{frozen:.0f} ms", f"SIGSTOP to each {swept:.0f} ms"
        most = 700 if without else 100
        still = f"processor time of {BUSY} processes that are frozen, {means}, in {STILL:.0f} s"
        figures += [
            Figure(f"brake to doors latched: {what}", f"{latched:.1f} ms", "", latched, at_most=50, unit="ms"),
            Figure(f"brake to all frozen: {what}", told, beside, frozen, at_most=most, unit="ms"),
            Figure(f"brake to all frozen: {what}", told, beside, frozen / swept),
            Figure(still, f"{found.ticks} ticks", "", found.ticks, at_most=0, unit="ticks"),
        ]
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=TRIES)
    sys.exit(show(measure(parser.parse_args().tries)))
