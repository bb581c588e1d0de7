"""What a box does to survive, to hide, to hold on: commands that never end, floods, and files made to break those who read them."""

import asyncio
import secrets
import subprocess
from pathlib import Path

import pytest

from gearcase.errors import RunError
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

LIMITS = Limits(memory=128 << 20, cpus=1.0, disk=64 << 20, processes=64)


def in_box(scenario, **more):
    """Run `scenario(box)` in a fresh box; what stays of the box fails the test."""

    async def run():
        driver = NamespacesDriver()
        try:
            box = await driver.open(SandboxSpec(f"endure-{secrets.token_hex(4)}", LIMITS, **more))
            try:
                return await scenario(box)
            finally:
                assert await box.close() == ()
        finally:
            await driver.close()

    return asyncio.run(run())


def shell(text, **more):
    return Command(("/bin/bash", "-c", text), **more)


def alive(mark):
    return [
        line
        for line in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        if mark in line
    ]


def test_39_a_frozen_box_uses_no_processor_and_starts_no_command_and_goes_on_after():
    async def scenario(box):
        running = asyncio.ensure_future(
            box.run(shell("for i in 1 2 3 4; do (while :; do :; done) & done; sleep 2; echo over", deadline=30))
        )
        await asyncio.sleep(0.5)
        await box.freeze()
        before = (await box.usage()).cpu
        with pytest.raises(RunError, match="frozen"):
            await box.run(shell("echo"))
        await asyncio.sleep(1)
        used = (await box.usage()).cpu - before
        await box.thaw()
        return used, await running

    used, result = in_box(scenario)
    assert used < 0.02
    assert "over" in result.stdout.text()


def test_49_commands_at_the_process_limit_end_in_an_error_and_never_hang():
    async def scenario(box):
        filled = await box.run(shell("for i in $(seq 100); do sleep 100 & done 2>/dev/null; true", deadline=10))
        squeezed = None
        try:
            squeezed = await box.run(shell("echo squeezed", deadline=5))
        except RunError as error:
            squeezed = error
        return filled, squeezed

    filled, squeezed = in_box(scenario)
    assert "processes" in filled.limits
    assert squeezed is not None


def test_two_boxes_do_not_see_each_other():
    async def run():
        driver = NamespacesDriver()
        try:
            one = await driver.open(SandboxSpec(f"one-{secrets.token_hex(4)}", LIMITS))
            two = await driver.open(SandboxSpec(f"two-{secrets.token_hex(4)}", LIMITS))
            await one.run(shell("echo mine > /tmp/mine; echo mine > mine; (sleep 321 &)"))
            seen = await two.run(shell("ls /tmp /workspace; ps -eo args"))
            assert await one.close() == () and await two.close() == ()
            return seen.stdout.text()
        finally:
            await driver.close()

    seen = asyncio.run(run())
    assert "mine" not in seen and "321" not in seen


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
