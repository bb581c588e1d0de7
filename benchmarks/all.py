"""Every benchmark, one table; with `--write`, docs/benchmarks.md as well.

scripts/bench [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import brake
import door
import egress
import journal
import mapping
import monitors
import postgres
import redis
import sandbox
import snapshot
import spawn
import startup
import uvloop
from figures import Figure, show

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"


def machine() -> str:
    """What it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    user = "root" if os.getuid() == 0 else "an ordinary user"
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, {user}"


def commit() -> str:
    """The commit that was measured, and whether something was changed since."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(["git", "status", "--porcelain", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return head.strip() + (" with changes" if changed else "")


def page(figures: list[Figure]) -> str:
    """The page with what was measured."""
    rows = [
        f"| {one.what} | {one.ours} | {one.compared or '–'} | {one.value:.3g} {one.unit} | {one.goal or '–'} | {_met(one)} |"
        for one in figures
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `scripts/bench --write`; do not edit. Peers are measured beside us, in the same run, on the same fake provider;",
            "`benchmarks/peers.txt` pins them. A value is a ratio (ours over theirs for waits, rates, and so on) unless it has a unit.",
            "",
            f"Measured {datetime.now(UTC):%Y-%m-%d} at commit {commit()} on {machine()}.",
            "",
            "| figure | ours | beside | value | goal | met |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _met(figure: Figure) -> str:
    return {True: "yes", False: "**no**", None: "–"}[figure.met]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", required=True)
    parser.add_argument("--bwrap", required=True)
    parser.add_argument("--srt", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    figures = [*startup.measure(), *spawn.measure(), *sandbox.measure(options.bwrap), *door.measure(options.litellm)]
    figures += [*mapping.measure(), *egress.measure(options.srt), *uvloop.run(postgres.measure()), *asyncio.run(redis.measure())]
    figures += [*journal.measure(), *monitors.measure(), *snapshot.measure(), *brake.measure()]
    if options.write:
        PAGE.write_text(page(figures))
    return show(figures)


if __name__ == "__main__":
    sys.exit(main())
