"""How much of a branch has arrived is told while it is copied."""

import asyncio
import subprocess
from types import SimpleNamespace

from gearcase.doors.postgres import branching
from gearcase.seams import Usage


def test_each_second_it_is_told_how_much_fuller_the_disk_of_the_server_is(monkeypatch):
    monkeypatch.setattr(branching, "_TELL", 0.01)
    told, disk = [], iter([100, 100, 250, 90, *[400] * 1000])

    class Sandbox:
        async def usage(self):
            return Usage(0.0, 0, 0, next(disk), 0)

    housing = SimpleNamespace(recorder=SimpleNamespace(append=lambda event, agent="": told.append(event)))
    cluster = SimpleNamespace(housed=SimpleNamespace(sandbox=Sandbox()))

    async def copy():
        async with branching._telling(housing, "postgres.shop", cluster, 1000):
            while len(told) < 4:
                await asyncio.sleep(0.01)
        before = len(told)
        await asyncio.sleep(0.05)
        assert len(told) == before, "nothing is told once it has ended"

    asyncio.run(asyncio.wait_for(copy(), 10))
    assert [one.bytes for one in told[:4]] == [0, 150, 0, 300]
    assert {(one.door, one.of_bytes) for one in told} == {("postgres.shop", 1000)}


def test_what_was_written_before_anybody_reads_is_read():
    """A small dump is through before the sandbox's reader has opened its end."""

    async def late():
        fifo = branching.Fifo()
        try:
            path = fifo.make()
            with fifo.wide():
                subprocess.run(["sh", "-c", f"echo early > {path}"], check=True)

                async def read():
                    await asyncio.sleep(0.3)
                    return await asyncio.to_thread(subprocess.check_output, ["cat", path])

                reading = asyncio.create_task(read())
                await fifo.read_out(reading)
            return await reading
        finally:
            fifo.close()

    assert asyncio.run(asyncio.wait_for(late(), 20)) == b"early\n"
