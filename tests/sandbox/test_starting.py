"""Boxes that were begun before anybody asked: they fit, they go, and nobody finds them afterwards."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gearcase.sandbox import owners, processes
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, Listener, SandboxSpec

SMALL = Limits(memory=128 << 20, cpus=1.0, disk=32 << 20, processes=32)


def spec(name, **more):
    return SandboxSpec(f"starting-{os.getpid()}-{name}", more.pop("limits", SMALL), **more)


def waiting_starts():
    """The owner files of this process's starts that nobody took yet."""
    folder = Path(owners.runtime_folder(), "boxes")
    return list(folder.glob(f"start-{os.getpid()}-*.json")) if folder.is_dir() else []


async def until(wanted):
    async with asyncio.timeout(20):
        while not wanted():
            await asyncio.sleep(0.01)


def test_after_a_box_the_next_one_is_begun_and_has_its_own_limits_names_and_sockets():
    async def scenario():
        driver = NamespacesDriver()
        try:
            first = await driver.open(spec("first"))
            await until(waiting_starts)
            await asyncio.sleep(0)
            bigger = Limits(memory=256 << 20, cpus=1.0, disk=32 << 20, processes=64)
            door = Listener("model.box", "198.18.0.1", 80)
            second = await driver.open(spec("second", limits=bigger, listeners=(door,), names={"model.box": "198.18.0.1"}))
            assert list(second.sockets) == [door]
            told = (await second.run(Command(("sh", "-c", "cat /etc/hosts; df -k /dev/shm | tail -1")))).stdout.text()
            assert "model.box" in told and str(256 * 1024 // 4) in told
            assert await first.close() == () and await second.close() == ()
        finally:
            await driver.close()
        assert waiting_starts() == []

    asyncio.run(scenario())


def test_a_box_with_another_disk_does_not_get_the_one_that_was_prepared():
    async def scenario():
        driver = NamespacesDriver()
        try:
            first = await driver.open(spec("small"))
            await until(waiting_starts)
            larger = Limits(memory=128 << 20, cpus=1.0, disk=96 << 20, processes=32)
            second = await driver.open(spec("large", limits=larger))
            size = os.fstatvfs(second.workspace)
            assert size.f_blocks * size.f_frsize > 80 << 20
            assert await first.close() == () and await second.close() == ()
        finally:
            await driver.close()

    asyncio.run(scenario())


def test_a_start_that_died_meanwhile_is_replaced():
    async def scenario():
        driver = NamespacesDriver()
        try:
            first = await driver.open(spec("one"))
            await until(lambda: any(json.loads(path.read_text())["processes"] for path in waiting_starts()))
            (record,) = (json.loads(path.read_text()) for path in waiting_starts())
            (pid,) = record["processes"]
            os.kill(int(pid), signal.SIGKILL)
            await until(lambda: processes.look(int(pid)) is None)
            second = await driver.open(spec("two"))
            assert (await second.run(Command(("true",)))).exit_code == 0
            assert await first.close() == () and await second.close() == ()
        finally:
            await driver.close()

    asyncio.run(scenario())


_HOST = """
import asyncio, os, sys
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Limits, SandboxSpec
async def main():
    driver = NamespacesDriver()
    await driver.open(SandboxSpec(f"starting-{os.getpid()}-killed", Limits(128 << 20, 1.0, 32 << 20, 32)))
    print("open", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_killed_host_leaves_no_start_behind():
    with subprocess.Popen([sys.executable, "-c", _HOST], stdout=subprocess.PIPE) as host:
        assert host.stdout.readline() == b"open\n"
        folder = Path(owners.runtime_folder(), "boxes")
        mine = f"start-{host.pid}-*.json"
        deadline = time.monotonic() + 20
        while not any(json.loads(path.read_text() or "{}").get("processes") for path in folder.glob(mine)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        records = [json.loads(path.read_text()) for path in (*folder.glob(mine), *folder.glob(f"starting-{host.pid}-*.json"))]
        host.kill()
    pids = [int(pid) for record in records for pid in record["processes"]]
    assert len(pids) == 2
    while any(processes.look(pid) for pid in pids):
        assert time.monotonic() < deadline + 20
        time.sleep(0.01)
    owners.sweep()
    assert list(folder.glob(f"*{host.pid}*")) == []
    assert not any(os.path.exists(path) for record in records for path in record["cgroups"])
