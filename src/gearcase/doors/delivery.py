"""Hand a staged delivery over to the operator.

Invariants: what is put into the operator's folder is what was staged, hashed again on the way; nothing that is there is replaced
without `force`, but for what a run whose process died had put there and is still the same; either everything is there afterwards, with
its manifest beside it, or nothing has changed. A new folder appears in one rename; into a folder that exists, each file does, and a
failure takes the others back.

A log of another database that stands where a delivered one looks for its own would be played into it: it is in the way, too, and
`force` takes it away.

Threat: the names are the agent's, the folder may hold links. Files are put in place below the folder's descriptor, without
following a link, so `out/sub` that is a link elsewhere is refused and not written through.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.doors.files import DeliveredFile, Delivery
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.beneath import CREATE, DIRECTORY, explaining, open_beneath, open_file, replacing, shown
from gearcase.sandbox.content import ContentChanged, copy_content, write_all
from gearcase.sandbox.databases import goes_with, kind_of
from gearcase.sandbox.trees import Cursor, remove_tree

DELIVERING = "delivering-to"
"""The file of a run's folder that names where it delivers, from before it does."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Where things are now; `patch` is None where there is none."""

    out: Path
    manifest: Path
    patch: Path | None


def verify(delivery: Delivery, staging: Path) -> None:
    """Read every staged file again. Raises RunError `staging_changed` naming the first that is not what was taken."""
    with _opened(staging) as folder:
        for file in delivery.files:
            _read_again(folder, file, None)


def deliver(
    delivery: Delivery,
    staging: Path,
    out: Path,
    *,
    force: bool = False,
    head: str = "",
    patch: bytes = b"",
    earlier: Delivery | None = None,
    run: str = "",
) -> HandedOver:
    """Copy a staged delivery to the folder `out`, which is made; beside it `OUT.manifest.json` and, with a patch, `OUT.patch`.

    `head` is the journal's; `earlier` is what the run that this one goes on for had delivered there; `run` names what a kill would
    leave (see `sweep`).

    Raises UsageError `exists` (listing what is in the way), RunError `staging_changed`, `disk_full`.
    """
    out = Path(os.path.normpath(out.absolute()))
    with explaining(os.fsencode(out), "making"):
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = not os.path.lexists(out)
    manifest = out.with_name(out.name + ".manifest.json")
    beside = {manifest: delivery.to_json(head)}
    if patch:
        beside[out.with_name(out.name + ".patch")] = patch
    strangers = [] if fresh else _strange_logs(delivery, staging, out)
    own = frozenset[bytes]() if fresh or earlier is None else _unchanged(earlier, out)
    beside_is_own = earlier is not None and _is_beside(earlier, own, manifest)
    in_the_way = [path for path in beside if os.path.lexists(path) and (path.is_dir() or not (force or beside_is_own))]
    _refuse_what_is_in_the_way(delivery, out, in_the_way, [] if force else strangers, own, force)
    with _opened(out.parent if fresh else out) as near, _work_folder(near, run) as work, ExitStack() as undo, Cursor(work) as new:
        os.mkdir(b"new", dir_fd=work)
        new.enter(b"new")
        _copy_staged(delivery, staging, new.fd)
        if fresh:
            _appear(near, work, os.fsencode(out.name))
            undo.callback(remove_tree, near, os.fsencode(out.name))
        else:
            placed = _Placed()
            undo.callback(_take_back, placed, near, work)
            _put_away([*strangers, *own.difference(file.path for file in delivery.files)], near, work, placed)
            _put_in_place(delivery, new.fd, near, work, placed, own, force)
        _write_beside(out.parent, beside)
        undo.pop_all()
    return HandedOver(out, manifest, out.with_name(out.name + ".patch") if patch else None)


def sweep(folder: Path, run: str) -> list[str]:
    """Remove what the delivery of a run, which has this folder, left when its process died in the middle of it.

    Where it was replacing the operator's files, these lie there, and stay: returns what to say of them.
    """
    stayed: list[str] = []
    out = Path(os.fsdecode((folder / DELIVERING).read_bytes()))
    for folder in (out.parent, out):
        for left in folder.glob(f".gearcase-{run}-*"):
            if [one.name for one in left.iterdir() if one.name != "new"]:
                stayed.append(f"{left}, which holds files that were being replaced")
            else:
                with _opened(folder) as near:
                    remove_tree(near, os.fsencode(left.name))
    return stayed


def _appear(near: int, work: int, name: bytes) -> None:
    """Make the whole new folder visible at once."""
    with explaining(name, "delivering"):
        os.rename(b"new", name, src_dir_fd=work, dst_dir_fd=near)


def _unchanged(earlier: Delivery, out: Path) -> frozenset[bytes]:
    """The files of an earlier delivery that lie in `out` as it put them there."""
    found: set[bytes] = set()
    with _opened(out) as folder:
        for file in earlier.files:
            with suppress(RunError):  # what is not there, or no such file
                _read_again(folder, file, None)
                found.add(file.path)
    return frozenset(found)


def _is_beside(earlier: Delivery, own: frozenset[bytes], manifest: Path) -> bool:
    """Whether what lies beside the folder is that of the earlier delivery, of which all is there unchanged."""
    try:
        same = manifest.read_bytes() == earlier.to_json("")
    except FileNotFoundError:
        same = True  # it is written last
    except OSError:
        same = False
    return same and len(own) == len(earlier.files)


def _strange_logs(delivery: Delivery, staging: Path, out: Path) -> list[bytes]:
    """Files of `out` that a delivered database would take for its own, and that are not delivered with it."""
    delivered = {file.path for file in delivery.files}
    found: list[bytes] = []
    with _opened(staging) as staged, _opened(out) as folder:
        for file in delivery.files:
            *folders, name = file.path.split(b"/")
            with explaining(file.path, "reading the staged"), Cursor(staged) as source:
                for part in folders:
                    source.enter(part)
                descriptor = open_file(source.fd, name)
                try:
                    kind = kind_of(descriptor)
                finally:
                    os.close(descriptor)
            beside = goes_with(file.path, kind) if kind else ()
            found += [path for path in beside if path not in delivered and _standing(folder, path)]
    return found


def _put_away(paths: list[bytes], out: int, old: int, placed: _Placed) -> None:
    for number, path in enumerate(paths):
        kept = b"log-%d" % number

        def move(directory: int, name: bytes, kept: bytes = kept) -> None:
            os.rename(name, kept, src_dir_fd=directory, dst_dir_fd=old)

        with explaining(path, "delivering"):
            _at(out, path, move)
            placed.kept[path] = kept


def _refuse_what_is_in_the_way(
    delivery: Delivery, out: Path, beside: list[Path], logs: list[bytes], own: frozenset[bytes], force: bool
) -> None:
    taken = [os.fsencode(path) for path in beside] + logs
    if os.path.lexists(out):
        with _opened(out) as folder:
            for file in delivery.files:
                standing = _standing(folder, file.path)
                if standing == "file" and (force or file.path in own):
                    continue
                if standing:
                    taken.append(file.path)
    if taken:
        listed = ", ".join(shown(path) for path in taken[:_SHOWN]) + (" ..." if len(taken) > _SHOWN else "")
        raise UsageError(
            "exists",
            f"{len(taken)} of the files to deliver are in {out} already: {listed}",
            remedy="choose another folder with --out, or replace files with --force; remove folders and links in the way",
            paths=[shown(path) for path in taken[:_SHOWN]],
            count=len(taken),
        )


def _standing(folder: int, path: bytes) -> str:
    """What is where a file is to be: "" nothing, "file" something that can be replaced, "blocked"."""
    *folders, name = path.split(b"/")
    with Cursor(folder) as cursor:
        for part in folders:
            try:
                cursor.enter(part)
            except FileNotFoundError:
                return ""
            except OSError:
                return "blocked"
        try:
            found = os.stat(name, dir_fd=cursor.fd, follow_symlinks=False)
        except FileNotFoundError:
            return ""
    return "blocked" if stat.S_ISDIR(found.st_mode) else "file"


def _copy_staged(delivery: Delivery, staging: Path, target: int) -> None:
    with _opened(staging) as folder:
        for file in delivery.files:
            _read_again(folder, file, target)


def _read_again(staging: int, file: DeliveredFile, target: int | None) -> None:
    """Hash a staged file, with a target copying it there under the same path."""
    *folders, name = file.path.split(b"/")
    with explaining(file.path, "reading the staged"), Cursor(staging) as source:
        for folder in folders:
            source.enter(folder)
        descriptor = open_file(source.fd, name)
    try:
        if target is None:
            digest = copy_content(descriptor, None, file.size, plain=True)
        else:
            digest = _copy_one(descriptor, file, target, folders, name)
    except ContentChanged:
        digest = ""
    finally:
        os.close(descriptor)
    if digest != file.digest:
        raise staging_changed(file.path)


def staging_changed(path: bytes) -> RunError:
    """Somebody wrote to the run's folder."""
    return RunError(
        "staging_changed",
        f"the staged copy of {shown(path)} is not what was taken from the box",
        remedy="something changed the run folder: run the goal again, and see what writes there",
        path=shown(path),
    )


def _copy_one(descriptor: int, file: DeliveredFile, target: int, folders: list[bytes], name: bytes) -> str:
    with explaining(file.path, "delivering"), Cursor(target) as cursor:
        for folder in folders:
            with suppress(FileExistsError):
                os.mkdir(folder, dir_fd=cursor.fd)
            cursor.enter(folder)
        copy = open_beneath(cursor.fd, name, CREATE, 0o777 if file.mode & 0o100 else 0o666)  # less the operator's umask
        try:
            return copy_content(descriptor, copy, file.size, plain=True)
        finally:
            os.close(copy)


@dataclass(slots=True)
class _Placed:
    """What was done to the operator's folder, in order, so that it can be taken back."""

    folders: list[bytes] = field(default_factory=list[bytes])
    kept: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])  # path -> name below `old` of what stood there
    files: list[bytes] = field(default_factory=list[bytes])


def _put_in_place(delivery: Delivery, new: int, out: int, old: int, placed: _Placed, own: frozenset[bytes], force: bool) -> None:
    """Move each file from `new` to `out`, what it replaces to `old`."""
    for number, file in enumerate(delivery.files):
        *folders, name = file.path.split(b"/")
        with explaining(file.path, "delivering"), Cursor(new) as source, Cursor(out) as target:
            for folder in folders:
                source.enter(folder)
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=target.fd)
                    placed.folders.append(target.below(folder))
                target.enter(folder)
            if force or file.path in own:
                kept = str(number).encode()
                with suppress(FileNotFoundError):
                    os.rename(name, kept, src_dir_fd=target.fd, dst_dir_fd=old)
                    placed.kept[file.path] = kept
            _move_without_replacing(name, source.fd, target.fd)
            placed.files.append(file.path)


def _move_without_replacing(name: bytes, source: int, target: int) -> None:
    """A link fails where something appeared meanwhile; a file system without links gets a rename."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)


def _take_back(placed: _Placed, out: int, old: int) -> None:
    """Undo `_put_in_place` as far as it came."""
    for path in reversed(placed.files):
        _at(out, path, lambda directory, name: os.unlink(name, dir_fd=directory))
    for path, kept in placed.kept.items():
        _at(out, path, functools.partial(_put_back, old, kept))
    for path in reversed(placed.folders):
        _at(out, path, lambda directory, name: os.rmdir(name, dir_fd=directory))


def _put_back(old: int, kept: bytes, directory: int, name: bytes) -> None:
    os.rename(kept, name, src_dir_fd=old, dst_dir_fd=directory)


def _at(root: int, path: bytes, do: Callable[[int, bytes], None]) -> None:
    """Do something to one path; what the operator removed meanwhile needs no undoing."""
    *folders, name = path.split(b"/")
    with suppress(FileNotFoundError), Cursor(root) as cursor:
        for folder in folders:
            cursor.enter(folder)
        do(cursor.fd, name)


def _write_beside(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write all, then rename all; the first of them last."""
    with explaining(os.fsencode(folder), "writing beside"), _opened(folder) as directory, ExitStack() as both:
        for path, data in files.items():
            write_all(both.enter_context(replacing(directory, os.fsencode(path.name), 0o666)), data)


@contextmanager
def _opened(folder: Path) -> Generator[int]:
    with explaining(os.fsencode(folder), "opening"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _work_folder(near: int, run: str) -> Generator[int]:
    """A folder of our own on the same disk, gone afterwards."""
    name = b".gearcase-" + os.fsencode(f"{run}-{secrets.token_hex(8)}")
    with explaining(name, "making"):
        os.mkdir(name, 0o700, dir_fd=near)
    try:
        with explaining(name, "opening"):
            descriptor = os.open(name, DIRECTORY, dir_fd=near)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        remove_tree(near, name)
