"""The keys of `box.toml`: what a box is, as frozen models.

A model is *built from what people write* and its attributes hold *base units*: see `fields.py`. Every key has a default that is safe: an
unknown key is an error, and what is not granted is denied. Only keys whose machinery exists are here.

This file knows nothing of files or of where a value came from: `loading.py` finds paths, lines and sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gearcase.box.doors import Doors
from gearcase.box.fields import (
    Cores,
    Count,
    Duration,
    Fraction,
    ModelName,
    Money,
    Name,
    Package,
    Pattern,
    Program,
    Rate,
    Share,
    Size,
    Table,
    Url,
    Word,
    written,
)
from gearcase.box.monitors import Monitors
from gearcase.box.notify import Notify
from gearcase.box.secrets import HostSecret
from gearcase.units import NANO


class Price(Table):
    """An operator's own price of a model, in dollars per million tokens: it replaces the table's rates whole."""

    input: Rate | None = Field(default=None, description="dollars per million input tokens")
    output: Rate | None = Field(default=None, description="dollars per million output tokens")
    cache_read: Rate | None = Field(default=None, description="for tokens read from the provider's cache; else as input")
    cache_write: Rate | None = Field(default=None, description="for tokens written to its cache; else twice the input")
    cache_write_1h: Rate | None = Field(default=None, description="for tokens written for an hour; else as cache_write")
    context: Count | None = Field(default=None, description="tokens of the context window")
    max_output: Count | None = Field(default=None, description="most output tokens of one answer")


class Provider(Table):
    """Where a provider is reached and where its key is found: always outside the box."""

    base: Url | None = Field(default=None, description="base address of its API")
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default=None, description="environment variable that holds the key"
    )
    key_file: Path | None = Field(default=None, description="file that holds the key")
    keyring: Word | None = Field(default=None, description="entry of the system's keyring: SERVICE/USER")
    proxy: Url | None = Field(default=None, description="HTTP proxy to reach it through")
    ca: Path | None = Field(default=None, description="file of the certificate authorities to trust instead of the system's")
    protocol: Literal["anthropic", "chat", "responses"] | None = Field(default=None, description="the protocol that it speaks")


class Model(Table):
    """Which models drive the agent, and which it may call."""

    lead: ModelName | None = Field(default=None, description="drives the agent")
    worker: ModelName | None = Field(default=None, description="answers `gear ask`; the lead's model when it is not named")
    allow: tuple[Word, ...] = Field(
        default=(), description="what else programs inside may call: PROVIDER/MODEL, * matches any text"
    )
    hosted_tools: tuple[Word, ...] = Field(
        default=(), description="the provider's own tools that may be used: they reach the network"
    )
    prices: Mapping[str, Price] = Field(
        default_factory=dict[str, Price], description="prices of your own, by PROVIDER/MODEL or MODEL"
    )
    providers: Mapping[Name, Provider] = Field(default_factory=dict[str, Provider], description="how providers are reached")

    def price_overrides(self) -> dict[str, dict[str, Decimal | int]]:
        """The operator's prices as the price table takes them: dollars per million tokens, exact."""
        return {name: price.model_dump(exclude_none=True) for name, price in self.prices.items()}


class Limits(Table):
    """Hard limits of the run as a whole."""

    usd: Money = written(2 * NANO, 2.00, "dollars for model calls: nothing is forwarded whose worst case does not fit")
    usd_per_minute: Money | None = Field(default=None, description="dollars in any minute")
    usd_per_day: Money | None = Field(
        default=None, description="dollars of all runs of this user in a day (UTC), where less than `gearcase limits` says"
    )
    tokens: Count | None = Field(default=None, description="tokens of model calls, cache reads included")
    calls: Count | None = Field(default=None, description="model calls")
    steps: Count = Field(default=400, description="answers of the model that drives the agent")
    wall: Duration = written(2700.0, "45m", "time that the run may take; it stands still while frozen")
    cpu_time: Duration | None = Field(default=None, description="processor time of everything inside")
    memory: Size = written(4 * 2**30, "4GiB", "memory of everything inside")
    cpus: Cores = Field(default=2.0, description="processor cores")
    egress: Size = written(2**30, "1GiB", "bytes through the doors to the outside, both ways together, models left out")
    disk: Size = written(2 * 2**30, "2GiB", "space of /workspace")
    processes: Annotated[int, Field(strict=True, ge=8, le=2**22)] = Field(
        default=512, description="processes and threads at once"
    )
    on_exhausted: Literal["ask", "wind_down", "stop"] = Field(
        default="ask", description="when a limit is met: ask (freeze; wind down where nobody watches), wind_down, stop"
    )
    wind_down_reserve: Fraction = written(0.05, "5%", "share of the money that is kept for the hand-over")


class Files(Table):
    """What goes in and what may leave. Paths of this machine are relative to the box file."""

    give: tuple[Path, ...] = Field(default=(), description="copied to /workspace/NAME; the originals are never touched")
    see: tuple[Path, ...] = Field(default=(), description="seen read-only at /given/NAME")
    take: tuple[Pattern, ...] = Field(
        default=(),
        description="what may leave, by copy: patterns relative to /workspace, `!PATTERN` for what stays, `postgres:NAME`",
    )
    take_max: Size = written(500 * 2**20, "500MiB", "most bytes that may leave")
    keep: tuple[Pattern, ...] = Field(
        default=(), description="given files whose loss freezes the run at once: patterns relative to /workspace"
    )
    protected: tuple[Pattern, ...] = Field(
        default=(), description="given files that must not change: patterns relative to /workspace (see [monitors] tamper)"
    )
    snapshots_max: Size = written(
        2**30,
        "1GiB",
        "most bytes on this machine of the snapshots that are kept by themselves after commands; the oldest go first",
    )
    snapshots_for: Duration = written(86400.0, "1d", "how long those are kept while the run goes on")
    secrets: Literal["mark", "refuse", "off"] = Field(
        default="mark", description="files that hold what looks like a credential: mark them, refuse them, or do not look"
    )


class Check(Table):
    """An acceptance check: what "done" means, decided outside, on a copy."""

    name: Name = Field(description="unique among the checks")
    run: Annotated[str, Field(min_length=1, pattern=r"\S")] = Field(
        description="shell command, in a folder that holds `files`; what is delivered lies under $DELIVERED; exit 0 passes; "
        "a score goes to descriptor 3"
    )
    files: tuple[Path, ...] = Field(
        default=(), description="what it needs, each by its name in the check's folder; default: the words of `run` that exist"
    )
    show: Literal["verdict", "score", "output"] = Field(default="verdict", description="what the agent may see")
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = Field(default=None, description="lowest score that passes")
    deadline: Duration = written(600.0, "10m", "time that it may take")


class Sandbox(Table):
    """The isolation."""

    driver: Literal["namespaces"] = Field(default="namespaces", description="how programs are isolated")
    need: tuple[Literal["filesystem", "network", "processes", "memory", "cpu", "disk", "freeze", "syscalls"], ...] = Field(
        default=("network", "filesystem", "processes"), description="the run does not start where one of these is not enforced"
    )
    packages: tuple[Package, ...] = Field(
        default=(), description="programs that must exist inside, or `python3:MODULE`; looked for before money is spent"
    )
    tools: tuple[Program, ...] = Field(
        default=(), description="your own programs, found on PATH: seen read-only below /opt/tools, started from /box/bin"
    )


class Swarm(Table):
    """Sub-agents: how many there may be. Money, tokens and the rest are carved from who spawns them.

    And where the work of maps executes.
    """

    depth: Annotated[int, Field(strict=True, ge=0, le=16)] = Field(
        default=3, description="levels of agents below the lead; 0: it has none"
    )
    agents: Count = Field(default=64, description="sub-agents of a run in all; one more is refused")
    live: Count = Field(default=8, description="sub-agents at work at once; one more waits in line")
    engine: Literal["local", "ray"] = Field(
        default="local", description="where maps execute: here, or on the nodes of a Ray cluster"
    )
    address: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")] = Field(
        default="127.0.0.1:6379",
        description="HOST:PORT of the Ray cluster; what is not this machine is trusted as this machine is",
    )


class KnownAnswer(Table):
    """An item whose answer you know, planted among those of a map."""

    map: Annotated[str, Field(min_length=1)] = Field(
        default="*", description="which maps: a pattern for the name of their prompt or of a file of their input"
    )
    item: Annotated[str, Field(min_length=1, pattern=r"\S")] = Field(description="its text, as the map would find it")
    answer: Mapping[str, Any] | str = Field(description="the part of its answer that must be there; a text without a schema")


class Maps(Table):
    """What you know of the answers of maps (`gear map --prompt`), and nobody inside does."""

    known: tuple[KnownAnswer, ...] = Field(default=(), description="items with known answers")
    known_at_least: Share = written(0.8, "80%", "share of them that must be right, or the map stops")


class JournalTable(Table):
    """The record."""

    durability: Literal["strict", "grouped"] = Field(
        default="strict", description="strict: a hold is on the disk before its call leaves; grouped: in the kernel's hands"
    )


class Box(Table):
    """A whole box. Build it from what people write; read it in base units."""

    goal: str = Field(default="", description="what the agent shall reach")
    model: Model = Model()
    limits: Limits = Limits()
    files: Files = Files()
    doors: Doors = Doors()
    secrets: Mapping[Name, HostSecret] = Field(
        default_factory=dict[str, HostSecret],
        description="credentials that stay outside, put in for the HTTPS hosts that each names",
    )
    checks: tuple[Check, ...] = Field(default=(), alias="check", description="acceptance checks")
    sandbox: Sandbox = Sandbox()
    swarm: Swarm = Swarm()
    maps: Maps = Maps()
    monitors: Monitors = Monitors()
    notify: Notify = Notify()
    journal: JournalTable = JournalTable()
