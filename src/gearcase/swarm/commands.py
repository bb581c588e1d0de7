"""Commands of a map: one that answers items, each in a sandbox of its own, and one that judges answers.

Both are the agent's programs. Their exit status is the verdict and the end of their standard error the evidence; what they print is
bounded, and so is their time. Nothing that they do is an error of ours: it is a fault of the item, or of the map where it would be the
same for every item.

A validator lives as long as its map, in one sandbox with a process for each answer, because it is one program and a process costs a
fraction of a sandbox. Where it breaks that sandbox (it is full, its first process is gone), the next answer gets a new one; an answer
during which a limit struck is judged again in one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

from gearcase.doors.housed import Housed
from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox.trees import remove_tree, write_file
from gearcase.seams import Command, CommandResult
from gearcase.swarm.items import Use
from gearcase.swarm.sandboxes import Sandboxes, View
from gearcase.swarm.schema import Schema
from gearcase.swarm.worker import KEPT, Answered, Fault, Outcome
from gearcase.units import format_bytes

DEADLINE = 60.0
"""Seconds of box time for a command, unless the map says otherwise."""
MOST_ANSWER = 256 * 1024
"""Bytes that a command may answer with."""
HANGS = 3
"""Answers in a row that a validator does not judge in time before the map stops."""
JUDGED_AT_ONCE = 8
_PARTS = 4  # of the box that a validator's sandbox gets
_ENOUGH_MEMORY, _ENOUGH_PROCESSES = 32 << 20, 4  # of them for one answer
_TRIES = 3
_FRAME = re.compile(r'^ *File "([^"\n]{1,300})", line \d+, in ([^\n]{1,200})$', re.MULTILINE)
_RAISED = re.compile(r"^([A-Za-z_][\w.]{0,100})(?::|$)")
_NOT_OWN = ("/usr/", "<")
Stage = Literal["validator", "command"]


class CommandWorker:
    """Answers an item: the command's standard output, once it ended well. Calls never raise but for being cancelled."""

    def __init__(
        self, sandboxes: Sandboxes, view: View, command: str, schema: Schema | None, deadline: float, parts: int, use: Use
    ) -> None:
        self._sandboxes = sandboxes
        self._view = view
        self._command = command
        self._schema = schema
        self._deadline = deadline
        self._parts = parts
        self._use = use

    async def __call__(self, text: str) -> Outcome:
        """Run it once, on the item's text."""
        try:
            async with self._sandboxes.fresh(self._view, self._parts, self._use) as housed:
                write_file(housed.sandbox.box, b"item", text.encode())
                command = _command(self._command, "/box/item", self._view, text, self._deadline, MOST_ANSWER // 2)
                result = await housed.run(command)
                seconds = result.cpu
                with contextlib.suppress(GearcaseError):  # it is gone: what its first process took is known
                    seconds = max(seconds, (await housed.sandbox.usage()).cpu)
                self._sandboxes.took(seconds, self._use)
        except GearcaseError as error:
            # Another moment may have memory for it; what cannot be meant stays so.
            kind = "transient" if isinstance(error, RunError) else "terminal"
            return Fault(kind, error.code, f"{error.message}; {error.remedy}", stage="command")
        memory = self._sandboxes.share(self._parts).memory
        fault = failure(result, "command", self._deadline, memory)
        return fault or _answer(result, self._schema)


class Validator:
    """Judges answers. `judge` never raises but for being cancelled; `close` it at the map's end."""

    def __init__(self, sandboxes: Sandboxes, view: View, command: str, deadline: float, use: Use) -> None:
        self._sandboxes = sandboxes
        self._view = view
        self._command = command
        self._deadline = deadline
        self._use = use
        self._share = sandboxes.share(_PARTS)
        self._housed: Housed | None = None
        self._judging: Counter[Housed] = Counter()
        self._paid: dict[Housed, float] = {}
        self._opening = asyncio.Lock()
        at_once = min(JUDGED_AT_ONCE, self._share.memory // _ENOUGH_MEMORY, self._share.processes // _ENOUGH_PROCESSES)
        self._turns = asyncio.Semaphore(max(1, at_once))
        self._numbers = itertools.count(1)
        self._hung = 0

    async def judge(self, item: str, answer: str) -> Fault | None:
        """None where it accepts the answer (JSON text) to an item, else why not."""
        async with self._turns:
            tried = 1
            while True:
                try:
                    return await self._judge(item, answer)
                except GearcaseError as error:
                    if tried == _TRIES:
                        told = f"the validator has no sandbox: {error.message}; {error.remedy}"
                        return Fault("terminal", "validator", told, stage="validator")
                await asyncio.sleep(0.5 * tried)
                tried += 1

    async def close(self) -> None:
        """End its sandbox, in which nobody is judged any more. Idempotent."""
        housed, self._housed = self._housed, None
        if housed is not None:
            await self._end(housed)

    async def _judge(self, item: str, answer: str) -> Fault | None:
        async with self._shared() as housed:
            fault, broken = await self._run(housed, item, answer)
            if broken:
                self._retire(housed)
        if fault is not None and fault.code in ("limit", "lost"):
            # The limit may have struck because of another answer that was judged beside it: what counts is how it ends alone.
            async with self._sandboxes.fresh(self._view, _PARTS, self._use) as alone:
                fault, _ = await self._run(alone, item, answer)
                self._paid.pop(alone, None)
        self._hung = self._hung + 1 if fault is not None and fault.code == "time" else 0
        if self._hung >= HANGS:
            told = (
                f"the validator did not end within {self._deadline:g} s for {self._hung} answers in a row: {self._command[:200]}"
            )
            return Fault("terminal", "validator_hangs", told, stage="validator", answer=answer[:KEPT])
        return replace(fault, answer=answer[:KEPT]) if fault is not None else None

    async def _run(self, housed: Housed, item: str, answer: str) -> tuple[Fault | None, bool]:
        """Its verdict in a sandbox, and whether that is broken now."""
        name = b"items/%d" % next(self._numbers)
        write_file(housed.sandbox.box, name, item.encode())
        try:
            command = _command(self._command, f"/box/{name.decode()}", self._view, answer, self._deadline, 16 * 1024)
            result = await housed.run(command)
        finally:
            with contextlib.suppress(GearcaseError):  # its sandbox may be gone, with the file
                remove_tree(housed.sandbox.box, name)
        await self._pay(housed, result.cpu)
        fault = failure(result, "validator", self._deadline, self._share.memory)
        return fault, result.ended == "lost" or bool(result.health) or (fault is not None and fault.code == "limit")

    @asynccontextmanager
    async def _shared(self) -> AsyncGenerator[Housed]:
        """The sandbox of this moment. One that is retired ends with the last who is judged in it."""
        async with self._opening:
            if self._housed is None:
                self._housed = await self._sandboxes.open(self._view, _PARTS, self._use)
            housed = self._housed
            self._judging[housed] += 1
        try:
            yield housed
        except GearcaseError:
            self._retire(housed)
            raise
        finally:
            self._judging[housed] -= 1
            if not self._judging[housed]:
                del self._judging[housed]
                if housed is not self._housed:
                    await self._end(housed)

    async def _pay(self, housed: Housed, seconds: float) -> None:
        """All that its sandbox has used since it was last paid for, by what earlier commands left running too; `seconds` where it died."""
        with contextlib.suppress(GearcaseError):
            used = (await housed.sandbox.usage()).cpu
            seconds = used - self._paid.get(housed, 0.0)
            self._paid[housed] = used
        self._sandboxes.took(max(0.0, seconds), self._use)

    async def _end(self, housed: Housed) -> None:
        """Its last answer was judged: what still runs in it ends, and is paid."""
        await self._pay(housed, 0.0)
        self._paid.pop(housed, None)
        await self._sandboxes.close(housed)

    def _retire(self, housed: Housed) -> None:
        if self._housed is housed:
            self._housed = None


def _command(text: str, item: str, view: View, stdin: str, deadline: float, cap: int) -> Command:
    return Command(
        ("/bin/bash", "-c", text),
        {"ITEM": item, "PWD": view.cwd},
        view.cwd,
        stdin.encode(),
        deadline,
        output_cap=cap,
        merge_stderr=False,
    )


def failure(result: CommandResult, stage: Stage, deadline: float, memory: int) -> Fault | None:
    """Why a command failed; None where it ended with 0. Its evidence is the end of its standard error."""
    if result.ended == "lost":
        return Fault("transient" if stage == "command" else "content", "lost", "its sandbox died", stage=stage)
    if result.ended == "exited" and result.exit_code == 0:
        return None
    trace = result.stderr.text()[-KEPT:].strip()
    code, message = _ending(result, stage, deadline, memory)
    last = trace.rpartition("\n")[2].strip()[:300]
    frame, raised = _frame(trace), _RAISED.match(last)
    keyword = raised.group(1) if raised and frame else ""
    return Fault(
        "content", code, f"{message}: {last}" if last else message, stage=stage, trace=trace, path=frame, keyword=keyword
    )


def _ending(result: CommandResult, stage: Stage, deadline: float, memory: int) -> tuple[str, str]:
    if result.ended == "deadline":
        return "time", f"it did not end within {deadline:g} s"
    how = f"exit {result.exit_code}"
    if result.ended == "signalled" and result.exit_code - 128 in signal.valid_signals():
        how = f"ended by {signal.Signals(result.exit_code - 128).name}"
    if result.limits:
        sizes = {"memory": f"memory ({format_bytes(memory)})"}
        return "limit", f"a limit struck: {', '.join(sizes.get(one, one) for one in result.limits)}; {how}"
    if result.ended == "signalled":
        return "signal", how
    return ("rejected" if stage == "validator" else "exit"), how


def _frame(trace: str) -> str:
    """The innermost frame of a Python trace that is in code of its own: `check.py in judge`."""
    frames = [(file, name) for file, name in _FRAME.findall(trace) if not file.startswith(_NOT_OWN)]
    return f"{frames[-1][0].rpartition('/')[2]} in {frames[-1][1]}" if frames else ""


def _answer(result: CommandResult, schema: Schema | None) -> Outcome:
    """What a command that ended well answered."""
    output = result.stdout
    data = output.head + output.tail
    begins = data[:KEPT].decode("utf-8", "replace")
    if output.total > len(data):
        told = f"it printed {output.total:,} bytes; an answer has at most {MOST_ANSWER:,}"
        return Fault("content", "too_long", told, answer=begins, stage="command")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        told = f"what it printed is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        return Fault("content", "not_utf8", told, answer=begins, stage="command")
    if schema is None:
        return Answered(json.dumps(text.removesuffix("\n"), ensure_ascii=False))
    try:
        value = json.loads(text)
        answer = json.dumps(value, ensure_ascii=False, allow_nan=False)
        answer.encode()
        violation = schema.first_violation(value)
    except (ValueError, RecursionError) as error:
        return Fault("content", "not_json", f"what it printed is not JSON: {error}", answer=begins, stage="command")
    if violation is None:
        return Answered(answer)
    told = f"what it printed does not fit the schema at {violation.path or '/'}: {violation.message}"
    return Fault("content", "schema", told, path=violation.path, keyword=violation.keyword, answer=begins)
