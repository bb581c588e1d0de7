"""The kinds of values that a box is declared with: how people write them, what is held, what is refused.

A value is *written* as people do (`usd = 2.50`, `"4GiB"`, `"45m"`) and *held* in base units: nano-dollars, bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gearcase.errors import UsageError
from gearcase.units import NANO, parse_bytes, parse_duration, parse_money

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
T = TypeVar("T")

_RESERVED = frozenset({"model", "gear", "proxy"})
_DOLLARS_MAX = 10**9  # a billion dollars: the sum of nano-dollars stays below 2**63
_BYTES_MAX = 2**50
_SECONDS_MAX = 366 * 86400.0


def wrong(message: str, *, secret: bool = False) -> PydanticCustomError:
    """What a validator raises for a value that it refuses. The value is not shown where it holds a secret."""
    return PydanticCustomError("secret" if secret else "box", "{message}", {"message": message})


def _door_name(value: Any) -> Any:
    if value in _RESERVED:
        raise wrong(f"{value}.box is a door of every box: choose another name")
    return value


def _declared(parse: Callable[[Any], T], check: Callable[[T], str]) -> BeforeValidator:
    """A validator from one of the parsers of units.py, whose error becomes one of the model's own."""

    def convert(value: Any) -> T:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise wrong(f"{value!r} is neither a number nor a text")
        try:
            parsed = parse(value)
        except UsageError as error:
            raise wrong(f"{error.message}: {error.remedy}") from None
        if complaint := check(parsed):
            raise wrong(complaint)
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

Share = Annotated[
    float,
    _declared(_fraction, _between(0, 1, 'must be from 0 to "100%"')),
    _number_or_text(r"^[0-9]+(\.[0-9]+)?%?$"),
]
"""Written as `"80%"` or 0.8, held as 0.8."""

Cores = Annotated[
    float,
    _declared(_cores, _between(0.01, 4096, "must be from 0.01 to 4096 cores")),
    WithJsonSchema({"type": "number", "minimum": 0.01, "maximum": 4096}),
]

Count = Annotated[int, Field(strict=True, ge=1, le=2**53)]
Name = Annotated[str, Field(pattern=NAME)]
DoorName = Annotated[str, BeforeValidator(_door_name), Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Rate = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False)]
"""Dollars per million tokens."""


def _pattern(value: Any) -> Any:
    """A take pattern stays inside /workspace and names something."""
    if not isinstance(value, str):
        return value
    parts = PurePosixPath(value.removeprefix("!")).parts
    if value.removeprefix("!").startswith("/"):
        raise wrong(f"{value!r} is absolute: write it relative to /workspace")
    if ".." in parts:
        raise wrong(f"{value!r} leaves /workspace through `..`")
    if not parts or "\0" in value:
        raise wrong(f"{value!r} names no file")
    return value


def is_address(value: Any) -> Any:
    """A validator: HTTP or HTTPS and a host, without a password."""
    if not isinstance(value, str):
        return value
    scheme, _, rest = value.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not host:
        raise wrong(f"{value!r} is not an address: write http:// or https:// and a host")
    if "@" in host:
        raise wrong("holds a password: keys belong in `key_file`, `key_env` or `keyring`", secret=True)
    return value


def _model_name(value: Any) -> Any:
    """The shape of a model's name; whether it exists and what it costs is for the model door to say."""
    if not isinstance(value, str):
        return value
    provider, slash, rest = value.partition("/")
    if value.startswith(("http://", "https://")):
        if not value.rpartition("#")[2] or "#" not in value:
            raise wrong(f"{value!r} names no model: write ADDRESS#MODEL, such as http://127.0.0.1:11434/v1#qwen3")
        return is_address(value)
    if value.startswith(("manual:", "cassette:", "scripted:")):
        if not value.partition(":")[2]:
            raise wrong(f"{value!r} names no path")
        return value
    if not (slash and provider and rest) and value != "local":
        if value in ("manual", "cassette", "scripted"):
            raise wrong(f"{value!r} needs a path: {value}:{'FOLDER' if value == 'manual' else 'FILE'}")
        raise wrong(f"{value!r} is not a model: write PROVIDER/MODEL, such as anthropic/claude-opus-5-5")
    return value


Pattern = Annotated[str, BeforeValidator(_pattern)]
Url = Annotated[str, BeforeValidator(is_address)]
ModelName = Annotated[str, BeforeValidator(_model_name)]
Program = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,128}$")]
Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,128}(:[A-Za-z_][A-Za-z0-9_]{0,127})?$")]
Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x20]+$")]


def written(default: Any, text: Any, description: str, **more: Any) -> Any:
    """A field whose default is held in base units and printed in the schema as people write it."""
    return Field(default=default, description=description, json_schema_extra={"default": text}, **more)


class Table(BaseModel):
    """Root of the tables: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)
