"""Asynchronous things for callers that are not: an event loop in a thread of its own.

What is opened with `with` lives on that loop, so it works in a plain script, in a test, and where a loop runs already (a notebook).
The thread lives as long as what it opened: processes that were started from it die with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from functools import wraps
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import uvloop

P = ParamSpec("P")
T = TypeVar("T")
Inner = TypeVar("Inner")
Outer = TypeVar("Outer")


class LoopThread:
    """A running loop. `close` ends what still runs on it."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gearcase", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine on the loop. Who is interrupted meanwhile (Ctrl-C) has it cancelled first, and waits for its end."""
        done: Future[T] = Future()
        task: asyncio.Task[T] | None = None

        def begin() -> None:
            nonlocal task
            task = self._loop.create_task(work)
            task.add_done_callback(lambda ended: _tell(ended, done))

        self._loop.call_soon_threadsafe(begin)
        try:
            return done.result()
        except BaseException:
            if not done.done():
                self._loop.call_soon_threadsafe(lambda: task is not None and task.cancel())
                wait([done])
            raise

    def waits(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        """The same function for a caller that waits."""

        @wraps(function)
        def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(function(*args, **kwargs))

        return waiting

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(_ended(left))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


def _tell(ended: asyncio.Task[T], done: Future[T]) -> None:
    if ended.cancelled():
        done.cancel()
        done.set_running_or_notify_cancel()
    elif (error := ended.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(ended.result())


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class Opening(Generic[Inner, Outer]):
    """What `with` opens for callers that wait, and `async with` for those that await. Each entry opens another one."""

    def __init__(
        self, opens: Callable[[], AbstractAsyncContextManager[Inner]], wrap: Callable[[Inner, LoopThread], Outer]
    ) -> None:
        self._opens = opens
        self._wrap = wrap
        self._awaited: list[AbstractAsyncContextManager[Inner]] = []
        self._waited: list[tuple[AbstractAsyncContextManager[Inner], LoopThread]] = []

    def __enter__(self) -> Outer:
        thread = LoopThread()
        try:
            context = self._opens()
            inner = thread.call(context.__aenter__())
        except BaseException:
            thread.close()
            raise
        self._waited.append((context, thread))
        return self._wrap(inner, thread)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        context, thread = self._waited.pop()
        try:
            thread.call(_left(context, kind, error, trace))
        finally:
            thread.close()

    async def __aenter__(self) -> Inner:
        context = self._opens()
        inner = await context.__aenter__()
        self._awaited.append(context)
        return inner

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await _left(self._awaited.pop(), kind, error, trace)


async def _left(
    context: AbstractAsyncContextManager[Any],
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Leave a context; what ended its block goes on to whoever opened it."""
    await context.__aexit__(kind, error, trace)
