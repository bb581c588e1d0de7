"""Limits strike, are named, and let go of the box again, whatever of cgroups a machine has; so does the brake."""

import asyncio
import os
import secrets
from contextlib import asynccontextmanager

import pytest

from gearcase.errors import RunError
from gearcase.handbrake import process
from gearcase.sandbox.hostwire import HostWire
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

LIMITS = Limits(memory=96 << 20, cpus=1.0, disk=16 << 20, processes=24, open_files=64)
MEANS = {"as found": (), "without cgroup1": ("cgroup1",), "without cgroup2": ("cgroup2",), "no cgroup": ("cgroup1", "cgroup2")}


@asynccontextmanager
async def box(means):
    driver = NamespacesDriver(frozenset(MEANS[means]))
    try:
        opened = await driver.open(SandboxSpec(f"limits-{os.getpid()}-{secrets.token_hex(3)}", LIMITS))
        yield opened
        assert await opened.close() == ()
    finally:
        await driver.close()


def in_box(means, work):
    async def run():
        async with box(means) as opened:
            return await work(opened)

    return asyncio.run(run())


async def shell(opened, script, **more):
    more.setdefault("deadline", 30)
    return await opened.run(Command(("bash", "-c", script), **more))


every = pytest.mark.parametrize("means", MEANS)

HOGS = {
    "memory": """python3 -c 'x = []
while True: x.append(bytes(range(256)) * 4096)'""",
    "disk": "head -c 50000000 /dev/zero > big",
    "files": "python3 -c 'import os\nwhile True: os.open(\"/dev/null\", 0)'",
    "processes": "for i in $(seq 60); do sleep 20 & done; wait -n",
}


@every
@pytest.mark.parametrize("limit", HOGS)
def test_a_limit_that_strikes_is_named_and_the_box_works_on(means, limit):
    async def work(opened):
        hog = await shell(opened, HOGS[limit], deadline=20 if limit != "processes" else 4)
        assert limit in hog.limits, hog
        await shell(opened, "rm -f big")
        after = await shell(opened, "echo fine")
        assert (after.stdout.text(), after.limits) == ("fine\n", ()), after

    in_box(means, work)


@every
def test_a_deadline_ends_everything_that_a_command_started(means):
    async def work(opened):
        late = await shell(opened, "(setsid sleep 4721 &) ; trap '' TERM INT; while :; do sleep 1; done", deadline=0.7)
        assert (late.ended, late.limits) == ("deadline", ("time",))
        left = await shell(opened, "grep -al 'sleep.4721' /proc/[0-9]*/cmdline | grep -v /self/ | wc -l")
        assert (await opened.usage()).processes == 0, left

    in_box(means, work)


@every
def test_what_a_command_leaves_in_the_background_goes_on_and_is_not_waited_for(means):
    async def work(opened):
        first = await shell(opened, "(while :; do date +%N > next; mv next beat; sleep 0.05; done) & echo started")
        assert first.ended == "exited" and first.seconds < 5
        one = await shell(opened, "until [ -e beat ]; do sleep 0.05; done; cat beat; sleep 0.5; cat beat")
        assert len(set(one.stdout.text().split())) == 2

    in_box(means, work)


@every
def test_nothing_moves_while_a_box_is_frozen_and_everything_goes_on_after(means):
    async def work(opened):
        await shell(opened, "(while :; do date +%s%N > beat; done) & while [ ! -s beat ]; do :; done")

        def beat():
            descriptor = os.open("beat", os.O_RDONLY, dir_fd=opened.workspace)
            try:
                return os.stat(descriptor).st_mtime_ns
            finally:
                os.close(descriptor)

        assert await opened.freeze() < 1000
        before = beat()
        await asyncio.sleep(0.3)
        assert beat() == before
        await opened.thaw()
        async with asyncio.timeout(10):
            while beat() == before:
                await asyncio.sleep(0.01)

    in_box(means, work)


@every
def test_another_process_freezes_a_box_with_its_grip_and_the_brake_takes_over_from_there(means):
    async def work(opened):
        await shell(
            opened, "for n in 1 2 3 4 5; do (while :; do date +%s%N > beat$n; done) & done; while [ ! -s beat5 ]; do :; done"
        )

        def beats():
            return [os.stat(f"beat{number}", dir_fd=opened.workspace).st_mtime_ns for number in range(1, 6)]

        grip = opened.grip()
        held = process.Box(grip.how, grip.descriptor)
        async with asyncio.timeout(10):
            while not held.freeze():
                await asyncio.sleep(0.001)
        before = beats()
        await asyncio.sleep(0.5)
        assert beats() == before and held.freeze()
        await opened.freeze()
        assert opened.frozen and beats() == before
        await opened.thaw()
        async with asyncio.timeout(10):
            while any(one == other for one, other in zip(beats(), before, strict=True)):
                await asyncio.sleep(0.01)
        held.close()

    in_box(means, work)


@every
def test_the_brake_neither_sets_a_box_going_that_is_held_still_nor_is_it_undone_by_that(means):
    async def work(opened):
        await shell(opened, "(while :; do date +%s%N > beat; done) & while [ ! -s beat ]; do :; done")

        def beat():
            return os.stat("beat", dir_fd=opened.workspace).st_mtime_ns

        async def stands():
            before = beat()
            await asyncio.sleep(0.2)
            return beat() == before

        async with opened.still():
            assert await stands() and not opened.frozen
            await opened.freeze()
            await opened.thaw()
            assert await stands(), "whoever resumes waits until it is looked at"
        assert not await stands()
        async with opened.still():
            await opened.freeze()
        assert await stands() and opened.frozen, "what the operator froze stays frozen"
        async with opened.still():
            pass
        assert await stands()
        await opened.thaw()
        assert not await stands()

    in_box(means, work)


@every
def test_a_command_that_is_begun_while_files_are_looked_at_waits_for_that_and_runs(means):
    async def work(opened):
        for number in range(20):
            async with opened.still():
                starting = asyncio.create_task(shell(opened, f"echo {number}"))
                await asyncio.sleep(0.01)
                assert not starting.done()
            async with opened.still():  # one look after the other
                await asyncio.sleep(0.001)
            assert (await starting).stdout.text() == f"{number}\n"

    in_box(means, work)


@every
def test_a_command_that_starts_while_the_brake_is_pulled_stands_still_and_then_goes_on(means):
    async def work(opened):
        for number in range(12):
            starting = asyncio.create_task(shell(opened, f"echo {number}; while [ ! -e go{number} ]; do :; done; echo over"))
            await asyncio.sleep(number * 0.0007)
            await opened.freeze()
            await asyncio.sleep(0.02)

            async def moved():
                before = (await opened.usage()).cpu
                await asyncio.sleep(0.1)
                return (await opened.usage()).cpu - before >= 0.03

            async with asyncio.timeout(10):
                while await moved():
                    assert means == "no cgroup", "a freezer holds what begins at this moment"
            await opened.thaw()
            os.close(os.open(f"go{number}", os.O_CREAT | os.O_WRONLY, dir_fd=opened.workspace))
            try:
                told = await starting
            except RunError as error:  # it had not begun yet
                assert error.code == "frozen"
            else:
                assert told.stdout.text() == f"{number}\nover\n", told

    in_box(means, work)


def test_a_cancellation_that_comes_together_with_an_answer_is_not_lost():
    async def work():
        wire = HostWire()
        waiting = asyncio.create_task(wire.next(10))
        await asyncio.sleep(0.01)
        reading, writing = os.pipe()
        asyncio.get_running_loop().add_reader(reading, waiting.cancel)
        wire.child.send(b"{}")  # both are ready in the same turn of the loop, the answer first
        os.write(writing, b"x")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)
        wire.close()

    asyncio.run(work())


def test_output_over_its_cap_is_cut_in_the_middle_and_counted():
    async def work(opened):
        told = await shell(opened, "seq 1000000; echo end", output_cap=1000)
        assert told.exit_code == 0 and told.stdout.total == 6888896 + 4
        assert told.stdout.head.startswith(b"1\n2\n") and told.stdout.tail.endswith(b"1000000\nend\n")
        assert len(told.stdout.head) + len(told.stdout.tail) == 2000
        assert "bytes left out" in told.stdout.text()

    in_box("as found", work)


def test_both_streams_a_report_and_the_exit_code_are_told_apart():
    async def work(opened):
        told = await shell(opened, "echo out; echo err >&2; echo said >&3; exit 7", merge_stderr=False, report=True)
        assert (told.stdout.text(), told.stderr.text(), told.report, told.exit_code) == ("out\n", "err\n", b"said\n", 7)
        killed = await shell(opened, "kill -SEGV $$")
        assert (killed.ended, killed.exit_code) == ("signalled", 139)

    in_box("as found", work)


@every
def test_what_is_used_is_told(means):
    async def work(opened):
        before = await opened.usage()
        await shell(opened, "head -c 5000000 /dev/zero > f; prlimit --cpu=1 sh -c 'while :; do :; done'")
        after = await opened.usage()
        assert 4_500_000 < after.disk - before.disk < 8_000_000
        # By ticks it was a second: where others take turns, what was really used is less.
        assert 0.4 < after.cpu - before.cpu < 3, "it ended after a second of the processor, however long that took"

    in_box(means, work)


@every
def test_the_profile_says_what_enforces_each_limit(means):
    async def ask():
        driver = NamespacesDriver(frozenset(MEANS[means]))
        try:
            return await driver.profile(LIMITS)
        finally:
            await driver.close()

    told = asyncio.run(ask())
    for name, one in told.guarantees.items():
        assert one.by and (one.strength == "enforced" or one.remedy), name
    if means == "no cgroup":
        assert {told.guarantees[name].strength for name in ("memory", "cpu", "freeze")} == {"watched"}
