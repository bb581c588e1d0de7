"""The account of a map: how many of its items are in which state. It always adds up.

`items = ok + failed + quarantined + skipped + pending`, checked whenever an account is made, so that one which loses an item cannot
exist. An item is `ok` once there is an answer that fits; `failed` when the model could not be asked, however often it was tried;
`quarantined` when it was asked and its answer does not fit, or the item itself cannot be read; `skipped` when the map was stopped
before it; else `pending`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Ending = Literal["ok", "failed", "quarantined", "skipped"]


@dataclass(frozen=True, slots=True)
class ItemAccount:
    """Counts of items. Raises ValueError when they do not add up."""

    items: int = 0
    ok: int = 0
    failed: int = 0
    quarantined: int = 0
    skipped: int = 0
    pending: int = 0

    def __post_init__(self) -> None:
        parts = (self.ok, self.failed, self.quarantined, self.skipped, self.pending)
        if min(parts) < 0 or sum(parts) != self.items:
            raise ValueError(f"an account that does not add up: {self}")

    def grown(self, count: int) -> ItemAccount:
        """With so many more items, all of them pending; fewer where it is negative."""
        return replace(self, items=self.items + count, pending=self.pending + count)

    def ended(self, state: Ending, count: int = 1) -> ItemAccount:
        """With so many that were pending in this state."""
        counts = {"pending": self.pending - count, state: getattr(self, state) + count}
        return replace(self, **counts)

    @property
    def done(self) -> int:
        """Items that are not pending any more."""
        return self.items - self.pending

    @property
    def failure_rate(self) -> float:
        """The share of those that failed or are quarantined among all that were looked at; 0 before there is one."""
        looked_at = self.done - self.skipped
        return (self.failed + self.quarantined) / looked_at if looked_at else 0.0

    def passes(self, allowed: int) -> bool:
        """Whether every item is ok, but for at most `allowed` that failed or are quarantined. None may be skipped or pending."""
        return self.skipped == 0 == self.pending and self.failed + self.quarantined <= allowed
