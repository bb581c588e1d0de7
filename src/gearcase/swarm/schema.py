"""The part of JSON Schema that a map holds answers against, and nothing that could make a check expensive.

An agent writes the schema and a model the answer, and both are read by a process of the host. So `$ref` is refused (nothing is
fetched, nothing recurses), and so is every keyword that carries a pattern (24 characters of one can hold a process for seconds).
What is left costs at most the size of the schema times the size of the answer. An unknown keyword is refused rather than ignored: a
check that is silently not made would count as passed. `title`, `description`, `default`, `examples` and `format` are for the model.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gearcase.errors import UsageError

MOST_BYTES = 64 * 1024
MOST_DEPTH = 32

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_SAID_TO_THE_MODEL = frozenset({"title", "description", "default", "examples", "example", "format", "$schema", "$comment"})
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}
_BOUNDS = set(_HOLDS)
_LISTS = {"anyOf", "allOf", "oneOf"}
_CHECKED = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"} | _COUNTS | _BOUNDS | _LISTS
_REFUSED = {
    "$ref": "nothing is fetched or referred to: write the part where it is used",
    "pattern": "no pattern is run: say it in the prompt, or use enum",
    "patternProperties": "no pattern is run: use properties",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """Where an answer does not fit: the place in it (`/lines/*/level`, `*` for any position of a list), the keyword, what is wrong."""

    path: str
    keyword: str
    message: str


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that can be checked. `source` is what the model is shown."""

    source: Mapping[str, Any]

    @classmethod
    def read(cls, source: Mapping[str, Any]) -> Schema:
        """Raises UsageError `bad_schema` that names the first thing which is not checked here."""
        if len(json.dumps(source)) > MOST_BYTES:
            raise _bad("", f"it is over {MOST_BYTES} bytes", "a shorter one")
        if source.get("type") != "object":
            raise _bad("", "the answer is not an object", '{"type": "object", "properties": {...}}: providers take nothing else')
        _read(source, "", 0)
        return cls(source)

    def first_violation(self, value: Any) -> Violation | None:
        """The first place where a JSON value does not fit; None when it fits."""
        return next(_violations(self.source, value, "", 0), None)


def _bad(path: str, what: str, remedy: str) -> UsageError:
    return UsageError("bad_schema", f"the schema cannot be used: {what}{f' (at {path})' if path else ''}", remedy=remedy)


def _read(schema: Any, path: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _bad(path, "a schema is an object, true or false", "see json-schema.org")
    if depth > MOST_DEPTH:
        raise _bad(path, f"it is nested over {MOST_DEPTH} deep", "a flatter one")
    given = cast("dict[str, Any]", schema)
    for keyword, wanted in given.items():
        if keyword in _REFUSED:
            raise _bad(path, f"{keyword} is refused", _REFUSED[keyword])
        if keyword not in _CHECKED and keyword not in _SAID_TO_THE_MODEL:
            raise _bad(path, f"{keyword[:60]} is not checked here", f"checked are: {', '.join(sorted(_CHECKED))}")
        if keyword in _CHECKED and not _well_formed(keyword, wanted):
            raise _bad(path, f"the value of {keyword} makes no sense", "see json-schema.org")
    for at, part in _parts(given):
        _read(part, f"{path}/{at}", depth + 1)


def _well_formed(keyword: str, wanted: Any) -> bool:
    if keyword == "type":
        names: list[Any] = cast("list[Any]", wanted) if isinstance(wanted, list) else [wanted]
        return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)
    if keyword in _COUNTS:
        return isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0
    if keyword in _BOUNDS:
        return isinstance(wanted, int | float) and not isinstance(wanted, bool) and math.isfinite(wanted)
    if keyword == "properties":
        return isinstance(wanted, dict)
    if keyword in _LISTS or keyword == "enum":
        return isinstance(wanted, list) and bool(cast("list[Any]", wanted))
    if keyword == "required":
        return isinstance(wanted, list) and all(isinstance(name, str) for name in cast("list[Any]", wanted))
    return True


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, part in schema.get("properties", {}).items():
        yield f"properties/{name}", part
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in sorted(_LISTS):
        for at, part in enumerate(schema.get(keyword, ())):
            yield f"{keyword}/{at}", part


# --- holding a value against it ----------------------------------------------------------------------------------------------


def _violations(schema: Any, value: Any, path: str, depth: int) -> Iterator[Violation]:
    if schema is True:
        return
    if schema is False:
        yield Violation(path, "false", "nothing may stand here")
        return
    given = cast("Mapping[str, Any]", schema)
    if "type" in given and not _is_of(value, given["type"]):
        yield Violation(path, "type", f"it is {_name(value)}, not {_say(given['type'])}")
        return
    if "enum" in given and not any(_same(value, one) for one in given["enum"]):
        yield Violation(path, "enum", f"{_short(value)} is none of {_short(given['enum'])}")
    if "const" in given and not _same(value, given["const"]):
        yield Violation(path, "const", f"{_short(value)} is not {_short(given['const'])}")
    if isinstance(value, str):
        yield from _counted(given, len(value), "Length", "characters", path)
    elif isinstance(value, dict):
        yield from _of_object(given, cast("dict[str, Any]", value), path, depth)
    elif isinstance(value, list):
        yield from _of_array(given, cast("list[Any]", value), path, depth)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _of_number(given, value, path)
    yield from _combined(given, value, path, depth)


def _of_object(schema: Mapping[str, Any], value: dict[str, Any], path: str, depth: int) -> Iterator[Violation]:
    yield from _counted(schema, len(value), "Properties", "properties", path)
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Violation(f"{path}/{name}", "required", "it is missing")
    others = schema.get("additionalProperties", True)
    for name, part in value.items():
        if name in properties:
            yield from _violations(properties[name], part, f"{path}/{name}", depth + 1)
        elif others is False:
            yield Violation(path, "additionalProperties", f"{_short(name)} is not among the properties")
        else:
            yield from _violations(others, part, f"{path}/*", depth + 1)


def _of_array(schema: Mapping[str, Any], value: list[Any], path: str, depth: int) -> Iterator[Violation]:
    yield from _counted(schema, len(value), "Items", "items", path)
    if "items" in schema:
        for part in value:
            yield from _violations(schema["items"], part, f"{path}/*", depth + 1)


def _of_number(schema: Mapping[str, Any], value: float, path: str) -> Iterator[Violation]:
    if isinstance(value, float) and not math.isfinite(value):
        yield Violation(path, "type", "it is not a finite number")
        return
    for keyword, holds in _HOLDS.items():
        if keyword in schema and not holds(value, schema[keyword]):
            yield Violation(path, keyword, f"{_short(value)} against {schema[keyword]}")


def _combined(schema: Mapping[str, Any], value: Any, path: str, depth: int) -> Iterator[Violation]:
    for part in schema.get("allOf", ()):
        yield from _violations(part, value, path, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            fitting = sum(next(_violations(part, value, path, depth + 1), None) is None for part in schema[keyword])
            if fitting == 0 or (keyword == "oneOf" and fitting > 1):
                yield Violation(path, keyword, f"it fits {fitting} of {len(schema[keyword])}")


def _counted(schema: Mapping[str, Any], count: int, of: str, what: str, path: str) -> Iterator[Violation]:
    least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}", math.inf)
    if count < least:
        yield Violation(path, f"min{of}", f"{count} {what}, at least {least}")
    if count > most:
        yield Violation(path, f"max{of}", f"{count} {what}, at most {most}")


def _is_of(value: Any, wanted: Any) -> bool:
    names: list[str] = cast("list[str]", wanted) if isinstance(wanted, list) else [wanted]
    for name in names:
        if isinstance(value, bool):
            if name == "boolean":
                return True
        elif isinstance(value, _TYPES[name]) or (name == "integer" and isinstance(value, float) and value.is_integer()):
            return True
    return False


def _same(left: Any, right: Any) -> bool:
    """Equal as JSON is: true is not 1."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _name(value: Any) -> str:
    return next((name for name in ("boolean", *_TYPES) if isinstance(value, _TYPES[name])), "nothing known")


def _say(wanted: Any) -> str:
    return " or ".join(cast("list[str]", wanted)) if isinstance(wanted, list) else str(wanted)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."
