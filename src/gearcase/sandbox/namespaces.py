"""The default driver: boxes from the kernel's namespaces, with no binary, no daemon, root or not.

`NamespacesDriver.open` makes a box through the launcher, checks from outside that it is as asked, and gives back a `Box`. Invariants: an
error on the way leaves nothing behind; the box dies with this process (lifeline, PDEATHSIG); no command is started in a frozen box.

Threat: see `docs/threat-model.md`. The parts are each in a file of their own; this one puts them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox import cgroups, owners, plan, probe, processes, ranges, residue, syscalls, verify
from gearcase.sandbox.command import Drain, Pipe, Reader, Writer
from gearcase.sandbox.hostwire import Ended, HostWire, Launcher, Message
from gearcase.seams import Command, CommandResult, Limits, Listener, Output, Profile, SandboxSpec, Usage

PATIENCE = 15.0
"""Seconds for one step of a set-up."""
_FREEZE_DEADLINE = 2.0
_PROBE_DEADLINE = 5.0
_REPORT_BYTES = 64 * 1024
_MOST_COMMANDS = 10
_WATCH = 0.1
_NEARLY_FULL = 64 * 1024


class NamespacesDriver:
    """Makes boxes. `without` switches single guards off, for positive controls only; it is noted in every profile."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        unknown = without - plan.GUARDS
        assert not unknown, f"no such guard: {unknown}"
        self._without = without
        self._abilities: probe.Abilities | None = None
        self._launcher: Launcher | None = None
        self._starting = asyncio.Lock()
        self._boxes: set[Box] = set()

    async def profile(self, limits: Limits | None = None) -> Profile:
        """See `Driver`."""
        return probe.profile(self._found(), self._without)

    async def open(self, spec: SandboxSpec) -> Box:
        """See `Driver`."""
        plan.check(spec)
        probe.require_namespaces(self._found())
        owners.sweep()
        making = _Making(spec, self._found(), await self._running(), self._without)
        try:
            box = await making.make()
        except BaseException:
            await making.undo()
            raise
        self._boxes.add(box)
        box.on_closed = self._boxes.discard
        return box

    async def close(self) -> None:
        """See `Driver`."""
        for box in list(self._boxes):
            await box.close()
        if self._launcher is not None:
            await self._launcher.close()
            self._launcher = None

    def _found(self) -> probe.Abilities:
        if self._abilities is None:
            self._abilities = probe.probe(self._without)
        return self._abilities

    async def _running(self) -> Launcher:
        async with self._starting:
            if self._launcher is None:
                self._launcher = await Launcher.start(pin_processors=not self._found().groups.means("cpu"))
            return self._launcher


@dataclass(slots=True)
class _Parts:
    """Everything of one box that must be given back."""

    groups: cgroups.BoxGroups
    ids: ranges.Range | None = None
    owner: owners.OwnerFile | None = None
    lifeline: int = -1
    disk: int = -1
    device: str = ""
    first: int = 0
    pidfd: int = -1
    descriptors: list[int] = field(default_factory=list[int])
    sockets: dict[Listener, socket.socket] = field(default_factory=dict[Listener, socket.socket])
    inodes: dict[str, int] = field(default_factory=dict[str, int])
    cookie: int = 0


class _Making:
    """One set-up, step by step."""

    def __init__(self, spec: SandboxSpec, found: probe.Abilities, launcher: Launcher, without: frozenset[str]) -> None:
        self._spec = spec
        self._found = found
        self._launcher = launcher
        self._without = without
        self._wire: HostWire | None = None
        self._parts = _Parts(cgroups.BoxGroups(found.groups, spec.id))
        groups = found.groups
        self._means = plan.Means(bool(groups.means("pids")), bool(groups.means("memory")), found.root, found.disk)

    async def make(self) -> Box:
        """The box, checked. Raises what stopped it."""
        parts, spec = self._parts, self._spec
        folder = owners.runtime_folder()
        parts.owner = owners.OwnerFile.create(f"{folder}/boxes", spec.id, owners.record(parts.groups.folders, ()))
        if self._found.root:
            parts.ids = ranges.take(f"{owners.private_folder(folder)}/ids")
        memory = plan.memory_limit(spec.limits, self._found.disk)
        parts.groups.create(memory, plan.tasks_limit(spec.limits), spec.limits.cpus, self._without)
        if parts.groups.freezer:
            await self._launcher.tell({"kind": "watch_freezer", "path": parts.groups.freezer})
        if self._found.disk:
            await self._make_disk()
        request = plan.box(spec, self._means, self._ids(), self._without, self._found.landlock)
        maker = await self._begin(request)
        ready = await self._follow(maker)
        await self._arm(request)
        parts.owner.write(owners.record(parts.groups.folders, (parts.first,)))
        notes = probe.profile(self._found, self._without)
        return Box(spec, parts, self._launcher, notes, self._settings(request, ready), ready)

    def _ids(self) -> Mapping[str, Any]:
        ids = self._parts.ids
        before = (ids.agent, ids.agent) if ids else (1000, 1000)
        return {"caller": (os.getuid(), os.getgid()), "agent_before": before}

    async def _make_disk(self) -> None:
        request = {"scratch": owners.private_folder(owners.runtime_folder()), "bytes": self._spec.limits.disk}
        wire = await self._launcher.ask("disk", {**request, "scratch": _scratch()}, [])
        try:
            made = await wire.receive("disk", PATIENCE)
        finally:
            wire.close()
        self._parts.disk = made.descriptors[0]
        self._parts.device = str(made.body["device"])

    async def _begin(self, request: Mapping[str, Any]) -> int:
        reading, self._parts.lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            disk = [self._parts.disk] if self._parts.disk >= 0 else []
            self._wire = await self._launcher.ask("box", request, [reading, *disk])
        finally:
            os.close(reading)
        maker = int((await self._wire.receive("maker", PATIENCE)).body["pid"])
        self._parts.groups.add(maker)
        self._wire.send({"kind": "go"})
        return maker

    async def _follow(self, maker: int) -> Message:
        """Answer the maker and pid 1 until the box is ready."""
        assert self._wire is not None
        parts, ready = self._parts, None
        while ready is None or not parts.first:
            message = await self._wire.next(PATIENCE)
            if message is None:
                raise RunError("sandbox_failed", "the set-up of the box died", remedy="run `gearcase doctor`")
            match message.body.get("kind"):
                case "map":
                    self._write_maps(maker)
                    self._wire.send({"kind": "mapped"})
                case "listening":
                    for listener, descriptor in zip(self._spec.listeners, message.descriptors, strict=True):
                        parts.sockets[listener] = socket.socket(fileno=descriptor)
                case "first":
                    parts.first, parts.pidfd = int(message.body["pid"]), message.descriptors[0]
                case "ready":
                    ready = message
                    parts.descriptors += message.descriptors
                    parts.inodes = dict(message.body["inodes"])
                case _:
                    from gearcase.sandbox.hostwire import refusal

                    raise refusal(message.body)
        if parts.sockets:
            parts.cookie = residue.netns_cookie(next(iter(parts.sockets.values())).fileno())
        return ready

    def _write_maps(self, maker: int) -> None:
        assert self._parts.ids is not None
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{maker}/{name}", "w", encoding="ascii") as file:
                file.write(self._parts.ids.map)

    async def _arm(self, request: Mapping[str, Any]) -> None:
        """Check pid 1 from outside, then let it tie its life to the launcher's."""
        assert self._wire is not None
        parts = self._parts
        deadline = time.monotonic() + PATIENCE
        while (one := processes.look(parts.first)) and one.parent != self._launcher.pid and time.monotonic() < deadline:
            await asyncio.sleep(0.0005)
        ids = parts.ids
        uid, uid_map = (ids.base, ids.map) if ids else (os.getuid(), f"1000 {os.getuid()} 1")
        verify.first_process(parts.first, request, launcher=self._launcher.pid, uid=uid, uid_map=uid_map)
        self._wire.send({"kind": "arm"})
        await self._wire.receive("armed", PATIENCE)
        self._wire.close()
        self._wire = None

    def _settings(self, request: Mapping[str, Any], ready: Message) -> dict[str, Any]:
        cores = max(1, int(self._spec.limits.cpus))
        allowed = sorted(os.sched_getaffinity(0))
        pinned = [] if self._found.groups.means("cpu") or "cpu" in self._without else allowed[:cores]
        return {
            "ranged": self._means.ranged,
            "rlimits": request["rlimits"],
            "landlock": self._found.landlock,
            "without": request["without"],
            "processors": pinned,
            "joined": int(ready.body["joined"]),
            "watch_memory": 0 if self._found.groups.means("memory") else self._spec.limits.memory,
        }

    async def undo(self) -> None:
        """Leave nothing of a set-up that failed."""
        if self._wire is not None:
            self._wire.close()
        await _give_back(self._parts, self._launcher)


def _scratch() -> str:
    """A folder on a real disk for the image, which has no name there."""
    for folder in ("/var/tmp", "/tmp"):
        if os.access(folder, os.W_OK):
            return folder
    return owners.runtime_folder()


async def _give_back(parts: _Parts, launcher: Launcher) -> tuple[str, ...]:
    """Kill the box and give everything back; returns what stayed."""
    groups = parts.groups
    groups.kill()
    if parts.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(parts.pidfd, signal.SIGKILL)
    if parts.lifeline >= 0:
        os.close(parts.lifeline)
        parts.lifeline = -1
    groups.thaw()
    for sock in parts.sockets.values():
        sock.close()
    parts.sockets.clear()
    for descriptor in (*parts.descriptors, parts.disk):
        if descriptor >= 0:
            os.close(descriptor)
    parts.descriptors.clear()
    parts.disk = -1
    stayed: list[str] = await _until_gone(parts)
    if groups.freezer:
        with contextlib.suppress(RunError):
            await launcher.tell({"kind": "forget_freezer", "path": groups.freezer})
    if parts.pidfd >= 0:
        os.close(parts.pidfd)
        parts.pidfd = -1
    if parts.ids is not None:
        parts.ids.close()
    if parts.owner is not None:
        parts.owner.close()
    return tuple(stayed)


async def _until_gone(parts: _Parts) -> list[str]:
    """Wait for the end of every process, mount and device of the box; what does not go is named."""
    deadline = time.monotonic() + 5
    while True:
        stayed = [f"process {pid}" for pid in parts.groups.members() or ()]
        stayed += [f"process {pid}" for pid in residue.processes_in(parts.inodes)] if parts.inodes and not stayed else []
        stayed += [f"cgroup {folder}" for folder in parts.groups.remove()] if not stayed else []
        stayed += [f"loop device {parts.device}"] if not stayed and residue.loop_in_use(parts.device) else []
        stayed += [f"descriptor {number}" for number in residue.descriptors_in(parts.cookie)] if not stayed else []
        if not stayed or time.monotonic() > deadline:
            return stayed
        await asyncio.sleep(0.002)


class Box:
    """A live box. See `Sandbox`."""

    def __init__(
        self, spec: SandboxSpec, parts: _Parts, launcher: Launcher, profile: Profile, settings: dict[str, Any], ready: Message
    ) -> None:
        self._spec = spec
        self._parts = parts
        self._launcher = launcher
        self._profile = profile
        self._settings = settings
        self._joined = list(ready.descriptors[2 : 2 + settings["joined"]])
        self._rules = ready.descriptors[-1] if settings["landlock"] else -1
        self._numbers = 0
        self._running: dict[int, int] = {}  # number -> pid
        self._slots = asyncio.Semaphore(_MOST_COMMANDS)
        self._drain = Drain()
        self._frozen = False
        self._closing = False
        self._residue: tuple[str, ...] | None = None
        self._cpu_ended = 0.0
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._first_end = launcher.ended(parts.first)
        self._first_end.add_done_callback(lambda _: self._died("its first process ended"))
        launcher.lost.add_done_callback(lambda _: self._died("the launcher died"))
        self.on_closed: Callable[[Box], None] = lambda _: None
        self._watching = asyncio.ensure_future(self._watch_memory()) if settings["watch_memory"] else None

    # --- what it is --------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """See `Sandbox`."""
        return self._spec.id

    @property
    def profile(self) -> Profile:
        """See `Sandbox`."""
        return self._profile

    @property
    def sockets(self) -> Mapping[Listener, socket.socket]:
        """See `Sandbox`."""
        return self._parts.sockets

    @property
    def workspace(self) -> int:
        """See `Sandbox`."""
        return self._parts.descriptors[0]

    @property
    def box(self) -> int:
        """See `Sandbox`."""
        return self._parts.descriptors[1]

    @property
    def owner(self) -> tuple[int, int]:
        """See `Sandbox`."""
        ids = self._parts.ids
        return (ids.agent, ids.agent) if ids else (os.getuid(), os.getgid())

    @property
    def pid(self) -> int:
        """Host pid of the box's first process."""
        return self._parts.first

    # --- commands ----------------------------------------------------------------------------------------------------------

    async def run(self, command: Command, on_output: Callable[[bytes], None] | None = None) -> CommandResult:
        """See `Sandbox`."""
        async with self._slots:
            self._must_live()
            result, suspicious = await self._run(command, on_output)
            if suspicious and not self._closing and not self._lost.done():
                health = await self._health()
                if health:
                    result = _with_health(result, health)
            return result

    async def _run(self, command: Command, on_output: Callable[[bytes], None] | None) -> tuple[CommandResult, bool]:
        self._numbers += 1
        number = self._numbers
        running = _Running(self, command, number, on_output)
        try:
            await running.start()
            return await running.finish()
        finally:
            running.tidy()

    async def _health(self) -> str:
        """What is broken in the box, seen from outside: full disk, no room for a process, a first process that is gone."""
        found = [f"{name} is full" for name, descriptor in (("/workspace", self.workspace),) if _full(descriptor)]
        probe_command = Command(("/usr/bin/env", "true"), deadline=_PROBE_DEADLINE)
        try:
            answer, _ = await self._run(probe_command, None)
        except GearcaseError as error:
            return "; ".join([*found, f"no command can be started: {error.message}"])
        if answer.exit_code != 0:
            found.append(f"`true` ends with {answer.exit_code}")
        return "; ".join(found)

    # --- the brake ---------------------------------------------------------------------------------------------------------

    async def freeze(self) -> float:
        """See `Sandbox`."""
        began = time.monotonic()
        if self._frozen:
            return 0.0
        self._must_live()
        self._frozen = True
        groups = self._parts.groups
        if groups.freeze():
            while not groups.frozen():
                if time.monotonic() - began > _FREEZE_DEADLINE:
                    raise RunError("not_frozen", "some processes could not be stopped", remedy="they wait for a device; kill the run")
                await asyncio.sleep(0.0005)
        else:
            await self._stop_all(began)
        return (time.monotonic() - began) * 1000

    async def _stop_all(self, began: float) -> None:
        """Without a freezer: stop what runs, again and again, until nothing does."""
        while True:
            going = [one for one in self._tree() if one.state not in "TtZX"]
            if not going:
                return
            if time.monotonic() - began > _FREEZE_DEADLINE:
                names = ", ".join(str(one.pid) for one in going[:5])
                raise RunError("not_frozen", f"processes {names} could not be stopped", remedy="kill the run")
            for one in going:
                processes.send(one.pid, signal.SIGSTOP)
            await asyncio.sleep(0.002)

    async def thaw(self) -> None:
        """See `Sandbox`."""
        if not self._frozen:
            return
        self._frozen = False
        groups = self._parts.groups
        if groups.unified or groups.freezer:
            groups.thaw()
        else:
            for one in self._tree():
                processes.send(one.pid, signal.SIGCONT)

    @property
    def frozen(self) -> bool:
        """Whether the box stands still."""
        return self._frozen

    def _tree(self) -> list[processes.Process]:
        return processes.descendants([self._parts.first, *self._running.values()])

    # --- what it uses ------------------------------------------------------------------------------------------------------

    async def usage(self) -> Usage:
        """See `Sandbox`."""
        self._must_live()
        groups = self._parts.groups
        tree = None
        cpu, memory, members = groups.cpu(), groups.memory(), groups.members()
        if cpu is None or memory is None or members is None:
            tree = self._tree()
        ticks = os.sysconf("SC_CLK_TCK")
        if cpu is None:
            cpu = self._cpu_ended + sum(one.ticks for one in tree or ()) / ticks
        if memory is None:
            memory = sum(processes.proportional_memory(one.pid for one in tree or ()).values())
        count = len(members) if members is not None else len(tree or ())
        disk = os.fstatvfs(self.workspace)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        return Usage(cpu, memory, max(0, count - 1), used, disk.f_files - disk.f_ffree)

    async def _watch_memory(self) -> None:
        """Without a memory cgroup: the largest process dies when the tree is over the limit."""
        limit = self._settings["watch_memory"]
        while True:
            await asyncio.sleep(_WATCH)
            sizes = processes.proportional_memory(one.pid for one in self._tree() if one.pid != self._parts.first)
            if sum(sizes.values()) > limit:
                largest = max(sizes, key=lambda pid: sizes[pid])
                processes.send(largest, signal.SIGKILL)

    # --- the end -----------------------------------------------------------------------------------------------------------

    async def died(self) -> str:
        """See `Sandbox`."""
        return await asyncio.shield(self._lost)

    def _died(self, reason: str) -> None:
        if not self._closing and not self._lost.done():
            self._lost.set_result(reason)

    def _must_live(self) -> None:
        if self._closing or self._lost.done():
            reason = "it was closed" if self._closing else self._lost.result()
            raise RunError("sandbox_lost", f"the box is gone: {reason}", remedy="start the run again")

    async def close(self) -> tuple[str, ...]:
        """See `Sandbox`."""
        if self._residue is None:
            self._closing = True
            self._residue = ()
            if self._watching is not None:
                self._watching.cancel()
            self._drain.close()
            self._launcher.forget(self._parts.first)
            self._residue = await _give_back(self._parts, self._launcher)
            self.on_closed(self)
        return self._residue


class _Running:
    """One command on its way through the launcher."""

    def __init__(self, box: Box, command: Command, number: int, on_output: Callable[[bytes], None] | None) -> None:
        self._box = box
        self._command = command
        self._number = number
        self._on_output = on_output
        self._group = ""
        self._pid = 0
        self._pidfd = -1
        self._readers: list[Reader] = []
        self._writer: Writer | None = None
        self._ended: asyncio.Future[Ended] | None = None
        self._began = 0.0
        self._before = box._parts.groups.counters()
        self._struck: list[str] = []

    async def start(self) -> None:
        """Start it. Raises RunError `frozen`, `sandbox_lost`, `no_command`."""
        box, command = self._box, self._command
        if box._frozen:
            raise RunError("frozen", "the box is frozen, no command is started", remedy="resume the run first")
        self._began = time.monotonic()
        self._group = box._parts.groups.command_group(self._number)
        owner = box.owner
        pipes = [Pipe(owner, to_box=True), Pipe(owner, to_box=False)]
        if not command.merge_stderr:
            pipes.append(Pipe(owner, to_box=False))
        if command.report:
            pipes.append(Pipe(owner, to_box=False))
        try:
            await self._through_launcher(pipes)
        except BaseException:
            for pipe in pipes:
                pipe.close()
            raise
        ours = [pipe.handed_over() for pipe in pipes]
        self._writer = Writer(ours[0], command.stdin)
        caps = [command.output_cap] * (1 if command.merge_stderr else 2) + [_REPORT_BYTES] * command.report
        listeners = [self._on_output] + [None] * (len(caps) - 1)
        self._readers = [Reader(fd, cap, hear) for fd, cap, hear in zip(ours[1:], caps, listeners, strict=True)]

    async def _through_launcher(self, pipes: list[Pipe]) -> None:
        box, command = self._box, self._command
        theirs = [pipe.theirs for pipe in pipes]
        streams = [theirs[0], theirs[1], theirs[1] if command.merge_stderr else theirs[2]]
        streams += [theirs[-1]] if command.report else []
        if box._joined:
            names = [name for name in syscalls.NAMESPACES if name in box._parts.inodes]
            join, flags = box._joined, [syscalls.NAMESPACES[name] for name in names]
        else:
            join, flags = [box._parts.pidfd], [sum(syscalls.NAMESPACES[name] for name in box._parts.inodes)]
        request = plan.command(command, box._spec, self._number, flags, box._settings)
        rules = [box._rules] if box._rules >= 0 else []
        wire = await box._launcher.ask("command", request, [*join, *streams, *rules])
        try:
            joiner = await wire.receive("joiner", PATIENCE)
            box._parts.groups.add(int(joiner.body["pid"]), self._group)
            wire.send({"kind": "go"})
            started = await wire.receive("command", PATIENCE)
            self._pid, self._pidfd = int(started.body["pid"]), started.descriptors[0]
            self._ended = box._launcher.ended(self._pid)
            box._running[self._number] = self._pid
            trouble = await wire.next(PATIENCE)  # the socket closes on execve
            if trouble is not None:
                raise RunError(
                    "no_command",
                    "the command could not be started in the box",
                    cause=str(trouble.body.get("message", "")),
                    remedy="the box may be out of processes or memory: see `gear status`",
                )
        finally:
            wire.close()

    async def finish(self) -> tuple[CommandResult, bool]:
        """Wait for the end or the deadline; returns the result and whether it calls for a health probe."""
        assert self._ended is not None
        ended: Ended | None = None
        late = lost = False
        try:
            ended, late, lost = await self._wait(self._ended)
        except asyncio.CancelledError:
            self._kill()
            raise
        if late:
            self._kill()
            ended = await self._after_kill(self._ended)
        outputs = [reader.finish() for reader in self._readers]
        return self._result(ended, late, lost, outputs)

    async def _wait(self, ended: asyncio.Future[Ended]) -> tuple[Ended | None, bool, bool]:
        """(how it ended, its deadline passed, the box is gone). The deadline stands still while the box is frozen."""
        box, left = self._box, self._command.deadline
        while True:
            slice_ = 0.25 if left is None else min(0.25, max(left, 0.0))
            began = time.monotonic()
            done, _ = await asyncio.wait({ended, box._lost}, timeout=slice_, return_when=asyncio.FIRST_COMPLETED)
            if ended in done:
                return ended.result(), False, False
            if box._lost.done() or box._closing:
                return None, False, True
            if left is not None and not box._frozen:
                left -= time.monotonic() - began
                if left <= 0:
                    return None, True, False

    async def _after_kill(self, ended: asyncio.Future[Ended]) -> Ended | None:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(ended), 5)
        return None

    def _kill(self) -> None:
        """Everything that the command started, however often it forked away."""
        groups = self._box._parts.groups
        if self._group:
            groups.kill_command(self._group)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not self._group:
            value = plan.command_mark(self._number)
            for one in self._box._tree():
                if one.pid != self._box._parts.first and processes.has_mark(one.pid, value):
                    processes.send(one.pid, signal.SIGKILL)

    def _result(self, ended: Ended | None, late: bool, lost: bool, outputs: list[Output]) -> tuple[CommandResult, bool]:
        command, box = self._command, self._box
        status = os.waitstatus_to_exitcode(ended.status) if ended else -signal.SIGKILL
        kind = "deadline" if late else "lost" if lost else "signalled" if status < 0 else "exited"
        code = status if status >= 0 else 128 - status
        limits = self._limits(late, code, outputs[0])
        cpu = ended.cpu if ended else 0.0
        box._cpu_ended += cpu
        separate = not command.merge_stderr
        stderr = outputs[1] if separate else Output(b"", b"", 0)
        report = outputs[-1] if command.report else Output(b"", b"", 0)
        seconds = time.monotonic() - self._began
        told = (report.head + report.tail)[:_REPORT_BYTES]
        result = CommandResult(kind, code, outputs[0], stderr, told, seconds, cpu, limits)  # type: ignore[arg-type]
        return result, not lost and (code >= 125 or bool(limits))

    def _limits(self, late: bool, code: int, output: Output) -> tuple[str, ...]:
        box = self._box
        now = box._parts.groups.counters()
        struck = ["memory"] * (now.memory > self._before.memory) + ["processes"] * (now.processes > self._before.processes)
        text = output.head[-4096:] + output.tail[-4096:]
        if code != 0 and "processes" not in struck and b"Resource temporarily unavailable" in text:
            struck.append("processes")
        if _full(box.workspace) or (code != 0 and b"No space left on device" in text):
            struck.append("disk")
        if code != 0 and b"Too many open files" in text:
            struck.append("files")
        if not struck and code == 128 + signal.SIGKILL and box._settings["watch_memory"]:
            struck.append("memory")
        return (*struck, *(["time"] if late else []))

    def tidy(self) -> None:
        """Let go of what is the host's; pipes that children still hold are drained."""
        box = self._box
        box._running.pop(self._number, None)
        if self._pid and self._ended is not None and not self._ended.done():
            box._launcher.forget(self._pid)
        if self._writer is not None:
            self._writer.close()
        for reader in self._readers:
            descriptor = reader.release()
            if descriptor >= 0 and not box._closing:
                box._drain.add(descriptor)
            elif descriptor >= 0:
                os.close(descriptor)
        if self._pidfd >= 0:
            os.close(self._pidfd)
        if self._group and not box._closing:
            box._parts.groups.end_command(self._group)
            box._parts.groups.tidy_commands()


def _full(descriptor: int) -> bool:
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize < _NEARLY_FULL or (found.f_files > 0 and found.f_favail < 4)


def _with_health(result: CommandResult, health: str) -> CommandResult:
    from dataclasses import replace

    return replace(result, health=health)
