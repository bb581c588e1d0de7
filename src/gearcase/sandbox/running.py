"""One command on its way through the launcher: started, watched, ended, tidied up.

Invariants: it is in the box's cgroups before it joins; its deadline is box time; a deadline, a cancellation or the box's death never
leaves it running unseen; the limits that struck are named. The messages are those of `joiner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

from gearcase.errors import RunError
from gearcase.sandbox import plan, processes
from gearcase.sandbox.command import Pipe, Reader, Writer
from gearcase.sandbox.hostwire import PATIENCE, Ended, HostWire, Message, refusal
from gearcase.sandbox.live import Live
from gearcase.seams import Command, CommandResult, OnOutput, Output

_DYING = 30
"""Looks, 10 ms apart, until the first process of a box that dies is gone."""
_REPORT_BYTES = 64 * 1024
_OUT_OF_MEMORY = (b"MemoryError", b"Cannot allocate memory", b"out of memory")


class Running:
    """One command on its way through the launcher."""

    def __init__(
        self,
        live: Live,
        command: Command,
        number: int,
        on_output: OnOutput | None,
        on_terminal: Callable[[int], None] | None,
        on_error: OnOutput | None,
    ) -> None:
        self._live = live
        self._command = command
        self._number = number
        self._on_output = on_output
        self._on_terminal = on_terminal
        self._on_error = on_error
        self._terminal = -1
        self._group = ""
        self._pid = 0
        self._pidfd = -1
        self._readers: list[Reader] = []
        self._writer: Writer | None = None
        self._ended: asyncio.Future[Ended] | None = None
        self._began = 0.0
        self._before = live.parts.groups.counters()
        self._crowded = False  # as many processes as there may be, where no cgroup counts refused forks

    async def start(self) -> None:
        """Start it. Raises RunError `frozen`, `sandbox_lost`, `no_command`."""
        live, command = self._live, self._command
        if live.frozen:
            raise RunError("frozen", "the box is frozen, no command is started", remedy="resume the run first")
        self._began = time.monotonic()
        owner = live.owner
        pipes = [Pipe(owner, to_box=True), Pipe(owner, to_box=False)]
        if not command.merge_stderr:
            pipes.append(Pipe(owner, to_box=False))
        if command.report:
            pipes.append(Pipe(owner, to_box=False))
        try:
            await self._through_launcher(pipes)
        except BaseException as error:
            for pipe in pipes:
                pipe.close()
            if isinstance(error, RunError):
                await self._tell_lost()
            raise
        ours = [pipe.handed_over() for pipe in pipes]
        self._writer = Writer(ours[0], command.stdin)
        caps = [command.output_cap] * (1 if command.merge_stderr else 2) + [_REPORT_BYTES] * command.report
        listeners = [self._on_output, *([] if command.merge_stderr else [self._on_error]), *([None] * command.report)]
        self._readers = [Reader(fd, cap, hear) for fd, cap, hear in zip(ours[1:], caps, listeners, strict=True)]

    async def _tell_lost(self) -> None:
        """Raise RunError `sandbox_lost` where the box dies at this moment, whatever the joiner says that it met."""
        for _ in range(_DYING):
            self._live.must_have_first()
            await asyncio.sleep(0.01)

    async def _through_launcher(self, pipes: list[Pipe]) -> None:
        live, command = self._live, self._command
        theirs = [pipe.theirs for pipe in pipes]
        streams = [theirs[0], theirs[1], theirs[1] if command.merge_stderr else theirs[2]]
        streams += [theirs[-1]] if command.report else []
        join, flags = live.joining(live.parts.namespaces)
        request = plan.command(command, live.spec, self._number, flags, live.settings)
        rules = [live.rules] if live.rules >= 0 else []
        standby = await live.parts.standbys.take()
        self._group, wire = standby.group, standby.wire
        try:
            wire.send_request("join", request, [*join, *streams, *rules])
            started = await self._hear_but_terminal(wire)
            if started is None:
                remedy = "the kernel may have chosen it when memory was short: see `gear status`, then try again"
                raise RunError("no_command", "what was to start the command in the box was killed", remedy=remedy)
            if started.body["kind"] != "command":
                raise refusal(started.body)
            self._pid, self._pidfd = int(started.body["pid"]), started.descriptors[0]
            self._ended = live.launcher.ended(self._pid)
            live.running[self._number] = self._pid
            if live.frozen and not live.parts.groups.freezes:  # it was not among those that were stopped
                await processes.stop_all(
                    lambda: live.tree() if live.frozen else [], PATIENCE
                )  # and no more of them once it is thawed
            trouble = await self._hear_but_terminal(wire)  # the socket closes on execve
            if trouble is not None:
                raise RunError(
                    "no_command",
                    "the command could not be started in the box",
                    cause=str(trouble.body.get("message", "")),
                    remedy="the box may be out of processes or memory: see `gear status`",
                )
        finally:
            wire.close()
        live.parts.standbys.prepare()
        if self._terminal >= 0 and self._on_terminal is not None:
            self._on_terminal(self._terminal)
            self._terminal = -1

    async def _hear_but_terminal(self, wire: HostWire) -> Message | None:
        """What the joiner says besides handing out the terminal, which its other half does when it is ready."""
        message = await self._hear(wire)
        if message is not None and message.body["kind"] == "terminal":
            self._terminal = message.descriptors[0]
            message = await self._hear(wire)
        return message

    async def _hear(self, wire: HostWire) -> Message | None:
        """What the joiner says. A frozen box says nothing, and is not late."""
        while True:
            began = time.monotonic()
            try:
                return await wire.next(PATIENCE)
            except RunError:
                if not self._live.frozen and self._live.thawed < began:
                    raise

    async def finish(self) -> tuple[CommandResult, bool]:
        """Wait for the end or the deadline; returns the result and whether it calls for a health probe."""
        assert self._ended is not None
        ended: Ended | None = None
        late = lost = False
        try:
            ended, late, lost = await self._wait(self._ended)
        except asyncio.CancelledError:
            self._kill()
            raise
        live = self._live
        if not live.settings["counted"]:
            self._crowded = len(live.tree()) >= live.spec.limits.processes
        if late:
            self._kill()
            ended = await self._after_kill(self._ended)
        outputs = [reader.finish() for reader in self._readers]
        return self._result(ended, late, lost, outputs)

    async def _wait(self, ended: asyncio.Future[Ended]) -> tuple[Ended | None, bool, bool]:
        """(how it ended, its deadline passed, the box is gone). The deadline stands still while the box is frozen."""
        live, left = self._live, self._command.deadline
        while True:
            slice_ = 0.25 if left is None else min(0.25, max(left, 0.0))
            began = time.monotonic()
            done, _ = await asyncio.wait({ended, live.lost}, timeout=slice_, return_when=asyncio.FIRST_COMPLETED)
            if ended in done:
                return ended.result(), False, False
            if live.lost.done() or live.closing:
                return None, False, True
            if left is not None and not live.frozen:
                left -= time.monotonic() - began
                if left <= 0:
                    return None, True, False

    async def _after_kill(self, ended: asyncio.Future[Ended]) -> Ended | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                return await asyncio.shield(ended)
        return None

    def _kill(self) -> None:
        """Everything that the command started, however often it forked away."""
        groups = self._live.parts.groups
        if self._group:
            groups.kill_command(self._group)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not self._group:
            value = plan.command_mark(self._number)
            for one in self._live.tree():
                if one.pid != self._live.parts.first and processes.has_mark(one.pid, value):
                    processes.send(one.pid, signal.SIGKILL)

    def _result(self, ended: Ended | None, late: bool, lost: bool, outputs: list[Output]) -> tuple[CommandResult, bool]:
        command, live = self._command, self._live
        status = os.waitstatus_to_exitcode(ended.status) if ended else -signal.SIGKILL
        kind = "deadline" if late else "lost" if lost else "signalled" if status < 0 else "exited"
        code = status if status >= 0 else 128 - status
        said = outputs[:1] if command.merge_stderr else outputs[:2]
        limits = self._limits(late, code, b"".join(one.head[-4096:] + one.tail[-4096:] for one in said))
        cpu = ended.cpu if ended else 0.0
        live.cpu_ended += cpu
        separate = not command.merge_stderr
        stderr = outputs[1] if separate else Output(b"", b"", 0)
        report = outputs[-1] if command.report else Output(b"", b"", 0)
        seconds = time.monotonic() - self._began
        told = (report.head + report.tail)[:_REPORT_BYTES]
        result = CommandResult(kind, code, outputs[0], stderr, told, seconds, cpu, limits)  # type: ignore[arg-type]
        return result, not lost and (code >= 125 or bool(limits))

    def _limits(self, late: bool, code: int, text: bytes) -> tuple[str, ...]:
        live = self._live
        now = live.parts.groups.counters()
        struck = ["memory"] * (now.memory > self._before.memory) + ["processes"] * (now.processes > self._before.processes)
        if self._crowded or (code != 0 and "processes" not in struck and b"Resource temporarily unavailable" in text):
            struck.append("processes")
        if live.full() or (code != 0 and b"No space left on device" in text):
            struck.append("disk")
        if code != 0 and b"Too many open files" in text:
            struck.append("files")
        if not struck and not late and live.settings["watch_memory"]:  # no cgroup counts: by how programs tell or die of it
            told = code != 0 and any(words in text for words in _OUT_OF_MEMORY)
            struck += ["memory"] * (told or code == 128 + signal.SIGKILL)
        return (*struck, *(["time"] if late else []))

    def tidy(self) -> None:
        """Let go of what is the host's; pipes that children still hold are drained."""
        live = self._live
        live.running.pop(self._number, None)
        if self._pid and self._ended is not None and not self._ended.done():
            live.launcher.forget(self._pid)
        if self._writer is not None:
            self._writer.close()
        for reader in self._readers:
            descriptor = reader.release()
            if descriptor >= 0 and not live.closing:
                live.drain.add(descriptor)
            elif descriptor >= 0:
                os.close(descriptor)
        for descriptor in (self._pidfd, self._terminal):
            if descriptor >= 0:
                os.close(descriptor)
        if self._group and not live.closing:
            live.parts.groups.end_command(self._group)
            live.parts.groups.tidy_commands()
