"""The http door against a direct connection to the same local server, in turn, in one run: large bodies, and new connections. Beside us,
where it and what it needs (bwrap, socat, rg) are installed, `@anthropic-ai/sandbox-runtime`, whose proxy is reached over socat.

    python benchmarks/egress.py [--srt PATH/TO/srt]

The client is curl everywhere, unmodified; what it says of itself is what is counted, so starting a box is no part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from figures import Figure, show

ROUNDS, BODIES, CONNECTIONS = 3, 3, 100
SIZE = 256 << 20
NAME = "bench.example.org"
COMMAND = Path(sys.executable).with_name("gearcase")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        asked = b""
        while b"\r\n\r\n" not in asked:
            if not (data := connection.recv(65536)):
                return
            asked += data
        size = SIZE if b"/large" in asked.split(b"\r\n", 1)[0] else 2
        connection.sendall(_HEAD % size)
        part = bytes(min(size, 1 << 20))
        for _ in range(size // len(part)):
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def serve() -> None:
    """A server of zeros, each answer on a connection of its own; prints its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=_answer, args=(listening.accept()[0],), daemon=True).start()


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The server as a process of its own; gives its port."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def script(base: str, options: str = "") -> str:
    """Shell for the client: bytes a second of each large body, then seconds of each small answer on a connection of its own."""
    curl = f"curl -sS {options}"
    large = " ".join([f"-o /dev/null {base}/large"] * BODIES)
    small = f"-o /dev/null '{base}/small?[1-{CONNECTIONS}]'"
    return f"{curl} -w 'rate %{{speed_download}}\\n' {large}; {curl} -w 'took %{{time_total}}\\n' {small}"


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[list[float], list[float]]:
    """Run it; returns rates and seconds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    words = [line.split() for line in done.stdout.splitlines()]
    rates = [float(one[1]) for one in words if one[0] == "rate"]
    took = [float(one[1]) for one in words if one[0] == "took"]
    if len(rates) != BODIES or len(took) < CONNECTIONS:
        raise RuntimeError(f"{command[0]} did not do it: {done.stdout[-500:]} {done.stderr[-1000:]}")
    return rates, took


def commands(folder: Path, port: int, srt: str) -> dict[str, tuple[list[str], dict[str, str] | None]]:
    """How each way is run."""
    box = folder / "box.toml"
    box.write_text(
        '[limits]\negress = "1TiB"\nwall = "10m"\n[files]\n[doors.http]\n'
        f'allow = ["{NAME}"]\nhosts = {{ "{NAME}" = "127.0.0.1:{port}" }}\n'
    )
    state = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    ours = [str(COMMAND), "exec", "-f", str(box), "--", "sh", "-c", script(f"http://{NAME}")]
    ways: dict[str, tuple[list[str], dict[str, str] | None]] = {
        "direct": (["sh", "-c", script(f"http://127.0.0.1:{port}")], None),
        "door": (ours, state),
    }
    if srt and all(map(shutil.which, ("bwrap", "socat", "rg"))):
        settings = folder / "srt.json"
        settings.write_text(
            json.dumps(
                {
                    "network": {"allowedDomains": ["localhost"], "deniedDomains": []},
                    "filesystem": {"denyRead": [], "allowWrite": ["/tmp"], "denyWrite": []},
                }
            )
        )
        inside = script(f"http://localhost:{port}", "--noproxy '' -x $HTTP_PROXY")
        ways["srt"] = ([srt, "--settings", str(settings), "-c", inside], None)
    return ways


def measure(srt: str = "") -> list[Figure]:
    """Every figure of the door."""
    rates: dict[str, list[float]] = {}
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, server() as port:
        ways = commands(Path(folder), port, srt)
        for _ in range(ROUNDS):
            for name, (command, environment) in ways.items():
                large, small = measured(command, environment)
                rates.setdefault(name, []).extend(large)
                took.setdefault(name, []).extend(small)
    rate = {name: statistics.median(values) / 1e6 for name, values in rates.items()}
    wait = {name: statistics.median(values) * 1000 for name, values in took.items()}
    large, small = f"bodies of {SIZE >> 20} MiB through the http door", "added median wait of a new connection, http door"
    added = wait["door"] - wait["direct"]
    figures = [
        Figure(
            large, f"{rate['door']:,.0f} MB/s", f"direct {rate['direct']:,.0f} MB/s", rate["door"] / rate["direct"], at_least=0.4
        ),
        Figure(small, f"{wait['door']:.2f} ms", f"direct {wait['direct']:.2f} ms", added, at_most=3.0, unit="ms"),
    ]
    if "srt" in rate:
        theirs = wait["srt"] - wait["direct"]
        figures += [
            Figure(large, f"{rate['door']:,.0f} MB/s", f"sandbox-runtime {rate['srt']:,.0f} MB/s", rate["door"] / rate["srt"]),
            Figure(small, f"{added:.2f} ms", f"sandbox-runtime {theirs:.2f} ms", added / theirs),
        ]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--srt", default="")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve()
    return show(measure(options.srt))


if __name__ == "__main__":
    sys.exit(main())
