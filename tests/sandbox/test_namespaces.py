"""Boxes from outside: two that want the same id, two who close the same box, several at once."""

import asyncio
import os

import pytest

from gearcase.errors import RunError
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

SMALL = Limits(memory=128 << 20, cpus=1.0, disk=32 << 20, processes=32)


def box_id(name: str) -> str:
    return f"test-{os.getpid()}-{name}"


def test_opening_a_second_box_with_a_living_id_is_refused_and_leaves_the_first_alone() -> None:
    async def scenario() -> None:
        driver = NamespacesDriver()
        try:
            first = await driver.open(SandboxSpec(box_id("twice"), SMALL))
            with pytest.raises(RunError) as refused:
                await driver.open(SandboxSpec(box_id("twice"), SMALL))
            assert refused.value.code == "sandbox_exists"
            assert (await first.run(Command(("true",)))).exit_code == 0
            assert await first.close() == ()
        finally:
            await driver.close()

    asyncio.run(scenario())


def test_two_who_close_a_box_both_wait_for_its_end_and_hear_the_same() -> None:
    async def scenario() -> None:
        driver = NamespacesDriver()
        try:
            box = await driver.open(SandboxSpec(box_id("closed"), SMALL))
            first = box.pid
            answers = await asyncio.gather(box.close(), box.close())
            assert answers == [(), ()]
            assert not os.path.exists(f"/proc/{first}")
            assert await box.close() == ()
        finally:
            await driver.close()

    asyncio.run(scenario())


def test_boxes_that_open_and_close_at_the_same_time_leave_nothing() -> None:
    async def scenario() -> None:
        driver = NamespacesDriver()

        async def one(name: str) -> tuple[str, ...]:
            box = await driver.open(SandboxSpec(box_id(name), SMALL))
            result = await box.run(Command(("sh", "-c", "echo $$ > mine; cat mine")))
            assert result.exit_code == 0 and result.stdout.head.strip()
            return await box.close()

        try:
            assert await asyncio.gather(*(one(f"many-{index}") for index in range(6))) == [()] * 6
        finally:
            await driver.close()

    asyncio.run(scenario())


def test_commands_that_begin_while_others_end_do_not_lose_their_place() -> None:
    async def scenario() -> None:
        driver = NamespacesDriver()
        try:
            box = await driver.open(SandboxSpec(box_id("crowded"), SMALL))
            results = await asyncio.gather(*(box.run(Command(("sh", "-c", f"sleep 0.0{n % 5}"))) for n in range(40)))
            assert [one.exit_code for one in results] == [0] * 40
            assert await box.close() == ()
        finally:
            await driver.close()

    asyncio.run(scenario())
