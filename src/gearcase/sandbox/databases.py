"""Database files: which files are one database, and a moment at which all of them can be copied.

A SQLite database in use is a file, and a `-wal` with what was committed since, or a hot `-journal` with what must be undone. Copied one by
one while a program writes they lack rows or mix two states. So they are read under the locks that SQLite itself obeys, through
descriptors that can only read: the original, its `-shm` included, is never written and never opened by SQLite.

- The shared lock on the file: nobody writes to it but a checkpoint, nobody rolls a hot journal back.
- The locks on checkpoints and on the last reader's mark, in `-shm`: no checkpoint writes to the file, nobody begins the `-wal` anew.
  Writers go on and append to the `-wal`; what a copy holds of an unfinished transaction SQLite itself ignores.

DuckDB has one lock, which a program that may write keeps for as long as it runs. Where nobody has it the copy is made under it. Else file
and `.wal` are copied when they rest, and again where one of them changed meanwhile: what is copied is what a crash would have left.

Threat: the file is hostile, or made to look like a database. Only fixed bytes at fixed places are compared; no database library reads it
in this process. The locks belong to the opened descriptors (not to the process), so they hold against this process's own SQLite, too;
but closing any descriptor of a file drops all older-style locks that this process has on it: who has a database open must not give it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from gearcase.errors import RunError
from gearcase.sandbox.beneath import explain, identity, open_file, shown

HEAD = 20
"""Bytes of a file's beginning that tell what it is."""
PATIENCE = 10.0
"""Seconds that a moment is waited for."""
_AGAIN = 0.02
_RESTS = 0.1
"""Seconds since the last write after which a DuckDB file counts as resting: a few times the clock of file times."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of database: endings of the files that belong to it, and of those that whoever opens it makes anew."""

    name: str
    beside: tuple[bytes, ...]
    made_anew: tuple[bytes, ...] = ()


SQLITE = Kind("SQLite", (b"-wal", b"-journal"), (b"-shm",))
DUCKDB = Kind("DuckDB", (b".wal", b".wal.checkpoint", b".wal.recovery"))


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a database, opened for reading: `size` bytes of it are of the moment; more may be appended."""

    name: bytes
    descriptor: int
    size: int
    status: os.stat_result


class _Busy(Exception):
    """Somebody holds a lock, or writes."""


def kind_of(descriptor: int) -> Kind | None:
    """What an opened file is by its first bytes; None for no database. Raises OSError."""
    head = os.pread(descriptor, HEAD, 0)
    if head.startswith(b"SQLite format 3\0"):
        return SQLITE
    return DUCKDB if head[8:12] == b"DUCK" else None


def goes_with(name: bytes, kind: Kind) -> tuple[bytes, ...]:
    """Names that files of a database have beside it."""
    return tuple(name + ending for ending in kind.beside + kind.made_anew)


def moments(directory: int, name: bytes, descriptor: int, kind: Kind, path: bytes) -> Iterator[Moment]:
    """Moments of the database `name` in a directory, one after another until the caller has a good one.

    Each must be entered (`with`), and left before the next is asked for. Raises RunError `database_busy` when there is none.
    """
    until = time.monotonic() + PATIENCE
    while True:
        yield Moment(directory, name, descriptor, kind, path)
        if time.monotonic() > until:
            raise busy(path, kind)
        time.sleep(_AGAIN)


class Moment:
    """An attempt to have all files of a database at once. `parts` is empty where that did not succeed; the main file is its first."""

    def __init__(self, directory: int, name: bytes, descriptor: int, kind: Kind, path: bytes) -> None:
        self._directory = directory
        self._name = name
        self._descriptor = descriptor
        self._kind = kind
        self._path = path
        self._stack = ExitStack()
        self._locked = False
        self._there: frozenset[bytes] = frozenset()
        self.parts: tuple[Part, ...] = ()

    def __enter__(self) -> Moment:
        try:
            self._there = self._names()
            beside = self._sqlite() if self._kind is SQLITE else self._duckdb()
            main = os.fstat(self._descriptor)
            self.parts = (Part(self._name, self._descriptor, main.st_size, main), *beside)
            self._require_rest()
        except _Busy:
            self.parts = ()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def held(self) -> bool:
        """Whether what was copied since is of one moment: nothing changed but the end of a `-wal`."""
        if not self.parts or self._names() != self._there:
            return False
        return all(_same(part, grows=self._kind is SQLITE and part.name != self._name) for part in self.parts)

    def _names(self) -> frozenset[bytes]:
        """Files beside it. A journal comes and goes with each transaction, and what it means was decided under the lock."""
        found: set[bytes] = set()
        for name in goes_with(self._name, self._kind):
            if not name.endswith(b"-journal"):
                try:
                    os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                    found.add(name)
                except FileNotFoundError:
                    continue
        return frozenset(found)

    def _sqlite(self) -> list[Part]:
        self._stack.enter_context(_lock(self._descriptor, _PENDING, 1))
        self._stack.enter_context(_lock(self._descriptor, _SHARED, _SHARED_SIZE))
        # nobody waits for us longer than for any reader
        _set(self._descriptor, fcntl.F_UNLCK, _PENDING, 1)
        if (shm := self._open(self._name + b"-shm")) is not None:
            self._stack.enter_context(_lock(shm.descriptor, _CHECKPOINT, 1))
            self._stack.enter_context(_lock(shm.descriptor, _LAST_READER, 1))
        parts: list[Part] = []
        if (wal := self._open(self._name + b"-wal")) is not None:
            parts.append(wal)
        journal = None if _is_locked(self._descriptor, _RESERVED) else self._open(self._name + b"-journal")
        if journal is not None and os.pread(journal.descriptor, 1, 0) not in (b"", b"\0"):
            self._refuse_several(journal)
            parts.append(journal)
        return parts

    def _refuse_several(self, journal: Part) -> None:
        """A transaction of several files is undone by a journal of theirs, which lies elsewhere and is not copied."""
        if journal.size >= 16 and os.pread(journal.descriptor, 8, journal.size - 8) == _JOURNAL:
            raise RunError(
                "database_busy",
                f"{shown(self._path)} was left in a transaction of several databases",
                remedy=f"open it once with SQLite, which undoes what is unfinished: sqlite3 {shown(self._path)} .tables",
                path=shown(self._path),
            )

    def _duckdb(self) -> list[Part]:
        try:
            self._stack.enter_context(_lock(self._descriptor, 0, 0))
            self._locked = True
        except _Busy:
            self._locked = False
        opened = (self._open(self._name + ending) for ending in self._kind.beside)
        return [part for part in opened if part is not None]

    def _require_rest(self) -> None:
        if self._kind is DUCKDB and not self._locked:
            last = max(part.status.st_mtime for part in self.parts)
            if 0 <= time.time() - last < _RESTS:
                raise _Busy

    def _open(self, name: bytes) -> Part | None:
        try:
            descriptor = open_file(self._directory, name, widen=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, self._path + name.removeprefix(self._name), "reading") from error
        self._stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        return Part(name, descriptor, status.st_size, status)


def busy(path: bytes, kind: Kind) -> RunError:
    """Nobody lets it rest."""
    remedy = "let the program that writes to it pause or end, or give a copy that it makes itself"
    hint = (
        f"; SQLite's own: sqlite3 {shown(path)} '.backup COPY'" if kind is SQLITE else "; DuckDB's own: EXPORT DATABASE 'FOLDER'"
    )
    return RunError(
        "database_busy",
        f"{shown(path)} is a {kind.name} database that another program writes to: in {PATIENCE:g} s there was no moment to copy it",
        remedy=remedy + hint,
        path=shown(path),
    )


def _same(part: Part, *, grows: bool) -> bool:
    now = os.fstat(part.descriptor)
    if identity(now) != identity(part.status):
        return False
    if grows:
        return now.st_size >= part.size
    return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (part.size, part.status.st_mtime_ns, part.status.st_ctime_ns)


# --- locks, as SQLite and DuckDB place them -----------------------------------------------------------------------------------

_PENDING = 0x40000000
_RESERVED = _PENDING + 1
_SHARED, _SHARED_SIZE = _PENDING + 2, 510
_CHECKPOINT = 121  # in -shm: 120 writer, 121 checkpoint, 122 recovery, 123 to 127 readers
_LAST_READER = 127
_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_FLOCK = struct.Struct("@hhqqi4x")


@contextmanager
def _lock(descriptor: int, start: int, length: int) -> Generator[None]:
    """A reader's lock on some bytes, without waiting. Raises _Busy, OSError."""
    try:
        _set(descriptor, fcntl.F_RDLCK, start, length)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise _Busy from None
        raise
    try:
        yield
    finally:
        _set(descriptor, fcntl.F_UNLCK, start, length)


def _set(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _is_locked(descriptor: int, byte: int) -> bool:
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return _FLOCK.unpack(found)[0] != fcntl.F_UNLCK
