"""Until the work of one agent ends: by itself, by the death of its box, by its time, by a kill, or because it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from gearcase.agent.loop import AgentEnd
from gearcase.brake import Level, Part
from gearcase.errors import RunError
from gearcase.run.accounts import Pace
from gearcase.run.ending import End
from gearcase.run.room import Room

_HEARD = 1.0
"""Seconds in which the end of a box is told after a command in it failed of it."""


async def until_end(work: Awaitable[Any], room: Room, brake: Part, pace: Pace, halted: asyncio.Future[End] | None = None) -> End:
    """Wait for the work, the box's death, the wall clock, a kill, or `halted`, whichever is first; the work is cancelled then.

    Raises what ended the run at a door.
    """
    tasks: dict[str, asyncio.Future[Any]] = {
        "work": asyncio.ensure_future(work),
        "failed": asyncio.ensure_future(asyncio.shield(room.failed)),
        "lost": asyncio.create_task(room.sandbox.died()),
        "killed": asyncio.create_task(brake.wait_for(lambda level: level is Level.KILLED)),
        "wall": asyncio.create_task(_wall(pace)),
        "tick": asyncio.create_task(room.tick()),
    }
    if halted is not None:
        tasks["halted"] = asyncio.ensure_future(asyncio.shield(halted))
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        if tasks["work"].done() and _lost(tasks["work"].result()):
            await asyncio.wait({tasks["lost"]}, timeout=_HEARD)  # the agent may have heard of it first
            if tasks["lost"].done():
                return _end("lost", tasks["lost"].result(), room)
        if tasks["failed"].done():
            raise tasks["failed"].result()
        for name in ("work", "killed", "lost", "wall", "halted"):
            if name in tasks and tasks[name].done():
                return _end(name, tasks[name].result(), room)
        tasks["tick"].result()
        raise RunError("internal", "the tick ended by itself", remedy="report this, with the run's supervisor.log")
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _end(name: str, result: Any, room: Room) -> End:
    if name == "lost":
        room.lost(str(result))
        return End("lost", str(result))
    if name == "killed":
        return End("killed", "killed by the operator")
    if name == "wall":
        return End("wall", "the time of the run is over")
    return result if isinstance(result, End) else End(result.reason, result.detail, result.note, error=result.error)


async def _wall(pace: Pace) -> None:
    while pace.now() != "stop":
        await asyncio.sleep(0.25)
    if pace.limit not in ("wall", "cpu_time"):
        await asyncio.Event().wait()  # the agent's loop ends itself on the other limits


def _lost(end: AgentEnd | End) -> bool:
    return end.error is not None and end.error.code == "sandbox_lost"
