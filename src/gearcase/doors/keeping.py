"""States of a throw-away database that can be returned to, each under the names of the run's snapshots.

A state is files of its server, looked at while nothing in its sandbox moves: contents are kept once, by their digests, so that a state
costs what changed since the last one. They lie in a pool with a limit. When three quarters of it are used the oldest that were kept by
themselves go, down to half; none is ever pruned that was asked for. What stands before a return is kept whatever the limit says: no
agent shall be able to keep its operator from returning. All of them go with their database.

Before the first program connects nothing is kept at all: the state of then is the first one's, and costs nobody anything who never does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gearcase.doors.files import discard
from gearcase.errors import GearcaseError, Refused
from gearcase.sandbox.blobs import BlobStore, Keeps
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.pool import Pool
from gearcase.sandbox.threads import in_thread

Why = Literal["itself", "asked", "return"]
"""A state is kept by itself, because somebody asked for one, or because what it is will be left by a return."""
KEPT = ".kept"
"""How the folder of a database's states ends."""
SMALL = 64 << 20
"""Bytes that may have changed since the last state of one that is kept by itself: its server stands still so long."""
MOST = 100
"""States; their lists of files are held in memory."""
_FULL, _HALF = 0.75, 0.5
_FIRST = "#0"
"""Under it stands why what it began as was not kept."""


@dataclass(slots=True, eq=False)
class Look:
    """What a look found: files, what opens the server that is made of them, and the bytes of a piece of its log, where it has one."""

    files: Manifest
    opens: str = ""
    segment: int = 0


@dataclass(slots=True, eq=False)
class Kept(Look):
    """A state. `time` in unix seconds; `known`: what was found out about it."""

    number: int = 0
    time: float = 0.0
    held: bool = False
    known: Any = field(default=None)


@dataclass(frozen=True, slots=True)
class PreparedReturn:
    """A state that stands ready: `put` serves it from now on and ends what was served, `leave` gives it up."""

    put: Callable[[], Awaitable[None]]
    leave: Callable[[], Awaitable[None]]


LookAt = Callable[[Keeps, Manifest, Set[int]], Awaitable[Look]]
"""Looks at the files while they stand still: as `scan` has it, where to keep contents, the last look, and inodes that are to be read."""


class _TooMuch(Exception):
    """More changed than is kept by itself."""


class _Little:
    """Keeps no more than so many bytes. Raises _TooMuch."""

    def __init__(self, pool: Pool, most: int) -> None:
        self._pool = pool
        self._left = most

    def put(self, source: int, size: int, expected: str = "") -> str:
        self._left -= size
        if self._left < 0:
            raise _TooMuch
        return self._pool.put(source, size, expected)


class _All:
    """Keeps whatever comes, beyond the limit of a pool. Raises RunError `disk_full`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def put(self, source: int, size: int, expected: str = "") -> str:
        digest = self._pool.store.put(source, size, expected)
        self._pool.missing.pop(digest, None)
        return digest


class Keeping:
    """Of one database. A name stands for a state, or for why there is none; `look` finds the state, `name` names it."""

    def __init__(self, folder: Path, blobs: Path, most: int, look_at: LookAt) -> None:
        """At most `most` bytes in `folder`; what `blobs`, the run's store, holds already takes none. `look_at` is the door's."""
        self._folder = folder
        self._blobs = blobs
        self._most = most
        self._look_at = look_at
        self._pool: Pool | None = None  # until something is kept
        self._begun = False
        self._previous = Manifest()
        self._states: dict[int, Kept] = {}
        self._names = {"s0": 0}
        self._whys: dict[str, str] = {}
        self._at: int | None = 0  # the state of the last look; None: it was not kept
        self.why = ""
        """Why the last look kept nothing."""
        self._count = 0
        self._turn = asyncio.Lock()
        self.stirred = False
        """Whether programs said anything to it since the last look."""

    @property
    def store(self) -> BlobStore:
        """Where the contents of all states are found."""
        assert self._pool is not None
        return self._pool.store

    @property
    def begun(self) -> bool:
        """Whether a program has connected: before, it is what it began as."""
        return self._begun

    async def begin(self) -> None:
        """Keep what it begins as, once: a program is about to connect."""
        if self.begun:
            return
        async with self._turn:
            if not self.begun:
                try:
                    self._pool = await in_thread(Pool, self._folder, BlobStore(self._blobs), self._most)
                    await self._look("asked", 0)
                except GearcaseError as error:
                    self._at, self.why = None, error.message  # it can be worked with all the same
                if self._at is None:
                    self._whys[_FIRST] = self.why
                self._begun = True

    async def look(self, why: Why) -> bool:
        """Look at what it is now; says whether a state was made, and not found that is kept already."""
        async with self._turn:
            if self._pool is None:
                return False
            self.stirred = False
            return await self._look(why, self._count + 1)

    def unseen(self, why: str) -> None:
        """It was not looked at now, and this is why."""
        if self.begun:
            self._at, self.why = None, why

    def name(self, name: str, held: bool = False) -> None:
        """What the last look found is called so; `held`: it is never pruned. A name stays with what it was first given to."""
        if name in self._names:
            return
        if self._at is None:
            self._whys.setdefault(name, self.why)
        elif held or name not in self._whys:
            self._whys.pop(name, None)
            self._names[name] = self._at
            if held and self._at in self._states:
                self._states[self._at].held = True

    def find(self, name: str) -> Kept | None:
        """The state of that name."""
        return self._states.get(self._names.get(name, -1))

    def now(self) -> Kept | None:
        """The state that the last look found."""
        return self._states.get(self._at) if self._at is not None else None

    def missing(self, name: str) -> str:
        """Why there is no state of that name; empty where there is one, or where it is what it began as."""
        if name in self._names:
            number = self._names[name]
            return "" if number in self._states or not self.begun else self._whys.get(_FIRST, "") or "it was pruned"
        return self._whys.get(name, "nothing was kept at that moment")

    def names(self) -> list[str]:
        """Those that can be returned to, oldest first."""
        return [name for name in self._names if not self.missing(name)]

    async def forget(self, alive: Collection[str]) -> None:
        """Of names that were kept by themselves only these are known any more."""
        gone = [name for name in (*self._names, *self._whys) if name.startswith("k") and name not in alive]
        if not gone:
            return
        for name in gone:
            self._names.pop(name, None)
            self._whys.pop(name, None)
        async with self._turn:
            if old := self._unnamed():
                await in_thread(self._drop, old)

    async def close(self) -> None:
        """Nothing of them stays. Idempotent."""
        async with self._turn:
            if self._pool is not None and self._folder.exists():
                await in_thread(discard, self._folder)

    # --- looking, in turn ------------------------------------------------------------------------------------------------------

    async def _look(self, why: Why, number: int) -> bool:
        pool = self._pool
        assert pool is not None
        self._at, self.why = None, ""
        try:
            if pool.size > _FULL * self._most or len(self._states) >= MOST:
                await in_thread(self._thin)
            found = await self._found(pool, why)
            if why != "return" and pool.lacking(found.files) and (old := self._old()):
                await in_thread(self._drop, old)
                found = await self._found(pool, why)
        except _TooMuch:
            self.why = "too much had changed since the last one to keep it by itself"
            return False
        except GearcaseError as error:
            self.why = f"{error.message}{f': {error.cause}' if error.cause else ''}"
            return False
        self._previous = found.files
        if why != "return" and pool.lacking(found.files):  # a look that keeps everything lacks nothing
            self.why = "it held more than finds room ([files] snapshots_max)"
            return False
        last = next(reversed(self._states.values()), None)
        if last is not None and last.opens == found.opens and last.files.digest == found.files.digest:
            self._at = last.number
            return False
        if why == "asked" and len(self._states) >= MOST:
            self.why = f"{MOST} states of it are kept already"
            return False
        self._count = self._at = number
        self._states[number] = Kept(found.files, found.opens, found.segment, number, time.time(), number == 0)
        return True

    async def _found(self, pool: Pool, why: Why) -> Look:
        keeps: Keeps = _All(pool) if why == "return" else _Little(pool, SMALL) if why == "itself" else pool
        lacking = pool.missing if why == "return" else ()
        unread = {one.ino for one in self._previous.entries if one.digest in lacking} | pool.unread(self._previous)
        return await self._look_at(keeps, self._previous, unread)

    def _old(self) -> list[Kept]:
        """What may go: first what nobody can name any more, then the oldest."""
        unnamed = self._unnamed()
        return [
            *unnamed,
            *(one for one in self._states.values() if not one.held and one.number != self._at and one not in unnamed),
        ]

    def _unnamed(self) -> list[Kept]:
        named = set(self._names.values())
        return [one for one in self._states.values() if not one.held and one.number != self._at and one.number not in named]

    def _thin(self) -> None:
        pool = self._pool
        assert pool is not None
        while (pool.size > _HALF * self._most or len(self._states) > _HALF * MOST) and (old := self._old()):
            self._drop(old[: (len(old) + 1) // 2])

    def _drop(self, old: list[Kept]) -> None:
        """Their names are known no more, and contents that nobody else has go."""
        assert self._pool is not None
        for one in old:
            del self._states[one.number]
        kept = {digest for one in self._states.values() for digest in one.files.digests()}
        self._pool.prune(kept | set(self._previous.digests()))


def not_kept(database: str, name: str, why: str, names: Collection[str]) -> Refused:
    """There is no state of a database to return to."""
    where = f"return to one where it was: {', '.join(list(names)[-8:])}; or " if names else ""
    return Refused(
        "database_not_kept",
        f"the database {database} was not kept with {name}: {why}",
        remedy=f"{where}return the files alone: --files-only",
    )
