"""Where contents are kept, each once, under the name of its digest: `blobs/ab/cdef...`.

Invariants: a blob appears whole or not at all (written aside, then renamed), is never changed, and what is read from it is
hashed again, so damage is an error and never a wrong file. Several scans may write at once. A kill leaves at most a file below
`tmp`, which `prune` removes.

Threat: the content is the agent's. Names here are digests that we computed, so nothing of the agent's reaches a path.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gearcase.errors import RunError
from gearcase.sandbox.beneath import explaining
from gearcase.sandbox.content import WHOLE, ContentChanged, copy_content, digest_bytes, has_hole, read_exactly, write_all
from gearcase.sandbox.manifest import is_digest


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed."""

    blobs: int
    bytes: int


class Keeps(Protocol):
    """What a scan gives contents to."""

    def put(self, source: int, size: int, expected: str = "") -> str:
        """See `BlobStore.put`."""
        ...


class BlobStore:
    """The store in one folder, which is made when it is missing. What `below` keeps is found here too, and not kept twice."""

    def __init__(self, folder: Path, below: BlobStore | None = None) -> None:
        self._folder = os.fsencode(folder)
        self._below = below
        with explaining(self._folder, "opening the store"):
            os.makedirs(os.path.join(self._folder, b"tmp"), mode=0o700, exist_ok=True)

    def __contains__(self, digest: str) -> bool:
        return os.path.exists(self._path(digest)) or (self._below is not None and digest in self._below)

    def put(self, source: int, size: int, expected: str = "") -> str:
        """Keep the `size` bytes of an opened file; returns their digest.

        With the digest that is `expected`, a content that is kept already is read and not written. Raises ContentChanged when
        the file is not of that size, RunError `disk_full`.
        """
        if size <= WHOLE:
            return self.put_bytes(read_whole(source, size))
        if expected and expected in self and copy_content(source, None, size) == expected:
            return expected
        temporary = self._temporary()
        with explaining(temporary, "writing"):
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            try:
                digest = copy_content(source, descriptor, size)
                self._keep(temporary, digest)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        return digest

    def put_bytes(self, data: bytes) -> str:
        """Keep `data`; returns its digest. Raises RunError `disk_full`."""
        digest = digest_bytes(data)
        if self.holds(digest, len(data)):
            return digest
        temporary = self._temporary()
        with explaining(temporary, "writing"):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            try:
                write_all(descriptor, data)
                self._keep(temporary, digest)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        return digest

    def take(self, digest: str, source: BlobStore) -> None:
        """Keep a content of another store, too. Raises RunError `blob_damaged`, `disk_full`."""
        if digest in self:
            return
        temporary = self._temporary()
        with explaining(temporary, "writing"):
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            try:
                source.copy_to(digest, descriptor)
                self._keep(temporary, digest)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def copy_to(self, digest: str, target: int) -> None:
        """Write a content into an empty file. Raises RunError `blob_damaged` when it is missing or not what its name says.

        OSError for what the target's disk says.
        """
        source = self._open(digest)
        try:
            size = os.fstat(source).st_size
            if size <= WHOLE and not has_hole(data := read_exactly(source, size, 0)):
                if digest_bytes(data) != digest:
                    raise _damaged(digest)
                write_all(target, data)
            elif copy_content(source, target, size) != digest:
                raise _damaged(digest)
        finally:
            os.close(source)

    def link(self, digest: str, path: bytes) -> None:
        """Another name for a content, on the store's own filesystem, that anybody may read who gets to it.

        Raises RunError `blob_damaged` when it is missing, OSError for what the disk says.
        """
        blob = self._path(digest)
        try:
            os.chmod(blob, 0o444)
            os.link(blob, path)
        except FileNotFoundError:
            raise _damaged(digest) from None

    def read(self, digest: str, limit: int) -> bytes | None:
        """A content of at most `limit` bytes, None when it is longer. Raises RunError `blob_damaged`."""
        source = self._open(digest)
        try:
            size = os.fstat(source).st_size
            if size > limit:
                return None
            data = read_exactly(source, size, 0)
        finally:
            os.close(source)
        if digest_bytes(data) != digest:
            raise _damaged(digest)
        return data

    def prune(self, keep: Collection[str]) -> Pruned:
        """Remove every content that is not to be kept, of this store alone. No scan may run meanwhile."""
        blobs = size = 0
        kept = keep if isinstance(keep, set | frozenset) else frozenset(keep)
        with explaining(self._folder, "pruning"):
            for folder in os.listdir(self._folder):
                for name in os.listdir(os.path.join(self._folder, folder)):
                    if folder != b"tmp" and os.fsdecode(folder + name) in kept:
                        continue
                    path = os.path.join(self._folder, folder, name)
                    size += os.lstat(path).st_blocks * 512
                    blobs += 1
                    os.unlink(path)
        return Pruned(blobs, size)

    def _open(self, digest: str) -> int:
        try:
            return os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._below is not None:
                return self._below._open(digest)
            raise _damaged(digest) from None

    def _path(self, digest: str) -> bytes:
        if not is_digest(digest):
            raise _damaged(digest)
        return os.path.join(self._folder, digest[:2].encode(), digest[2:].encode())

    def _temporary(self) -> bytes:
        return os.path.join(self._folder, b"tmp", secrets.token_hex(8).encode())

    def holds(self, digest: str, size: int) -> bool:
        """Whether a content is here in its size: a blob of another one was torn by a power cut."""
        try:
            return os.stat(self._path(digest)).st_size == size
        except FileNotFoundError:
            return self._below is not None and self._below.holds(digest, size)

    def _keep(self, temporary: bytes, digest: str) -> None:
        path = self._path(digest)
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(path), 0o700)
            os.rename(temporary, path)


def read_whole(source: int, size: int) -> bytes:
    """All of an opened file, which has `size` bytes and no more. Raises ContentChanged."""
    data = read_exactly(source, size, 0)
    if os.fstat(source).st_size != size:
        raise ContentChanged
    return data


def _damaged(digest: str) -> RunError:
    return RunError(
        "blob_damaged",
        f"the stored content {digest} is missing or damaged",
        remedy="use another snapshot; check the disk that the run folder is on",
        digest=digest,
    )
