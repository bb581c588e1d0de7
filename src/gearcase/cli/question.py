"""What a person is asked when their run stands still: what it is now, what each answer does, and how to come back."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gearcase.cli.text import neutral
from gearcase.cli.view import View
from gearcase.run.questions import UPSTREAM
from gearcase.units import format_money


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its key, the verb of the run's brake (`detach` is nobody's: the person goes away), what it does."""

    key: str
    verb: str
    name: str
    does: str


def choices(view: View, add: int = 0) -> list[Choice]:
    """The answers that this run has. `add`: nano-dollars that may be added, where its money is used up."""
    name = neutral(view.name)
    listed: list[Choice] = []
    if add:
        listed.append(Choice("+", "add", "add money", f"its limit is raised by {format_money(add)} and it goes on"))
    resumed = (
        "it goes on without more: it hands in what there is, unless the day's limit was raised meanwhile"
        if add
        else "it goes on exactly where it stopped"
    )
    if view.braked_by == UPSTREAM:
        resumed = "its model is asked again; what was done so far stands as it is"
    listed.append(Choice("r", "resume", "resume", resumed))
    if view.kind == "agent" and not add and view.braked_by != UPSTREAM:
        handed = "it goes on for a few last turns, to hand in what there is; that is checked and delivered"
        listed.append(Choice("w", "wind_down", "wind down", handed))
    listed.append(Choice("k", "kill", "kill", "it ends now: nothing is checked or delivered; its record and report stay"))
    back = f"you go and it stays frozen (so does Ctrl-C); come back: gearcase resume {name}"
    listed.append(Choice("d", "detach", "detach", back))
    return listed


def question(view: View, listed: list[Choice], why: str = "") -> RenderableType:
    """The question, to be printed above the line in which a key is waited for. `why` it is frozen, where that was not shown already."""
    why = f": {neutral(why)}" if why else " by Ctrl-C" if view.braked_by == "operator" else ""
    told = Text.assemble((f"{neutral(view.name)} is frozen", "bold cyan"), f"{why}. Nothing runs or is spent, its clock stands.")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in listed:
        table.add_row(Text(f"  {one.key}", "bold cyan"), Text(one.name, "bold"), one.does)
    return Group(told, Text(), table, Text())


def prompt(listed: list[Choice]) -> Text:
    """The line in which the key is waited for."""
    return Text(f"What shall it do? Press one key [{'/'.join(one.key for one in listed)}]: ", "bold")
