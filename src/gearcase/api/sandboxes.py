"""A sandbox without an agent: programs and files in an isolated place, with the limits of a box. No door leads out of it.

Paths are of its /workspace, and no link in it is ever followed by this process: a program inside cannot make `read` or `write` reach
a file outside.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Unpack

from gearcase import seams
from gearcase.api.box import Keywords, box_of
from gearcase.api.threads import LoopThread, Opening
from gearcase.box import LoadedBox
from gearcase.doors.files import give
from gearcase.errors import Refused
from gearcase.run.room import demand, sandbox_limits
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.snapshots import restore, scan
from gearcase.sandbox.threads import in_thread
from gearcase.sandbox.trees import read_file, write_file

MOST_READ = 64 * 2**20
"""Bytes that `read` returns at most, unless it is told otherwise."""


class AsyncSandbox:
    """A live sandbox, for callers that await. Every method raises RunError `sandbox_lost` once it is gone."""

    def __init__(self, sandbox: seams.Sandbox, store: BlobStore, given: Manifest) -> None:
        self.residue: tuple[str, ...] = ()  # what stayed behind, once it is closed: empty is the promise
        self._sandbox = sandbox
        self._store = store
        self._kept: dict[str, Manifest] = {"s0": given}
        self._frozen = False
        self._turn = asyncio.Lock()

    @property
    def profile(self) -> seams.Profile:
        """What is enforced, and by what."""
        return self._sandbox.profile

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        deadline: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/workspace",
        stdin: bytes | str = b"",
        output_cap: int = 64 * 1024,
    ) -> seams.CommandResult:
        """Run a shell line or a program to its end or for `deadline` seconds; `exit_code`, `stdout.text()` and more tell how it went.

        Of each stream at most `output_cap` bytes of its head and as many of its tail are kept.
        """
        argv = ("/bin/bash", "-c", command) if isinstance(command, str) else tuple(command)
        return await self._sandbox.run(
            seams.Command(
                argv,
                environment=dict(environment or {}),
                cwd=cwd,
                stdin=stdin.encode() if isinstance(stdin, str) else stdin,
                deadline=deadline,
                output_cap=output_cap,
                merge_stderr=False,
            )
        )

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Put a file at a path of /workspace, in one step; folders on the way are made. Raises Refused `bad_path`, RunError."""
        content = data.encode() if isinstance(data, str) else data
        await in_thread(write_file, self._sandbox.workspace, os.fsencode(path), content, mode=mode, owner=self._sandbox.owner)

    async def read(self, path: str, *, limit: int = MOST_READ) -> bytes:
        """The content of a regular file of /workspace. Raises Refused `bad_path`, `too_large` (above `limit` bytes), RunError."""
        return await in_thread(read_file, self._sandbox.workspace, os.fsencode(path), limit)

    async def snapshot(self) -> str:
        """Keep the present state of /workspace until it is closed; returns its name. `s0` is what was given at the start."""
        async with self._turn:
            before = next(reversed(self._kept.values()))
            async with self._still():
                manifest = await in_thread(scan, self._sandbox.workspace, self._store, before)
            name = f"s{len(self._kept)}"
            self._kept[name] = manifest
            return name

    async def restore(self, name: str) -> None:
        """Return /workspace to a snapshot. Raises Refused `no_snapshot`."""
        async with self._turn:
            wanted = self._kept.get(name)
            if wanted is None:
                raise Refused("no_snapshot", f"there is no snapshot {name!r}", remedy=f"kept are: {', '.join(self._kept)}")
            async with self._still():
                await in_thread(restore, self._sandbox.workspace, wanted, self._store, self._sandbox.owner)

    async def freeze(self) -> float:
        """Stop every process; returns milliseconds. Raises RunError `not_frozen`."""
        async with self._turn:
            self._frozen = True
            return await self._sandbox.freeze()

    async def thaw(self) -> None:
        """Let them go on."""
        async with self._turn:
            self._frozen = False
            await self._sandbox.thaw()

    async def usage(self) -> seams.Usage:
        """What it uses now."""
        return await self._sandbox.usage()

    @asynccontextmanager
    async def _still(self) -> AsyncGenerator[None]:
        """While this lasts nothing inside moves, so that a state is one moment's."""
        await self._sandbox.freeze()
        try:
            yield
        finally:
            if not self._frozen:
                await self._sandbox.thaw()

    async def close(self) -> None:
        """Tear it down. Leaving `with` does."""
        self.residue = await self._sandbox.close()


class Sandbox:
    """A live sandbox, for callers that wait: the methods of AsyncSandbox."""

    def __init__(self, inner: AsyncSandbox, thread: LoopThread) -> None:
        self._inner = inner
        self.profile = inner.profile
        self.exec = thread.waits(inner.exec)
        self.write = thread.waits(inner.write)
        self.read = thread.waits(inner.read)
        self.snapshot = thread.waits(inner.snapshot)
        self.restore = thread.waits(inner.restore)
        self.freeze = thread.waits(inner.freeze)
        self.thaw = thread.waits(inner.thaw)
        self.usage = thread.waits(inner.usage)

    @property
    def residue(self) -> tuple[str, ...]:
        """What stayed behind, once it is closed: empty is the promise."""
        return self._inner.residue


def open_sandbox(box: LoadedBox | None = None, **keywords: Unpack[Keywords]) -> Opening[AsyncSandbox, Sandbox]:
    """A sandbox: `with open_sandbox(give=["data"], memory="1GiB") as sandbox: sandbox.exec("ls data")`. No key is needed.

    Of a box its limits of compute, `give`, `see` and `need` count. Nothing can be reached from inside. Raises UsageError for a box that
    is wrong, and on opening UnsafeError where this machine does not enforce what the box needs.
    """
    wanted = box_of(box or "", keywords)
    return Opening(lambda: _opened(wanted), Sandbox)


@asynccontextmanager
async def _opened(wanted: LoadedBox) -> AsyncGenerator[AsyncSandbox]:
    box = wanted.box
    async with AsyncExitStack() as stack:
        driver = NamespacesDriver()
        stack.push_async_callback(driver.close)
        limits = sandbox_limits(box)
        demand(box, await driver.profile(limits))
        kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gearcase-")))
        mounts = tuple(seams.Mount(path, f"/given/{path.name}") for path in box.files.see)
        sandbox = await driver.open(seams.SandboxSpec(id=secrets.token_hex(6), limits=limits, mounts=mounts))
        store = BlobStore(kept / "blobs")
        given = await in_thread(give, box.files.give, sandbox.workspace, sandbox.owner, store)
        opened = AsyncSandbox(sandbox, store, given.manifest)
        stack.push_async_callback(opened.close)
        yield opened
