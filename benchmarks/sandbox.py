"""A box against bubblewrap with an overlay, in turn, in one run: from nothing to the exit of `true`; then commands in a live box.

    python benchmarks/sandbox.py --bwrap PATH/TO/bwrap

Ours has what a run's box has: limits, a workspace of its own size, listeners for the doors. Bubblewrap has new namespaces, the host's
/usr, and an overlay as its workspace; no limits, no listeners, no seccomp.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from figures import Figure, show

from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, Listener, Sandbox, SandboxSpec

ROUNDS = 40
PAUSE = 0.15
"""Seconds between two boxes, as between two runs: what is prepared ahead is prepared then."""
LIMITS = Limits(memory=256 << 20, cpus=1.0, disk=64 << 20, processes=64)
DOORS = (Listener("model.box", "198.18.0.1", 80), Listener("gear.box", "198.18.0.2", 80))
TRUE = Command(("/usr/bin/true",))


def bubblewrap(program: str, folder: Path) -> float:
    """Seconds of one `bwrap ... true`."""
    for name in ("lower", "upper", "work"):
        (folder / name).mkdir(exist_ok=True)
    overlay = ["--overlay-src", str(folder / "lower"), "--overlay", str(folder / "upper"), str(folder / "work"), "/workspace"]
    links = [word for name in ("bin", "lib", "lib64") for word in ("--symlink", f"usr/{name}", f"/{name}")]
    view = ["--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *overlay]
    began = time.perf_counter()
    subprocess.run([program, "--unshare-all", "--new-session", "--die-with-parent", *view, "/usr/bin/true"], check=True)
    return time.perf_counter() - began


async def boxes(program: str) -> dict[str, list[float]]:
    """Seconds of every step, ours and theirs in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ("whole", "command", "close", "bwrap")}
    driver = NamespacesDriver()
    try:
        for number in range(-5, ROUNDS):
            began = time.perf_counter()
            box: Sandbox = await driver.open(SandboxSpec(f"bench-{os.getpid()}-{number + 5}", LIMITS, listeners=DOORS))
            first = await box.run(TRUE)
            whole = time.perf_counter() - began
            began = time.perf_counter()
            second = await box.run(TRUE)
            command = time.perf_counter() - began
            if first.exit_code or second.exit_code:
                raise RuntimeError(f"true failed: {first}, {second}")
            began = time.perf_counter()
            left = await box.close()
            closed = time.perf_counter() - began
            if left:
                raise RuntimeError(f"a box left {left}")
            with tempfile.TemporaryDirectory() as folder:
                theirs = bubblewrap(program, Path(folder))
            if number >= 0:
                for name, value in (("whole", whole), ("command", command), ("close", closed), ("bwrap", theirs)):
                    seconds[name].append(value)
            await asyncio.sleep(PAUSE)
    finally:
        await driver.close()
    return seconds


def measure(program: str) -> list[Figure]:
    """Every figure of the sandbox."""
    ms = {name: statistics.median(values) * 1000 for name, values in uvloop.run(boxes(program)).items()}
    theirs = f"bwrap {ms['bwrap']:.1f} ms"
    whole = f"{ms['whole']:.1f} ms"
    return [
        Figure("box start to exit of `true`, doors listening", whole, theirs, ms["whole"] / ms["bwrap"], at_most=1.5),
        Figure("the same, median", whole, theirs, ms["whole"], at_most=20, unit="ms"),
        Figure("a command in a live box, median", f"{ms['command']:.1f} ms", "", ms["command"], at_most=8, unit="ms"),
        Figure("end of a box, residue checked, median", f"{ms['close']:.1f} ms", "", ms["close"], unit="ms"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bwrap", required=True)
    sys.exit(show(measure(parser.parse_args().bwrap)))
