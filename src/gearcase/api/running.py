"""A run, as `gearcase run` starts it: in a process of its own, watched until it ends."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Unpack

from gearcase.api.box import Keywords, box_of
from gearcase.box import LoadedBox
from gearcase.control import command
from gearcase.errors import GearcaseError
from gearcase.run.options import RunOptions
from gearcase.run.process import Started, ending, spawn
from gearcase.run.record import EndRecord
from gearcase.sandbox.threads import in_thread

_LOOK = 0.02
"""Seconds between two looks at a run's process."""
_Path = str | os.PathLike[str]


def run(
    box: LoadedBox | str,
    *,
    out: _Path | None = None,
    force: bool = False,
    name: str = "",
    record: _Path | None = None,
    cassette: _Path | None = None,
    require_checks: bool = False,
    **keywords: Unpack[Keywords],
) -> EndRecord:
    """Pursue a goal in a box and wait for the end: `run("Clean data/ into out/", give=["data"], take=["out/**"], usd=2, model=...)`.

    Deliverables go to `out` (default `gearcase-out/NAME`). With `cassette` recorded traffic answers in place of every model. A caller
    that is interrupted kills the run. Raises what stopped it before it began; how it ended, well or not, is the record.
    """
    started = spawn(_options(box, out, force, name, record, cassette, require_checks, keywords))
    try:
        while not started.poll():
            time.sleep(_LOOK)
    except BaseException:
        _kill(started)
        while not started.poll():
            time.sleep(_LOOK)
        raise
    return ending(started.folder)


async def run_async(
    box: LoadedBox | str,
    *,
    out: _Path | None = None,
    force: bool = False,
    name: str = "",
    record: _Path | None = None,
    cassette: _Path | None = None,
    require_checks: bool = False,
    **keywords: Unpack[Keywords],
) -> EndRecord:
    """As `run`, for callers that await. Cancelling it kills the run and waits for its teardown."""
    options = _options(box, out, force, name, record, cassette, require_checks, keywords)
    starting = asyncio.create_task(in_thread(spawn, options))
    try:
        started = await asyncio.shield(starting)
        while not started.poll():
            await asyncio.sleep(_LOOK)
    except asyncio.CancelledError:
        await _end(starting)
        raise
    return await in_thread(ending, started.folder)


async def _end(starting: asyncio.Task[Started]) -> None:
    """Kill a run that has begun or is about to, and see it gone."""
    with suppress(GearcaseError):  # it never began
        started = await starting
        await in_thread(_kill, started)
        while not started.poll():
            await asyncio.sleep(_LOOK)


def _kill(started: Started) -> None:
    with suppress(GearcaseError):  # it has ended already
        command(started.folder, "kill", by="operator", reason="its caller was interrupted")


def _options(
    box: LoadedBox | str,
    out: _Path | None,
    force: bool,
    name: str,
    record: _Path | None,
    cassette: _Path | None,
    require_checks: bool,
    keywords: Keywords,
) -> RunOptions:
    options = RunOptions(
        box=box_of(box, keywords),
        out=Path(out) if out is not None else None,
        force=force,
        name=name,
        record=Path(record) if record is not None else None,
        cassette=Path(cassette).resolve() if cassette is not None else None,
        require_checks=require_checks,
    )
    options.require_complete()
    return options
