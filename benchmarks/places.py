"""What is measured side by side: processes that answer chat completions, and what the kernel says of them."""

from __future__ import annotations

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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

KEY = "sk-bench"


@dataclass(slots=True)
class Place:
    """A process, where it answers, how long it took to start, and what was measured of it."""

    pid: int
    base: str
    started: float
    rates: list[float] = field(default_factory=list[float])
    waits: list[float] = field(default_factory=list[float])
    costs: list[float] = field(default_factory=list[float])
    flow: float = 0.0  # seconds until all streams had ended
    chunk_cost: float = 0.0

    @property
    def rate(self) -> float:
        """Calls a second."""
        return statistics.median(self.rates)

    @property
    def wait(self) -> float:
        """Seconds of a call that has the place to itself."""
        return statistics.median(self.waits)

    @property
    def cost(self) -> float:
        """Processor seconds of a call."""
        return statistics.median(self.costs)

    @property
    def memory(self) -> float:
        """Most resident MB that the process ever had."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024

    def worked(self) -> float:
        """Processor seconds of the process so far."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(*command: str) -> Generator[Place]:
    """A server of ours, which prints its address on its first line."""
    began = time.perf_counter()
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        base = process.stdout.readline().strip()
        if not base:
            raise RuntimeError(f"{command[0]} did not start")
        yield Place(process.pid, base, time.perf_counter() - began)
    finally:
        process.kill()
        process.wait()


@contextmanager
def litellm(program: str, upstream: str) -> Generator[Place]:
    """LiteLLM's proxy in front of the same provider."""
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
        began = time.perf_counter()
        with open(f"{folder}/log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(f"{base}/health/liveliness", process, Path(folder) / "log")
            yield Place(process.pid, base, time.perf_counter() - began)
        finally:
            process.kill()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"LiteLLM did not start: {log.read_text()[-1000:]}") from None
            time.sleep(0.05)
