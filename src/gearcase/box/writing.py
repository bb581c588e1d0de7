"""A box as text again: the effective `box.toml`, and the JSON Schema of all keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from gearcase.box.declaration import Box
from gearcase.box.paths import escape
from gearcase.units import NANO

_WIDE = 80
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def schema() -> dict[str, Any]:
    """The JSON Schema of `box.toml`, for editors."""
    made = Box.model_json_schema(by_alias=True, mode="validation")
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "box.toml"
    made["description"] = "The declaration of a Gearcase box. No policy means deny."
    return made


def effective_toml(box: Box, comment: Callable[[str], str] = lambda key: "") -> str:
    """Every value of a box, defaults included, as TOML that loads to the same box from any folder.

    `comment` gives a remark for a dotted key (`limits.usd`), such as its source.
    """
    return "\n".join(_table(box, (), comment)).strip() + "\n"


def _table(model: BaseModel, path: tuple[str, ...], comment: Callable[[str], str]) -> Iterator[str]:
    below: list[tuple[str, Any]] = []
    for name, field in type(model).model_fields.items():
        value: Any = getattr(model, name)
        key = field.alias or name
        if value is None:
            continue
        if isinstance(value, BaseModel) or _holds_tables(value):
            below.append((key, cast(Any, value)))
        elif value != {} and (path or value != ()):
            yield _pair(key, _written(path, key, value), comment(_dotted(path, key)))
    for key, value in below:
        yield from _below((*path, key), value, comment)


def _below(path: tuple[str, ...], value: Any, comment: Callable[[str], str]) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from ("", f"[{_key(path)}]")
        yield from _table(value, path, comment)
    elif isinstance(value, Mapping):
        for name, item in cast(Mapping[str, BaseModel], value).items():
            yield from ("", f"[{_key((*path, name))}]")
            yield from _table(item, (*path, name), comment)
    else:
        for number, item in enumerate(cast(tuple[BaseModel, ...], value)):
            yield from ("", f"[[{_key(path)}]]")
            yield from _table(item, (*path[:-1], f"{path[-1]}[{number}]"), comment)


def _holds_tables(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = tuple(cast(Mapping[str, Any], value).values())
    return isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in cast(tuple[Any, ...], value))


def _dotted(path: tuple[str, ...], key: str) -> str:
    return ".".join((*path, key))


def _key(path: tuple[str, ...]) -> str:
    return ".".join(part if _BARE.fullmatch(part) else toml_string(part) for part in path)


def _pair(key: str, value: str, remark: str) -> str:
    """`key = value  # remark`; of a value of several lines the remark stands above it."""
    line = f"{key} = {value}"
    if not remark:
        return line
    return f"# {remark}\n{line}" if "\n" in line else f"{line:<48}  # {remark}"


def _written(path: tuple[str, ...], key: str, value: Any) -> str:
    """A value in the unit in which people write that key."""
    if path == ("limits",) and key in ("usd", "usd_per_minute", "usd_per_day"):
        return _decimal(Decimal(value) / NANO)
    if key in ("memory", "disk", "egress", "take_max"):
        return _size(value)
    if key in ("wall", "cpu_time", "deadline", "repeat"):
        return _duration(value)
    if key == "wind_down_reserve" and float(f"{value * 100:g}") / 100 == value:
        return f'"{value * 100:g}%"'
    return _plain(path, key, value)


def _plain(path: tuple[str, ...], key: str, value: Any) -> str:
    if isinstance(value, tuple):
        items = [_plain(path, key, item) for item in cast(tuple[Any, ...], value)]
        if sum(map(len, items)) > _WIDE:
            return "[\n" + "".join(f"  {item},\n" for item in items) + "]"
        return f"[{', '.join(items)}]"
    if isinstance(value, Mapping):
        pairs = [f"{_key((name,))} = {_plain(path, key, item)}" for name, item in cast(Mapping[str, Any], value).items()]
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return toml_string(escape(str(value)))
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if path == ("model",) and text.startswith(("manual:", "cassette:", "scripted:")):
        text = escape(text)
    return _text(text) if "\n" in text else toml_string(text)


def _decimal(value: Decimal) -> str:
    text = f"{value:f}"
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count % size == 0:
            return f'"{count // size}{unit}"'
    return str(count)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f'"{int(seconds) // size}{unit}"'
    return repr(seconds)


def _text(text: str) -> str:
    """A text of several lines, as lines. The newline after the opening quotes is not part of it."""
    return '"""\n' + "\n".join(toml_string(line)[1:-1] for line in text.split("\n")) + '"""'


def toml_string(text: str) -> str:
    """A text as a basic string of TOML, in one line."""
    quoted = "".join(_ESCAPES.get(c, c if ord(c) >= 32 and ord(c) != 127 else f"\\u{ord(c):04x}") for c in text)
    return f'"{quoted}"'
