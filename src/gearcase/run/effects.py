"""What an agent's commands do to its files, as the host sees it: a look after each of them, compared with the last look and with the start.

A look walks the tree, reads what changed, and what it finds is kept as a snapshot (`steps`). The box goes on meanwhile; only where
something seems lost is it looked at once more while nothing moves, because a file that is renamed during a walk may be met nowhere.
Looks take at most `DUTY` of the time, in the long run: a large tree is looked at less often, and what happened between two looks is seen
together.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass

from gearcase.doors.patterns import Patterns
from gearcase.errors import GearcaseError
from gearcase.events import CommandEnded, CommandStarted, Event, Failure, FilesSeen
from gearcase.run.steps import Steps
from gearcase.run.workspace import Workspace
from gearcase.sandbox.beneath import open_beneath, open_file
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Difference, Entry, Manifest, difference
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Recorder

DUTY = 0.02
"""Share of the time that looks may take."""
BURST = 0.5
"""Seconds of it that may be taken ahead, so that a small tree is looked at after every command."""
DERIVED = frozenset(
    b"node_modules __pycache__ .venv venv .tox dist build target .mypy_cache .pytest_cache .ruff_cache .cache .next .gradle .eggs "
    b"coverage htmlcov .nox".split()
)
"""Folders that programs make again by themselves: what goes there is no loss."""
_SHRUNK = 10
"""A file that has less than one part in so many of its bytes left is no edit."""
_NAMED, _GONE, _DIGITS = 50, 20, 16
_TEXT = 1 << 20
_TEST = re.compile(
    rb"(^|/)(tests?|spec|__tests__)/|(^|/)test_[^/]*\.py$|_test\.(py|go|rb|exs?)$|\.(test|spec)\.[cm]?[jt]sx?$|Tests?\.(java|kt|cs)$"
)
_ASSERTS = re.compile(rb"\b(?:assert\w*|expect|require|should|t\.(?:Error|Fatal)f?)\b")
_SKIPS = re.compile(rb"\b(?:skip\w*|xfail|xit|xdescribe|todo|Disabled|Ignore)\b|#\[ignore\]")


@dataclass(frozen=True, slots=True)
class _Seen:
    files: Manifest
    change: Difference
    event: FilesSeen


class Effects:
    """Of one agent's files, in its workspace, which keeps `steps` of them. `store` is where what it began with is kept."""

    def __init__(
        self,
        space: Workspace,
        steps: Steps,
        store: BlobStore,
        recorder: Recorder,
        agent: str,
        keep: tuple[str, ...] = (),
        protected: tuple[str, ...] = (),
    ) -> None:
        self._space = space
        self._steps = steps
        self._store = store
        self._recorder = recorder
        self._agent = agent
        self._keep, self._protected = Patterns(keep), Patterns(protected)
        self._stirred = asyncio.Event()
        self._troubled: set[str] = set()
        self._seen = Manifest()
        self._start: list[tuple[Entry, bytes]] = []
        self._of_bytes = self._lost = 0
        self._command = 0
        self._running: set[int] = set()

    def begin(self, files: Manifest) -> None:
        """What the agent starts with."""
        self._seen = files
        self._start = [
            (entry, entry.path) for entry in files.entries if entry.kind == "file" and entry.size and not _derived(entry)
        ]
        self._of_bytes = sum(entry.size for entry, _path in self._start)

    def stir(self, event: Event | None = None) -> None:
        """Something may have changed: a command began or ended, or time has passed."""
        if isinstance(event, CommandStarted):
            self._command = event.command
            self._running.add(event.command)
        elif isinstance(event, CommandEnded):
            self._command = event.command
            self._running.discard(event.command)
        self._stirred.set()

    async def watch(self) -> None:
        """Look whenever something may have changed, until cancelled."""
        credit, at = BURST, time.monotonic()
        while True:
            await self._stirred.wait()
            began = time.monotonic()
            credit, at = min(BURST, credit + DUTY * (began - at)), began
            if credit < 0:
                await asyncio.sleep(-credit / DUTY)
                continue
            self._stirred.clear()
            await self.look()
            credit -= time.monotonic() - began

    async def look(self) -> None:
        """Record what changed since the last look, and keep it, if anything did. What cannot be looked at or kept is on record, once."""
        try:
            await self._look_and_keep(still=False)
        except GearcaseError as error:
            if error.code not in ("tree_changed", "sandbox_lost") and error.code not in self._troubled:
                self._troubled.add(error.code)
                self._recorder.append(Failure(error.envelope()), self._agent)

    async def now(self) -> str:
        """The name of a snapshot of this very moment. Raises what stands against it."""
        return await self._look_and_keep(still=True)

    async def _look_and_keep(self, still: bool) -> str:
        space = self._space
        async with space.turn:
            command, running = self._command, bool(self._running)
            seen = None if still else await in_thread(self._look, space.root)
            if seen is None or seen.event.lost > self._lost:
                async with space.still() as files:
                    seen = await in_thread(self._look, files)
            before, self._seen = self._seen, seen.files
            lost, self._lost = self._lost, seen.event.lost if seen.change else self._lost
            if seen.change:
                self._recorder.append(seen.event, self._agent)
            databases = space.databases
            beside = await databases.look() if databases is not None else False
            try:
                lost_now = self._lost > lost
                name = await in_thread(self._steps.keep, seen.files, before, seen.change, command, running, lost_now, beside)
            finally:
                space.tell()
            if databases is not None:
                await databases.name(name)
            return name

    def _look(self, root: int) -> _Seen:
        began = time.monotonic()
        now = self._steps.look(root, self._seen)
        change = difference(self._seen, now)
        if not change:
            return _Seen(now, change, FilesSeen(now.files, now.size, 0, 0, 0, 0, 0, 0, 0, 0))
        lost = self._find_lost(now)
        written = [entry for entry in (*change.added, *(pair.after for pair in change.changed)) if entry.kind == "file"]
        seen = FilesSeen(
            files=now.files,
            bytes=now.size,
            added=len(change.added),
            changed=len(change.changed),
            removed=len(change.removed),
            changed_bytes=_growth(change),
            lost=len(lost),
            lost_bytes=sum(entry.size for entry, _path in lost),
            of_files=len(self._start),
            of_bytes=self._of_bytes,
            written=[[_said(entry.path), entry.digest[:_DIGITS]] for entry in written[:_NAMED]],
            gone=[_said(path) for _entry, path in lost[:_GONE]],
            kept_gone=[_said(path) for path in self._gone_of(self._keep, now, lost)][:_GONE],
            protected=[_said(path) for entry, path in self._start if self._is_other(entry, path, now)][:_GONE],
            tests=self._tests(root, change),
            seconds=round(time.monotonic() - began, 4),
        )
        return _Seen(now, change, seen)

    def _find_lost(self, now: Manifest) -> list[tuple[Entry, bytes]]:
        """Files of the start that are gone or nearly empty, and whose content is nowhere."""
        there = {entry.digest for entry in now.entries if entry.kind == "file"}
        lost: list[tuple[Entry, bytes]] = []
        for entry, path in self._start:
            if entry.digest not in there:
                found = now.find(path)
                if found is None or found.kind != "file" or found.size * _SHRUNK < entry.size:
                    lost.append((entry, path))
        return lost

    def _gone_of(self, patterns: Patterns, now: Manifest, lost: list[tuple[Entry, bytes]]) -> list[bytes]:
        return [path for _entry, path in lost if patterns.match(path)]

    def _is_other(self, entry: Entry, path: bytes, now: Manifest) -> bool:
        if not self._protected.match(path):
            return False
        found = now.find(path)
        return found is None or found.digest != entry.digest

    def _tests(self, root: int, change: Difference) -> list[list[object]]:
        """Test files of the start that changed or went: assertions and skips, before and after."""
        begun = {path: entry for entry, path in self._start if _TEST.search(path)}
        touched = [*(pair.after.path for pair in change.changed), *(entry.path for entry in change.removed)]
        found: list[list[object]] = []
        for path in touched[:200]:
            entry = begun.get(path)
            if entry is None or (before := self._given(entry)) is None:
                continue
            after = _read(root, path)
            counts = [len(pattern.findall(text)) for pattern in (_ASSERTS, _SKIPS) for text in (before, after)]
            found.append([_said(path), *counts])
        return found[:_GONE]

    def _given(self, entry: Entry) -> bytes | None:
        return self._store.read(entry.digest, _TEXT) if entry.size <= _TEXT else None


def _read(root: int, path: bytes) -> bytes:
    """The beginning of a file of the box, empty where there is none."""
    *folders, name = path.split(b"/")
    opened: list[int] = []
    with suppress(OSError):
        try:
            for folder in folders:
                opened.append(open_beneath(opened[-1] if opened else root, folder, os.O_RDONLY | os.O_DIRECTORY))
            opened.append(open_file(opened[-1] if opened else root, name))
            return os.read(opened[-1], _TEXT)
        finally:
            for descriptor in opened:
                os.close(descriptor)
    return b""


def _derived(entry: Entry) -> bool:
    """Whether it lies where programs make files anew; of a repository only HEAD stays, for git packs the rest as it likes."""
    folder = entry.parent
    while folder is not None:
        if folder.name in DERIVED:
            return True
        if folder.name == b".git":
            return not (entry.name == b"HEAD" and folder is entry.parent)
        folder = folder.parent
    return False


def _growth(change: Difference) -> int:
    """Bytes that were written: of new files all, of changed ones what they grew or shrank by, at least a line."""
    fresh = sum(entry.size for entry in change.added if entry.kind == "file")
    return fresh + sum(max(abs(pair.after.size - pair.before.size), 40) for pair in change.changed if pair.after.kind == "file")


def _said(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")[:300]
