"""Where attempts are made: a real box, and things of the host that must stay untouched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

LIMITS = Limits(memory=128 << 20, cpus=1.0, disk=64 << 20, processes=64)


@dataclass
class Canary:
    """Files, ports, sockets and a process outside the box. `touched` counts what got through to them."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gearcase-canary-", dir="/var/tmp")))
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    touched: int = 0

    def __enter__(self):
        self.folder.chmod(0o755)
        self.file = self.folder / "file"
        self.file.write_text(f"canary {self.secret}")
        self.journal = self.folder / "journal.jsonl"
        self.journal.write_text("{}\n")
        self._listeners = [socket.create_server(("127.0.0.1", 0)), self._unix("\0"), self._unix("")]
        self.port = self._listeners[0].getsockname()[1]
        for listener in self._listeners:
            threading.Thread(target=self._count, args=(listener,), daemon=True).start()
        self._names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._names.bind(("127.0.0.1", 0))
        threading.Thread(target=self._answer, daemon=True).start()
        self.process = subprocess.Popen(["sleep", "300"], env={"HOST_SECRET": self.secret})
        return self

    def __exit__(self, *_):
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with contextlib.suppress(OSError):
            self._names.shutdown(socket.SHUT_RDWR)
        self._names.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)

    def _unix(self, before):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(before + str(self.folder / "socket"))
        listener.listen()
        return listener

    def _count(self, listener):
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()
                self.touched += 1

    def _answer(self):
        with contextlib.suppress(OSError):
            while True:
                question, sender = self._names.recvfrom(512)
                if not question:
                    return
                self.touched += 1
                self._names.sendto(question, sender)

    def state(self):
        """What must be the same before and after."""
        names = sorted(path.name for path in self.folder.iterdir())
        return self.file.read_text(), self.journal.read_text(), names, self.touched, self.process.poll()

    def environment(self, scratch):
        return {
            "CANARY_FILE": str(self.file),
            "CANARY_HEX": self.secret.encode().hex(),
            "CANARY_PORT": str(self.port),
            "CANARY_DNS": str(self._names.getsockname()[1]),
            "CANARY_SOCKET": str(self.folder / "socket"),
            "CANARY_PID": str(self.process.pid),
            "CANARY_FOLDER": str(self.folder),
            "SCRATCH": scratch,
        }


@dataclass(frozen=True)
class Outcome:
    got: bool
    output: str
    untouched: bool


def inside(attempt, without=()):
    """Make the attempt in a box."""

    async def scenario():
        with Canary() as canary:
            before = canary.state()
            driver = NamespacesDriver(frozenset(without))
            try:
                box = await driver.open(SandboxSpec(f"hostile-{secrets.token_hex(4)}", LIMITS))
                environment = canary.environment("/workspace")
                command = Command(("/usr/bin/python3", "-c", attempt.program), environment, deadline=attempt.seconds)
                result = await box.run(command)
                residue = await box.close()
                assert residue == (), residue
            finally:
                await driver.close()
            output = result.stdout.text()
            return Outcome(
                "GOT" in output, f"{output.strip()[-300:]} ({result.ended} {result.exit_code})", canary.state() == before
            )

    return asyncio.run(scenario())


def outside(attempt):
    """Make the attempt as a plain program of the same user."""
    with Canary() as canary, tempfile.TemporaryDirectory(dir=canary.folder) as scratch:
        environment = {**canary.environment(scratch), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-c", attempt.program], env=environment, capture_output=True, text=True, timeout=attempt.seconds + 20
        )
        output = done.stdout + done.stderr
        return Outcome("GOT" in output or canary.secret in output, output.strip()[-300:], True)


def refused(attempt):
    """Make the attempt against a box."""
    return _played(attempt.guarded) if hasattr(attempt, "guarded") else inside(attempt)


def control(attempt):
    """The same attempt with its guard off."""
    if hasattr(attempt, "unguarded"):
        return _played(attempt.unguarded)
    return inside(attempt, attempt.without) if attempt.without else outside(attempt)


def _played(function):
    with Canary() as canary:
        before = canary.state()
        told = function(canary)
        return Outcome(told.startswith("GOT"), told, canary.state() == before)
