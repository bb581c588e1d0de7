"""The metered model door for programs outside any box."""

from __future__ import annotations

from typing import Unpack

from gearcase.api.box import Keywords, box_of
from gearcase.api.threads import LoopThread, Opening
from gearcase.box import LoadedBox
from gearcase.run.door import DoorAlone, DoorOptions
from gearcase.run.door import open_door as opened


def open_door(
    box: LoadedBox | None = None, *, name: str = "", port: int = 0, token: str = "", **keywords: Unpack[Keywords]
) -> Opening[DoorAlone, DoorAlone]:
    """The metered model door on a loopback port: `with open_door(model="anthropic/claude-haiku-4-5", usd=5) as door`.

    `door.url`, `door.token` and `door.environment` are for clients, `door.spent` is what they cost so far, and `door.record` how it
    ended, once it is closed. It is a run with a folder, a ledger and a journal: what works on runs works on it. With `with` it is
    served from a thread of its own; with `async with` by the caller's loop. Raises UsageError before anything is made.
    """
    options = DoorOptions(box_of(box or "", keywords), name, port, token)
    return Opening(lambda: opened(options), _same)


def _same(door: DoorAlone, thread: LoopThread) -> DoorAlone:
    """What a door offers may be asked for from any thread."""
    return door
