"""The one tool: read what the model asks of `bash`, and show it what came of it.

A wrong call is answered with what is wrong, never raised. A long output is shown by its head and tail and kept whole in the box;
the last line of each result says how the command ended, what it cost in time, and which limit struck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gearcase.agent.transcript import MAX_COMMAND, TOOL, Call, clip
from gearcase.seams import CommandResult
from gearcase.units import format_duration

TIMEOUT = 300.0
"""Seconds of a command that does not say."""
MAX_TIMEOUT = 3600.0
SHOWN = 16_000
"""Most characters of one output in the conversation; ten outputs of one answer share three times that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command that can be run. Seconds."""

    command: str
    timeout: float


def read_call(call: Call) -> Wanted | str:
    """What to run, or what is wrong with the call, as the model is told it."""
    if call.name != TOOL:
        return f'there is no tool {clip(call.name, 80)!r}; the only tool is {TOOL}: {{"command": "..."}}'
    if call.arguments is None:
        return f'{call.fault}; write {{"command": "..."}}'
    command, timeout = call.arguments.get("command"), call.arguments.get("timeout")
    if not isinstance(command, str) or not command.strip():
        return 'the argument "command" must be a text that is not empty'
    if "\0" in command:
        return 'the argument "command" holds a NUL character'
    if len(command.encode("utf-8", "replace")) > MAX_COMMAND:
        return f"the command is over {MAX_COMMAND} bytes; write large files in pieces"
    if timeout is None:
        return Wanted(command, TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not math.isfinite(timeout) or timeout <= 0:
        return 'the argument "timeout" must be a number of seconds above 0'
    return Wanted(command, min(float(timeout), MAX_TIMEOUT))


def show_result(result: CommandResult, keep: Callable[[bytes], str], limit: int) -> str:
    """The result as the model sees it, at most about `limit` characters of output. `keep` stores the whole and names its file."""
    output = result.stdout.text()
    if result.stderr.total:
        output += f"\n[standard error]\n{result.stderr.text()}"
    cut = ""
    if len(output) > limit:
        cut = f", whole output in {keep(output.encode())}"
        output = clip(output, limit)
    if output and not output.endswith("\n"):
        output += "\n"
    return f"{output}[{_ending(result)}, {format_duration(result.seconds)}{_limits(result)}{cut}]"


def _ending(result: CommandResult) -> str:
    match result.ended:
        case "deadline":
            return f"killed at its timeout, exit {result.exit_code}"
        case "lost":
            return "lost: the box died while it ran"
        case "signalled":
            return f"exit {result.exit_code}, killed by signal {result.exit_code - 128}"
        case "exited":
            return f"exit {result.exit_code}"


def _limits(result: CommandResult) -> str:
    struck = f", limit reached: {', '.join(result.limits)}" if result.limits else ""
    return struck + (f", broken in the box: {result.health}" if result.health else "")
