"""What is wrong with a box, said so that it can be mended: where, which key, why, and the nearest thing that would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gearcase.box.declaration import Box
from gearcase.box.lines import PathKey
from gearcase.errors import UsageError


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `line` is 0 when the value came from an option; `option` is its name then."""

    key: str
    message: str
    line: int = 0
    option: str = ""
    near: str = ""

    def text(self) -> str:
        """One sentence for a person."""
        where = f", line {self.line}" if self.line else f", from {self.option}" if self.option else ""
        return f"{self.message}{where}{f': did you mean `{self.near}`?' if self.near else ''}"


def failure(mistakes: Iterable[Mistake], file: str) -> UsageError:
    """All mistakes as the one error that a user meets. `file` is empty for a box made of options."""
    ordered = sorted(mistakes, key=lambda mistake: mistake.line)
    count = f"{len(ordered)} mistakes" if len(ordered) > 1 else "a mistake"
    return UsageError(
        "box",
        f"{file or 'the box'} has {count}",
        cause="\n".join(mistake.text() for mistake in ordered),
        remedy="mend them and look with `gearcase box check`; `gearcase box schema` prints every key",
        file=file,
        mistakes=[{"line": m.line, "option": m.option, "key": m.key, "message": m.message, "near": m.near} for m in ordered],
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, or nothing when none is near."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


@cache
def known_keys() -> dict[str, tuple[str, ...]]:
    """Keys of every table: `""` is the root, `check` a table of the list, `model.providers.*` any provider."""
    return dict(_keys_of(Box, ""))


def _keys_of(model: type[BaseModel], at: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    yield at, tuple(fields)
    for name, field in fields.items():
        below = f"{at}.{name}".lstrip(".")
        annotation: Any = field.annotation
        is_map = get_origin(annotation) is Mapping
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys_of(inner, f"{below}.*" if is_map else below)


def from_validation(error: ValidationError, lines: Mapping[PathKey, int], options: Mapping[PathKey, str]) -> list[Mistake]:
    """The mistakes of a validation, each with the line or the option that its value came from."""
    return [_mistake(detail, lines, options) for detail in error.errors(include_url=False)]


def dotted(path: PathKey) -> str:
    """`limits.usd`, `files.give[1]`, `check[0].run`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def place(path: PathKey, lines: Mapping[PathKey, int], options: Mapping[PathKey, str]) -> tuple[int, str]:
    """Line and option of the longest part of `path` that was written somewhere."""
    for depth in range(len(path), 0, -1):
        if option := options.get(path[:depth]):
            return 0, option
        if line := lines.get(path[:depth]):
            return line, ""
    return 0, ""


def _table_name(path: PathKey) -> str:
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return "the box"
    return f"[[{names[0]}]]" if names[0] == "check" else f"[{'.'.join(names)}]"


def _mistake(detail: ErrorDetails, lines: Mapping[PathKey, int], options: Mapping[PathKey, str]) -> Mistake:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    line, option = place(path, lines, options)
    if detail["type"] == "extra_forbidden":
        message, near = _unknown(path)
        return Mistake(dotted(path), message, line, option, near)
    if detail["type"] == "missing":
        return Mistake(dotted(path), f"{_table_name(path[:-1])} needs `{path[-1]}`", line, option)
    message, near = _value(detail)
    return Mistake(dotted(path), f"`{dotted(path)}` {message}", line, option, near)


def _unknown(path: PathKey) -> tuple[str, str]:
    name, table = str(path[-1]), path[:-1]
    names = [part for part in table if isinstance(part, str)]
    near = nearest(name, _keys_at(names))
    message = f"unknown key `{name}` in {_table_name(table)}"
    if not near:
        homes = [home for home, keys in known_keys().items() if name in keys and "*" not in home]
        if homes:
            home = f"[{homes[0]}]" if homes[0] else "the top, before any table"
            return f"{message} (it belongs in {home})", ""
    return message, near


def _keys_at(names: list[str]) -> tuple[str, ...]:
    """The keys of a table; a name that people choose is a `*` there, and may hold dots."""
    for home, keys in known_keys().items():
        parts = home.split(".") if home else []
        if len(parts) == len(names) and all(part in ("*", name) for part, name in zip(parts, names, strict=True)):
            return keys
    return ()


_SAID = {
    "string_type": "must be a text in quotes",
    "path_type": "must be a path in quotes",
    "int_type": "must be a whole number",
    "decimal_type": "must be a number",
    "float_type": "must be a number",
    "tuple_type": "must be a list: [...]",
    "mapping_type": "must be a table",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "string_too_long": "is too long",
}


def _value(detail: ErrorDetails) -> tuple[str, str]:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "secret":
        return detail["msg"], ""
    if kind == "box":
        message = detail["msg"]
        return message if str(given) in message else f"is {given}: {message}", ""
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"is {given!r}, not one of {', '.join(allowed)}", nearest(str(given), allowed)
    if kind == "string_pattern_mismatch":
        return f"is {given!r}, which has characters that are not allowed there ({context['pattern']})", ""
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return f"is {given}, must be {bound}", ""
    return f"{_SAID.get(kind, detail['msg'])}, not {given!r}", ""
