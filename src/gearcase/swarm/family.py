"""The agents of a run as a tree: who may spawn, who waits in line, who has ended. Pure; nothing here waits or spends.

Invariants: depth and number of all agents are refused above their limits, the number at work never is: who is one too many waits in
line, first come first served. An agent that waits for its own sub-agents lends its place, so a line can never wait for itself. Each
agent ends once. An agent sees, stops and hears of those below it, and nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gearcase.errors import Refused, UsageError
from gearcase.events import Amounts

State = Literal["queued", "running", "ended"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a sub-agent ended, for its parent. Amounts in the units of events.py, seconds of box time."""

    status: str
    limit: str = ""
    detail: str = ""
    note: str = ""
    spent: Amounts = field(default_factory=dict[str, int])
    steps: int = 0
    seconds: float = 0.0
    verdict: str = ""  # of its own check, empty without one
    reason: str = ""  # why the check said so
    output: str = ""  # the end of what the check printed
    copied: tuple[str, ...] = ()
    conflicts: tuple[tuple[str, str], ...] = ()  # a path, and where the sub-agent's version lies
    refused: tuple[tuple[str, str], ...] = ()  # a path, and why it was not copied
    databases: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])  # of its own: what became of them

    @property
    def passed(self) -> bool:
        """Whether it reached its goal, as far as anybody looked."""
        return self.status == "done" and self.verdict in ("", "passed")


@dataclass(slots=True)
class Kin:
    """One sub-agent in the tree. `limits`: what was carved for it, its steps and wall (milliseconds)."""

    id: str
    name: str
    parent: str
    depth: int
    goal: str
    model: str
    limits: Amounts
    again: str = ""
    check: str = ""  # the command of its own check
    state: State = "queued"
    outcome: Outcome | None = None
    told: bool = False  # its parent has waited for its end


class Family:
    """The tree of one run. `depth`, `most` and `live` are the box's limits; `given`: ids that nobody may be given again."""

    def __init__(self, root: str, depth: int, most: int, live: int, given: int = 0) -> None:
        self._given = given
        self._root = root
        self._depth = depth
        self._most = most
        self._live = live
        self._kin: dict[str, Kin] = {}
        self._lent: dict[str, int] = {}

    # --- spawning ----------------------------------------------------------------------------------------------------------

    def may_spawn(self, parent: str, name: str = "") -> None:
        """Raises Refused `too_deep`, `too_many_agents`, `agent_ended`, UsageError `name_taken`, `bad_name`."""
        depth = self._depth_of(parent) + 1
        if depth > self._depth:
            message = f"agents may be {self._depth} deep below the lead, and you are {depth - 1} deep"
            raise Refused("too_deep", message, remedy="do it yourself, or with `gear map`; [swarm] depth is the operator's")
        if len(self._kin) >= self._most:
            message = f"{self._most} sub-agents were spawned in this run, which is all: 0 are left"
            raise Refused(
                "too_many_agents", message, remedy="do it yourself, or with `gear map`; [swarm] agents is the operator's"
            )
        if parent != self._root and self._kin[parent].state == "ended":
            raise Refused("agent_ended", f"{parent} has ended", remedy="nothing is spawned for it any more")
        taken = {one.name for one in self._kin.values()} | set(self._kin) | {self._root, "parent"}
        if name in taken:
            raise UsageError("name_taken", f"there is an agent {name!r} already", remedy="give another --name, or none")
        if re.fullmatch(r"a\d+", name):
            raise UsageError("bad_name", f"{name[:60]!r} looks like an id", remedy="give one that is no a and a number")
        if name and not (name.isprintable() and len(name) <= 40 and name == name.strip() and " " not in name):
            raise UsageError(
                "bad_name", f"{name[:60]!r} is no name", remedy="give at most 40 printable characters without spaces"
            )

    def next_id(self) -> str:
        """What the next one will be called."""
        return f"a{self._given + len(self._kin) + 1}"

    def passed_on(self, kin: Kin) -> str:
        """The name of one that goes again; empty where it has none but its id, or somebody who has not ended bears it."""
        busy = any(one.name == kin.name and one.state != "ended" for one in self._kin.values())
        return "" if busy or kin.name == kin.id else kin.name

    def adopt(self, kin: Kin) -> None:
        """One more, at the end of the line. `may_spawn` was asked at this moment."""
        self._kin[kin.id] = kin

    @property
    def left(self) -> int:
        """How many more may be spawned."""
        return self._most - len(self._kin)

    # --- the line ----------------------------------------------------------------------------------------------------------

    def start_next(self) -> Kin | None:
        """The first in line, which is at work from now on; None where nobody waits or no place is free."""
        if self.at_work >= self._live:
            return None
        first = next((one for one in self._kin.values() if one.state == "queued"), None)
        if first is not None:
            first.state = "running"
        return first

    @property
    def at_work(self) -> int:
        """How many are at work: those that wait for their own sub-agents are not counted."""
        return sum(one.state == "running" and not self._lent.get(one.id) for one in self._kin.values())

    def lend(self, agent: str) -> None:
        """The agent waits for others: its place is free."""
        self._lent[agent] = self._lent.get(agent, 0) + 1

    def take_back(self, agent: str) -> None:
        """It goes on. Where its place was taken, there is one more at work for a while."""
        self._lent[agent] -= 1

    def end(self, agent: str, outcome: Outcome) -> None:
        """It is over."""
        kin = self._kin[agent]
        assert kin.outcome is None, f"{agent} has ended already"
        kin.state, kin.outcome = "ended", outcome

    # --- looking -----------------------------------------------------------------------------------------------------------

    def of(self, agent: str) -> Kin | None:
        """The place of an agent in the tree; None for the lead."""
        return self._kin.get(agent)

    def children(self, agent: str) -> list[Kin]:
        """Its own sub-agents, in the order in which they were spawned."""
        return [one for one in self._kin.values() if one.parent == agent]

    def below(self, agent: str) -> Iterator[Kin]:
        """All below it, each before those that are below itself."""
        for child in self.children(agent):
            yield child
            yield from self.below(child.id)

    def find(self, caller: str, text: str) -> Kin:
        """An agent below the caller, by id or name. Raises Refused `no_agent`; who is elsewhere in the tree is not there for it."""
        below = {one.id for one in self.below(caller)}
        if found := [one for one in self._kin.values() if one.id in below and text in (one.id, one.name)]:
            return found[-1]  # a name that was passed on means the latest
        known = ", ".join(one.id for one in self.below(caller)) or "none: spawn one first"
        raise Refused("no_agent", f"there is no agent {text[:40]!r} below you", remedy=f"yours are: {known}")

    def _depth_of(self, agent: str) -> int:
        kin = self._kin.get(agent)
        return kin.depth if kin is not None else 0
