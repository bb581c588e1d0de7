"""Contents that are kept for a while, within a limit: what looks at an agent's files put there, beside the run's own store.

What does not fit is only told apart, and is `missing`: a look must not fail of a file that is too large, or of a full disk. Used by one
look at a time, in its thread.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from gearcase.errors import RunError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.content import copy_content
from gearcase.sandbox.manifest import Manifest


class Pool:
    """At most `most` bytes in a folder. What `below` keeps takes no room here."""

    def __init__(self, folder: Path, below: BlobStore, most: int) -> None:
        self.store = BlobStore(folder, below)
        self.size = 0
        self.missing: dict[str, int] = {}
        """Digests that are kept nowhere, with their sizes."""
        self._below = below
        self._most = most
        self._sizes: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Bytes that still fit."""
        return self._most - self.size

    def put(self, source: int, size: int, expected: str = "") -> str:
        """Keep a content if it fits; returns its digest. Raises ContentChanged."""
        if size <= self.free:
            with suppress(RunError):  # the disk is full: it is told apart at least
                digest = self.store.put(source, size, expected)
                if digest not in self._sizes and digest not in self._below:
                    self._sizes[digest] = size
                    self.size += size
                self.missing.pop(digest, None)
                return digest
        digest = copy_content(source, None, size)
        if digest not in self.store:
            self.missing[digest] = size
        return digest

    def lacking(self, files: Manifest) -> int:
        """Bytes of a state's contents that are not kept."""
        return sum(self.missing.get(digest, 0) for digest in set(files.digests())) if self.missing else 0

    def unread(self, files: Manifest) -> Set[int]:
        """Inodes of files that would fit by now, and so are to be read again."""
        free = self.free
        wanted = {digest for digest, size in self.missing.items() if size <= free}
        return frozenset(entry.ino for entry in files.entries if entry.digest in wanted) if wanted else frozenset()

    def prune(self, keep: Set[str]) -> int:
        """Remove what is not to be kept; returns the bytes that are free again. Raises RunError where the folder cannot be read."""
        before = self.size
        self.store.prune(keep)
        self._sizes = {digest: size for digest, size in self._sizes.items() if digest in keep}
        self.size = sum(self._sizes.values())
        return before - self.size
