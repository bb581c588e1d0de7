"""The seams: the Protocols along which the parts of Gearcase are joined, on one screen.

Each has a real, small implementation in the package that tests use, so nothing needs patching: `sandbox.namespaces` is a
`Driver`, `doors.model.upstreams.scripted` an `Upstream`, `journal.Journal` a `Recorder`. Values that cross a seam are frozen.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from gearcase.events import Event

# --- record ----------------------------------------------------------------------------------------------------------------


class Recorder(Protocol):
    """Where facts go. `append` never blocks on the disk; `flush` hands the bytes to the kernel; `durable` waits for the disk."""

    def append(self, event: Event, agent: str = "") -> int:
        """Add one event; returns its sequence number."""
        ...

    def flush(self) -> None:
        """Everything appended so far survives a kill of this process. Raises RunError when the disk refuses."""
        ...

    async def durable(self) -> None:
        """Everything appended so far survives a power cut. Raises RunError when the disk refuses."""
        ...


# --- isolation -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket to be born inside a sandbox's network and served from outside. `port` 53 on 127.0.0.1 is the resolver's."""

    name: str
    address: str
    port: int
    kind: Literal["tcp", "udp"] = "tcp"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path seen read-only (nosuid, nodev) at `target` inside. Refused when it holds sockets, FIFOs or devices."""

    source: Path
    target: str
    executable: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Compute of one sandbox. Bytes, cores, counts."""

    memory: int
    cpus: float
    disk: int
    processes: int
    open_files: int = 1024


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a driver is asked for. `id` is unique on the machine and safe in a file name."""

    id: str
    limits: Limits
    mounts: tuple[Mount, ...] = ()
    listeners: tuple[Listener, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict[str, str])  # name -> address, for /etc/hosts
    environment: Mapping[str, str] = field(default_factory=dict[str, str])  # of every command
    authority: str = ""  # a certificate authority that programs inside trust beside the host's, as PEM
    workspace_executable: bool = True


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Rows and columns of a terminal."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run inside. `output_cap` bytes of head and as many of tail are kept per stream; the rest is counted."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str = "/workspace"
    stdin: bytes = b""
    deadline: float | None = None  # seconds of box time
    output_cap: int = 64 * 1024
    merge_stderr: bool = True
    report: bool = False  # open file descriptor 3 for a report (at most 64 KiB are kept)
    terminal: TerminalSize | None = None  # a terminal of the box's own in place of its streams, of which nothing is kept


OnOutput = Callable[[bytes], Awaitable[None] | None]
"""Sees a stream as it comes. What it returns is waited for before more is read."""


@dataclass(frozen=True, slots=True)
class Output:
    """What was kept of a stream: all of it in `head` when `total` fits, else head and tail."""

    head: bytes
    tail: bytes
    total: int

    def text(self) -> str:
        """The stream as text, with a line that says how many bytes are left out in the middle."""
        middle = self.total - len(self.head) - len(self.tail)
        head, tail = self.head.decode("utf-8", "replace"), self.tail.decode("utf-8", "replace")
        return f"{head}\n[... {middle} bytes left out ...]\n{tail}" if middle > 0 else head + tail


Ended = Literal["exited", "signalled", "deadline", "lost"]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. `limits` names those that struck (memory, processes, disk, files, time), `health` what is broken."""

    ended: Ended
    exit_code: int  # 128 + signal where signalled, as a shell says it
    stdout: Output
    stderr: Output
    report: bytes
    seconds: float
    cpu: float
    limits: tuple[str, ...] = ()
    health: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses now: processor seconds since its start, bytes, counts."""

    cpu: float
    memory: int
    processes: int
    disk: int
    inodes: int


Strength = Literal["enforced", "watched", "absent"]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """How strongly one aspect is limited here.

    `by` names the means, `remedy` how to get more, `bound` the overshoot where it is only watched.
    """

    strength: Strength
    by: str
    remedy: str = ""
    bound: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a driver enforces on this machine: filesystem network processes memory cpu disk freeze syscalls."""

    driver: str
    guarantees: Mapping[str, Guarantee]
    notes: tuple[str, ...] = ()


class Grip(NamedTuple):
    """With what another process freezes a sandbox: `how`, and a descriptor that whoever is given it owns.

    Of the folder of its cgroup (`cgroup` in v2, `freezer` in v1), or of its user namespace (`namespace`).
    """

    how: str
    descriptor: int


class Sandbox(Protocol):
    """One live, isolated place for one agent. All methods are safe after its death: they raise RunError `sandbox_lost`."""

    @property
    def id(self) -> str:
        """The id of its spec."""
        ...

    @property
    def profile(self) -> Profile:
        """What is enforced for this sandbox, checked from outside."""
        ...

    @property
    def sockets(self) -> Mapping[Listener, socket.socket]:
        """The listening sockets, born inside, owned by the caller from `open` on."""
        ...

    async def listen(self, listeners: Sequence[Listener]) -> None:
        """More listening sockets, born inside now; they join `sockets`. Raises RunError when an address is taken."""
        ...

    @property
    def workspace(self) -> int:
        """Directory descriptor of /workspace, for host code that walks it without following links."""
        ...

    @property
    def box(self) -> int:
        """Directory descriptor of /box: writable from outside only, read-only inside. For gear, OpenAPI, context files."""
        ...

    @property
    def owner(self) -> tuple[int, int]:
        """Host uid and gid of the box's user: what host code must chown given files to."""
        ...

    async def run(
        self,
        command: Command,
        on_output: OnOutput | None = None,
        on_terminal: Callable[[int], None] | None = None,
        on_error: OnOutput | None = None,
    ) -> CommandResult:
        """Run to the end, the deadline, or the box's death; background children may go on. Cancelling kills the command.

        `on_terminal` is given the controlling end of the command's terminal, to keep: when its last copy is closed, the command
        is hung up on.
        """
        ...

    async def freeze(self) -> float:
        """Stop every process; returns milliseconds. Idempotent. Raises RunError `not_frozen` naming who could not be stopped."""
        ...

    async def thaw(self) -> None:
        """Undo freeze. Idempotent."""
        ...

    def grip(self) -> Grip | None:
        """What another process freezes it with. None where it is gone."""
        ...

    async def end_programs(self) -> int:
        """Kill every program in it, while it is frozen, so that none does anything after the thaw; returns how many there were."""
        ...

    def still(self) -> AbstractAsyncContextManager[None]:
        """Nothing in it moves within the block, one block at a time; whether it moves afterwards is for `freeze` and `thaw` to say.

        Raises as `freeze` does.
        """
        ...

    @property
    def frozen(self) -> bool:
        """Whether `freeze` holds it."""
        ...

    async def usage(self) -> Usage:
        """What it uses now."""
        ...

    async def died(self) -> str:
        """Wait until the sandbox is gone for a reason other than `close`; returns the reason."""
        ...

    async def close(self) -> tuple[str, ...]:
        """Kill everything, remove everything, look for residue; returns what stayed (empty is the promise). Idempotent."""
        ...


class Driver(Protocol):
    """A way to make sandboxes. One per host process."""

    async def profile(self, limits: Limits | None = None) -> Profile:
        """What this machine can enforce; probed once and cached."""
        ...

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """A live sandbox whose effective state was checked from outside, or an error and nothing left behind."""
        ...

    async def close(self) -> None:
        """Close every sandbox that is still open, then the launcher. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Housing:
    """What a run lends to a server that lives in a sandbox of its own: a driver, its record, its brake.

    `adopt` puts a sandbox under the brake, `release` takes it away with what stayed of it. What a door keeps of itself lies in `folder`.
    """

    driver: Driver
    recorder: Recorder
    adopt: Callable[[Sandbox], Awaitable[None]]
    release: Callable[[Sandbox, tuple[str, ...]], None]
    folder: Path


# --- engines ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """A shard of a map: `items` are texts that are worked on in one way, at most `at_once` of them at a time.

    `work` is plain JSON and says how; its `name` is unique among the works of an engine.
    """

    id: str
    work: Mapping[str, Any]
    items: tuple[str, ...]
    at_once: int


@dataclass(frozen=True, slots=True)
class Started:
    """A task is under way on a node."""

    task: str
    node: str


@dataclass(frozen=True, slots=True)
class Done:
    """Items of a task have ended: by their places in it, what each came to, as plain JSON. What they cost is paid.

    `over`: nothing more comes of this task; items that were not told of were not begun.
    """

    task: str
    answers: tuple[tuple[int, Mapping[str, Any]], ...]
    over: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing more comes of a task: its node is gone, or it was cancelled hard. `spent`: nano-dollars that count as spent with it."""

    task: str
    node: str
    why: str
    spent: int = 0


EngineEvent = Started | Done | Lost


@dataclass(frozen=True, slots=True)
class Capacity:
    """What an engine takes: so many tasks `free` of `most`, of at most `shard` items each."""

    free: int
    most: int
    shard: int


class Engine(Protocol):
    """Where the work of maps executes. What crosses is plain JSON and files; an engine tries nothing again, that is the map's affair."""

    async def submit(self, task: Task) -> str:
        """Begin it; returns its handle, the task's id. Raises GearcaseError where it cannot be begun; then nothing is told of it."""
        ...

    def events(self) -> AsyncIterator[EngineEvent]:
        """What happens, for one reader: of each task a `Started`, then `Done` until one is over, or `Lost`. Ends with `close`."""
        ...

    async def cancel(self, handle: str, hard: bool) -> None:
        """Begin no further item of it; what is going on ends, or is broken off when `hard`. Its end is told as of any other."""
        ...

    def capacity(self) -> Capacity:
        """At this moment."""
        ...

    async def close(self) -> tuple[str, ...]:
        """End all that is going on, hard; returns what stayed of it. Idempotent."""
        ...


# --- doors -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A name and a port at which a door is reached inside."""

    name: str
    port: int


class Door(Protocol):
    """A door that a box declares, beside model, gear and http: opened before the agent begins, closed after the hand-over."""

    @property
    def id(self) -> str:
        """How the box calls it: `api.github`, `postgres.orders`."""
        ...

    @property
    def places(self) -> Sequence[Place]:
        """Where it is reached inside; no two doors share one."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that tell unmodified programs inside where it is. Never a secret."""
        ...

    async def open(self, housing: Housing) -> None:
        """Make what stands behind it. Raises what makes the run end before money is spent."""
        ...

    async def serve(self, agent: str, place: Place, sock: socket.socket, pay: Callable[[int], None]) -> None:
        """Serve one of its places in an agent's box, on a socket that was born there, until `close`.

        `pay` is told the bytes that pass to the outside and back; it raises Refused `budget`.
        """
        ...

    async def leave(self, agent: str) -> None:
        """Stop serving in an agent's box: its sockets and connections are closed, before the box is. Idempotent."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What `gear doors` tells of it: `address`, `purpose`, and what is left of its own limits."""
        ...

    def latch(self) -> None:
        """Refuse or hold what is new; what is in flight finishes."""
        ...

    def unlatch(self) -> None:
        """Undo `latch`."""
        ...

    async def close(self) -> tuple[str, ...]:
        """Stop serving, end and remove what stands behind it; returns what stayed. Idempotent."""
        ...


Protocol_ = Literal["anthropic", "chat", "responses", "gemini"]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A model call as it will be sent: already priced, capped and serialised again."""

    protocol: Protocol_
    path: str  # as `protocols.address_of` tells it; `{model}` in it stands for `model`
    model: str
    headers: Mapping[str, str]  # by allow-list; no credential
    body: bytes
    parsed: Mapping[str, Any]  # the object that `body` serialises
    stream: bool
    agent: str
    lead: bool  # the agent's own loop, not a program inside its box
    ordinal: int  # of this agent's calls of this kind, from 0


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """Headers have arrived, by name in lower case; `chunks` are the body as it comes. Always aclose the iterator."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class UpstreamDown(Exception):
    """Provably nothing was sent: the upstream could not be reached. Any other failure may have been billed."""


class Upstream(Protocol):
    """What a model door talks to."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """One attempt, no retries. Raises UpstreamDown when provably nothing was sent; any other failure may have been billed."""
        ...

    async def close(self) -> None:
        """Let go of connections and files. Idempotent."""
        ...


class Allowance(Protocol):
    """What may be spent beside a run's own limit: a share of its user's day. Nano-dollars."""

    def free(self) -> int:
        """What a hold could take at this moment."""
        ...

    def hold(self, amount: int) -> str:
        """Set money aside; returns what `settle` wants to know. Raises Refused `budget`."""
        ...

    def settle(self, day: str, held: int, spent: int) -> None:
        """A hold has ended and cost `spent`, also where that is more than was held."""
        ...


Handler = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""An operation of the gear door: (agent, arguments) -> result; raises GearcaseError, whose envelope the agent sees."""
