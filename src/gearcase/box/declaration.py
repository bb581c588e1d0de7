"""The keys of `box.toml`: what a box is, as frozen models.

A model is *built from what people write* (`usd = 2.50`, `"4GiB"`, `"45m"`) and its attributes hold *base units*: nano-dollars,
bytes, seconds. Every key has a default that is safe: an unknown key is an error, and what is not granted is denied. Only keys
whose machinery exists are here.

This file knows nothing of files or of where a value came from: `loading.py` finds paths, lines and sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gearcase.errors import UsageError
from gearcase.units import NANO, parse_bytes, parse_duration, parse_money

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
T = TypeVar("T")

_DOLLARS_MAX = 10**9  # a billion dollars: the sum of nano-dollars stays below 2**63
_BYTES_MAX = 2**50
_SECONDS_MAX = 366 * 86400.0


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("box", "{message}", {"message": message})


def _declared(parse: Callable[[Any], T], check: Callable[[T], str]) -> BeforeValidator:
    """A validator from one of the parsers of units.py, whose error becomes one of the model's own."""

    def convert(value: Any) -> T:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise _wrong(f"{value!r} is neither a number nor a text")
        try:
            parsed = parse(value)
        except UsageError as error:
            raise _wrong(f"{error.message}: {error.remedy}") from None
        if complaint := check(parsed):
            raise _wrong(complaint)
        return parsed

    return BeforeValidator(convert)


def _seconds(value: str | int | float | Decimal) -> float:
    return parse_duration(float(value) if isinstance(value, Decimal) else value)


def _fraction(value: str | int | float | Decimal) -> float:
    text = str(value).strip()
    try:
        number = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ArithmeticError:
        raise UsageError("bad_fraction", f"{value!r} is not a share", remedy='write "5%" or 0.05') from None
    return float(number)


def _cores(value: str | int | float | Decimal) -> float:
    if isinstance(value, str):
        raise UsageError("bad_cores", f"{value!r} is not a number of cores", remedy="write a number without quotes: 2, 0.5")
    return float(value)


def _between(low: float, high: float, what: str) -> Callable[[Any], str]:
    return lambda value: "" if low <= value <= high else what


def _number_or_text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": pattern}]})


_SIZE = r"^\s*[0-9][0-9_]*(\.[0-9]+)?\s*([kKMGT]?B|[KMGT]iB|[KMG])?\s*$"
_TIME = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d)\s*)+$"

Money = Annotated[
    int,
    _declared(parse_money, _between(0, _DOLLARS_MAX * NANO, "more than a billion dollars is no limit")),
    _number_or_text(r"^\$?[0-9_]*\.?[0-9]{0,9}$"),
]
"""Written in dollars, held in nano-dollars."""

Size = Annotated[
    int,
    _declared(parse_bytes, _between(2**20, _BYTES_MAX, "must be from 1MiB to 1024TiB")),
    _number_or_text(_SIZE),
]
"""Written as `"4GiB"` or a number of bytes, held in bytes."""

Duration = Annotated[
    float,
    _declared(_seconds, _between(0.001, _SECONDS_MAX, "must be from 1ms to 366d")),
    _number_or_text(_TIME),
]
"""Written as `"45m"` or a number of seconds, held in seconds."""

Fraction = Annotated[
    float,
    _declared(_fraction, _between(0, 0.5, 'must be from 0 to "50%"')),
    _number_or_text(r"^[0-9]+(\.[0-9]+)?%?$"),
]
"""Written as `"5%"` or 0.05, held as 0.05."""

Cores = Annotated[
    float,
    _declared(_cores, _between(0.01, 4096, "must be from 0.01 to 4096 cores")),
    WithJsonSchema({"type": "number", "minimum": 0.01, "maximum": 4096}),
]

Count = Annotated[int, Field(strict=True, ge=1, le=2**53)]
Name = Annotated[str, Field(pattern=NAME)]
Rate = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False)]
"""Dollars per million tokens."""


def _pattern(value: Any) -> Any:
    """A take pattern stays inside /workspace and names something."""
    if not isinstance(value, str):
        return value
    parts = PurePosixPath(value).parts
    if value.startswith("/"):
        raise _wrong(f"{value!r} is absolute: write it relative to /workspace")
    if ".." in parts:
        raise _wrong(f"{value!r} leaves /workspace through `..`")
    if not parts or "\0" in value:
        raise _wrong(f"{value!r} names no file")
    return value


def _url(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    scheme, _, rest = value.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not host:
        raise _wrong(f"{value!r} is not an address: write http:// or https:// and a host")
    if "@" in host:
        raise _wrong("holds a password: keys belong in `key_file`, `key_env` or `keyring`")
    return value


def _model_name(value: Any) -> Any:
    """The shape of a model's name; whether it exists and what it costs is for the model door to say."""
    if not isinstance(value, str):
        return value
    provider, slash, rest = value.partition("/")
    if value.startswith(("http://", "https://")):
        if not value.rpartition("#")[2] or "#" not in value:
            raise _wrong(f"{value!r} names no model: write ADDRESS#MODEL, such as http://127.0.0.1:11434/v1#qwen3")
        return _url(value)
    if value.startswith(("manual:", "cassette:", "scripted:")):
        if not value.partition(":")[2]:
            raise _wrong(f"{value!r} names no path")
        return value
    if not (slash and provider and rest) and value != "local":
        raise _wrong(f"{value!r} is not a model: write PROVIDER/MODEL, such as anthropic/claude-opus-5-5")
    return value


Pattern = Annotated[str, BeforeValidator(_pattern)]
Url = Annotated[str, BeforeValidator(_url)]
ModelName = Annotated[str, BeforeValidator(_model_name)]
Program = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,128}$")]
Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x20]+$")]


def _written(default: Any, text: Any, description: str, **more: Any) -> Any:
    """A field whose default is held in base units and printed in the schema as people write it."""
    return Field(default=default, description=description, json_schema_extra={"default": text}, **more)


class Table(BaseModel):
    """Root of the tables: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

    usd: Money = _written(2 * NANO, 2.00, "dollars for model calls: nothing is forwarded whose worst case does not fit")
    usd_per_minute: Money | None = Field(default=None, description="dollars in any minute")
    usd_per_day: Money | None = Field(
        default=None, description="dollars of all runs of this user in a day (UTC), where less than `gearcase limits` says"
    )
    tokens: Count | None = Field(default=None, description="tokens of model calls, cache reads included")
    calls: Count | None = Field(default=None, description="model calls")
    steps: Count = Field(default=400, description="answers of the model that drives the agent")
    wall: Duration = _written(2700.0, "45m", "time that the run may take; it stands still while frozen")
    cpu_time: Duration | None = Field(default=None, description="processor time of everything inside")
    memory: Size = _written(4 * 2**30, "4GiB", "memory of everything inside")
    cpus: Cores = Field(default=2.0, description="processor cores")
    disk: Size = _written(2 * 2**30, "2GiB", "space of /workspace")
    processes: Annotated[int, Field(strict=True, ge=8, le=2**22)] = Field(
        default=512, description="processes and threads at once"
    )
    on_exhausted: Literal["ask", "wind_down", "stop"] = Field(
        default="ask", description="when a limit is met: ask (freeze; wind down where nobody watches), wind_down, stop"
    )
    wind_down_reserve: Fraction = _written(0.05, "5%", "share of the money that is kept for the hand-over")


class Files(Table):
    """What goes in and what may leave. Paths of this machine are relative to the box file."""

    give: tuple[Path, ...] = Field(default=(), description="copied to /workspace/NAME; the originals are never touched")
    see: tuple[Path, ...] = Field(default=(), description="seen read-only at /given/NAME")
    take: tuple[Pattern, ...] = Field(default=(), description="what may leave, by copy: patterns relative to /workspace")
    take_max: Size = _written(500 * 2**20, "500MiB", "most bytes that may leave")


class Check(Table):
    """An acceptance check: what "done" means, decided outside, on a copy."""

    name: Name = Field(description="unique among the checks")
    run: Annotated[str, Field(min_length=1, pattern=r"\S")] = Field(
        description="shell command, in a folder that holds `files`; exit 0 passes; a score goes to descriptor 3"
    )
    files: tuple[Path, ...] = Field(
        default=(), description="what it needs, each by its name in the check's folder; default: the words of `run` that exist"
    )
    show: Literal["verdict", "score", "output"] = Field(default="verdict", description="what the agent may see")
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = Field(default=None, description="lowest score that passes")
    deadline: Duration = _written(600.0, "10m", "time that it may take")


class Sandbox(Table):
    """The isolation."""

    driver: Literal["namespaces"] = Field(default="namespaces", description="how programs are isolated")
    need: tuple[Literal["filesystem", "network", "processes", "memory", "cpu", "disk", "freeze", "syscalls"], ...] = Field(
        default=("network", "filesystem", "processes"), description="the run does not start where one of these is not enforced"
    )
    packages: tuple[Program, ...] = Field(
        default=(), description="programs that must exist inside; looked for before money is spent"
    )
    tools: tuple[Program, ...] = Field(
        default=(), description="your own programs, found on PATH: seen read-only below /opt/tools, started from /box/bin"
    )


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
    checks: tuple[Check, ...] = Field(default=(), alias="check", description="acceptance checks")
    sandbox: Sandbox = Sandbox()
    journal: JournalTable = JournalTable()
