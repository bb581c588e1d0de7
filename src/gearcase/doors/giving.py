"""Before and while files are given: whether they have room, and how far they have come.

Invariant: what cannot fit is refused before a byte is copied, with the size that would do. What is only seen later (a file system that
compresses, a file that grows) still ends in `disk_full`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from gearcase.errors import RunError
from gearcase.events import Giving
from gearcase.sandbox.copying import Weight
from gearcase.units import format_bytes

FIRST = 1.0
"""Seconds after which it is first told how far it has come: most trees are given by then."""
EVERY = 2.0

_SPARE = 1.25
"""Room beside what is given, in a remedy: for what the program makes."""


class Progress:
    """Counts files and bytes, and tells now and then."""

    def __init__(self, tell: Callable[[Giving], None]) -> None:
        self._tell = tell
        self._next = time.monotonic() + FIRST
        self._phase = ""
        self._whole = Weight()
        self._files = self._bytes = 0

    def begin(self, phase: str, whole: Weight) -> None:
        """From here on `whole` is to be done, in this phase."""
        self._phase, self._whole = phase, whole
        self._files = self._bytes = 0

    def one(self, size: int) -> None:
        """A file of so many bytes is done."""
        self._files += 1
        self._bytes += size
        now = time.monotonic()
        if now >= self._next:
            self._next = now + EVERY
            self._tell(Giving(self._phase, self._files, self._bytes, self._whole.files, self._whole.size))


def require_room(root: int, whole: Weight) -> None:
    """Raises RunError `too_large` where the workspace (the descriptor `root`) cannot hold what is given."""
    disk = os.fstatvfs(root)
    room = disk.f_bavail * disk.f_frsize
    if whole.disk <= room and whole.entries <= disk.f_favail:
        return
    held = f"{format_bytes(whole.disk)} in {whole.files:,} files"
    wanted = math.ceil(max(whole.disk * _SPARE, disk.f_blocks * disk.f_frsize * whole.entries / max(1, disk.f_files)) / 2**30)
    raise RunError(
        "too_large",
        f"what is given holds {held}, and /workspace has room for {format_bytes(room)} in {disk.f_favail:,} files",
        remedy=f"make it larger: --disk {wanted}GiB (disk under [limits]), or give only the folders that are needed",
    )
