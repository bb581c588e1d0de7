"""`gear map` beside a bare asyncio and aiohttp loop with the same calls: 10,000 items, an upstream that answers after 50 ms, 512 in flight.

Ours is a whole run: the box, the gear door, holds and settlements in a journal. Time is that of the command in the box, from its start to
its end. The memory is that of the process of a run that maps an input of a million lines, of which it skips nothing and asks nothing:
each line is found, because all are the same question.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure

ITEMS, IN_FLIGHT, DELAY, ROUNDS = 10_000, 512, 0.05, 3
HERE = Path(__file__).resolve().parent
PROMPT = "One line of a log follows. Answer with its level and its message.\n\n"

BARE = f"""
import asyncio, aiohttp, json, sys, time
async def main(base, items, in_flight):
    waiting = iter(range(items))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def work():
            for number in waiting:
                message = {{"role": "user", "content": {PROMPT!r} + f"line {{number}} of a log"}}
                body = {{"model": "gpt-5-mini", "max_completion_tokens": 256, "messages": [message]}}
                async with session.post(base + "/chat/completions", json=body) as reply:
                    told = json.loads(await reply.read())
                    assert told["choices"][0]["message"]["content"]
        await asyncio.gather(*(work() for _ in range(in_flight)))
import uvloop
began = time.monotonic()
uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
print(time.monotonic() - began)
"""

OURS = """
cat > p <<'END'
%s
{item}
END
seq 0 %d | sed 's/^/line /; s/$/ of a log/' > items.txt
python3 - <<'END'
import subprocess, time
began = time.monotonic()
subprocess.run(["gear", "map", "--over", "items.txt", "--split", "lines:1", "--prompt", "p", "--out", "out", "--no-canary",
                "--concurrency", "%d", "--max-output", "256"], check=True)
print("took", time.monotonic() - began)
END
"""

SAME = """
echo 'Say ok.' > p
yes 'the same line of a log, again and again' | head -%d > items.txt
gear map --over items.txt --split lines:1 --prompt p --out out --no-canary --concurrency 512 --max-output 256
"""


def bare(base: str) -> float:
    """Seconds of the bare loop."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, f"{base}/v1", str(ITEMS), str(IN_FLIGHT)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def run(base: str, program: str) -> tuple[str, float]:
    """A run of ours with this program: what it printed, and the most memory of its process in MiB."""
    with tempfile.TemporaryDirectory() as state:
        Path(state, "box.toml").write_text(
            f'[model]\nworker = "{base}/v1#gpt-5-mini"\n[limits]\nusd = "5.00"\nmemory = "1GiB"\ndisk = "1GiB"\ncpus = 2.0\n'
        )
        environment = {**os.environ, "XDG_STATE_HOME": state, "OPENAI_API_KEY": "sk-bench"}
        command = [Path(sys.executable).with_name("gearcase"), "exec", "-f", f"{state}/box.toml", "--", "bash", "-c", program]
        going = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        most = 0.0
        while going.poll() is None:
            most = max(most, _memory(Path(state)))
            time.sleep(0.1)
        assert going.stdout is not None
        said = going.stdout.read()
        assert going.returncode == 0, said
        return said, most


def _memory(state: Path) -> float:
    try:
        pid = json.loads(next(state.glob("gearcase/runs/*/owner")).read_text())["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
    except (StopIteration, OSError, ValueError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def measure(items: int = 1_000_000) -> list[Figure]:
    """Both figures."""
    provider = subprocess.Popen([sys.executable, HERE / "provider.py", str(DELAY)], stdout=subprocess.PIPE, text=True)
    assert provider.stdout is not None
    base = provider.stdout.readline().strip()
    try:
        theirs, ours = list[float](), list[float]()
        for _ in range(ROUNDS):
            theirs.append(bare(base))
            said, _ = run(base, OURS % (PROMPT, ITEMS - 1, IN_FLIGHT))
            ours.append(float(said.partition("took ")[2].split()[0]))
        _, memory = run(base, SAME % items) if items else ("", 0.0)
    finally:
        provider.kill()
        provider.wait()
    best, floor = min(ours), min(theirs)
    told = f"{best:.2f} s ({statistics.median(ours):.2f} in the middle)"
    beside = f"{floor:.2f} s ({statistics.median(theirs):.2f}) bare asyncio and aiohttp"
    what = f"map: {ITEMS:,} calls of 50 ms, {IN_FLIGHT} in flight"
    figures = [Figure(what, told, beside, best / floor, at_most=1.5)]
    if items:
        figures.append(Figure(f"map: memory over {items:,} lines", f"{memory:.0f} MiB", "", memory, at_most=300, unit="MiB"))
    return figures


if __name__ == "__main__":
    for figure in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000):
        print(figure)
