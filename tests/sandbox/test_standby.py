"""Joiners that wait for their command: nobody in the box meets them, and whatever happens to one, the next command runs."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

from gearcase.sandbox import owners, processes
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

LIMITS = Limits(memory=128 << 20, cpus=1.0, disk=32 << 20, processes=16)


@asynccontextmanager
async def box(name):
    driver = NamespacesDriver()
    try:
        opened = await driver.open(SandboxSpec(f"standby-{os.getpid()}-{name}", LIMITS))
        await settled(opened)
        yield opened
        assert await opened.close() == ()
    finally:
        await driver.close()


def waiting(opened):
    return opened._live.parts.standbys.pids


async def settled(opened):
    async with asyncio.timeout(20):
        while len(waiting(opened)) < 2:
            await asyncio.sleep(0.01)


async def shell(opened, script):
    return await opened.run(Command(("sh", "-c", script), deadline=20))


def alive(pid):
    one = processes.look(pid)
    return one is not None and one.state not in "ZX"


def test_a_waiting_joiner_is_neither_seen_nor_counted_in_the_box():
    async def scenario():
        async with box("unseen") as opened:
            assert (await opened.usage()).processes == 0
            told = (await shell(opened, "cat /proc/[0-9]*/comm; true")).stdout.text()
            assert told.split()[1:] == ["sh"], "the box's first process, and the command"

    asyncio.run(scenario())


def test_the_next_command_runs_although_every_waiting_joiner_was_killed_or_the_box_was_frozen_meanwhile():
    async def scenario():
        async with box("killed") as opened:
            killed = waiting(opened)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            while any(map(alive, killed)):
                await asyncio.sleep(0.01)
            assert (await shell(opened, "echo after")).stdout.text() == "after\n"
            await settled(opened)
            await opened.freeze()
            await opened.thaw()
            assert (await shell(opened, "echo thawed")).stdout.text() == "thawed\n"

    asyncio.run(scenario())


def test_many_commands_at_once_each_have_a_joiner():
    async def scenario():
        async with box("many") as opened:
            told = await asyncio.gather(*(shell(opened, f"echo {number}") for number in range(10)))
            assert [one.stdout.text() for one in told] == [f"{number}\n" for number in range(10)]

    asyncio.run(scenario())


def test_no_joiner_outlives_its_box_not_even_a_frozen_one():
    async def scenario():
        for frozen in (False, True):
            async with box(f"end-{frozen}") as opened:
                pids = waiting(opened)
                if frozen:
                    await opened.freeze()
            until = time.monotonic() + 1
            while any(map(alive, pids)) and time.monotonic() < until:
                await asyncio.sleep(0.01)
            assert pids and not any(map(alive, pids))

    asyncio.run(scenario())


_HOST = """
import asyncio, os, sys
from gearcase.sandbox import owners
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Limits, SandboxSpec
owners.runtime_folder = lambda: sys.argv[1]  # where nobody else's start sweeps
async def main():
    box = await NamespacesDriver().open(SandboxSpec(f"standby-{os.getpid()}-host", Limits(128 << 20, 1.0, 32 << 20, 16)))
    while len(box._live.parts.standbys.pids) < 2:
        await asyncio.sleep(0.01)
    await box.freeze()
    print(*box._live.parts.standbys.pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_killed_host_takes_the_joiners_of_a_frozen_box_along(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _HOST, tmp_path / "runtime"], stdout=subprocess.PIPE) as host:
        pids = [int(word) for word in host.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        host.kill()
    try:
        until = time.monotonic() + 10
        while any(map(alive, pids)) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(map(alive, pids))
    finally:
        owners.sweep(f"{tmp_path}/runtime/boxes")
