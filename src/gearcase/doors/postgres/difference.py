"""What a run made of a database: what it held before and after, kept in the run's folder, and the difference between the two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from gearcase.doors.postgres.facts import Inventory
from gearcase.errors import UsageError

DATABASES = "databases"
"""The folder of a run for them."""
_KINDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "S": "sequence", "f": "foreign table"}


@dataclass(frozen=True, slots=True)
class Change:
    """One relation or function that is not what it was. `what` is added | dropped | changed; rows are -1 where it holds none."""

    what: str
    kind: str
    name: str
    rows_before: int = -1
    rows_after: int = -1
    lines: list[str] = field(default_factory=list[str])

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Kept:
    """What stands in the run's folder of one database."""

    name: str
    mode: str
    source: str
    before: Inventory
    after: Inventory


def branch_name(name: str, agent: str) -> str:
    """How a sub-agent's branch of a database is called outside of its box; without an agent, the database itself."""
    return f"{name}@{agent}" if agent else name


def keep(folder: Path, name: str, mode: str, source: str, before: Inventory, after: Inventory) -> None:
    """Write it down. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    held = {"mode": mode, "source": source, "before": before.as_json(), "after": after.as_json()}
    (folder / f"{name}.json").write_bytes(orjson.dumps(held))


def recall(folder: Path, name: str = "") -> list[Kept]:
    """What a run kept of its databases, or of one. Raises UsageError `no_database`."""
    files = sorted(folder.glob("*.json"))
    found = [file for file in files if name in ("", file.stem)]
    if not found:
        remedy = (
            f"it has: {', '.join(file.stem for file in files)}"
            if files
            else "a run tells at its end what it did to its databases"
        )
        raise UsageError("no_database", f"the run has no database {name}" if name else "the run has no database", remedy=remedy)
    kept: list[Kept] = []
    for file in found:
        held = orjson.loads(file.read_bytes())
        before, after = Inventory.from_json(held["before"]), Inventory.from_json(held["after"])
        kept.append(Kept(file.stem, held["mode"], held["source"], before, after))
    return kept


def compare(before: Inventory, after: Inventory) -> Iterator[Change]:
    """What differs, by name: relations, then functions."""
    for name in sorted(before.relations.keys() | after.relations.keys()):
        old, new = before.relations.get(name), after.relations.get(name)
        one = new or old
        assert one is not None
        kind = _KINDS.get(one.kind, "relation")
        if old is None and new is not None:
            yield Change("added", kind, name, -1, new.rows, new.lines)
        elif new is None and old is not None:
            yield Change("dropped", kind, name, old.rows, -1)
        elif old is not None and new is not None and old != new:
            gone = [f"- {line}" for line in old.lines if line not in set(new.lines)]
            lines = gone + [f"+ {line}" for line in new.lines if line not in set(old.lines)]
            yield Change("changed", kind, name, old.rows, new.rows, lines)
    for name in sorted(before.functions.keys() | after.functions.keys()):
        old_text, new_text = before.functions.get(name), after.functions.get(name)
        if old_text != new_text:
            what = "added" if old_text is None else "dropped" if new_text is None else "changed"
            yield Change(what, "function", name)


def as_text(change: Change) -> str:
    """A change as a line: what, which, how many rows."""
    rows = ""
    if change.what == "changed" and change.rows_before != change.rows_after:
        rows = f" ({change.rows_before:,} -> {change.rows_after:,} rows)"
    elif (count := max(change.rows_before, change.rows_after)) >= 0:
        rows = f" ({count:,} rows)"
    return f"{change.what:<8} {change.kind} {change.name}{rows}"
