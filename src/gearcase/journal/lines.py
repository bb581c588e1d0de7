"""A record as a line of bytes, and back.

Nothing that an event can hold breaks a line: text that is no UTF-8 is written with backslashes, what is too long is cut with a
mark, numbers beyond 64 bits become text. A line of a type that this version does not know is kept as it is (`event` is None).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import orjson

from gearcase.errors import RunError
from gearcase.events import Event

LINE_BYTES = 256 * 1024
"""The most that one record takes, newline included."""

FIRST_PREV = "0" * 64
ENVELOPE = ("seq", "time", "boot", "agent", "type", "prev", "cut")
"""Keys of a line that no event may use as a field. `cut`, where present, gives the length of what was cut, by field."""

_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a journal. `raw` is the line as an object; `event` is None for a type that this version does not know."""

    seq: int
    time: float
    boot: float
    agent: str
    type: str
    event: Event | None
    digest: str  # what the next record's `prev` must be
    raw: Mapping[str, Any]


def encode(event: Event, seq: int, time: float, boot: float, agent: str, prev: str) -> bytes:
    """The line of a record, without its newline, at most LINE_BYTES - 1 long."""
    head = {"seq": seq, "time": time, "boot": boot, "agent": agent, "type": event.type}
    body = {name: getattr(event, name) for name in event.fields}
    try:
        line = orjson.dumps({**head, **body, "prev": prev})
    except TypeError:
        head, body = _plain(head), _plain(body)
        line = orjson.dumps({**head, **body, "prev": prev})
    return line if len(line) < LINE_BYTES else _shortened(head, _plain(body), prev)


def decode(line: bytes) -> Record:
    """A line (without its newline) as a record. Raises ValueError when it is none."""
    raw = orjson.loads(line)
    if not isinstance(raw, dict):
        raise ValueError("a record is an object")
    raw = cast(dict[str, Any], raw)
    try:
        seq, time, boot, agent, kind = raw["seq"], raw["time"], raw["boot"], raw["agent"], raw["type"]
    except KeyError as missing:
        raise ValueError(f"a record has {missing}") from None
    return Record(seq, time, boot, agent, kind, _event(kind, raw), sha256(line).hexdigest(), raw)


def segments(folder: Path) -> list[Path]:
    """The segment files of a journal, in order."""
    return sorted(path for path in folder.glob("[0-9]*.jsonl") if path.stem.isdigit())


def segment(folder: Path, number: int) -> Path:
    """The path of a segment."""
    return folder / f"{number:06d}.jsonl"


def lines_of(paths: Iterable[Path]) -> Iterator[bytes]:
    """Every line with its newline; an incomplete last one comes without."""
    for path in paths:
        with path.open("rb") as file:
            yield from file


def no_journal(folder: Path) -> RunError:
    """There is no journal in this folder."""
    return RunError("no_journal", f"{folder} holds no journal", remedy="name the journal of a run: gearcase ps lists them")


def _event(kind: str, raw: dict[str, Any]) -> Event | None:
    made = Event.catalogue.get(kind)
    if made is None:
        return None
    try:
        return made(**{name: raw[name] for name in made.fields if name in raw})
    except TypeError:  # written by a version whose event has fewer fields: still a record, no longer this event
        return None


def _plain(value: Any, depth: int = 0) -> Any:
    """The same value in what JSON can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if depth == _DEEPEST:
        return "[... nested too deeply ...]"
    if isinstance(value, Mapping):
        entries = cast(Mapping[Any, Any], value).items()
        return {str(_plain(key if isinstance(key, str) else repr(key))): _plain(one, depth + 1) for key, one in entries}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one, depth + 1) for one in cast(Iterable[Any], value)]
    return _plain(repr(cast(object, value)))


def _shortened(head: dict[str, Any], body: dict[str, Any], prev: str) -> bytes:
    """The line with its longest parts cut until it fits."""
    longest_text, longest_list = LINE_BYTES // 4, 4096
    while True:
        cut: dict[str, int] = {}
        shorter = {name: _cut(value, longest_text, longest_list, name, cut) for name, value in body.items()}
        agent = {"agent": _cut(head["agent"], longest_text, 0, "agent", cut)}
        line = orjson.dumps({**head, **agent, **shorter, "cut": dict(list(cut.items())[:64]), "prev": prev})
        if len(line) < LINE_BYTES:
            return line
        longest_text, longest_list = max(longest_text // 2, 16), max(longest_list // 2, 1)


def _cut(value: Any, text: int, items: int, path: str, cut: dict[str, int]) -> Any:
    """A value whose texts and lists are no longer than that; `cut` notes how long they were."""
    if isinstance(value, str):
        if len(value) <= text:
            return value
        cut[path[:256]] = len(value)
        return f"{value[: text // 2]}[... {len(value) - text} characters left out ...]{value[len(value) - text // 2 :]}"
    if isinstance(value, list):
        many = cast(list[Any], value)
        if len(many) > items:
            cut[path[:256]] = len(many)
        return [_cut(one, text, items, f"{path}[]", cut) for one in many[:items]]
    if isinstance(value, dict):
        entries = list(cast(dict[str, Any], value).items())
        if len(entries) > items:
            cut[path[:256]] = len(entries)
        return {key[:text]: _cut(one, text, items, f"{path}.{key[:32]}", cut) for key, one in entries[:items]}
    return value
