"""How long a sub-agent takes from `spawn` to its first model call, with 10 MB of files, and what 200 that wait for a slow model cost.

python benchmarks/spawn.py [--rounds N] [--live N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from figures import Figure, show

ROUNDS = 30
LIVE = 200
FILES, FILE_BYTES = 500, 20_000
SLOW = 120.0
"""Seconds that the slow model takes."""
COMMAND = Path(sys.executable).with_name("gearcase")
ASK = """
import json, sys, time, urllib.request
def call(name, **given):
    request = urllib.request.Request("http://gear.box/v1/" + name, json.dumps(given).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))
begun = {}
for number in range(int(sys.argv[1])):
    goal = f"bench {number}."
    begun[goal] = time.time()
    agent = call("spawn", goal=goal, usd="0.20", take=["none"])["agent"]
    if sys.argv[2] == "wait":
        while not call("wait", agents=[agent])["over"]:
            pass
json.dump(begun, open("begun.json", "w"))
"""


@contextmanager
def provider(folder: Path, steps: list[dict[str, object]]) -> Generator[tuple[str, Path]]:
    """The fake provider in a process of its own; gives its address and its log."""
    script, log = folder / "script.json", folder / "log.jsonl"
    script.write_text(json.dumps(steps))
    log.touch()
    module = "gearcase.doors.model.upstreams.scripted"
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--script", script, "--log", log], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), log
    finally:
        process.terminate()
        process.wait()


def begin(folder: Path, base: str, live: int) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """A run whose lead is that provider, on 10 MB of files."""
    given = folder / "data"
    given.mkdir()
    for number in range(FILES):
        (given / f"{number:03}.bin").write_bytes(os.urandom(FILE_BYTES))
    (folder / "ask.py").write_text(ASK)
    limits = '[limits]\nusd = 200\nwall = "20m"\nmemory = "256MiB"\ndisk = "64MiB"\nprocesses = 64\n'
    limits += f"[swarm]\nagents = {live}\nlive = {live}\n"
    files = f'[files]\ngive = ["{given}", "{folder / "ask.py"}"]\ntake = ["begun.json"]\n'
    (folder / "box.toml").write_text(f'goal = "the lead"\n[model]\nlead = "{base}#bench"\n{limits}{files}')
    environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    command = [COMMAND, "run", "-f", folder / "box.toml", "--out", folder / "out", "--quiet"]
    run = subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return run, environment


def first_calls(folder: Path, rounds: int) -> list[float]:
    """Seconds from each spawn, as the program that spawns sees it, to the arrival of the sub-agent's first call at the provider."""
    folder.mkdir()
    ask = f"python3 ask.py {rounds} wait && gear done"
    steps: list[dict[str, object]] = [
        {"when": "bench", "commands": ["gear done"]},
        {"commands": [ask]},
        {"commands": ["gear done --as-is"]},
    ]
    with provider(folder, steps) as (base, log):
        run, _ = begin(folder, base, rounds)
        run.wait()
        arrived: dict[str, float] = {}
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            goal = entry["asked"].partition("[left")[0].strip()
            arrived.setdefault(goal, entry["time"])
    begun: dict[str, float] = json.loads((folder / "out" / "begun.json").read_text())
    return [arrived[goal] - at for goal, at in begun.items()]


def waiting(folder: Path, live: int) -> tuple[float, float, int]:
    """Bytes that a run uses while so many sub-agents wait for a slow model, seconds until all did, and its processes."""
    folder.mkdir()
    steps: list[dict[str, object]] = [{"when": "bench", "fault": "slow", "delay": SLOW, "commands": ["gear done"]}]
    steps.append({"commands": [f"python3 ask.py {live} go && sleep {SLOW:g}"]})
    with provider(folder, steps) as (base, log):
        began = time.monotonic()
        run, environment = begin(folder, base, live)
        while sum("bench" in line for line in log.read_text().splitlines()) < live:
            if run.poll() is not None:
                raise RuntimeError("the run ended before all waited: see its report")
            time.sleep(0.2)
        seconds = time.monotonic() - began
        size, count = memory(run.pid)
        subprocess.run([COMMAND, "kill", "--yes"], env=environment, check=True, stdout=subprocess.DEVNULL)
        run.wait()
    return size, seconds, count


def memory(top: int) -> tuple[float, int]:
    """Proportional memory of a process and all below it, in bytes, and how many they are."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    size, count, waiting = 0, 0, [top]
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        size += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        count += 1
    return size, count


def measure(rounds: int = ROUNDS, live: int = LIVE) -> list[Figure]:
    """Every figure of sub-agents."""
    with tempfile.TemporaryDirectory() as folder:
        calls = sorted(seconds * 1000 for seconds in first_calls(Path(folder, "calls"), rounds))
        size, seconds, count = waiting(Path(folder, "live"), live)
    middle, worst = statistics.median(calls), calls[int(len(calls) * 0.9)]
    one = f"{middle:.0f} ms; 9 of 10 within {worst:.0f} ms"
    gib = size / 2**30
    many = f"{gib:.2f} GiB, {count} processes; all waited after {seconds:.0f} s"
    return [
        Figure(
            "`gear spawn` to the sub-agent's first model call, 500 files of 20 kB, median", one, "", middle, at_most=60, unit="ms"
        ),
        Figure(f"memory with {live} sub-agents that wait for a slow model", many, "", gib, at_most=4, unit="GiB"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--live", type=int, default=LIVE)
    options = parser.parse_args()
    sys.exit(show(measure(options.rounds, options.live)))
