"""A view: files of a workspace as they were at one moment, as a folder that sandboxes see read-only.

Its contents are hard links into the blob store, so it costs a look at each entry, however large they are; a file that can be executed has
a mode of its own and is copied. Modes are made such that another user of this machine may read, because each sandbox has its own: the
folder lies in the run's folder, which nobody else may enter, and is mounted without a way to write.

Threat: names and contents are the agent's. Entries come from a manifest, whose names are single and whose folders are folders, and the
tree is made anew below a folder that no agent reaches, so no link is followed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gearcase.errors import UsageError
from gearcase.sandbox.beneath import explaining, printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Entry, Manifest
from gearcase.sandbox.trees import remove_tree

_EXECUTE = 0o111


def at_or_below(manifest: Manifest, paths: Sequence[bytes], folder: bytes = b"", without: Sequence[bytes] = ()) -> Manifest:
    """What lies at or below `paths`, without what lies at or below `without`, with the folders that lead there and to `folder`.

    Paths are relative to the workspace; an empty one is all of it. Sockets, FIFOs and the like are left out. Raises UsageError `no_file`.
    """
    missing = [path for path in paths if path and manifest.find(path) is None]
    if missing:
        names = ", ".join(printable(path) for path in missing[:5])
        raise UsageError("no_file", f"there is no {names} in /workspace", remedy="name files and folders that are there")

    def wanted(entry: Entry) -> bool:
        if entry.kind not in ("file", "directory", "link") or _below(path := entry.path, without):
            return False
        return _below(path, paths) or (entry.kind == "directory" and _below(folder, [path]))

    return manifest.part(wanted)


def _below(path: bytes, folders: Sequence[bytes]) -> bool:
    return any(not one or path == one or path.startswith(one + b"/") for one in folders)


def make_view(manifest: Manifest, store: BlobStore, folder: Path) -> None:
    """Make the folder and everything in it. Raises RunError `disk_full`, `unreadable` and their like; nothing of it stays then."""
    root = os.fsencode(folder)
    try:
        with explaining(root, "making"):
            os.makedirs(root, 0o755)
            for entry in manifest.entries:
                _make(os.path.join(root, entry.path), entry, store)
    except BaseException:
        remove_view(folder)
        raise


def _make(path: bytes, entry: Entry, store: BlobStore) -> None:
    if entry.kind == "directory":
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)
    elif entry.kind == "link":
        os.symlink(entry.target, path)
    elif entry.mode & _EXECUTE:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            store.copy_to(entry.digest, descriptor)
            os.fchmod(descriptor, 0o555)
        finally:
            os.close(descriptor)
    else:
        store.link(entry.digest, path)


def remove_view(folder: Path) -> None:
    """Remove it, if it is there. Raises RunError `not_removed`."""
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(parent, os.fsencode(folder.name))
    finally:
        os.close(parent)
