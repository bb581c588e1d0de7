"""The redis door against a bare byte pump, in turn, in one run: GET and SET with 16 clients, one command at a time, on the same server.

    python benchmarks/redis.py

The door counts bytes and asks the server what was done; the pump does neither. Each is a process of its own, and the load comes from
redis-benchmark (Debian: redis-tools).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import sys
import tempfile
from pathlib import Path

import uvloop
from figures import Figure, show

from gearcase.box.doors import RedisDoor as Declared
from gearcase.doors.redis.door import RedisDoor
from gearcase.doors.redis.server import SOCKET
from gearcase.journal import Journal
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Housing

HERE = Path(__file__).parent
ROUNDS, CLIENTS, REQUESTS = 5, 16, 60_000
LEAST = 0.6


async def serve(folder: Path) -> None:
    """Serve the door until the standard input ends; prints its port and the path of its server's socket."""
    driver = NamespacesDriver()
    journal = Journal.create(folder / "journal")

    async def adopt(sandbox: object) -> None:
        """Nothing brakes here."""

    housing = Housing(driver, journal, adopt, lambda sandbox, residue: None, folder)
    door = RedisDoor("bench", Declared(), folder / "volumes", alone=True)
    try:
        await door.open(housing)
        listening = socket.create_server(("127.0.0.1", 0))
        await door.serve("lead", door.places[0], listening, lambda count: None)
        server = door._server
        assert server is not None
        path = server.housed.path_of(SOCKET).replace("self", str(os.getpid()))
        print(json.dumps([listening.getsockname()[1], path]), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await door.close()
        await driver.close()


async def load(program: str, *place: str) -> dict[str, float]:
    """Commands a second, by their name."""
    arguments = ("-c", str(CLIENTS), "-n", str(REQUESTS), "-P", "1", "-r", "10000", "-t", "get,set", "-q")
    process = await asyncio.create_subprocess_exec(
        program, *place, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    found = {name: float(rate) for name, rate in re.findall(r"(GET|SET): ([\d.]+) requests per second", out.decode())}
    if set(found) != {"GET", "SET"}:
        raise SystemExit(f"{program} failed: {out.decode()[-500:]}")
    return found


async def measure() -> list[Figure]:
    """Every figure of the door."""
    program = shutil.which("redis-benchmark")
    if program is None:
        raise SystemExit("benchmarks/redis.py needs redis-benchmark: install it (Debian: apt-get install redis-tools)")
    pipe = asyncio.subprocess.PIPE
    with tempfile.TemporaryDirectory(dir="/var/tmp") as text:
        door = await asyncio.create_subprocess_exec(sys.executable, __file__, text, stdin=pipe, stdout=pipe)
        assert door.stdout is not None
        port, path = json.loads(await door.stdout.readline())
        pump = await asyncio.create_subprocess_exec(sys.executable, HERE / "pump.py", path, stdout=pipe)
        assert pump.stdout is not None
        try:
            pumped = int(await pump.stdout.readline())
            places = {"door": ("-p", str(port)), "pump": ("-p", str(pumped)), "direct": ("-s", path)}
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in places}
            for _ in range(ROUNDS):
                for name, place in places.items():
                    rounds[name].append(await load(program, *place))
        finally:
            pump.kill()
            await pump.wait()
            await door.communicate(b"")
    return [one for command in ("GET", "SET") for one in _figures(command, rounds)]


def _figures(command: str, rounds: dict[str, list[dict[str, float]]]) -> list[Figure]:
    ours, pump, direct = (statistics.median(one[command] for one in rounds[name]) for name in ("door", "pump", "direct"))
    what = f"{command} a second through the redis door, {CLIENTS} clients"
    return [
        Figure(what, f"{ours:,.0f}/s", f"bare byte pump {pump:,.0f}/s", ours / pump, at_least=LEAST),
        Figure(what, f"{ours:,.0f}/s", f"Unix socket, direct {direct:,.0f}/s", ours / direct),
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvloop.run(serve(Path(sys.argv[1])))
    else:
        sys.exit(show(asyncio.run(measure())))
