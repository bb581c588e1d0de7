"""A name under which what a database holds stays from run to run: one RDB file, replaced whole or not at all.

One run at a time has it, by a lock that ends with the process. Threat: a run that is killed while it writes, a full disk, a server that
hands out no file, or one without end.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gearcase.doors.housed import Housed, fetch
from gearcase.doors.redis.source import Content, from_file
from gearcase.errors import UsageError


class Volume:
    """One volume of `folder`. Raises UsageError `volume_in_use`, `state_folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.file = folder / f"{name}.rdb"
        self._part = folder / f"{name}.part"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            remedy = "make the folder writable for you"
            raise UsageError("state_folder", f"{folder} cannot be written", cause=error.strerror or "", remedy=remedy) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            remedy = "wait until it ends (gearcase ps), or name another volume"
            raise UsageError("volume_in_use", f"another run has the volume {name}", remedy=remedy) from None

    def content(self) -> Content | None:
        """What is in it; None when it is new. Raises UsageError `bad_dump` for a file that is damaged."""
        if not self.file.exists():
            return None
        return from_file(self.file, f"the volume {self.name}", f"move {self.file} away, and it begins empty")

    async def keep(self, housed: Housed, made: str) -> int:
        """Put a file of the server's sandbox in place of what it held; returns its bytes. Raises RunError `door_failed`, OSError."""
        self._part.unlink(missing_ok=True)  # of a run that was killed
        size = await fetch(housed, made, self._part)
        self._part.chmod(0o600)
        self._part.replace(self.file)
        folder = os.open(self.file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return size

    def close(self) -> None:
        """Let another run have it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
