"""A live box: its sandbox, what was put into it, its doors, and the commands that run in it, on record."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from gearcase.box import Box
from gearcase.box.crossing import git_identity
from gearcase.box.inside import FIND, how_to_get
from gearcase.box.tools import Tool
from gearcase.brake import BoxClock, Part
from gearcase.claims import claimed
from gearcase.doors.gear import GearDoor
from gearcase.doors.http import HttpDoor
from gearcase.doors.metering import EgressMeter
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.opened import TRUST, OpenedHosts
from gearcase.doors.resolver import Resolver
from gearcase.doors.seat import Seat
from gearcase.doors.server import Server, serve
from gearcase.errors import GearcaseError, RunError, UnsafeError, UsageError
from gearcase.events import CommandEnded, CommandStarted, SandboxClosed, SandboxLost, SandboxOpened, Tick
from gearcase.run.accounts import LEAD_PURSE, Pace, Purse
from gearcase.run.doors import Doors
from gearcase.run.reach import Reach
from gearcase.run.tools import furnish
from gearcase.sandbox.trees import write_file
from gearcase.seams import (
    Command,
    CommandResult,
    Limits,
    Listener,
    Mount,
    OnOutput,
    Profile,
    Recorder,
    Sandbox,
    SandboxSpec,
)

MODEL = Listener("model.box", "198.18.0.1", 80)
GEAR = Listener("gear.box", "198.18.0.2", 80)
PROXY = Listener("proxy.box", "198.18.0.254", 13128)
"""Where a box has it: away from the ports that programs inside like to take."""
RESOLVER_UDP = Listener("resolver", "127.0.0.1", 53, "udp")
RESOLVER_TCP = Listener("resolver", "127.0.0.1", 53, "tcp")
NAMES = {MODEL.name: MODEL.address, GEAR.name: GEAR.address}

TOKEN = "only-a-token"
"""What stands in place of every key inside. It is worthless: the listener says who is asking."""

ENVIRONMENT = {
    "ANTHROPIC_BASE_URL": "http://model.box",
    "ANTHROPIC_API_KEY": TOKEN,
    "OPENAI_BASE_URL": "http://model.box/v1",
    "OPENAI_API_BASE": "http://model.box/v1",
    "OPENAI_API_KEY": TOKEN,
    "GOOGLE_GEMINI_BASE_URL": "http://model.box",
    "GEMINI_API_KEY": TOKEN,
    "GEARCASE_GEAR": "http://gear.box",
}
"""What tells unmodified programs where the doors are."""

_PROXY_URL, _NOT_BY_PROXY = f"http://{PROXY.name}:{PROXY.port}", "localhost,127.0.0.1,::1,.box"
PROXY_ENVIRONMENT = {
    **{name: _PROXY_URL for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")},
    **{name: _NOT_BY_PROXY for name in ("NO_PROXY", "no_proxy")},
}
"""What sends programs to the proxy, where the box asks for it."""

TICK = 5.0
"""Seconds of box time between two ticks."""
_LOOK = """find=$1; shift
for p in "$@"; do case $p in
    *:*) "${p%%:*}" -I -c "$find" "${p#*:}" 2>/dev/null ;;
    *) command -v "$p" >/dev/null ;;
esac || echo "$p"; done"""
_THAWED = 0.05  # seconds between attempts to begin a command while the run stands frozen
_TEXT = 16 * 1024
_SHOWN = 4 * 1024
_KILLED = 137
"""Exit code of a command that was cut short: a shell says so of SIGKILL."""
_TRACED, _TRACED_BYTES = 12, 1500


@functools.cache
def _of_inbox(name: str) -> bytes:
    return resources.files("gearcase.inbox").joinpath(name).read_bytes()


def sandbox_limits(box: Box) -> Limits:
    """The compute that a box asks of its driver."""
    limits = box.limits
    return Limits(limits.memory, limits.cpus, limits.disk, limits.processes)


def demand(box: Box, profile: Profile) -> None:
    """A box starts only where what it needs is enforced. Raises UnsafeError `unsafe`."""
    weak = [name for name in box.sandbox.need if profile.guarantees[name].strength != "enforced"]
    if weak:
        means = list(dict.fromkeys(profile.guarantees[name].remedy for name in weak))
        by_remedy = {remedy: [name for name in weak if profile.guarantees[name].remedy == remedy] for remedy in means}
        remedies = "; ".join(f"{', '.join(names)}: {remedy}" for remedy, names in by_remedy.items())
        raise UnsafeError(
            "unsafe",
            f"this machine does not enforce what the box needs: {', '.join(weak)}",
            remedy=f"{remedies}; or take it out of [sandbox] need",
        )


def sandbox_spec(box: Box, tools: Sequence[Tool], reach: Reach, identity: str, signature: Mapping[str, str]) -> SandboxSpec:
    """An agent's sandbox, with the listeners of its doors and what it sees of the host. `signature`: see `git_signature`."""
    doors = reach.doors
    given = [Mount(path, f"/given/{path.name}") for path in box.files.see]
    return SandboxSpec(
        id=identity,
        limits=sandbox_limits(box),
        mounts=(*given, *(mount for tool in tools for mount in tool.mounts)),
        listeners=(MODEL, GEAR, RESOLVER_UDP, RESOLVER_TCP, *([PROXY] if box.doors.http.proxy else []), *doors.listeners),
        names={**NAMES, **({PROXY.name: PROXY.address} if box.doors.http.proxy else {}), **doors.names},
        environment={
            **ENVIRONMENT,
            **(PROXY_ENVIRONMENT if box.doors.http.proxy else {}),
            **doors.environment,
            **reach.environment,
            **signature,
        },
        authority=reach.authority,
    )


def opened_hosts(box: Box, doors: Doors) -> OpenedHosts | None:
    """The hosts whose TLS is opened for a secret; None where a box has none. Raises UsageError."""
    if not box.secrets:
        return None
    taken = {
        *ENVIRONMENT,
        *PROXY_ENVIRONMENT,
        *doors.environment,
        *TRUST,
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "SHELL",
        "TERM",
        "USER",
    }
    for name, secret in box.secrets.items():
        if secret.env in taken:
            remedy = f"name another variable in [secrets.{name}] env, and read it from here with key_env"
            raise UsageError("variable_taken", f"{secret.env} is set inside already, by the box itself", remedy=remedy)
    return OpenedHosts(box.secrets, os.environ)


def git_signature(box: Box) -> dict[str, str]:
    """With what git signs commits, where the box is given a repository."""
    roles = ("AUTHOR", "COMMITTER")
    identity = {key.removeprefix("user.").upper(): value for key, value in git_identity(box).items()}
    return {f"GIT_{role}_{key}": value for role in roles for key, value in identity.items()}


class Room:
    """A sandbox in use. `numbers` counts the commands of the run in the order in which they begin."""

    def __init__(
        self,
        sandbox: Sandbox,
        recorder: Recorder,
        brake: Part,
        clock: BoxClock,
        pace: Pace,
        purse: Purse = LEAD_PURSE,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.sandbox = sandbox
        self._recorder = recorder
        self._brake = brake
        self._clock = clock
        self._pace = pace
        self._purse = purse
        self._agent = purse.agent
        self._numbers = numbers or itertools.count(1)
        self.trace: deque[dict[str, Any]] = deque(maxlen=_TRACED)
        """The last commands: text, how each ended, the end of what it printed."""
        self._servers: list[Server] = []
        self.failed: asyncio.Future[GearcaseError] = asyncio.get_running_loop().create_future()
        """What ended the run at a door, while a program in the box was asking."""
        self._resolver: Resolver | None = None
        self._seat: Seat | None = None
        self._meter: EgressMeter | None = None
        self._http: HttpDoor | None = None
        self._doors: Doors | None = None
        profile = sandbox.profile
        facts = {name: {"strength": g.strength, "by": g.by, "bound": g.bound} for name, g in profile.guarantees.items()}
        told = SandboxOpened(sandbox.id, {"driver": profile.driver, "guarantees": facts, "notes": list(profile.notes)})
        recorder.append(told, pace.agent)

    def furnish(self, gear: GearDoor, tools: Sequence[Tool]) -> None:
        """Put `gear`, the description of its door, and what starts the operator's tools into /box."""
        write_file(self.sandbox.box, b"bin/gear", _of_inbox("gear.py"), mode=0o755)
        for name in ("gearhelp.py", "gearmap.py", "gearreduce.py", "geartables.py", "gearspawn.py"):
            write_file(self.sandbox.box, b"bin/" + name.encode(), _of_inbox(name))
        write_file(self.sandbox.box, b"openapi.json", gear.openapi())
        furnish(self.sandbox.box, tools)

    async def open_doors(self, model: ModelDoor, gear: GearDoor, http: HttpDoor, reach: Reach, meter: EgressMeter) -> None:
        """Serve the doors on the sockets that were born inside."""
        agent, doors = self._agent, reach.doors
        self._meter, self._http, self._doors = meter, http, doors
        self._seat = http.seat(agent, meter, self._listen, reach.within, reach.secrets)
        await doors.serve(agent, self.sandbox, meter)
        sockets = self.sandbox.sockets
        self._servers.append(await serve(sockets[MODEL], model.handler(Caller(agent, self._purse.work), self.fail), cancel=True))
        self._servers.append(await serve(sockets[GEAR], gear.handler(agent), cancel=gear.tied))
        if PROXY in sockets:
            self._seat.serve_proxy(sockets[PROXY])
        own = {listener.name: listener.address for listener in (MODEL, GEAR, PROXY) if listener in sockets}
        self._resolver = Resolver({**own, **doors.names}, self._recorder, agent, self._seat.find)
        await self._resolver.serve(sockets[RESOLVER_UDP], sockets[RESOLVER_TCP])

    def fail(self, error: GearcaseError) -> None:
        """Something at a door ended the run."""
        if not self.failed.done():
            self.failed.set_result(error)

    async def _listen(self, listeners: Sequence[Listener]) -> Mapping[Listener, socket.socket]:
        await self.sandbox.listen(listeners)
        return self.sandbox.sockets

    async def require(self, programs: tuple[str, ...]) -> None:
        """Raises UsageError `packages` when a program, or a module of a Python, that the box declares is not inside."""
        if not programs:
            return
        found = await self.sandbox.run(Command(("/bin/sh", "-c", _LOOK, "sh", FIND, *programs), deadline=10))
        missing = found.stdout.text().split()
        if missing:
            names = ", ".join(missing)
            module = missing[0].partition(":")[2]
            how = how_to_get(module) if module else f"install {names} on this machine below /usr"
            remedy = f"{how}, or take it out of [sandbox] packages"
            raise UsageError("packages", f"the box needs programs that are not inside: {names}", remedy=remedy)

    async def furnish_home(self, files: Mapping[str, str]) -> None:
        """Write files, by their paths below the home inside, as the box's user. Raises RunError `home`."""
        script = 'umask 077; mkdir -p "$(dirname "$HOME/$1")" && cat > "$HOME/$1"'
        for path, text in files.items():
            done = await self.sandbox.run(Command(("/bin/sh", "-c", script, "sh", path), stdin=text.encode(), deadline=10))
            if done.exit_code != 0:
                cause = done.stdout.text().strip()
                raise RunError(
                    "home", f"~/{path} could not be written in the box", cause=cause, remedy="give it more [limits] memory"
                )

    async def run(
        self,
        command: Command,
        text: str,
        on_output: OnOutput | None = None,
        on_terminal: Callable[[int], None] | None = None,
        on_error: OnOutput | None = None,
    ) -> CommandResult:
        """Run a command, on record. Its seconds are box time: while the run stood frozen, it did nothing."""
        number, began = next(self._numbers), self._clock.now()
        self._recorder.append(CommandStarted(number, text[:_TEXT]), self._agent)
        try:
            result = await self._run(command, on_output, on_terminal, on_error)
        except BaseException:  # the run ends, or the box is gone: every command has its end on record
            lost = CommandEnded(number, "lost", _KILLED, round(self._clock.now() - began, 4), 0.0, 0, "", "")
            self._recorder.append(lost, self._agent)
            raise
        result = replace(result, seconds=min(result.seconds, self._clock.now() - began))
        self._recorder.append(
            CommandEnded(
                command=number,
                ended=result.ended,
                exit_code=result.exit_code,
                seconds=round(result.seconds, 4),
                cpu=round(result.cpu, 4),
                output_bytes=result.stdout.total + result.stderr.total,
                head=result.stdout.head[:_SHOWN].decode("utf-8", "replace"),
                tail=result.stdout.tail[-_SHOWN:].decode("utf-8", "replace"),
                limits=list(result.limits),
                health=result.health,
            ),
            self._agent,
        )
        if (claim := claimed(number, (result.stdout.head + result.stdout.tail)[-_TEXT:].decode("utf-8", "replace"))) is not None:
            self._recorder.append(claim, self._agent)
        tail = (result.stdout.head + result.stdout.tail)[-_TRACED_BYTES:].decode("utf-8", "replace")
        self.trace.append({"command": text[:_TRACED_BYTES], "ended": result.ended, "exit": result.exit_code, "output": tail})
        return result

    async def _run(
        self, command: Command, on_output: OnOutput | None, on_terminal: Callable[[int], None] | None, on_error: OnOutput | None
    ) -> CommandResult:
        while True:
            try:
                return await self.sandbox.run(command, on_output, on_terminal, on_error)
            except RunError as error:
                if error.code != "frozen":
                    raise
                await asyncio.sleep(_THAWED)  # the brake was pulled since whoever asks has looked at it
                await self._brake.wait_for(lambda level: level.name not in ("FROZEN", "KILLED"))

    async def tick(self) -> None:
        """Record what the box uses every five seconds of box time, until cancelled."""
        while True:
            await self._clock_moves(TICK)
            usage = await self.sandbox.usage()
            self._pace.tell_cpu(usage.cpu)
            now = round(self._clock.now(), 3)
            disk = self._pace.box.limits.disk
            tick = Tick(now, round(usage.cpu, 3), usage.memory, usage.processes, usage.disk, disk)
            self._recorder.append(tick, self._pace.agent)

    async def _clock_moves(self, seconds: float) -> None:
        until = self._clock.now() + seconds
        while (left := until - self._clock.now()) > 0:
            await self._brake.wait_for(lambda level: level.name not in ("FROZEN", "KILLED"))
            await asyncio.sleep(min(left, 1.0))

    def lost(self, reason: str) -> None:
        """The sandbox died by itself."""
        self._recorder.append(SandboxLost(self.sandbox.id, reason), self._agent)

    async def shut_doors(self) -> None:
        """Stop serving; connections are closed. Idempotent."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.close()
        if self._resolver is not None:
            await self._resolver.close()
        if self._seat is not None and self._http is not None:
            await self._http.leave(self._seat)
        if self._doors is not None:
            await self._doors.leave(self._agent)
        if self._meter is not None:
            self._meter.close()

    async def close(self) -> tuple[str, ...]:
        """Tear the sandbox down; returns the residue."""
        await self.shut_doors()
        residue = await self.sandbox.close()
        self._recorder.append(SandboxClosed(self.sandbox.id, list(residue)), self._pace.agent)
        return residue
