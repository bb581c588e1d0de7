"""Snapshots that are kept by themselves: after commands of the lead that changed its files, at the price of a look that is taken anyway.

They are called k1, k2, ...; those that are asked for are s1, s2, ..., so that what an agent's commands name is the same when its run is
replayed. A look goes on beside the work: a file is of one moment, a tree that something writes to meanwhile may be of two.

Contents lie in a pool of their own with a limit. When three quarters of it are used the oldest go, down to half; none is ever pruned that
was asked for, or that stood before given files were lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from gearcase.events import Event, StepKept, StepsPruned
from gearcase.runs import RunFolder
from gearcase.sandbox.beneath import explaining
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Difference, Manifest, difference
from gearcase.sandbox.pool import Pool
from gearcase.sandbox.snapshots import scan
from gearcase.sandbox.states import State, StateLog, States

_LOG_SHARE = 4
"""One part in so many of the limit is for the record of names."""
_FULL, _HALF = 0.75, 0.5
_AGES = 24
"""So often within the time that they are kept their age is looked at."""


class Steps:
    """Of the lead's files. What it does it does in a thread, within the turn of their workspace."""

    def __init__(self, folder: RunFolder, store: BlobStore, most: int, seconds: float) -> None:
        """`most` bytes, for `seconds`; `store` is the run's own, which is never pruned."""
        self.pool = Pool(folder.pool, store, most)
        self.events: list[Event] = []
        """What is to go on record."""
        self._path = folder.states
        self._log = StateLog(folder.states)
        self._most, self._seconds = most, seconds
        self._states: list[State] = []  # those that were kept by themselves and are still there, oldest first
        self._newest = State("", 0.0)
        self._count = self._size = 0
        self._began = self._aged = time.monotonic()

    def begin(self, files: Manifest) -> None:
        """What the agent starts with, whose contents the run's store keeps: s0."""
        self._newest = _counted(State("s0", time.time(), "as given"), files, Difference())
        self._log.begin(self._newest, files)

    @property
    def store(self) -> BlobStore:
        """Where the contents of all of them are found."""
        return self.pool.store

    def latest(self, most: int) -> list[State]:
        """The newest of those that were kept by themselves, oldest first."""
        return self._states[-most:]

    @property
    def kept_by_themselves(self) -> Sequence[State]:
        """All of them, oldest first."""
        return self._states

    def files_of(self, name: str) -> Manifest:
        """What a state of this name held. Raises UsageError `no_snapshot`, `not_kept`, RunError `bad_manifest`."""
        states = States(self._path)
        states.require(name)
        return states.manifest(name)

    def look(self, root: int, previous: Manifest) -> Manifest:
        """The tree below `root`, its contents kept as far as they fit. Raises what `scan` raises."""
        self._began, self._size = time.monotonic(), self.pool.size
        return scan(root, self.pool, previous, mapped=self.pool.unread(previous))

    def keep(
        self,
        files: Manifest,
        since: Manifest,
        change: Difference,
        command: int,
        running: bool,
        before_loss: bool = False,
        beside: bool = False,
    ) -> str:
        """Keep what a look has found; returns its name, which is the last one's where nothing changed since.

        `change` is what came of `since`, mostly the state before. `before_loss`: given files are gone since the state before, which is
        therefore held. `beside`: a database changed, so that this moment has a name in any case. Raises Refused `not_kept`, RunError
        `disk_full` where even the names of the files find no room.
        """
        if since is not self._log.last:
            change = difference(self._log.last, files)
        if not change and not beside:
            self._log.last = files
            return self._newest.name
        with explaining(bytes(self._path), "writing"):
            return self._keep(files, change, command, running, before_loss)

    def _keep(self, files: Manifest, change: Difference, command: int, running: bool, before_loss: bool) -> str:
        if before_loss:
            self._hold()
        lacking = self.pool.lacking(files)
        self._count += 1
        state = State(f"k{self._count}", time.time(), "", command, running, whole=not lacking)
        state = self._add(state, files, change)
        self._states.append(state)
        self.events.append(
            StepKept(
                snapshot=state.name,
                command=command,
                running=running,
                files=state.files,
                bytes=state.size,
                added=state.added,
                changed=state.changed,
                removed=state.removed,
                kept=self.pool.size - self._size,
                lacking=lacking,
                seconds=round(time.monotonic() - self._began, 4),
            )
        )
        self._prune()
        return state.name

    def named(self, name: str, note: str, files: Manifest) -> None:
        """One that was asked for, whose contents the run's store keeps. Raises as `keep` does."""
        with explaining(bytes(self._path), "writing"):
            self._add(State(name, time.time(), note, held=True), files, difference(self._log.last, files))

    def _add(self, state: State, files: Manifest, change: Difference) -> State:
        state = _counted(state, files, change)
        self._log.append(state, files, change, self._most // _LOG_SHARE)
        self._newest = state
        return state

    def _hold(self) -> None:
        """The state that stands now is never pruned."""
        if self._states and self._states[-1].name == self._newest.name and not self._newest.held:
            self._newest = self._states[-1] = replace(self._newest, held=True)
            self._log.hold(self._newest.name)

    # --- pruning -----------------------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        if self.pool.size > _FULL * self._most:
            while self.pool.size > _HALF * self._most and (old := self._old()):
                self._drop(old[: (len(old) + 1) // 2], "size")
        if time.monotonic() - self._aged > self._seconds / _AGES:
            self._aged = time.monotonic()
            before = time.time() - self._seconds
            if aged := [one for one in self._old() if one.time < before]:
                self._drop(aged, "age")

    def _old(self) -> list[State]:
        """What may go: not the newest, which the next one is compared with."""
        return [one for one in self._states[:-1] if not one.held]

    def _drop(self, old: list[State], why: str) -> None:
        gone = {one.name for one in old}
        self._log.gone(sorted(gone, key=_number))
        self._states = [one for one in self._states if one.name not in gone]
        keep = set(States(self._path).digests({one.name for one in self._states}))
        freed = self.pool.prune(keep | set(self._log.last.digests()))
        self.events.append(StepsPruned(sorted(gone, key=_number), freed, why))


def _counted(state: State, files: Manifest, change: Difference) -> State:
    return replace(
        state,
        files=files.files,
        size=files.size,
        added=len(change.added),
        changed=len(change.changed) + len(change.moved),
        removed=len(change.removed),
    )


def _number(name: str) -> int:
    return int(name[1:])
