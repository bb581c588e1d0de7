"""One measured figure beside its goal, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, what it was compared with, and the value that the goal speaks of: a ratio, unless `unit` says otherwise."""

    what: str
    ours: str
    compared: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}"
        return "" if self.at_most is None else f"<= {self.at_most:.3g} {self.unit}"


def show(figures: Iterable[Figure]) -> int:
    """Print the table; returns 1 when a goal is missed."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("figure", "ours", "beside", "value", "goal", "met"):
        table.add_column(heading, overflow="fold")
    missed = 0
    for figure in figures:
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        missed |= figure.met is False
        table.add_row(figure.what, figure.ours, figure.compared, f"{figure.value:.3g} {figure.unit}", figure.goal, met)
    Console(width=150, highlight=False).print(table)
    return int(missed)
