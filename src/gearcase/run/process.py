"""The process of a run: a child of the command that starts it, with a session of its own.

The command that a person typed only watches: it may be interrupted or lose its terminal and the run goes on. The child is forked
before there is an event loop or a thread, and says over a pipe whether the run began or why not. A program that may have both by
now has its run in a fresh interpreter (`spawn`), because a fork would copy locks that nobody in the child ever opens.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gearcase.errors import GearcaseError, RunError, unpack
from gearcase.journal import read
from gearcase.run import early
from gearcase.run.options import RunOptions
from gearcase.run.record import EndRecord
from gearcase.runs import RunFolder, find

PIPE = 3
"""Descriptor by which a fresh interpreter says whether its run began."""


@dataclass(frozen=True, slots=True)
class Started:
    """A run that has begun in a process of its own."""

    folder: RunFolder
    pid: int

    def poll(self) -> bool:
        """Whether the run's process has ended."""
        return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid


def start(options: RunOptions) -> Started:
    """Begin a run in a child process. Raises what stopped it before it began (UsageError, UnsafeError, RunError)."""
    if ready := early.take():
        return _began(ready.pid, ready.receive, lambda: _give(ready.give, options))
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = RunError.exit_code
        try:
            os.close(receive)
            code = drive(options, send)
        finally:
            os._exit(code)  # whatever happened: the caller's code belongs to the parent alone
    os.close(send)
    if options.terminal is not None:
        options.terminal.theirs.close()
    return _began(pid, receive)


def spawn(options: RunOptions) -> Started:
    """Begin a run in a fresh interpreter. Raises as `start` does. Safe beside threads and event loops."""
    receive, send = os.pipe()
    given, giving = os.pipe()
    # Whatever lies in the working directory is no module of ours: -P.
    command = [sys.executable, "-P", "-m", "gearcase.run"]
    streams = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, send, PIPE)]
    try:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=streams)
    except OSError as error:
        for descriptor in (receive, giving):
            os.close(descriptor)
        remedy = "see that this Python's own program can be started"
        raise RunError("not_started", f"{command[0]} cannot be started", cause=str(error), remedy=remedy) from error
    finally:
        os.close(given)
        os.close(send)
    return _began(pid, receive, lambda: _give(giving, options))


def _give(giving: int, options: RunOptions) -> None:
    with os.fdopen(giving, "wb") as pipe, suppress(BrokenPipeError):
        pickle.dump(options, pipe)


def _began(pid: int, receive: int, first: Callable[[], None] = lambda: None) -> Started:
    """Wait until the run exists, once `first` is done. Who is interrupted meanwhile leaves no run that goes on alone."""
    try:
        first()
        with os.fdopen(receive, "rb") as pipe:
            told = pipe.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if not told:
        _pid, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        raise RunError("not_started", f"the run's process ended with {code} before it began", remedy="run `gearcase doctor`")
    answer: dict[str, Any] = json.loads(told)
    if "error" in answer:
        os.waitpid(pid, 0)
        raise unpack(answer["error"])
    return Started(find(answer["run"]), pid)


def ending(folder: RunFolder) -> EndRecord:
    """How a run ended, from its journal alone. A run whose process died is recovered first; it is `failed` and says so."""
    from gearcase.run.recovery import as_told, recover  # only here: a run's start must not wait for it

    why = ""
    try:
        recover(folder)
    except RunError as error:
        why = f"{error.message}; {error.remedy}"
    with suppress(RunError):  # damage: what stands before it may still tell of the end
        for record in read(folder.journal):
            if record.type == "run_ended":
                return EndRecord.from_json({**record.raw["record"], "journal_head": record.digest})
    return as_told(folder, why)


def drive(options: RunOptions, pipe: int) -> int:
    """The run's own process, up to its exit status. Never returns into the caller's code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    told = False

    def began(folder: RunFolder) -> None:
        nonlocal told
        if not options.program or options.terminal is not None:
            _detach_streams(folder)
        os.write(pipe, json.dumps({"run": folder.id}).encode())
        os.close(pipe)
        told = True

    def tell(error: GearcaseError) -> None:
        """To whoever waits; once the run has begun its log keeps it, and the pipe's number may mean another file."""
        answer = json.dumps({"error": error.packed()}, default=str)
        if told:
            print(answer, file=sys.stderr)
        else:
            os.write(pipe, answer.encode())

    if options.terminal is not None:
        options.terminal.ours.close()
    try:
        gc.disable()  # as in the command: nothing that is imported is garbage
        import uvloop

        from gearcase.run.supervisor import Supervisor  # only here: whoever watches needs none of it, and must not wait for it

        gc.freeze()
        gc.set_threshold(
            50_000, 20, 20
        )  # hundreds of calls in flight are no garbage, and looking through them costs a fifth of the time
        gc.enable()
        record = uvloop.run(Supervisor(options, began).execute())
    except GearcaseError as error:
        tell(error)
        return error.exit_code
    except BaseException as error:  # the last line of this process: it must say what it died of, whatever it was
        traceback.print_exc()
        cause = f"{type(error).__name__}: {error}"
        failed = RunError("internal", "Gearcase itself failed", cause=cause, remedy="report this, with the run's supervisor.log")
        tell(failed)
        return failed.exit_code
    return record.exit_code & 0xFF


def _detach_streams(folder: RunFolder) -> None:
    """The terminal belongs to the command that watches; what this process prints goes to its log."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(folder.path / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)
