"""A run's process that gets ready while its command still reads what was typed: both take a fifth of a second, on a core each.

`begin` forks it before anything is imported. It loads what a run needs and waits for what shall be run; `take` hands it over. Where
nothing comes, because the command ended first, it is gone without a word. Invariant: it makes nothing before it was told what.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Early:
    """A process that waits. `give` takes the pickled options, `receive` tells whether the run began."""

    pid: int
    give: int
    receive: int


_waiting: list[Early] = []


def begin() -> None:
    """Have a process get ready. Call it once, with no thread and no event loop running."""
    given, give = os.pipe()
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(give)
        os.close(receive)
        _be(given, send)
    os.close(given)
    os.close(send)
    _waiting.append(Early(pid, give, receive))


def take() -> Early | None:
    """The process that was begun, once."""
    return _waiting.pop() if _waiting else None


def give_up() -> None:
    """End the process where nobody took it: the command has nothing to run."""
    if one := take():
        os.kill(one.pid, signal.SIGKILL)
        os.waitpid(one.pid, 0)


def _be(given: int, send: int) -> None:
    """Load, wait, run. Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is interrupted; without it we end by ourselves
        import gc
        import importlib
        import pickle

        gc.disable()
        from gearcase.run import process

        importlib.import_module("gearcase.run.supervisor")  # what takes so long
        with os.fdopen(given, "rb") as pipe:
            told = pipe.read()
        code = process.drive(pickle.loads(told), send) if told else 0
    except BaseException:  # the last line of this process: it must say what it died of
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)
