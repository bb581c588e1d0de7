"""The one writer of a journal: append, flush, durable."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from gearcase.errors import RunError
from gearcase.events import Event
from gearcase.journal.lines import FIRST_PREV, encode, lines_of, no_journal, segment, segments
from gearcase.journal.proof import Broken, Chain

SEGMENT_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024  # so much is written without being told to

Listener = Callable[[int, float, str, Event], None]


class Journal:
    """A journal that this process writes: a `Recorder`. Of one thread; only the sync runs in another.

    `repaired` holds the bytes (base64) of an incomplete last line that reopening cut: put them on record with `RunResumed`.
    Every method but `close` raises RunError `journal_failed` once a write or a sync has failed.
    """

    def __init__(self, folder: Path, directory: int, *, segment_bytes: int) -> None:
        """For `create` and `reopen` alone."""
        self.folder = folder
        self.repaired = ""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._number = 0
        self._file = -1
        self._size = 0  # of the segment, what is buffered included
        self._seq = 0
        self._head = FIRST_PREV
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._written = 0  # sequence of the last record that the kernel has
        self._durable = 0  # sequence of the last record that the disk has
        self._to_sync: list[int] = []  # files of earlier segments that are not on the disk yet
        self._syncing: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._failed: RunError | None = None
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self.listener: Listener | None = None
        """Is told every record of this process once it is appended, as (sequence, boot, agent, event)."""

    @classmethod
    def create(cls, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> Journal:
        """A new journal in a folder that is made if need be.

        Raises RunError `journal_exists`, `journal_locked` or `journal_failed`.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = _locked(folder)
        except OSError as error:
            raise _failure(folder, error) from error
        journal = cls(folder, directory, segment_bytes=segment_bytes)
        try:
            if segments(folder):
                raise RunError(
                    "journal_exists", f"{folder} holds a journal already", remedy="recover that run, or start a new one"
                )
            journal._open_segment(1, os.O_CREAT | os.O_EXCL)
            os.fsync(directory)
            _sync_directory(folder.parent)
        except OSError as error:
            journal.close()
            raise _failure(folder, error) from error
        except RunError:
            journal.close()
            raise
        return journal

    @classmethod
    def reopen(cls, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> Journal:
        """Go on with a journal: every record is verified, an incomplete last line is cut and kept in `repaired`.

        Raises RunError `no_journal`, `journal_locked`, `journal_damaged` (with the first bad `seq`) or `journal_failed`.
        """
        try:
            directory = _locked(folder)
        except FileNotFoundError:
            raise no_journal(folder) from None
        except OSError as error:
            raise _failure(folder, error) from error
        journal = cls(folder, directory, segment_bytes=segment_bytes)
        try:
            journal._resume()
        except OSError as error:
            journal.close()
            raise _failure(folder, error) from error
        except RunError:
            journal.close()
            raise
        return journal

    # --- what a Recorder does ----------------------------------------------------------------------------------------------

    @property
    def head(self) -> str:
        """The hash of the last record, 64 zeros before the first. It pins everything before it."""
        return self._head

    @property
    def seq(self) -> int:
        """The sequence of the last record, 0 before the first."""
        return self._seq

    def append(self, event: Event, agent: str = "") -> int:
        """Add one event; returns its sequence. It is in memory until `flush`, or until the event loop's next turn."""
        self._raise_if_failed()
        seq = self._seq + 1
        boot = round(time.clock_gettime(time.CLOCK_BOOTTIME), 6)
        line = encode(event, seq, round(time.time(), 6), boot, agent, self._head)
        if self._size and self._size + len(line) >= self._segment_bytes:
            self.flush()
            self._next_segment()
        self._seq, self._head = seq, sha256(line).hexdigest()
        self._buffer += (line, b"\n")
        self._size += len(line) + 1
        self._buffered += len(line) + 1
        if self._buffered >= _BUFFER_BYTES:
            self.flush()
        else:
            self._flush_soon()
        if self.listener is not None:
            self.listener(seq, boot, agent, event)
        return seq

    def flush(self) -> None:
        """Everything appended so far survives a kill of this process."""
        self._raise_if_failed()
        if not self._buffer:
            return
        data, self._buffer, self._buffered = b"".join(self._buffer), [], 0
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise self._fail(error) from error
        self._written = self._seq

    async def durable(self) -> None:
        """Everything appended so far survives a power cut. All who wait at the same time share one sync."""
        self._raise_if_failed()
        wanted = self._seq
        while self._durable < wanted:
            self._raise_if_failed()
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync())
            await asyncio.shield(self._syncing)

    def close(self) -> None:
        """Write and sync what is left, and let go of the folder. Idempotent. Raises RunError `journal_failed` if that fails."""
        if self._thread:
            self._thread.shutdown(wait=True)
            self._thread = None
        try:
            if self._file >= 0 and not self._failed:
                self.flush()
                earlier, self._to_sync = self._to_sync, []
                _sync_all(earlier, self._file)
        except OSError as error:
            raise self._fail(error) from error
        finally:
            for descriptor in {*self._to_sync, self._file, self._directory} - {-1}:
                os.close(descriptor)
            self._to_sync, self._file, self._directory = [], -1, -1
            closed = RunError("journal_closed", "the journal is closed", remedy="reopen it to go on with the run")
            self._failed = self._failed or closed

    # --- how -----------------------------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        """Within an event loop, readers see records after its current turn without anyone asking."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = None
        if not self._failed and self._buffer:
            try:
                self.flush()
            except RunError as error:
                self._failed = error  # whoever appends, flushes or waits next is told

    async def _sync(self) -> None:
        try:
            self.flush()  # here, so that all who wait are written at once
        except RunError:
            self._syncing = None
            raise
        earlier, self._to_sync, reached = self._to_sync, [], self._written
        self._thread = self._thread or ThreadPoolExecutor(1, "journal-sync")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _sync_all, earlier, self._file)
            self._durable = reached
        except OSError as error:
            raise self._fail(error) from error
        finally:
            self._syncing = None

    def _next_segment(self) -> None:
        self._to_sync.append(self._file)
        try:
            self._open_segment(self._number + 1, os.O_CREAT | os.O_EXCL)
            self._to_sync.append(os.dup(self._directory))
        except OSError as error:
            raise self._fail(error) from error

    def _open_segment(self, number: int, flags: int) -> None:
        self._file = os.open(segment(self.folder, number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        self._number, self._size = number, os.fstat(self._file).st_size

    def _resume(self) -> None:
        """Take up the chain where it ends."""
        paths = segments(self.folder)
        if not paths:
            raise no_journal(self.folder)
        chain = Chain()
        try:
            chain.walk(lines_of(paths))
        except Broken as broken:
            self._repair(paths, chain, broken)
        self._seq = self._written = self._durable = chain.records
        self._head = chain.head
        self._open_segment(int(paths[-1].stem), 0)

    def _repair(self, paths: list[Path], chain: Chain, broken: Broken) -> None:
        """Cut what a crash left behind the last record. Anything else is damage."""
        last = paths[-1]
        start = chain.size - sum(path.stat().st_size for path in paths[:-1])
        with last.open("rb") as file:
            file.seek(max(start, 0))
            rest = file.read()
        rest = rest.rstrip(b"\0")  # pages that never reached the disk read as zeros
        if start < 0 or broken.seq != chain.records + 1 or b"\n" in rest:
            raise RunError(
                "journal_damaged",
                f"record {broken.seq} in {self.folder}: {broken.reason}",
                remedy="keep the folder as it is; a run whose record was changed cannot be recovered",
                seq=broken.seq,
            )
        os.truncate(last, start)
        self.repaired = base64.b64encode(rest).decode()

    def _fail(self, error: OSError) -> RunError:
        self._failed = _failure(self.folder, error)
        return self._failed

    def _raise_if_failed(self) -> None:
        if self._failed:
            raise self._failed


def _locked(folder: Path) -> int:
    """A descriptor of the folder that holds its lock."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        raise RunError(
            "journal_locked",
            f"another process writes the journal in {folder}",
            remedy="that run is alive: attach to it, or kill it (gearcase ps, gearcase kill)",
        ) from None
    except OSError:
        os.close(directory)
        raise
    return directory


def _sync_all(earlier: list[int], current: int) -> None:
    """Earlier segments (and their folder) first, in order; they are closed. The current one stays open."""
    for descriptor in earlier:
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    os.fdatasync(current)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(folder: Path, error: OSError) -> RunError:
    return RunError(
        "journal_failed",
        f"the journal in {folder} cannot be written: {error.strerror}",
        cause=str(error),
        remedy="make room on that disk (or raise the quota or file size limit), then recover the run; what was durable is kept",
        errno=error.errno or 0,
    )
