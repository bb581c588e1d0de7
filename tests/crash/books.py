"""What a journal says of money, added up afresh: an account's spending and holds count for every account above it.

Knows nothing of the ledger's code, of carving or of free room: a limit is kept when what an account and all below it have spent and
hold never exceeds it, at any record.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

RESOURCES = ("usd", "tokens", "calls")


@dataclass
class Books:
    """Reads what was added to a journal since it was last asked; an incomplete last line is left for the next time."""

    folder: Path
    parents: dict[str, str] = field(default_factory=dict)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)
    holds: dict[int, dict[str, Any]] = field(default_factory=dict)  # open ones; `sent` says whether the call has left
    used: Counter[tuple[str, str]] = field(default_factory=Counter)  # (account, resource): spent and held, of the whole subtree
    charged: Counter[str] = field(default_factory=Counter)  # nano-dollars, of the account itself
    over: Counter[tuple[str, str]] = field(default_factory=Counter)  # the most by which a limit was ever exceeded
    kinds: Counter[str] = field(default_factory=Counter)  # records by type
    ended: Counter[str] = field(default_factory=Counter)  # calls by how they ended
    torn: bool = False  # whether the last reading met an incomplete line
    _places: dict[Path, int] = field(default_factory=dict)

    def read_on(self) -> Books:
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._places.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self.torn = len(whole) < len(data)
            self._places[path] = self._places.get(path, 0) + len(whole)
            for line in whole.splitlines():
                self._record(orjson.loads(line))
        return self

    @property
    def sent(self) -> int:
        """Open holds whose call has left."""
        return sum(hold["sent"] for hold in self.holds.values())

    def _record(self, record: dict[str, Any]) -> None:
        kind = record["type"]
        self.kinds[kind] += 1
        match kind:
            case "account_opened":
                self.parents[record["account"]] = record["parent"]
                self.limits[record["account"]] = record["limits"]
            case "held":
                self.holds[record["hold"]] = {**record, "sent": False}
                self._use(record["account"], record["amounts"], 1)
            case "sent":
                self.holds[record["hold"]]["sent"] = True
            case "released":
                self._end(record["hold"])
            case "cut":
                hold = self._end(record["hold"])
                self._spend(hold["account"], hold["amounts"])
            case "settled":
                if not record.get("purpose"):  # else a charge: it had no hold
                    self._end(record["hold"])
                self._spend(record["account"], record["amounts"])
            case "model_called":
                self.ended[record["ended"]] += 1

    def _end(self, number: int) -> dict[str, Any]:
        hold = self.holds.pop(number)
        self._use(hold["account"], hold["amounts"], -1)
        return hold

    def _spend(self, account: str, amounts: dict[str, int]) -> None:
        self.charged[account] += amounts.get("usd", 0)
        self._use(account, amounts, 1)

    def _use(self, account: str, amounts: dict[str, int], sign: int) -> None:
        while account:
            for resource in RESOURCES:
                self.used[account, resource] += sign * amounts.get(resource, 0)
                limit = self.limits[account].get(resource)
                if limit is not None and self.used[account, resource] > limit:
                    self.over[account, resource] = max(self.over[account, resource], self.used[account, resource] - limit)
            account = self.parents[account]
