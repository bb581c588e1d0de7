"""Gearcase from Python: the objects of the command line, typed, for scripts, tests and notebooks.

    from gearcase.api import Box, open_door, open_sandbox, run, run_async

`run` starts a run in a process of its own, as `gearcase run` does, and returns how it ended. `open_sandbox` is a box without an agent,
`open_door` the metered model door without a box; both are opened with `with` or with `async with`, and closed whatever happens.
Everything that goes wrong is a `GearcaseError` with a code and a remedy. Amounts are in base units: nano-dollars, bytes, seconds.
"""

from gearcase.api.box import Box
from gearcase.api.doors import open_door
from gearcase.api.running import run, run_async
from gearcase.api.sandboxes import AsyncSandbox, Sandbox, open_sandbox
from gearcase.errors import GearcaseError, Refused, RunError, UnsafeError, UsageError
from gearcase.run.door import DoorAlone
from gearcase.run.record import EndRecord
from gearcase.seams import CommandResult, Usage

__all__ = [
    "AsyncSandbox",
    "Box",
    "CommandResult",
    "DoorAlone",
    "EndRecord",
    "GearcaseError",
    "Refused",
    "RunError",
    "Sandbox",
    "UnsafeError",
    "Usage",
    "UsageError",
    "open_door",
    "open_sandbox",
    "run",
    "run_async",
]
