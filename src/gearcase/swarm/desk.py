"""What a repair of a prompt is given: models and money to work with, and the map whose items it mends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gearcase.events import PromptTried
from gearcase.swarm.items import Ended, Waiting
from gearcase.swarm.questions import Ask


@dataclass(frozen=True, slots=True)
class Desk:
    """What a repair works with: a model that rewrites and workers that test, both paid from its own account.

    `open` carves that account out of the map's and gives its nano-dollars, None for no limit: it is told what the whole map and what the
    rest of it would cost, and raises Refused where nothing can be spared. `close` gives back what is left.
    """

    model: str
    rewrite: Ask
    ask: Ask
    open: Callable[[int, int], int | None]
    close: Callable[[], None]


class Host(Protocol):
    """The map, as a repair sees it."""

    name: str

    def outlook(self) -> tuple[int, int]:
        """How many items were looked at, and how many are to come."""
        ...

    def costs(self) -> tuple[int, int]:
        """Nano-dollars: of the whole map as projected, and of what is to come."""
        ...

    def end(self, ended: Ended) -> None:
        """An item has ended."""
        ...

    def again(self, waiting: Sequence[Waiting]) -> None:
        """Items to be asked about once more, each with the prompt that it names."""
        ...

    def record(self, event: PromptTried) -> None:
        """Put it on record."""
        ...

    def repaired(self) -> None:
        """A repair has ended: there may be something to do."""
        ...
