"""What a redis door begins with, and what it leaves: an RDB file, a copy of a running server, a volume that stays from run to run."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from urllib.parse import urlsplit

from gearcase.errors import RunError, UsageError

_MAGIC = (b"REDIS", b"VALKEY")
_CONNECT = 15.0
_SILENCE = 120.0
"""Seconds."""
_PART = 1 << 20


def check_dump(file: Path) -> Path:
    """An RDB file, by its first bytes. Raises UsageError `bad_dump`."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(6)
    except OSError as error:
        raise UsageError(
            "bad_dump", f"{file} cannot be read", cause=error.strerror or "", remedy="name a file that you may read"
        ) from error
    if not begin.startswith(_MAGIC):
        raise UsageError("bad_dump", f"{file} is no RDB file", remedy="make one: redis-cli --rdb FILE")
    return file


async def copy_of(url: str, password: str, target: Path, most: int) -> Path:
    """What a running server holds, as a replica asks for it: nothing is changed there. Raises RunError `source_unreachable`,
    `source_refused`, `too_large`."""
    place = urlsplit(url)
    host, port = place.hostname or "127.0.0.1", place.port or 6379
    remedy = "look outside of the box whether it answers: redis-cli -u URL PING"
    try:
        async with asyncio.timeout(_CONNECT):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise RunError("source_unreachable", f"{host}:{port} cannot be reached", cause=cause, remedy=remedy) from error
    try:
        if password:
            words = ("AUTH", *([place.username] if place.username else []), password)
            await _command(reader, writer, words, host, port)
        writer.write(b"*1\r\n$4\r\nSYNC\r\n")
        await _receive(reader, target, most, f"{host}:{port}")
    except (OSError, EOFError, TimeoutError) as error:
        cause = type(error).__name__
        raise RunError(
            "source_unreachable", f"{host}:{port} broke off while it was copied", cause=cause, remedy=remedy
        ) from error
    finally:
        writer.transport.abort()
    return target


async def _command(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: tuple[str, ...], host: str, port: int
) -> None:
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words))
    async with asyncio.timeout(_CONNECT):
        answer = await reader.readline()
    if answer.startswith(b"-"):
        raise _refused(host, port, answer)


def _refused(host: str, port: int | str, answer: bytes) -> RunError:
    cause = answer[1:200].decode("utf-8", "replace").strip()
    remedy = "set its password in the variable that password_env names; its user must be allowed to sync"
    return RunError("source_refused", f"{host}:{port} refuses to be copied", cause=cause, remedy=remedy)


async def _receive(reader: asyncio.StreamReader, target: Path, most: int, place: str) -> None:
    """The file that a server sends its replicas: with its length before, or with a mark at its end."""
    line = b"\n"
    while line.strip() == b"":  # while it makes the file it sends empty lines
        async with asyncio.timeout(_SILENCE):
            line = await reader.readline()
        if not line:
            raise EOFError
    if not line.startswith(b"$"):
        raise _refused(*place.rsplit(":", 1), line)
    mark = line[5:].strip() if line.startswith(b"$EOF:") else b""
    left = -1 if mark else int(line[1:])
    tail, size = b"", 0
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        while left:
            async with asyncio.timeout(_SILENCE):
                part = await reader.read(_PART if left < 0 else min(_PART, left))
            if not part:
                raise EOFError
            if mark:
                part = tail + part
                if part.endswith(mark):
                    part, left = part[: -len(mark)], 0
                else:
                    tail, part = part[-len(mark) :], part[: -len(mark)]
            else:
                left -= len(part)
            size += len(part)
            if size > most:
                remedy = "give the door more `memory`, or copy another server"
                raise RunError("too_large", f"what {place} holds is larger than {most >> 20} MiB", remedy=remedy)
            file.write(part)


class Volume:
    """A name under which content stays from run to run; one run at a time has it. Raises UsageError `volume_in_use`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file = folder / f"{name}.rdb"
        self._lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            remedy = "wait until it ends (gearcase ps), or name another volume"
            raise UsageError("volume_in_use", f"another run has the volume {name}", remedy=remedy) from None

    def content(self) -> Path | None:
        """What is in it."""
        return self.file if self.file.exists() else None

    def close(self) -> None:
        """Let another run have it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
