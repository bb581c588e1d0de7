"""Where the server of the local model lives: in a sandbox of its own, or as an ordinary child of this process.

The sandbox has no network, sees the weights and the server's package read-only, and is frozen and thawed with the run. The child has an
emptied environment and dies with this process. Either is reached by a Unix socket alone.

Threat: the server reads what agents wrote, in C++. What it could reach when it is taken over is its sandbox. Its socket is opened
relative to a descriptor, as a socket and nothing else: a link in its place is never followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from gearcase.doors.housed import Housed, last_words
from gearcase.errors import GearcaseError
from gearcase.sandbox.trees import write_file
from gearcase.seams import Command, Housing, Limits, Mount

_SPARE = 2 << 30
"""Bytes of memory beside the weights: the context's state and what the server works with."""
_THREADS = 64
_SOCKET = "model.sock"
_PACKAGE = "/opt/local/xllamacpp"
_WEIGHTS = "/opt/local/weights.gguf"
_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
"""Threads that spin while they wait starve each other beside other busy programs; it must be said before the process starts."""


class Place(ABC):
    """Where a server lives."""

    @abstractmethod
    async def live(self, wanted: Mapping[str, object]) -> str:
        """Run the server until it ends; returns how it ended."""

    @abstractmethod
    def socket(self) -> str:
        """A path that leads to its socket; empty while there is none."""

    @property
    def stands(self) -> bool:
        """Whether it is frozen."""
        return False

    @abstractmethod
    async def close(self) -> None:
        """End it and give everything back."""


class Boxed(Place):
    """In a sandbox of its own."""

    def __init__(self, housed: Housed) -> None:
        self._housed = housed

    @classmethod
    async def open(cls, housing: Housing, weights: Path, package: Path) -> Boxed:
        """A sandbox for this server, under the run's brake. Raises what the driver raises."""
        size = weights.stat().st_size
        cores = float(os.cpu_count() or 1)
        limits = Limits(memory=size + size // 2 + _SPARE, cpus=cores, disk=16 << 20, processes=_THREADS)
        mounts = (Mount(package, _PACKAGE), Mount(weights, _WEIGHTS, executable=False))
        housed = await Housed.open(housing, "local", limits, mounts)
        try:
            write_file(housed.sandbox.box, b"modelserver.py", _program())
        except BaseException:
            await housed.close()
            raise
        return cls(housed)

    async def live(self, wanted: Mapping[str, object]) -> str:
        """See `Place`."""
        told = {
            **wanted,
            "package": str(Path(_PACKAGE).parent),
            "model": _WEIGHTS,
            "socket": f"/workspace/{_SOCKET}",
            "parent": 0,
        }
        command = Command(
            ("/usr/bin/python3", "-I", "/box/modelserver.py", json.dumps(told)), environment=_ENVIRONMENT, output_cap=8192
        )
        try:
            return last_words(await self._housed.run(command))
        except GearcaseError as error:
            return f"{error.message}; {error.cause}"

    @property
    def stands(self) -> bool:
        """See `Place`."""
        return self._housed.sandbox.frozen

    def socket(self) -> str:
        """See `Place`."""
        try:
            return self._housed.path_of(_SOCKET)
        except OSError:
            return ""

    async def close(self) -> None:
        """See `Place`."""
        await self._housed.close()


class Child(Place):
    """An ordinary child of this process, its socket in a private folder."""

    def __init__(self, weights: Path, package: Path) -> None:
        self._weights = weights
        self._package = package
        self._folder = Path(tempfile.mkdtemp(prefix="gearcase-"))
        self._process: asyncio.subprocess.Process | None = None

    async def live(self, wanted: Mapping[str, object]) -> str:
        """See `Place`."""
        told = {**wanted, "package": str(self._package.parent), "model": str(self._weights)}
        told |= {"socket": str(self._folder / _SOCKET), "parent": os.getpid()}
        program = self._folder / "modelserver.py"
        program.write_bytes(_program())
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(program),
            json.dumps(told),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd=self._folder,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        last = b""
        while chunk := await self._process.stderr.read(4096):
            last = (last + chunk)[-8192:]
        code = await self._process.wait()
        return f"{last.decode('utf-8', 'replace')}\nended with {code}"

    def socket(self) -> str:
        """See `Place`."""
        path = self._folder / _SOCKET
        return str(path) if path.is_socket() else ""

    async def close(self) -> None:
        """See `Place`."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _program() -> bytes:
    return resources.files("gearcase.inbox").joinpath("modelserver.py").read_bytes()
