"""A folder of a node, which is gone with it: the next node of this user removes those whose process was killed."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from gearcase.runs import state_folder


@dataclass(frozen=True, slots=True)
class Ground:
    """`folder` is this node's; the open lock in it says that its process lives."""

    folder: Path
    lock: int

    @classmethod
    def open(cls) -> Ground:
        """A fresh folder."""
        above = state_folder() / "nodes"
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(above)
        folder = above / secrets.token_hex(6)
        folder.mkdir(mode=0o700)
        lock = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(folder, lock)

    def close(self) -> None:
        """Remove it, and what others that are dead left behind."""
        shutil.rmtree(self.folder)
        os.close(self.lock)
        sweep(self.folder.parent)


def sweep(above: Path) -> None:
    """Remove the folders whose processes are dead."""
    for folder in above.iterdir():
        try:
            lock = os.open(folder / "lock", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # it is being made or removed at this moment
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder)
        finally:
            os.close(lock)
