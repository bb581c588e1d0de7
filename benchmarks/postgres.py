"""The postgres door against a bare byte pump, in turn, in one run: `pgbench -S` with 8 clients, on the same server. And a branch of 100 MB
beside `createdb -T` of the same data.

    python benchmarks/postgres.py

The door counts and journals every statement; the pump parses nothing. Each is a process of its own. A branch is a whole server in a
sandbox of its own with a copy of what another server of this machine holds; `createdb -T` is a copy inside a server that runs.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from figures import Figure, show

from gearcase.box.doors import PostgresDoor as Declared
from gearcase.doors.postgres.cluster import Cluster
from gearcase.doors.postgres.door import PostgresDoor
from gearcase.journal import Journal
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Housing

HERE = Path(__file__).parent
ROUNDS, SECONDS, CLIENTS = 5, 3, 8
SCALE = 7
"""Of pgbench's data: 105 MB."""


@asynccontextmanager
async def opened(folder: Path, declared: Declared | None = None) -> AsyncIterator[tuple[PostgresDoor, Cluster, int]]:
    """The door, the server behind it, and the port on which the door is served here."""
    driver = NamespacesDriver()
    journal = Journal.create(folder / "journal")

    async def adopt(sandbox: object) -> None:
        """Nothing brakes here."""

    housing = Housing(driver, journal, adopt, lambda sandbox, residue: None, folder)
    door = PostgresDoor("bench", declared or Declared(), alone=True)
    try:
        await door.open(housing)
        listening = socket.create_server(("127.0.0.1", 0))
        await door.serve("lead", door.places[0], listening, lambda count: None)
        cluster = door._cluster
        assert cluster is not None
        yield door, cluster, listening.getsockname()[1]
    finally:
        await door.close()
        await driver.close()


async def pgbench(cluster: Cluster, host: str, port: int, *arguments: str) -> str:
    """Run it as the agent would."""
    environment = {"PGHOST": host, "PGPORT": str(port), "PGUSER": "agent", "PGDATABASE": "bench", "PATH": "/usr/bin:/bin"}
    process = await asyncio.create_subprocess_exec(
        cluster.binaries.program("pgbench"),
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())
    return out.decode()


async def measure() -> list[Figure]:
    """Every figure of the door."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as text:
        folder = Path(text)
        async with opened(folder) as (door, cluster, port):
            path = cluster.housed.path_of(".s.PGSQL.5432").replace("self", str(os.getpid()))
            (folder / ".s.PGSQL.5432").symlink_to(path)
            pump = await asyncio.create_subprocess_exec(sys.executable, HERE / "pump.py", path, stdout=asyncio.subprocess.PIPE)
            assert pump.stdout is not None
            pumped = int(await pump.stdout.readline())
            try:
                await pgbench(cluster, "127.0.0.1", port, "-iq", "-s", str(SCALE))
                places = {"door": ("127.0.0.1", port), "pump": ("127.0.0.1", pumped), "direct": (text, 5432)}
                rates: dict[str, list[float]] = {name: [] for name in places}
                for _ in range(ROUNDS):
                    for name, place in places.items():
                        told = await pgbench(cluster, *place, "-S", "-n", "-c", str(CLIENTS), "-T", str(SECONDS))
                        found = re.search(r"tps = ([\d.]+)", told)
                        assert found is not None, told
                        rates[name].append(float(found[1]))
            finally:
                pump.kill()
                await pump.wait()
            return [*_rates({name: statistics.median(one) for name, one in rates.items()}), *await _start(door, cluster, folder)]


def _rates(rates: dict[str, float]) -> list[Figure]:
    ours, pump, direct = rates["door"], rates["pump"], rates["direct"]
    what = f"queries a second through the postgres door, {CLIENTS} clients"
    return [
        Figure(what, f"{ours:,.0f}/s", f"bare byte pump {pump:,.0f}/s", ours / pump, at_least=0.6),
        Figure(what, f"{ours:,.0f}/s", f"Unix socket, direct {direct:,.0f}/s", ours / direct),
    ]


async def _start(door: PostgresDoor, cluster: Cluster, folder: Path) -> list[Figure]:
    """A snapshot, a branch, and a copy of the same data inside the server: the quickest that PostgreSQL itself can do."""
    size = int(await cluster.ask("SELECT pg_database_size('bench');"))
    branches, copies, templates, dumps, own = [], [], [], [], []
    stopped = folder / "stopped"
    await _stopped(folder, stopped)
    for number in range(ROUNDS):
        templates.append(await _template(cluster, number))
        began = time.perf_counter()
        await cluster.dump_to(folder / f"snapshots-{number}" / "dump")
        dumps.append(time.perf_counter() - began)
        (folder / f"branch-{number}").mkdir()
        declared = Declared.model_validate({"mode": "branch", "from": f"postgresql://agent@/bench?host={folder}"})
        began = time.perf_counter()
        async with opened(folder / f"branch-{number}", declared):
            branches.append(time.perf_counter() - began)
        (folder / f"copy-{number}").mkdir()
        declared = Declared.model_validate({"mode": "branch", "from": str(stopped)})
        began = time.perf_counter()
        async with opened(folder / f"copy-{number}", declared):
            copies.append(time.perf_counter() - began)
        await cluster.ask(f"DROP DATABASE copy{number};", database="postgres")
        own.append(await _of_a_sub_agent(door, number))
    branch, copy, template, dump = (statistics.median(one) for one in (branches, copies, templates, dumps))
    sub_agent = statistics.median(own)
    beside, data = f"createdb -T {template:.2f} s", f"{size / 1e6:.0f} MB"
    return [
        Figure(f"a branch of a local database of {data}", f"{branch:.2f} s", beside, branch, at_most=1.0, unit="s"),
        Figure(f"a branch of a local database of {data}", f"{branch:.2f} s", beside, branch / template),
        Figure(f"a branch of a stopped cluster of {data}", f"{copy:.2f} s", beside, copy, at_most=1.0, unit="s"),
        Figure(f"a branch of a stopped cluster of {data}", f"{copy:.2f} s", beside, copy / template),
        Figure(f"a sub-agent's branch of a branch of {data}", f"{sub_agent:.2f} s", beside, sub_agent, at_most=1.0, unit="s"),
        Figure(f"a sub-agent's branch of a branch of {data}", f"{sub_agent:.2f} s", beside, sub_agent / template),
        Figure(f"a snapshot at the gate, of {data}", f"{dump:.2f} s", beside, dump / template),
    ]


async def _stopped(folder: Path, target: Path) -> None:
    """The data directory of a server with the same data, which was stopped."""
    (folder / "to-stop").mkdir()
    declared = Declared.model_validate({"mode": "branch", "from": f"postgresql://agent@/bench?host={folder}"})
    async with opened(folder / "to-stop", declared) as (_door, cluster, _port):
        await cluster.run("pg_ctl", "-D", "/workspace/data", "-w", "-m", "fast", "stop")
        shutil.copytree(f"/proc/self/fd/{cluster.housed.sandbox.workspace}/data", target)


async def _of_a_sub_agent(door: PostgresDoor, number: int) -> float:
    """Seconds until a sub-agent has a branch of what is behind a door that is open."""
    assert door._housing is not None
    own = door.branch(f"a{number}")
    began = time.perf_counter()
    try:
        await own.open(door._housing)
        return time.perf_counter() - began
    finally:
        await own.close()


async def _template(cluster: Cluster, number: int) -> float:
    """Seconds of `createdb -T`, for which nobody may be connected."""
    await cluster.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'bench';", database="postgres")
    began = time.perf_counter()
    done = await cluster.run("createdb", "-T", "bench", f"copy{number}")
    if done.exit_code:
        raise SystemExit(done.stderr.text())
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(show(uvloop.run(measure())))
