"""A run on disk, read for a view: its folded journal, its limits, its state. Works for runs that live, ended or died."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from gearcase.cli.view import View, fold
from gearcase.errors import RunError
from gearcase.journal import read
from gearcase.runs import RunFolder

if TYPE_CHECKING:
    from gearcase.box import Limits

DIED = "died"


@dataclass(frozen=True, slots=True)
class History:
    """What there is to say about a run."""

    folder: RunFolder
    view: View
    limits: Limits
    owner: int  # pid of the process that drives it; 0 when none does

    @property
    def state(self) -> str:
        """The view's state; `died` where the run neither ended nor is driven by a process."""
        return DIED if self.view.ended is None and not self.owner else self.view.state


def history(folder: RunFolder) -> History:
    """Read a run whole; one whose process died is recovered first, and is `died` only where that cannot be.

    A journal that is damaged is told up to the damage, which stands among the view's errors.
    """
    told = _told(folder)
    if told.state != DIED:
        return told
    from gearcase.run.recovery import recover

    try:
        return _told(folder) if recover(folder) else told
    except RunError as error:
        return replace(told, view=replace(told.view, errors=(*told.view.errors, error.envelope())))


def _told(folder: RunFolder) -> History:
    owner = folder.owner_pid()  # before the journal: a run that ends meanwhile is seen as ended, not as died
    view = View(run=folder.id, name=folder.name, goal=folder.goal, started=folder.created, now=folder.created)
    try:
        for record in read(folder.journal):
            view = fold(view, record)
    except RunError as error:
        if error.code != "no_journal":  # a run that was stopped before its first record has none, and nothing to tell
            view = replace(view, errors=(*view.errors, error.envelope()))
    return History(folder, view, limits_of(folder), owner)


def turns_of(folder: RunFolder) -> Path | None:
    """Where a person answers in place of the agent's model, if one does."""
    try:
        lead = str(tomllib.loads(folder.box_file.read_text()).get("model", {}).get("lead", ""))
    except FileNotFoundError:
        return None
    kind, _, path = lead.partition(":")
    return Path(path) if kind == "manual" else None


def limits_of(folder: RunFolder) -> Limits:
    """The limits of the effective box. Only they are read: the files that the box names may be gone by now.

    A limit that this version does not know, of a run by another one, is left out: it must not keep the others from being told.
    """
    from gearcase.box import Limits

    try:
        tree = tomllib.loads(folder.box_file.read_text(), parse_float=Decimal)
    except FileNotFoundError:
        return Limits()  # the run stopped before its box was written
    told: dict[str, object] = tree.get("limits", {})
    return Limits.model_validate({name: value for name, value in told.items() if name in Limits.model_fields})
