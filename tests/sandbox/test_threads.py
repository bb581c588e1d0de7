"""Blocking work whose caller is cancelled."""

import asyncio
import threading

import pytest

from gearcase.sandbox.threads import in_thread


def test_what_the_function_returns_or_raises_comes_back():
    def fail():
        raise KeyError("x")

    async def scenario():
        assert await in_thread(max, 1, 2) == 2
        with pytest.raises(KeyError):
            await in_thread(fail)

    asyncio.run(scenario())


def test_a_cancelled_caller_waits_for_its_thread():
    go, done = threading.Event(), []

    def work():
        go.wait(30)
        done.append("done")

    async def scenario():
        task = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["done"]

    asyncio.run(scenario())
