"""The threads of a run's programs as a tree: the main agent, its sub-agents, and what each has spent, as the programs tell it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from gearcase.cli.parts import ThreadView
from gearcase.cli.text import neutral
from gearcase.units import format_money

_SHORT = 8
"""Characters of a thread's name that are shown: its last, for many names begin with a clock."""
_DEEPEST = 8


def tree(threads: Mapping[str, ThreadView]) -> Table | None:
    """A line for each thread below its parent; None where nothing is to be told apart."""
    if len(threads) < 2:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("thread", no_wrap=True, overflow="ellipsis")
    for heading in ("calls", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, lead in _lines(threads):
        one = threads[name]
        title = f"main {name[-_SHORT:]}" if not one.parent else f"{lead}{name[-_SHORT:]}"
        table.add_row(neutral(title), f"{one.calls}", format_money(one.usd))
    return table


def _lines(threads: Mapping[str, ThreadView]) -> Iterator[tuple[str, str]]:
    """Every thread once, each below its parent; one whose parents lead nowhere, or in a circle, stands at the top."""
    below: dict[str, list[str]] = {}
    for name, one in threads.items():
        below.setdefault(one.parent if one.parent in threads else "", []).append(name)
    told: set[str] = set()

    def branch(name: str, lead: str, depth: int) -> Iterator[tuple[str, str]]:
        told.add(name)
        yield name, lead
        children = [child for child in below.get(name, ()) if child not in told]
        stem = lead.replace("├─ ", "│  ").replace("└─ ", "   ") if depth < _DEEPEST else lead[: -len("├─ ")]
        for child in children:
            if child not in told:
                yield from branch(child, stem + ("└─ " if child == children[-1] else "├─ "), min(depth + 1, _DEEPEST))

    for name in (*below.get("", ()), *threads):
        if name not in told:
            yield from branch(name, "", 0)
