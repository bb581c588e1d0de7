"""Tool calls in what a model wrote: the object that the grammar forces, or JSON in tags, in fences, or bare between words.

Small models do not write calls in the form that they were trained for. What is read here is any object that says which of the tools
that were offered it means, and with which arguments; everything else stays text. Nothing is repaired: an object that is cut off or
broken is text too.

Threat: text of an agent or a file that a model repeats. It can only become a call of a tool that this very request offered, which is
what any text of a model can become; the work is bounded by what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from gearcase.doors.model.protocols.stream import items, table

ANSWER = "answer"
"""The key of the object that is an answer in words, where the grammar leaves the choice."""
MOST_CALLS = 8
_NAMES = ("name", "tool", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "input", "args")
_LISTS = ("tool_calls", "calls")
_OPENING = re.compile(r"(?:```[\w-]{0,20}|<tool_calls?>)\s{0,8}$")
_CLOSING = re.compile(r"\s{0,8}(?:```|</tool_calls?>)")
_WRAPPING = 40
"""Characters before a call in which its fence or tag is looked for."""
_MOST_STARTS = 1000
_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Found:
    """What a model wrote: words, and (name, arguments) of the calls in their order."""

    text: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())


def read(written: str, tools: Mapping[str, Mapping[str, Any]]) -> Found:
    """Split what was written into words and calls of `tools` (name -> JSON schema of its arguments). Raises nothing."""
    calls: list[tuple[str, Mapping[str, Any]]] = []
    words: list[str] = []
    at = 0
    for start, end, value in _values(written):
        meant = _meant(value, tools)
        if meant is None:
            continue
        opening = _OPENING.search(written, max(at, start - _WRAPPING), start)
        words.append(written[at : opening.start() if opening else start])
        closing = _CLOSING.match(written, end)
        at = closing.end() if closing else end
        if isinstance(meant, str):
            words.append(meant)
        else:
            calls += meant
    if at == 0:
        return Found(written)
    words.append(written[at:])
    return Found("".join(words).strip(), tuple(calls[:MOST_CALLS]))


def _values(written: str) -> list[tuple[int, int, Any]]:
    """Every JSON object or array that stands in the text, outermost only: (start, end, value)."""
    found: list[tuple[int, int, Any]] = []
    at = starts = 0
    while (begin := _next(written, at)) >= 0 and starts < _MOST_STARTS:
        starts += 1
        try:
            value, at = _JSON.raw_decode(written, begin)
        except (ValueError, RecursionError):
            at = begin + 1
        else:
            found.append((begin, at, value))
    return found


def _next(written: str, at: int) -> int:
    places = [place for sign in "{[" if (place := written.find(sign, at)) >= 0]
    return min(places, default=-1)


def _meant(value: Any, tools: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]] | str | None:
    """The calls that a value is, or the words of an answer; None where it is neither."""
    if isinstance(value, list):
        told = [_call(item, tools) for item in items(cast("object", value))]
        return [one for one in told if one] if told and all(told) else None
    one = table(value)
    if set(one) == {ANSWER} and isinstance(one[ANSWER], str):
        return str(one[ANSWER])
    for name in _LISTS:
        if listed := items(one.get(name)):
            return _meant(listed, tools)
    call = _call(one, tools)
    return [call] if call else None


def _call(value: Any, tools: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]] | None:
    one = table(value)
    if inner := table(one.get("function")):
        one = inner
    name = next((one[key] for key in _NAMES if isinstance(one.get(key), str)), None)
    given = next((one[key] for key in _ARGUMENTS if key in one), None)
    if name is not None and given is not None:
        arguments = _arguments(given)
        return (name, arguments) if name in tools and arguments is not None else None
    if len(tools) == 1:  # the arguments alone: there is only one tool that they can be meant for
        only, schema = next(iter(tools.items()))
        known, needed = set(table(schema.get("properties"))), items(schema.get("required"))
        if one and needed and set(one) <= known and all(key in one for key in needed):
            return only, one
    return None


def _arguments(given: Any) -> dict[str, Any] | None:
    """Arguments are an object, or a text that holds one."""
    if isinstance(given, str):
        try:
            given = _JSON.decode(given)
        except (ValueError, RecursionError):
            return None
    return table(cast("object", given)) if isinstance(given, dict) else None
