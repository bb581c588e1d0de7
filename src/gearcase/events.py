"""Every event type: what can stand in a journal.

An event is a fact that has happened, as an immutable object of plain JSON values. Its `type` in the journal is the class name in
snake case. Fields are only ever added, with a default, within one minor version of `FORMAT`; a reader of an older journal finds
the defaults. Amounts are maps from a resource (`usd` in nano-dollars, `tokens`, `calls`, `cpu` and `wall` in milliseconds,
`egress` in bytes, `agents`) to an integer.
"""

from __future__ import annotations

import re
from dataclasses import Field, FrozenInstanceError, field
from typing import Any, ClassVar, Never, Self, cast, dataclass_transform

FORMAT = "1.0"

Amounts = dict[str, int]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class _Kind(type):
    """Makes fields of what a class annotates, and registers it. As dataclasses, which compile text for each class, the catalogue took
    25 ms of the start of every command; so it takes 2."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _Kind:
        names = tuple(one for one, kind in body.get("__annotations__", {}).items() if not kind.startswith("ClassVar"))
        defaults = {one: body.pop(one) for one in names if one in body}
        made = super().__new__(cls, name, bases, {**body, "__slots__": names, "__match_args__": names})
        event = cast(type["Event"], made)
        event.fields, event.defaults = names, defaults
        if bases:
            event.type = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
            Event.catalogue[event.type] = event
        return made


class Event(metaclass=_Kind):
    """Root of the catalogue. A subclass is registered under its `type`."""

    type: ClassVar[str] = "event"
    catalogue: ClassVar[dict[str, type[Event]]] = {}
    fields: ClassVar[tuple[str, ...]] = ()
    """Names, in order."""
    defaults: ClassVar[dict[str, Any]] = {}
    """Of the fields that have one."""

    def __init__(self, *values: Any, **named: Any) -> None:
        if values:
            if len(values) > len(self.fields) or not named.keys().isdisjoint(self.fields[: len(values)]):
                raise TypeError(f"{type(self).__name__} is given a field twice, or more fields than it has")
            named.update(zip(self.fields, values, strict=False))
        for name in self.fields:
            object.__setattr__(self, name, named.pop(name) if name in named else self._default(name))
        if named:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(named)}")

    def _default(self, name: str) -> Any:
        """The value of a field that is left out. Raises TypeError for one that has none."""
        if name not in self.defaults:
            raise TypeError(f"{type(self).__name__} lacks its field {name}")
        default = self.defaults[name]
        return cast(Field[Any], default).default_factory() if isinstance(default, Field) else default  # type: ignore[misc]

    def but(self, **changes: Any) -> Self:
        """The same event with other values in these fields."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Its fields by their names."""
        return dict(zip(self.fields, self._values(), strict=True))

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.fields)

    def __setattr__(self, name: str, value: Any) -> Never:
        raise FrozenInstanceError(f"an event does not change: {name}")

    def __delattr__(self, name: str) -> Never:
        raise FrozenInstanceError(f"an event does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and cast(Event, other)._values() == self._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields)})"

    def __reduce__(self) -> tuple[type[Event], tuple[Any, ...]]:
        return type(self), self._values()


# --- the run ---------------------------------------------------------------------------------------------------------------


class RunStarted(Event):
    """First record of every journal."""

    run: str
    name: str
    goal: str
    box: str  # SHA-256 of the effective box
    gearcase: str
    boot_id: str
    host: dict[str, Any]
    format: str = FORMAT
    kind: str = "agent"  # what it is: an agent in a box, a "program" in a box, or a "door" alone


class RunResumed(Event):
    """The journal was taken up again after a crash or a stop of ours: the run goes on, or its ending is written."""

    boot_id: str
    repaired_bytes: str = ""  # base64 of a torn last line that was cut


class RunContinues(Event):
    """This run goes on for one whose process died: its limits are what that one left, and it has the answers of its maps, the last
    snapshot of its files, and its agent's conversation."""

    run: str
    name: str
    spent: Amounts
    answers: int
    snapshot: str = ""  # of its files; empty: what was given is given again
    turns: int = 0  # answers of its agent's model in the conversation that goes on
    agents: int = 0  # ids of sub-agents that were given


class RunForked(Event):
    """This run began from a snapshot of another one: its given files are what that held. `run` and `name` are the other's."""

    run: str
    name: str
    snapshot: str
    files: int
    bytes: int


class RunEnded(Event):
    """Last record of a run that ended, in an orderly way or by recovery. `record` is the one record of `docs/endings.md`."""

    status: str
    record: dict[str, Any]


class Tick(Event):
    """Every five seconds of box time: what a detector needs to know that nothing happened."""

    box_time: float
    cpu: float
    memory: int
    processes: int
    disk: int
    of_disk: int = 0  # the box's limit


class Failure(Event):
    """Something of ours or of the machine failed; `error` is the envelope of errors.py."""

    error: dict[str, Any]


# --- the ledger ------------------------------------------------------------------------------------------------------------


class AccountOpened(Event):
    """An account exists. With a parent, `limits` were carved out of it."""

    account: str
    parent: str
    limits: Amounts
    of_agent: str = ""  # whose account it is


class LimitGranted(Event):
    """An operator raised limits of an account that has no parent."""

    account: str
    amounts: Amounts


class Held(Event):
    """The worst case of an action is set aside. `billed_by` is the PROVIDER/MODEL that sends an invoice for it; empty: nobody does."""

    hold: int
    account: str
    amounts: Amounts
    purpose: str = ""
    billed_by: str = ""


class Sent(Event):
    """The action that a hold pays has left: from here it may be billed."""

    hold: int


class Settled(Event):
    """A hold became what the action really cost. `over` is what exceeded the hold: a defect, booked and alarmed.

    Without a `Held` before it, a charge: what had happened already, `over` is what exceeded the account's free amounts. With a `lease`,
    the part of that hold which a node spent on one call; the hold stays, smaller by as much.
    """

    hold: int
    account: str
    amounts: Amounts
    over: Amounts = field(default_factory=dict[str, int])
    purpose: str = ""  # of a charge
    lease: int = 0


class Released(Event):
    """A hold was given back: the action did not happen, or provably cost nothing."""

    hold: int


class Cut(Event):
    """A hold counts as spent whole: what the action cost cannot be known."""

    hold: int
    reason: str


class AccountClosed(Event):
    """The account ended; what was free went back to its parent."""

    account: str
    returned: Amounts


# --- sandboxes and commands ------------------------------------------------------------------------------------------------


class SandboxOpened(Event):
    """A sandbox is up. `profile` says what is enforced and by what."""

    sandbox: str
    profile: dict[str, Any]


class SandboxLost(Event):
    """A sandbox died without being told to."""

    sandbox: str
    reason: str


class SandboxClosed(Event):
    """A sandbox was torn down. `residue` lists what stayed; empty is the promise."""

    sandbox: str
    residue: list[str]


class CommandStarted(Event):
    """A command begins inside a sandbox."""

    command: int
    text: str


class CommandEnded(Event):
    """A command ended. `ended` is exited | signalled | deadline | lost."""

    command: int
    ended: str
    exit_code: int
    seconds: float
    cpu: float
    output_bytes: int
    head: str
    tail: str
    limits: list[str] = field(default_factory=list[str])
    health: str = ""


class TestsClaimed(Event):
    """A test runner inside the box reported a result; the claim is the agent's, not ours."""

    command: int
    runner: str
    passed: int
    failed: int


class Giving(Event):
    """How far what is given has come, where that takes seconds. `phase`: copying it into the box, or keeping it: every later
    difference is seen against what the run's store then holds."""

    phase: str
    files: int
    bytes: int
    of_files: int
    of_bytes: int


class FilesChanged(Event):
    """Difference of the workspace between two scans."""

    snapshot: str
    added: int
    changed: int
    removed: int
    bytes: int
    paths: list[str] = field(default_factory=list[str])


class FilesSeen(Event):
    """What changed in an agent's files since the last look, which is taken after its commands. Paths as text, the first of each list.

    `lost` are files that it began with whose content is nowhere any more, by its hash: a move is no loss, a rewritten file is an edit;
    folders that programs make again by themselves do not count. `lost_bytes` of theirs, both as of now. `written`: path and first digits
    of the content's digest. `tests`: test files that it began with and that changed: path, then assertions and skips before and after.
    """

    files: int
    bytes: int
    added: int
    changed: int
    removed: int
    changed_bytes: int
    lost: int
    lost_bytes: int
    of_files: int  # that it began with
    of_bytes: int
    written: list[list[str]] = field(default_factory=list[list[str]])
    gone: list[str] = field(default_factory=list[str])
    kept_gone: list[str] = field(default_factory=list[str])  # of those that the box says must stay
    protected: list[str] = field(default_factory=list[str])  # of those that the box says must not change: they did
    tests: list[list[Any]] = field(default_factory=list[list[Any]])
    seconds: float = 0.0


class SnapshotTaken(Event):
    """A state of the workspace that can be returned to."""

    snapshot: str
    files: int
    bytes: int
    note: str = ""


class StepKept(Event):
    """A snapshot that was kept by itself, after `command` (or, `running`, while it went on): its difference from the state before it,
    the bytes of contents that it took, and the seconds that looking and keeping took. `lacking`: bytes that found no room; then its files
    are known by name alone."""

    snapshot: str
    command: int
    running: bool
    files: int
    bytes: int
    added: int
    changed: int
    removed: int
    kept: int
    lacking: int
    seconds: float


class StepsPruned(Event):
    """Snapshots that had been kept by themselves are no more. `why`: size | age."""

    snapshots: list[str]
    bytes: int
    why: str


class Rewound(Event):
    """The workspace went back to a snapshot. `by`: agent | operator; `kept`: the snapshot of what it left; what was undone, counted."""

    snapshot: str
    by: str = "agent"
    kept: str = ""
    added: int = 0
    changed: int = 0
    removed: int = 0


# --- doors -----------------------------------------------------------------------------------------------------------------


class ModelCalled(Event):
    """A model call ended, however it ended. Money is in the ledger's events; `hold` joins the two."""

    call: int
    hold: int
    protocol: str
    model: str
    served: str
    status: int
    ended: str  # complete | clamped | cut | failed
    usage: Amounts
    seconds: float
    first_byte: float
    label: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    billed: bool = True  # by anybody: a person, a cassette or a script sends no invoice
    thread: str = ""  # of the program that asked, by its own word: its main agent, or a sub-agent below `parent`
    parent: str = ""
    why: str = ""  # the upstream gave no whole answer
    request: str = ""  # of a call that failed: first digits of its body's SHA-256


class DoorRefused(Event):
    """A door said no. `door` is model, gear, resolver, files, or one that the box declares."""

    door: str
    code: str
    message: str
    context: dict[str, Any] = field(default_factory=dict[str, Any])


class RequestEdited(Event):
    """The model door removed or lowered something in a request before it was priced and sent."""

    call: int
    edits: list[str]


class NameAsked(Event):
    """The box's resolver was asked for a name (counted: the first time, at powers of ten, and at the end)."""

    name: str
    kind: str
    allowed: bool
    count: int


class ConnectionOpened(Event):
    """A connection leads from the box to `name`, at `address` outside; empty where it ends at the door itself. `connection` counts those of
    the run."""

    door: str
    connection: int
    name: str
    port: int
    address: str


class ConnectionClosed(Event):
    """It ended. Bytes out and in; `why` is done, or what cut it."""

    door: str
    connection: int
    name: str
    sent: int
    received: int
    seconds: float
    why: str


class DatabaseCopying(Event):
    """How much of a branch has arrived, where that takes seconds. `of_bytes`: what the source said that it takes there."""

    door: str
    bytes: int
    of_bytes: int


class DatabaseOpened(Event):
    """A database door is open. `nonce` is the SHA-256 of what `SHOW gearcase.contact` answers there: who knows it was in contact."""

    door: str
    mode: str  # fresh | branch | read_only | volume
    server: int  # major version of the server that answers
    source: str = ""  # without its password
    tables: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    nonce: str = ""
    left_out: list[str] = field(default_factory=list[str])
    must_touch: list[str] = field(default_factory=list[str])


class StatementRan(Event):
    """A statement of a database session, as the server counted it. `error` is its SQLSTATE; bytes out and in.

    `text` and `values`, cut short, are what it said: only where the box asks for it.
    """

    door: str
    session: int
    kind: str
    rows: int
    sent: int
    received: int
    seconds: float
    error: str = ""
    text: str = ""
    values: list[str] = field(default_factory=list[str])


class StatementsRan(Event):
    """Statements that were counted, not recorded one by one, since the last of these: kind -> count, rows, errors, milliseconds."""

    door: str
    kinds: dict[str, Amounts]
    sent: int
    received: int


class DatabaseSnapshot(Event):
    """What a branch held was kept before a statement of this kind; `file` is in the run's folder `databases`."""

    door: str
    kind: str
    file: str
    bytes: int
    seconds: float


class DatabaseKept(Event):
    """What a database held was kept, to be returned to: its state `state`, with the snapshot that was asked for; empty: by itself."""

    door: str
    snapshot: str
    state: int
    files: int
    bytes: int
    seconds: float


class DatabaseReturned(Event):
    """A database is what it was at a snapshot again; what it was before is kept as that of snapshot `kept`."""

    door: str
    snapshot: str
    kept: str
    seconds: float


class VolumeKept(Event):
    """What a database held in the end stays for the next run that names the volume."""

    door: str
    volume: str
    keys: int
    bytes: int
    seconds: float


class Contact(Event):
    """Which relations of a declared resource were touched so far, as its server counted them: relation -> read, written (rows).

    `missing` are those that the box says must be touched; `lost` tables that it began with and that are gone, empty, or have lost more
    than half of their rows.
    """

    door: str
    relations: dict[str, Amounts]
    missing: list[str]
    lost: list[str] = field(default_factory=list[str])


class ApiCalled(Event):
    """A call of an api door ended. Bytes out and in; `why` is done, a refusal's code, or what cut it. The path is without its query."""

    door: str
    method: str
    path: str
    status: int
    sent: int
    received: int
    seconds: float
    why: str


class HostCalled(Event):
    """A call to a host of `[secrets]` ended; `secrets` names those that were put in. Bytes out and in; `why` is done, a refusal's code,
    or what cut it. The path is without its query."""

    host: str
    port: int
    method: str
    path: str
    secrets: list[str]
    status: int
    sent: int
    received: int
    seconds: float
    why: str


class CloudCalled(Event):
    """A call of the aws door ended: an operation, named as botocore names it. `estimate` is nano-dollars by public prices per request."""

    door: str
    service: str
    operation: str
    status: int
    sent: int
    received: int
    seconds: float
    why: str
    estimate: int


class CloudMade(Event):
    """Something was made in a live cloud account; `error` says why it does not carry the run's name."""

    door: str
    service: str
    kind: str
    name: str
    tagged: bool
    error: str


class CloudRemoved(Event):
    """What a run made in a live cloud account was removed in the end, or stays: `error` says why."""

    door: str
    service: str
    kind: str
    name: str
    error: str


class RequestMade(Event):
    """An agent asks its operator for something: net | usd | time | egress | tokens | calls | other. `request` counts those of the run."""

    request: int
    kind: str
    what: str
    why: str


class RequestAnswered(Event):
    """It was answered: allowed | denied | unanswered."""

    request: int
    answer: str
    by: str
    said: str = ""


class HostsChanged(Event):
    """From now on a host may be reached, or no more. `by` is operator, or time where `seconds` were over."""

    rule: str
    allowed: bool
    by: str
    seconds: float = 0.0


class GearUsed(Event):
    """An operation of the gear door."""

    operation: str
    ok: bool
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


# --- maps ------------------------------------------------------------------------------------------------------------------


class MapStarted(Event):
    """A map begins: a prompt or a command over `expected` items. `prompt` is the SHA-256 of its text, `validator` a command that judges.

    `model` is empty where a command answers.
    """

    map: str
    prompt: str
    text: str  # of the prompt, or the command
    model: str
    split: str
    expected: int
    concurrency: int
    allow_failed: int
    schema: dict[str, Any] = field(default_factory=dict[str, Any])
    validator: str = ""


class MapProgressed(Event):
    """How far a map has come, at most once a second. `account` adds up: items = ok + failed + quarantined + skipped + pending.

    `found` of the ok items had been paid for before; `held` of the pending ones failed alike and wait for a better prompt. Money in
    nano-dollars; `rate` is items that ended a second since the start.
    """

    map: str
    account: dict[str, int]
    found: int
    calls: int
    retries: int
    spent: int
    projected: int
    rate: float
    held: int = 0


class MapItemFailed(Event):
    """An item of a map has no answer that fits. The first hundred of a map are on record one by one, all of them are counted."""

    map: str
    item: int
    shard: str
    state: str  # failed | quarantined
    code: str
    message: str
    attempts: int


class CanaryEnded(Event):
    """The first items of a map, spread over its input, have ended: what the whole would cost (nano-dollars) and how many fail.

    `why` says why the rest is not asked about; it is empty where the map goes on.
    """

    map: str
    items: int
    failed: int
    rate: float
    projected: int
    why: str
    clusters: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    first_failed: int = 0  # under the first prompt, before a repair


class SpreadWarned(Event):
    """The answers of a map differ from its canary's: alike | nothing | short | degenerate (then the map stops)."""

    map: str
    kind: str
    found: str


class PromptTried(Event):
    """A prompt of a map was rewritten because items failed in the same way (`signature`), and tested on them.

    `prompt` and `parent` are SHA-256 of texts. `failing` items were waiting, `evidence` are the numbers of those that the repair model was
    shown; before, none of them passed. `looks` are pairs of how many passed of how many that were asked, for each sample; `kept` is the
    same for items that had passed before. `decision`: default (for all that is to come) | cluster (for those that fail like this) |
    refused, and `why`. `spent` in nano-dollars, of the repair's own account. `optimizer`: what searched for it, where one did; then the
    parent may be a prompt that was refused.
    """

    map: str
    parent: str
    prompt: str
    text: str
    model: str
    signature: dict[str, str]
    failing: int
    evidence: list[int]
    attempt: int
    diagnosis: str = ""
    looks: list[list[int]] = field(default_factory=list[list[int]])
    kept: list[int] = field(default_factory=list[int])
    decision: str = ""
    why: str = ""
    spent: int = 0
    optimizer: str = ""


class NodeJoined(Event):
    """A node of the run's engine takes work of maps: a process of ours on a machine of the cluster."""

    node: str
    host: str
    pid: int


class NodeLeft(Event):
    """A node takes no more work: the run ends, or `why` says how it was lost. `items` were answered there.

    `spent`: nano-dollars that its leases still held, which count as spent; less, where a node that was only silent is heard again.
    """

    node: str
    items: int
    why: str = ""
    spent: int = 0


class MapEnded(Event):
    """A map ended: done | stopped | abandoned (the program that asked is gone) | cut (the run ended). `account` adds up.

    `classes` counts what has no answer by its class, `clusters` what failed in the same way; `why` is what stopped it. Its commands ran in
    so many `sandboxes`, all of which are gone, and took `cpu` seconds of processor time.
    """

    map: str
    ended: str
    account: dict[str, int]
    found: int
    calls: int
    retries: int
    spent: int
    seconds: float
    classes: dict[str, int] = field(default_factory=dict[str, int])
    why: str = ""
    clusters: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sandboxes: int = 0
    cpu: float = 0.0
    repair: dict[str, Any] = field(default_factory=dict[str, Any])
    known: dict[str, int] = field(default_factory=dict[str, int])  # answers that the box's owner knows: asked, right
    warnings: dict[str, str] = field(default_factory=dict[str, str])  # of the spread of the answers
    different: int = 0  # answers, at most 1,000


# --- the agent -------------------------------------------------------------------------------------------------------------


class AgentStarted(Event):
    """An agent begins."""

    model: str
    goal: str


class AgentTurn(Event):
    """One answer of the model that drives an agent."""

    step: int
    text: str
    commands: int


class AttemptFailed(Event):
    """An agent's call came to nothing and is made again, after `wait` seconds: it was the `attempt`th of at most `attempts`.

    `until`: when about the last one is made (unix seconds). `unreached`: provably nothing was sent, so nothing is charged.
    """

    attempt: int
    attempts: int
    why: str
    wait: float
    until: float
    unreached: bool


class ContextCompacted(Event):
    """Messages left the agent's context window; `file` in the box keeps them."""

    dropped: int
    tokens_before: int
    tokens_after: int
    file: str


class AgentEnded(Event):
    """An agent's end: done | steps | budget | wall | failed | stopped."""

    reason: str
    detail: str = ""


class AgentSpawned(Event):
    """A sub-agent exists, with a share of its parent's account; it may stand in line. The record is its own (`agent`).

    `limits` are what was carved and its steps and wall (milliseconds); `files` and `bytes` what it was forked with; `again` the
    agent that is sent once more with another goal.
    """

    parent: str
    name: str
    goal: str
    model: str
    depth: int
    limits: Amounts
    files: int
    bytes: int
    take: list[str] = field(default_factory=list[str])
    doors: list[str] = field(default_factory=list[str])
    check: str = ""
    again: str = ""


class AgentReturned(Event):
    """A sub-agent is over, once and for good: done | budget | steps | wall | cpu_time | stopped | failed | lost | killed | parent_ended.

    `limit` is the one that ended it, `spent` that of it and all below it, `seconds` box time since it was spawned.
    """

    parent: str
    status: str
    limit: str
    detail: str
    note: str
    spent: Amounts
    steps: int
    seconds: float
    verdict: str = ""  # of its own check


class ResultsCopied(Event):
    """What a sub-agent made was copied into its parent's files. `conflicts` lie beside, because the parent had changed the file.

    Paths are the first 50; `count` is of all that were copied, `beside` of all that lie beside; `refused` could not be copied.
    """

    parent: str
    count: int
    beside: int
    copied: list[str]
    conflicts: list[dict[str, str]]
    refused: list[dict[str, str]]


class AgentTold(Event):
    """An agent told its parent or its sub-agent something; `to` hears it with its next turn."""

    to: str
    text: str


# --- checks, delivery, brake -----------------------------------------------------------------------------------------------


class CheckRan(Event):
    """An acceptance check ran on a copy of the deliverables. `verdict` is passed | failed | skipped; `reason` is ours."""

    name: str
    verdict: str
    score: float | None
    seconds: float
    inputs: str  # SHA-256 of the manifest of what was checked
    final: bool
    output: str = ""
    reason: str = ""


class DeliverablesScanned(Event):
    """What is to leave was looked at for credentials: path, line and kind of each finding (`found`, 1,000 at most), never a value.

    `unscanned` says why files were not looked at, empty when all were; `refused` whether the box lets them not leave.
    """

    files: int
    found: list[dict[str, Any]]
    unscanned: str
    refused: bool
    seconds: float


class Delivered(Event):
    """Deliverables left the box."""

    to: str
    files: list[dict[str, Any]]
    refused: list[dict[str, str]]
    manifest: str


class BrakeChanged(Event):
    """The brake's level changed: running | latched | frozen | killed."""

    level: str
    by: str
    reason: str = ""
    milliseconds: float = 0.0


class AgentBraked(Event):
    """The brake's level of one sub-agent, and of those below it: running | frozen."""

    level: str
    by: str
    reason: str = ""
    milliseconds: float = 0.0


class LimitReached(Event):
    """A limit of the run was met."""

    limit: str
    detail: str = ""


class Paged(Event):
    """Somebody is told that the run waits, or how it ended: two lines, to the targets of `to`, for the `told`th time.

    `bell`: terminals that watch it ring. `about`: monitor | budget | upstream | operator | request | ended.
    """

    page: int
    about: str
    what: str
    meanwhile: str
    to: list[str]
    told: int = 1
    bell: bool = False


class PageTaken(Event):
    """A target took a page, at this attempt."""

    page: int
    to: str
    status: int
    attempt: int = 1


class PageFailed(Event):
    """A target did not take a page. It is tried again after so many seconds; 0: it is given up."""

    page: int
    to: str
    why: str
    attempt: int = 1
    again: float = 0.0


class PageAnswered(Event):
    """What a page was about is over: somebody answered, or the run went on or ended without."""

    page: int


# --- monitors --------------------------------------------------------------------------------------------------------------


class Watching(Event):
    """A run is watched from here on. `levels`: what each detector may do; `lacking`: what those that cannot act would need;
    `declared`: numbers of the box that detectors compare with."""

    levels: dict[str, str]
    lacking: dict[str, str] = field(default_factory=dict[str, str])
    declared: dict[str, int] = field(default_factory=dict[str, int])


class Baseline(Event):
    """What accepted runs of the same box took: how many there are, and the 95th percentile of their nano-dollars and steps."""

    runs: int
    usd: int
    steps: int


class AlarmRaised(Event):
    """A detector saw something. `action`: shadow | note | refuse | deny | rest | latch | freeze | end; `about` is the agent, or empty.

    `evidence` are the numbers behind `fact`; `remedy` is what to do about it; `again`: the agent had been told before.
    """

    detector: str
    action: str
    fact: str
    remedy: str
    about: str = ""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    again: bool = False
