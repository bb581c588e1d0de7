"""Blocking work in a thread, for callers that may be cancelled.

A thread cannot be stopped, and it may hold descriptors that its caller closes once it is cancelled: their numbers would then mean
something else. So whoever is cancelled waits for the thread's end first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns or raises. A cancellation takes effect when the function has ended."""
    task = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        task.exception()  # whoever is cancelled is not told how it ended
        raise
