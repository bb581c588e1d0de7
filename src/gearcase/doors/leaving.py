"""Ending what a door does for one agent, while it goes on for the others. The door's tasks bear the names of their agents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


async def end_tasks_of(agent: str, tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel those of this agent, and wait for it: a connection that is open keeps its box's network alive."""
    wanted = [task for task in tasks if task.get_name() == agent]
    for task in wanted:
        task.cancel()
    await asyncio.gather(*wanted, return_exceptions=True)
