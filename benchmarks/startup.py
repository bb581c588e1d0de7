"""How long the command takes: `--version`, and `gearcase run` until its first model call has arrived at the provider.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, show

ROUNDS = 7
COMMAND = Path(sys.executable).with_name("gearcase")


def version() -> float:
    """Seconds of `gearcase --version`."""
    began = time.perf_counter()
    subprocess.run([COMMAND, "--version"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_call(home: Path) -> float:
    """Seconds from the start of `gearcase run` to a connection at the provider."""
    home.mkdir()
    box = home / "box.toml"
    with socket.create_server(("127.0.0.1", 0)) as provider:
        base = f"http://127.0.0.1:{provider.getsockname()[1]}"
        box.write_text(f'goal = "g"\n[model]\nlead = "openai/gpt-5-mini"\n[model.providers.openai]\nbase = "{base}"\n')
        environment = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home), "OPENAI_API_KEY": "sk-bench"}
        began = time.perf_counter()
        run = subprocess.Popen(
            [COMMAND, "run", "-f", str(box), "--quiet"],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        provider.settimeout(30)
        call, _ = provider.accept()
        seconds = time.perf_counter() - began
        subprocess.run([COMMAND, "kill", "--yes"], env=environment, check=True, stdout=subprocess.DEVNULL)
        call.close()
        run.send_signal(signal.SIGTERM)
        run.wait()
    return seconds


def measure() -> list[Figure]:
    """Every figure of the start."""
    version()
    versions = statistics.median(version() for _ in range(ROUNDS)) * 1000
    with tempfile.TemporaryDirectory() as folder:
        calls = statistics.median(first_call(Path(folder, str(number))) for number in range(ROUNDS)) * 1000
    return [
        Figure("`gearcase --version`, median", f"{versions:.0f} ms", "", versions, at_most=150, unit="ms"),
        Figure("`gearcase run` to the first model call, median", f"{calls:.0f} ms", "", calls, at_most=500, unit="ms"),
    ]


if __name__ == "__main__":
    sys.exit(show(measure()))
