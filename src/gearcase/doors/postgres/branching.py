"""A branch: a throw-away copy of a database, made by `pg_dump` outside and `pg_restore` in the sandbox of the server.

Both run at once, joined by a FIFO in a folder that the sandbox sees read-only: nothing of the source is kept on this machine's disk.

Threat: a dump is code, which `pg_restore` runs as a superuser: in the sandbox alone. Owners, grants, subscriptions and event triggers are
left out; every object belongs to the agent's role.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gearcase.box.dsn import Dsn
from gearcase.doors.housed import failed
from gearcase.doors.postgres.binaries import choose, newest
from gearcase.doors.postgres.cluster import AGENT, RESTORER, Cluster
from gearcase.doors.postgres.masking import mask
from gearcase.doors.postgres.sampling import check, draw, keys_of, large, mend, pattern, take
from gearcase.doors.postgres.source import About, Source, Table
from gearcase.doors.postgres.stopped import look
from gearcase.errors import GearcaseError, RunError
from gearcase.events import DatabaseCopying
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Housing, Mount
from gearcase.units import format_bytes

INSIDE = "/opt/source"
_FIFO = "dump"
_LEFT = ("--no-owner", "--no-privileges", "--no-security-labels", "--no-tablespaces", "--no-subscriptions", "--no-publications")
_ROOM = 96 << 20
"""Bytes of a server's disk that no data can have: its own tables and its log."""
COPY_WITHIN = 3600.0
"""Seconds."""
_TELL = 1.0
"""Seconds between two words on how far it is."""
_KNOCK = 0.05
_WIDE = 1 << 20
"""Bytes: what any user may have."""
_LAST_WORDS = 2.0
"""Seconds in which a dump that broke off says why."""
_SETTLE = f"""
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT evtname FROM pg_event_trigger LOOP EXECUTE format('DROP EVENT TRIGGER %I', one.evtname); END LOOP;
END $$;
REASSIGN OWNED BY {RESTORER} TO {AGENT};
"""


@dataclass(frozen=True, slots=True)
class Part:
    """What of the source is copied. Patterns are those of pg_dump's `--exclude-table-data`; `mask` is as `masking` says."""

    exclude: Sequence[str] = ()
    schema_only: bool = False
    mask: Mapping[str, str] = field(default_factory=dict[str, str])
    sample: float = 0.0
    """Percent of the rows of large tables; 0: all."""


class Fifo:
    """A folder with a FIFO in it, seen in the sandbox at `INSIDE`. The FIFO is made after the sandbox, which takes none in."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gearcase-"))
        self._folder.chmod(0o755)

    @property
    def mount(self) -> Mount:
        """For the sandbox."""
        return Mount(self._folder, INSIDE, executable=False)

    def make(self) -> str:
        """Make the FIFO, in place of the last one; returns its path outside."""
        path = self._folder / _FIFO
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        path.chmod(0o644)
        return str(path)

    @contextlib.contextmanager
    def wide(self) -> Generator[None]:
        """What is written waits in it, as far as the kernel lets it, until it is read: each side then works in long stretches."""
        reader = os.open(self._folder / _FIFO, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, _WIDE)
            yield
        finally:
            os.close(reader)

    async def read_out(self, reading: asyncio.Task[Any]) -> None:
        """Wait for who reads it, when who wrote has ended: one who opens it only then would wait for a writer for ever."""
        while not reading.done():
            os.close(os.open(self._folder / _FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            await asyncio.wait({reading}, timeout=_KNOCK)

    def close(self) -> None:
        """Remove it. Idempotent."""
        shutil.rmtree(self._folder, ignore_errors=True)


def check_size(about: About, part: Part, disk: int) -> int:
    """The bytes that a copy takes. Raises RunError `too_large` where they do not fit, before anything is copied."""
    needed = 0 if part.schema_only else sum(one.bytes for one in about.tables if one.full_name not in part.exclude)
    if needed + _ROOM > disk:
        raise RunError(
            "too_large",
            f"the database holds {format_bytes(needed)}, its server's disk is {format_bytes(disk)}",
            remedy='give it more (`disk = "..."` in its table), or copy less: `exclude`, `schema_only`',
        )
    return needed


async def open_branch(
    housing: Housing, name: str, dsn: Dsn, password: str, part: Part, memory: int, disk: int
) -> tuple[Cluster, int]:
    """A server with a copy of a database; also the bytes that the source takes.

    Raises UsageError and RunError, and leaves nothing behind then.
    """
    about = await Source(dsn, password, newest()).about()
    binaries = choose(about.version, about.extensions)
    sampled = large(about.tables, part.exclude) if part.sample else []
    parts = [replace(one, bytes=round(one.bytes * part.sample / 100)) if one in sampled else one for one in about.tables]
    size = check_size(replace(about, tables=parts), part, disk)
    fifo = Fifo()
    try:
        cluster = await Cluster.open(housing, binaries, name, memory, disk, (fifo.mount,))
        try:
            source = Source(dsn, password, binaries)
            async with _telling(housing, f"postgres.{name}", cluster, size):
                if sampled:
                    cluster.left_out = await copy_sampled(source, cluster, fifo, part, sampled)
                else:
                    await copy(source, cluster, fifo, part)
                await mask(cluster, part.mask)
        except BaseException:
            await cluster.close()
            raise
    finally:
        fifo.close()
    return cluster, size


@contextlib.asynccontextmanager
async def _telling(housing: Housing, door: str, cluster: Cluster, whole: int) -> AsyncGenerator[None]:
    """Put on record each second how much has arrived: by how much fuller the disk of the server is."""
    sandbox = cluster.housed.sandbox
    before = (await sandbox.usage()).disk

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL)
            arrived = max(0, (await sandbox.usage()).disk - before)
            housing.recorder.append(DatabaseCopying(door, arrived, whole))

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def open_copy(
    housing: Housing, name: str, folder: Path, database: str, masks: Mapping[str, str], memory: int, disk: int
) -> tuple[Cluster, int]:
    """A server with a copy of a stopped cluster's files; also the bytes that they take.

    Raises UsageError and RunError, and leaves nothing behind then.
    """
    stopped = await in_thread(look, folder, disk, _ROOM)
    cluster = await Cluster.open_copy(housing, stopped, database, name, memory, disk)
    try:
        await mask(cluster, masks)
    except BaseException:
        await cluster.close()
        raise
    return cluster, stopped.bytes


async def copy(source: Source, cluster: Cluster, fifo: Fifo, part: Part) -> None:
    """Copy it. Raises what `Source.failed` makes, and RunError `door_failed`."""
    await _pass(source, cluster, fifo, part, ())
    await cluster.ask(_SETTLE)


async def copy_sampled(source: Source, cluster: Cluster, fifo: Fifo, part: Part, tables: Sequence[Table]) -> list[str]:
    """Copy it, of large tables a sample; returns a line for each foreign key that the sample breaks. Raises as `copy`."""
    whole = replace(part, exclude=(*part.exclude, *map(pattern, tables)))
    keys = await keys_of(source)
    await _pass(source, cluster, fifo, whole, ("--section=pre-data", "--section=data"))
    for table in tables:
        path = fifo.make()
        await _sample(source, cluster, table, part.sample, path)
    await _pass(source, cluster, fifo, whole, ("--section=post-data",), is_sample=True)
    lines = await mend(cluster, keys)
    await cluster.ask(_SETTLE)
    return lines


async def _sample(source: Source, cluster: Cluster, table: Table, percent: float, path: str) -> None:
    """Draw a sample of one table and read it into the branch, both at once."""
    drawing = asyncio.create_task(draw(source, table, percent, path))
    taking = asyncio.create_task(take(cluster, table, f"{INSIDE}/{_FIFO}"))
    try:
        await asyncio.wait({drawing, taking}, timeout=COPY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not drawing.done() and not taking.done():
            raise source.failed(f"timeout expired: not copied within {COPY_WITHIN:g} s")
        if _broke_off(drawing):
            raise source.failed(drawing.result()[2])
        taken = await taking
        if taken.exit_code != 0:
            raise _unrestored(source, taken.stderr.text(), failed(f"{source.dsn} could not be copied", taken))
        code, _, said = await drawing
        if code != 0:
            raise source.failed(said)
    finally:
        for task in (drawing, taking):
            task.cancel()
        await asyncio.gather(drawing, taking, return_exceptions=True)


async def _pass(
    source: Source, cluster: Cluster, fifo: Fifo, part: Part, sections: Sequence[str], *, is_sample: bool = False
) -> None:
    path = fifo.make()
    wanted = (
        *sections,
        *(f"--exclude-table-data={one}" for one in part.exclude),
        *(["--schema-only"] if part.schema_only else []),
    )
    options = ("--format=custom", "--compress=0", "--no-sync", "--no-password", "--lock-wait-timeout=30s", *_LEFT, *wanted)
    dump = asyncio.create_task(source.run("pg_dump", *options, f"--file={path}"))
    strict = () if is_sample else ("--exit-on-error", "--single-transaction")
    into = (*_LEFT, *strict, f"--dbname={cluster.database}")
    restore = asyncio.create_task(cluster.run("pg_restore", *into, user=RESTORER, stdin_from=f"{INSIDE}/{_FIFO}"))
    try:
        with fifo.wide():
            await asyncio.wait({dump, restore}, timeout=COPY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if dump.done() and not _broke_off(dump):
                await fifo.read_out(restore)
        if not dump.done() and not restore.done():
            raise source.failed(f"timeout expired: not copied within {COPY_WITHIN:g} s")
        if _broke_off(dump):
            raise source.failed(dump.result()[2])
        restored = await restore
        if is_sample:
            check(restored)
        elif restored.exit_code != 0:
            await asyncio.wait({dump}, timeout=_LAST_WORDS)
            if _broke_off(dump):
                raise source.failed(dump.result()[2])
            raise _unrestored(source, restored.stderr.text(), failed(f"{source.dsn} could not be copied", restored))
        code, _, said = await dump
        if code != 0:
            raise source.failed(said)
    finally:
        for task in (dump, restore):
            task.cancel()
        await asyncio.gather(dump, restore, return_exceptions=True)


def _broke_off(dump: asyncio.Task[tuple[int, bytes, str]]) -> bool:
    """Whether the dump failed by itself: not because nobody read it any more, of which the reader knows why."""
    if not dump.done() or dump.result()[0] == 0:
        return False
    code, _, said = dump.result()
    return code != -signal.SIGPIPE and "Broken pipe" not in said


def _unrestored(source: Source, said: str, error: GearcaseError) -> GearcaseError:
    if "No space left on device" in said or "Disk quota exceeded" in said:
        remedy = 'give it more (`disk = "..."` in its table), or copy less: `exclude`, `schema_only`'
        return RunError("too_large", f"the copy of {source.dsn} does not fit", cause=said[-2000:], remedy=remedy)
    return error
