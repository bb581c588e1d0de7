"""The model door against LiteLLM's proxy (one worker, no database), on the same fake provider, in one run.

    python benchmarks/door.py --litellm PATH/TO/litellm

Both carry the same requests to `provider.py`; ours meters, holds and journals each call, grouped and strict. `wrk` is the client.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import load
from figures import Figure, show

HERE = Path(__file__).parent
ROUNDS, SECONDS, STREAMS = 3, 3, 64
KEY = "sk-bench"


@contextmanager
def serving(*command: str) -> Generator[tuple[int, str]]:
    """A server of ours that prints its address on its first line: (pid, address)."""
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def litellm(program: str, upstream: str) -> Generator[tuple[int, str]]:
    """LiteLLM's proxy in front of the same provider: (pid, address)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        parameters = {"model": "openai/gpt-5-mini", "api_base": f"{upstream}/v1", "api_key": KEY}
        models = [{"model_name": "gpt-5-mini", "litellm_params": parameters}]
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps({"model_list": models, "litellm_settings": {"telemetry": False}}))
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": folder,
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        command = [program, "--config", str(config), "--port", str(port), "--num_workers", "1", "--host", "127.0.0.1"]
        with open(f"{folder}/log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(f"{base}/health/liveliness", process, Path(folder) / "log")
            yield process.pid, base
        finally:
            process.kill()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"LiteLLM did not start: {log.read_text()[-1000:]}") from None
            time.sleep(0.2)


def peak_memory(pid: int) -> float:
    """Most resident MB that a process ever had."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def measure(program: str) -> list[Figure]:
    """Every figure of the door."""
    with ExitStack() as stack:
        _, direct = stack.enter_context(serving(str(HERE / "provider.py")))
        grouped_pid, grouped = stack.enter_context(serving(str(HERE / "our_door.py"), direct, "grouped"))
        _, strict = stack.enter_context(serving(str(HERE / "our_door.py"), direct, "strict"))
        peer_pid, peer = stack.enter_context(litellm(program, direct))
        places = {"direct": direct, "grouped": grouped, "strict": strict, "peer": peer}
        for base in places.values():
            load.calls(base, 8, 1)
        rates: dict[str, list[float]] = {name: [] for name in places}
        waits: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(ROUNDS):
            for name, base in places.items():
                rates[name].append(load.calls(base, 32, SECONDS).rate)
                waits[name].append(load.calls(base, 1, SECONDS).median)
        rate = {name: statistics.median(values) for name, values in rates.items()}
        added = {name: statistics.median(values) - statistics.median(waits["direct"]) for name, values in waits.items()}
        flow = {name: load.streams(base, STREAMS) for name, base in places.items() if name != "strict"}
        ideal = 199 * 0.02  # 200 chunks, 50 a second
        memory, peer_memory = peak_memory(grouped_pid), peak_memory(peer_pid)

    def rated(name: str, goal: float | None) -> Figure:
        ours, theirs = f"{rate[name]:,.0f}/s", f"LiteLLM {rate['peer']:,.0f}/s"
        return Figure(f"calls a second, 32 connections, {name} journal", ours, theirs, rate[name] / rate["peer"], at_least=goal)

    def waited(name: str, goal: float | None) -> Figure:
        ours, theirs = f"{added[name] * 1000:.2f} ms", f"LiteLLM {added['peer'] * 1000:.1f} ms"
        return Figure(f"added median, 1 connection, {name} journal", ours, theirs, added[name] / added["peer"], at_most=goal)

    beside = f"ideal {ideal:.2f} s, direct {flow['direct']:.3f} s, LiteLLM {flow['peer']:.2f} s"
    size = f"LiteLLM {peer_memory:.0f} MB"
    return [
        rated("grouped", 20),
        waited("grouped", 1 / 15),
        rated("strict", None),
        waited("strict", None),
        Figure(
            f"{STREAMS} streams of 200 chunks at 50/s", f"{flow['grouped']:.3f} s", beside, flow["grouped"] / ideal, at_most=1.03
        ),
        Figure("peak memory of the door, under that load", f"{memory:.1f} MB", size, memory, at_most=60, unit="MB"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", required=True)
    sys.exit(show(measure(parser.parse_args().litellm)))
