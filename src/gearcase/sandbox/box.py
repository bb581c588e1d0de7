"""A live box from the kernel's namespaces: its commands, its brake, what it uses, its end. See `seams.Sandbox`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox import processes
from gearcase.sandbox.hostwire import PATIENCE
from gearcase.sandbox.live import Live
from gearcase.sandbox.parts import give_back
from gearcase.sandbox.running import Running
from gearcase.seams import Command, CommandResult, Grip, Listener, OnOutput, Profile, Usage

_FREEZE_DEADLINE = 2.0
_PROBE_DEADLINE = 5.0
_MOST_COMMANDS = 10
_WATCH = 0.1
_BRAKE, _STILL = "brake", "still"


class Box:
    """A live box. See `Sandbox`."""

    def __init__(self, live: Live, profile: Profile) -> None:
        self._live = live
        self._profile = profile
        self._slots = asyncio.Semaphore(_MOST_COMMANDS)
        self._braking = asyncio.Lock()
        self._standing = asyncio.Lock()
        self._held: set[str] = set()  # who wants it to stand still
        self._stands = False  # a freeze is in force
        self._closing: asyncio.Task[tuple[str, ...]] | None = None
        self.on_closed: Callable[[Box], None] = lambda _: None
        live.launcher.ended(live.parts.first).add_done_callback(lambda _: self._died("its first process ended"))
        live.launcher.lost.add_done_callback(lambda _: self._died("the launcher died"))
        self._watching = asyncio.ensure_future(self._watch_memory()) if live.settings["watch_memory"] else None

    # --- what it is --------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """See `Sandbox`."""
        return self._live.spec.id

    @property
    def profile(self) -> Profile:
        """See `Sandbox`."""
        return self._profile

    @property
    def sockets(self) -> Mapping[Listener, socket.socket]:
        """See `Sandbox`."""
        return self._live.parts.sockets

    @property
    def workspace(self) -> int:
        """See `Sandbox`."""
        return self._live.workspace

    @property
    def box(self) -> int:
        """See `Sandbox`."""
        return self._live.parts.descriptors[1]

    @property
    def owner(self) -> tuple[int, int]:
        """See `Sandbox`."""
        return self._live.owner

    @property
    def pid(self) -> int:
        """Host pid of the box's first process."""
        return self._live.parts.first

    # --- commands ----------------------------------------------------------------------------------------------------------

    async def run(
        self,
        command: Command,
        on_output: OnOutput | None = None,
        on_terminal: Callable[[int], None] | None = None,
        on_error: OnOutput | None = None,
    ) -> CommandResult:
        """See `Sandbox`."""
        async with self._slots:
            self._live.must_live()
            result, suspicious = await self._run(command, on_output, on_terminal, on_error)
            if suspicious and not (self._live.closing or self._live.frozen or self._live.lost.done()):
                health = await self._health()
                if health:
                    result = replace(result, health=health)
            return result

    async def _run(
        self,
        command: Command,
        on_output: OnOutput | None = None,
        on_terminal: Callable[[int], None] | None = None,
        on_error: OnOutput | None = None,
    ) -> tuple[CommandResult, bool]:
        await self._movable()
        self._live.commands += 1
        running = Running(self._live, command, self._live.commands, on_output, on_terminal, on_error)
        try:
            await running.start()
            return await running.finish()
        finally:
            running.tidy()

    async def _health(self) -> str:
        """What is broken in the box, seen from outside: full disk, no room for a process, a first process that is gone."""
        found = ["/workspace is full"] * self._live.full()
        probe_command = Command(("/usr/bin/env", "true"), deadline=_PROBE_DEADLINE)
        try:
            answer, _ = await self._run(probe_command)
        except GearcaseError as error:
            return "; ".join([*found, f"no command can be started: {error.message}"])
        if answer.exit_code != 0:
            found.append(f"`true` ends with {answer.exit_code}")
        return "; ".join(found)

    async def listen(self, listeners: Sequence[Listener]) -> None:
        """See `Sandbox`."""
        self._live.must_live()
        joined, flags = self._live.joining([name for name in ("user", "net") if name in self._live.parts.namespaces])
        wanted = [{"address": one.address, "port": one.port, "kind": one.kind} for one in listeners]
        wire = await self._live.launcher.ask("listen", {"join": flags, "listeners": wanted}, joined)
        try:
            heard = await wire.receive("listening", PATIENCE)
        finally:
            wire.close()
        made = [socket.socket(fileno=descriptor) for descriptor in heard.descriptors]
        if self._live.closing:
            for one in made:
                one.close()
            self._live.must_live()
        self._live.parts.sockets.update(zip(listeners, made, strict=True))

    # --- the brake ---------------------------------------------------------------------------------------------------------

    async def _movable(self) -> None:
        """Wait while the box is held for a look at its files alone: that is over in a moment, and no fault of who begins a command."""
        while _STILL in self._held and _BRAKE not in self._held:
            await self._standing.acquire()  # whoever looks has it
            self._standing.release()

    async def freeze(self) -> float:
        """See `Sandbox`."""
        return await self._hold(_BRAKE)

    async def thaw(self) -> None:
        """See `Sandbox`."""
        await self._let_go(_BRAKE)

    def grip(self) -> Grip | None:
        """See `Sandbox`."""
        try:
            return self._live.parts.groups.grip() or Grip("namespace", os.dup(self._live.parts.user))
        except OSError:
            return None

    @asynccontextmanager
    async def still(self) -> AsyncGenerator[None]:
        """See `Sandbox`."""
        async with self._standing:
            try:
                await self._hold(_STILL)
                yield
            finally:
                await self._let_go(_STILL)

    async def end_programs(self) -> int:
        """See `Sandbox`. A killed process of a frozen v1 cgroup goes with the thaw, before it does anything."""
        async with self.still():
            parts = self._live.parts
            members = parts.groups.members()
            found = {one.pid for one in self._live.tree()} if members is None else members
            found -= {parts.first, *parts.standbys.pids}
            for pid in found:
                processes.send(pid, signal.SIGKILL)
            return len(found)

    async def _hold(self, who: str) -> float:
        async with self._braking:  # whoever asks while a freeze is on its way waits until it is in force
            self._held.add(who)
            try:
                return await self._freeze()
            except OSError:
                self._live.must_live()  # its groups are gone because it is being torn down
                raise

    async def _freeze(self) -> float:
        began = time.monotonic()
        if self._stands:
            return 0.0
        self._live.must_live()
        self._live.frozen = True
        groups = self._live.parts.groups
        if groups.freeze():
            while not groups.frozen():
                if time.monotonic() - began > _FREEZE_DEADLINE:
                    raise RunError(
                        "not_frozen", "some processes could not be stopped", remedy="they wait for a device; kill the run"
                    )
                await asyncio.sleep(0.0005)
        else:
            processes.stop_groups(self._live.running.values())
            await processes.stop_all(self._live.tree, _FREEZE_DEADLINE)
        self._stands = True
        return (time.monotonic() - began) * 1000

    async def _let_go(self, who: str) -> None:
        async with self._braking:
            self._held.discard(who)
            if not self._held:
                self._thaw()

    def _thaw(self) -> None:
        if not self._live.frozen:
            return
        self._live.frozen = self._stands = False
        self._live.thawed = time.monotonic()
        groups = self._live.parts.groups
        if groups.freezes:
            groups.thaw()
        else:
            for one in self._live.tree():
                processes.send(one.pid, signal.SIGCONT)

    @property
    def frozen(self) -> bool:
        """See `Sandbox`."""
        return _BRAKE in self._held

    # --- what it uses ------------------------------------------------------------------------------------------------------

    async def usage(self) -> Usage:
        """See `Sandbox`."""
        self._live.must_live()
        groups = self._live.parts.groups
        tree = None
        cpu, memory, members = groups.cpu(), groups.memory(), groups.members()
        if cpu is None or memory is None or members is None:
            tree = self._live.tree()
        ticks = os.sysconf("SC_CLK_TCK")
        if cpu is None:
            cpu = self._live.cpu_ended + sum(one.ticks for one in tree or ()) / ticks
        if memory is None:
            memory = sum(processes.proportional_memory(one.pid for one in tree or ()).values())
        count = len(members - self._live.parts.standbys.pids) if members is not None else len(tree or ())
        disk = os.fstatvfs(self.workspace)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        return Usage(cpu, memory, max(0, count - 1), used, disk.f_files - disk.f_ffree)

    async def _watch_memory(self) -> None:
        """Without a memory cgroup: the largest process dies when the tree is over the limit."""
        limit = self._live.settings["watch_memory"]
        while True:
            await asyncio.sleep(_WATCH)
            sizes = processes.proportional_memory(one.pid for one in self._live.tree() if one.pid != self._live.parts.first)
            if sum(sizes.values()) > limit:
                largest = max(sizes, key=lambda pid: sizes[pid])
                processes.send(largest, signal.SIGKILL)

    # --- the end -----------------------------------------------------------------------------------------------------------

    async def died(self) -> str:
        """See `Sandbox`."""
        return await asyncio.shield(self._live.lost)

    def _died(self, reason: str) -> None:
        if not self._live.closing and not self._live.lost.done():
            self._live.lost.set_result(reason)

    async def close(self) -> tuple[str, ...]:
        """See `Sandbox`."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return await asyncio.shield(self._closing)  # whoever else asks waits for the same end

    async def _close(self) -> tuple[str, ...]:
        self._live.closing = True
        if self._watching is not None:
            self._watching.cancel()
        self._live.drain.close()
        self._live.launcher.forget(self._live.parts.first)
        residue = await give_back(self._live.parts, self._live.launcher)
        self.on_closed(self)
        return residue
