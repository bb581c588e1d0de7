"""States of a tree on disk, in one file: the first as it was, each later one as what changed since the one before.

So a state costs what changed, and all of them can be read by whoever has the file, during the run and after it. Contents lie in a
store, by their digests; a state whose contents were pruned stays readable as a list of names.

Invariants: lines are only added; a torn last one (a kill, a full disk) is as if it had never been written; what is read back is checked as
every manifest is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from gearcase.errors import Refused, RunError, UsageError
from gearcase.sandbox.manifest import Difference, Entry, Manifest, difference, entries_of, row_of

FORMAT = "gearcase-states/1"


@dataclass(frozen=True, slots=True)
class State:
    """One state. `time` in unix seconds; `command`: the run's command after which it was seen, `running`: while that went on.

    `whole`: every content was kept. `added`, `changed`, `removed`: since the state before. `held`: it is never pruned.
    """

    name: str
    time: float
    note: str = ""
    command: int = 0
    running: bool = False
    files: int = 0
    size: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    whole: bool = True
    held: bool = False


_ROW = 120
"""Bytes of a line beside its names, nearly."""


class StateLog:
    """Writes the file, which is made with its second state: a run that changes nothing has none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: tuple[State, Manifest] | None = None
        self.last = Manifest()
        self.bytes = 0

    def begin(self, state: State, manifest: Manifest) -> None:
        """What all begins with."""
        self._first, self.last = (state, manifest), manifest

    def append(self, state: State, manifest: Manifest, change: Difference, room: int) -> None:
        """One more; `change` is from the last one to this. Raises OSError, Refused `not_kept` where it takes more than `room` bytes;
        then it is not there.
        """
        lines: list[dict[str, Any]] = []
        if self._first is not None:
            first, files = self._first
            lines = [{"format": FORMAT}, _line(first, difference(Manifest(), files), room)]
        self._write(*lines, _line(state, change, room - self.bytes))
        self._first, self.last = None, manifest

    def hold(self, name: str) -> None:
        """Never prune this one."""
        self._write({"held": name})

    def gone(self, names: Iterable[str]) -> None:
        """The contents of these are not kept any more."""
        self._write({"gone": list(names)})

    def _write(self, *lines: dict[str, Any]) -> None:
        """All of them or none."""
        data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            at = os.fstat(descriptor).st_size
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                os.ftruncate(descriptor, at)
                raise
            self.bytes = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


class States:
    """What a file of states tells. Empty where there is none."""

    def __init__(self, path: Path) -> None:
        """Raises RunError `bad_manifest` for a file that is no such file."""
        self._lines: list[dict[str, Any]] = []
        self.states: dict[str, State] = {}
        self.gone: set[str] = set()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        try:
            for number, text in enumerate(data[: data.rfind(b"\n") + 1].splitlines()):
                self._take(number, json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(error) from error

    def _take(self, number: int, line: dict[str, Any]) -> None:
        if number == 0:
            if line["format"] != FORMAT:
                raise ValueError(f"its format is {line['format']!r}, not {FORMAT!r}")
        elif "gone" in line:
            self.gone |= set(line["gone"])
        elif "held" in line:
            self.states[line["held"]] = _state({**asdict(self.states[line["held"]]), "held": True})
        else:
            state = _state(line["state"])
            self.states[state.name] = state
            self._lines.append(line)

    @property
    def last(self) -> State | None:
        """The newest."""
        return next(reversed(self.states.values()), None)

    def kept(self, name: str) -> bool:
        """Whether its contents are there."""
        state = self.states.get(name)
        return state is not None and state.whole and name not in self.gone

    def find(self, name: str) -> State:
        """The state of that name. Raises UsageError `no_snapshot`."""
        if name not in self.states:
            names = [one for one in self.states if self.kept(one)]
            known = ", ".join(names[-12:]) if names else "none: the files did not change, or nothing of them was kept"
            raise UsageError("no_snapshot", f"there is no snapshot {name!r}", remedy=f"the latest that are kept: {known}")
        return self.states[name]

    def require(self, name: str) -> State:
        """The state of that name, whose contents are kept. Raises UsageError `no_snapshot`, `not_kept`."""
        state = self.find(name)
        if not self.kept(name):
            why = "its contents were pruned" if name in self.gone else "it held more than was kept"
            remedy = "take another one, or raise [files] snapshots_max and snapshots_for in the box of the next run"
            raise UsageError("not_kept", f"snapshot {name} is known by its names alone: {why}", remedy=remedy)
        return state

    def manifest(self, name: str) -> Manifest:
        """Its files. Raises UsageError `no_snapshot`, RunError `bad_manifest`."""
        self.find(name)
        tree: dict[str, list[Any]] = {}
        for line in self._lines:
            _apply(tree, line)
            if line["state"]["name"] == name:
                break
        try:
            return Manifest(entries_of(tree))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _unreadable(error) from error

    def digests(self, wanted: set[str]) -> Iterator[str]:
        """The contents of the states of these names; one may come several times."""
        tree: dict[str, list[Any]] = {}
        before = False
        for line in self._lines:
            _apply(tree, line)
            is_wanted = line["state"]["name"] in wanted
            if is_wanted:  # what it shares with the one before was told with that
                yield from (str(row[-2]) for row in (line["set"] if before else tree.values()) if row[-2])
            before = is_wanted


def _apply(tree: dict[str, list[Any]], line: dict[str, Any]) -> None:
    for path in line["removed"]:
        tree.pop(path, None)
    for path, *row in line["set"]:
        tree[path] = row


def _line(state: State, change: Difference, room: int) -> dict[str, Any]:
    """Paths may be long, and an agent chooses them: what comes to more than `room` bytes is given up before it is all there."""
    come: list[Entry] = [*change.added, *(pair.after for pair in (*change.changed, *change.moved))]
    went = [*change.removed, *(pair.before for pair in change.moved)]
    rows: list[list[Any]] = []
    for entry in (*went, *come):
        row = row_of(entry)
        room -= len(row[0]) + len(row[6]) + _ROW
        if room < 0:
            raise Refused("not_kept", "the names of the files are too long to be kept", remedy="raise [files] snapshots_max")
        rows.append(row)
    return {"state": asdict(state), "removed": [row[0] for row in rows[: len(went)]], "set": rows[len(went) :]}


def _state(told: object) -> State:
    return State(**cast("dict[str, Any]", told))


def _unreadable(error: Exception) -> RunError:
    return RunError(
        "bad_manifest",
        f"the record of a run's snapshots cannot be read: {error}",
        cause=str(error),
        remedy="the file is damaged, altered or of another version of gearcase; the deliverables and the journal are not touched by it",
    )
