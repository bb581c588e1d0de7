"""What a redis door begins with, when it is not empty: an RDB file, or what a running server holds, as a replica asks for it.

Both are poured into a file of the server's sandbox; nothing of them is kept elsewhere, and nobody here reads more than the first bytes.

Threat: a source that sends what is no RDB file, more than it announced, without end, or nothing for ever.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gearcase.box.redis_url import RedisUrl
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.threads import in_thread
from gearcase.units import format_bytes

COPY_WITHIN = 3600.0
_CONNECT = 15.0
_SILENCE = 120.0
"""Seconds."""
_MAGIC = (b"REDIS", b"VALKEY")
_MARK = 40
"""Bytes of the mark at the end of what has no length."""
_PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What a server begins with. `name` is for messages, `remedy` for one that cannot be loaded.

    `pour(sink, most)` writes an RDB file of at most so many bytes; it raises GearcaseError, and OSError of the sink.
    """

    name: str
    remedy: str
    pour: Callable[[BinaryIO, int], Awaitable[None]]


def from_file(file: Path, name: str = "", remedy: str = "look what is wrong with it: redis-check-rdb FILE") -> Content:
    """An RDB file, known by its first bytes. Raises UsageError `bad_dump`."""
    name = name or str(file)
    _open(file, name, remedy).close()

    async def pour(sink: BinaryIO, most: int) -> None:
        with _open(file, name, remedy) as source:
            await in_thread(copy_file, source, sink, most, name)

    return Content(name, remedy, pour)


def _open(file: Path, name: str, remedy: str) -> BinaryIO:
    """The file, at its beginning; the caller's to close."""
    try:
        found = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        told = "name a file that you may read"
        raise UsageError("bad_dump", f"{name} cannot be read", cause=error.strerror or "", remedy=told) from error
    if not stat.S_ISREG(os.fstat(found).st_mode) or not os.pread(found, 6, 0).startswith(_MAGIC):
        os.close(found)
        raise UsageError("bad_dump", f"{name} is no RDB file", remedy=remedy)
    return os.fdopen(found, "rb")


def copy_file(source: BinaryIO, sink: BinaryIO, most: int, name: str) -> None:
    """Copy all of it. Raises RunError `too_large` at more than so many bytes, OSError."""
    size = 0
    while part := source.read(_PART):
        size += len(part)
        if size > most:
            raise too_large(name, most)
        sink.write(part)


def from_server(url: RedisUrl, password: str) -> Content:
    """What a running server holds. It is asked as its replicas ask, so nothing is changed there."""

    async def pour(sink: BinaryIO, most: int) -> None:
        broken = "look outside of the box whether it answers: redis-cli -u URL PING"
        try:
            async with asyncio.timeout(_CONNECT):
                trusted = ssl.create_default_context() if url.tls else None
                reader, writer = await asyncio.open_connection(url.host, url.port, ssl=trusted)
        except ssl.SSLError as error:
            remedy = (
                "see that it speaks TLS at this port and who signed its certificate: SSL_CERT_FILE names authorities to trust"
            )
            message = f"no TLS that can be trusted with {url.place}"
            raise RunError("source_unreachable", message, cause=str(error), remedy=remedy) from error
        except (OSError, TimeoutError) as error:
            cause = str(error) or "it took too long"
            raise RunError("source_unreachable", f"{url.place} cannot be reached", cause=cause, remedy=broken) from error
        copying = _Copying(reader, writer, url.place, sink)
        try:
            async with asyncio.timeout(COPY_WITHIN):
                await copying.run(url.user, password, most)
        except (EOFError, ConnectionError, TimeoutError) as error:
            cause = str(error) or type(error).__name__
            message = f"{url.place} broke off while it was copied"
            raise RunError("source_unreachable", message, cause=cause, remedy=broken) from error
        finally:
            writer.transport.abort()

    return Content(url.place, "make a file of it, and look what is wrong with that: redis-cli -u URL --rdb FILE", pour)


def too_large(name: str, most: int) -> RunError:
    """More than a database may hold."""
    remedy = 'give the door more (`memory = "..."` in its table), or begin with less'
    return RunError("too_large", f"what {name} holds is larger than {format_bytes(most)}", remedy=remedy)


def encode(*words: str) -> bytes:
    """A command in the server's protocol."""
    texts = [word.encode() for word in words]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)


class _Copying:
    """One copy of a running server. Raises EOFError, ConnectionError and TimeoutError for what breaks off."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str, sink: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer
        self._place = place
        self._sink = sink

    async def run(self, user: str, password: str, most: int) -> None:
        if password:
            answer = await self._say("AUTH", *([user] if user else []), password)
            if answer.startswith(b"-"):
                raise self._refused(answer)
        # as `redis-cli --rdb` asks: then most servers write no file of their own, and send no more than this. Old ones say no to it
        await self._say("REPLCONF", "capa", "eof")
        await self._say("REPLCONF", "rdb-only", "1")
        answer = await self._say("SYNC")
        if not answer.startswith(b"$"):
            raise self._refused(answer)
        mark, size = answer[5:], answer[1:]
        if answer.startswith(b"$EOF:") and len(mark) == _MARK:
            await self._until(mark, most)
        elif size.isdigit() and len(size) < 16:
            if int(size) > most:
                raise too_large(self._place, most)
            await self._exactly(int(size))
        else:
            raise self._refused(answer)

    async def _say(self, *words: str) -> bytes:
        """The line that is answered. While it makes its file, a server sends empty ones."""
        self._writer.write(encode(*words))
        while True:
            async with asyncio.timeout(_SILENCE):
                try:
                    line = await self._reader.readline()
                except ValueError:
                    raise self._refused(b"a line without end") from None
            if not line.endswith(b"\n"):
                raise EOFError("it said no more")
            if line := line.strip():
                return line

    async def _read(self, most: int) -> bytes:
        async with asyncio.timeout(_SILENCE):
            part = await self._reader.read(most)
        if not part:
            raise EOFError("it said no more")
        return part

    async def _exactly(self, left: int) -> None:
        while left:
            part = await self._read(min(_PART, left))
            left -= len(part)
            self._sink.write(part)

    async def _until(self, mark: bytes, most: int) -> None:
        tail, size = b"", 0
        while True:
            part = tail + await self._read(_PART)
            is_end = part.endswith(mark)
            part, tail = part[: -len(mark)], part[-len(mark) :]
            size += len(part)
            if size > most:
                raise too_large(self._place, most)
            self._sink.write(part)
            if is_end:
                return

    def _refused(self, answer: bytes) -> RunError:
        cause = answer[:200].decode("utf-8", "replace").lstrip("-")
        remedy = (
            "set its password in the variable that `password_env` names; its user needs +sync +replconf; "
            "where a provider has switched SYNC off, name an RDB file"
        )
        return RunError("source_refused", f"{self._place} refuses to be copied", cause=cause, remedy=remedy)
