"""Host ids for a box, as root: a range of its own for each, that no user of this machine has.

Invariants: never host id 0; a range is held by a lock on a file as long as the box lives, across processes; it is taken only when all
of it is mapped in our own user namespace and neither a known user nor a subordinate range of one lies in it.
Threat: a box that is root outside (an escape of anything is then an escape of root), and two boxes that are each other's owner.
"""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

from gearcase.errors import RunError
from gearcase.sandbox.etcfiles import AGENT_ID

_FIRST, _LAST, _SIZE = 0x70000000, 0x7FFF0000, 0x10000
_SMALL = 2
_MOST_SMALL = 4096

Extent = tuple[int, int]


@dataclass(slots=True)
class Range:
    """Ids of one box: inner 0 and the agent's, which is inner 1000. `close` gives them back."""

    base: int
    size: int
    lock: int

    @property
    def agent(self) -> int:
        """The host id of the box's user."""
        return self.base + (AGENT_ID if self.size > AGENT_ID else 1)

    @property
    def map(self) -> str:
        """What to write into uid_map and gid_map."""
        if self.size > AGENT_ID:
            return f"0 {self.base} {self.size}\n"
        return f"0 {self.base} 1\n{AGENT_ID} {self.agent} 1\n"

    def close(self) -> None:
        """Let another box have the range."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def take(folder: str) -> Range:
    """The first free range; its lock lies in `folder`. Raises RunError `no_ids`."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    used = _subordinate() + [(one.pw_uid, 1) for one in pwd.getpwall()]
    for base, size in _candidates(_mapped()):
        if any(start < base + size and base < start + count for start, count in used):
            continue
        lock = os.open(f"{folder}/{base}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return Range(base, size, lock)
    raise RunError(
        "no_ids",
        "no free range of user ids for another box",
        remedy="close other boxes, or map more ids into this container's user namespace",
    )


def _mapped(path: str = "/proc/self/uid_map") -> list[Extent]:
    with open(path, encoding="ascii") as file:
        return [(int(inner), int(count)) for inner, _, count in (line.split() for line in file)]


def _subordinate() -> list[Extent]:
    found: list[Extent] = []
    for path in ("/etc/subuid", "/etc/subgid"):
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                parts = [line.strip().split(":") for line in file if line.count(":") == 2]
            found += [(int(start), int(count)) for _, start, count in parts if start.isdigit() and count.isdigit()]
    return found


def _candidates(extents: list[Extent]) -> Iterator[Extent]:
    """Whole ranges high up where they are mapped (every ordinary machine); else pairs from the top of what a container has."""
    for base in range(_FIRST, _LAST, _SIZE):
        if any(start <= base and base + _SIZE <= start + count for start, count in extents):
            yield base, _SIZE
    for start, count in sorted(extents, reverse=True):
        top = start + count - _SMALL
        for base in range(top, max(start, AGENT_ID, top - _MOST_SMALL), -_SMALL):
            if base < _FIRST:
                yield base, _SMALL
