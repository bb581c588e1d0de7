"""The accounts of a run, and when its work must end.

The run's account carves itself up at the start: a share, the *reserve*, is kept for the hand-over, the lead has the rest. When the
lead's account can pay no more, its last turns are paid from the reserve: so an agent that is out of money can still say what it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gearcase.brake import BoxClock
from gearcase.events import Amounts, LimitReached
from gearcase.ledger import RESOURCES, Ledger
from gearcase.seams import Recorder

if TYPE_CHECKING:
    from gearcase.box import Box

RUN, LEAD, RESERVE = "run", "lead", "reserve"


@dataclass(frozen=True, slots=True)
class Purse:
    """One agent's accounts: what pays its work, what pays its hand-over, and the one whose limit it is told as the whole."""

    agent: str
    work: str
    reserve: str
    whole: str


LEAD_PURSE = Purse(LEAD, LEAD, RESERVE, RUN)

Phase = Literal["work", "wind_down", "stop"]

_LAST_SHARE = 0.95
"""Share of the wall clock, the steps and the processor time after which an agent is told to hand in."""


@dataclass(slots=True)
class Pace:
    """Which phase an agent is in: pure arithmetic over clock, ledger and steps. `box` is the agent's, `began` in seconds of the run's time.

    The processor time of the lead is that of the whole run: `others` has what its sub-agents used, by their names.
    """

    box: Box
    clock: BoxClock
    recorder: Recorder
    cpu: float = 0.0  # seconds, told by ticks
    more_cpu: float = 0.0  # seconds of the commands of maps, which run in sandboxes of their own
    more_wall: float = 0.0  # seconds that the operator gave beside the box's
    steps: int = 0
    phase: Phase = "work"
    limit: str = ""
    agent: str = ""  # empty for the lead: its limits are the run's
    began: float = 0.0
    above: Pace | None = None  # the lead's
    others: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def wall(self) -> float:
        """Seconds that it may take."""
        return self.box.limits.wall + self.more_wall

    @property
    def used(self) -> float:
        """Seconds that it has taken."""
        return self.clock.now() - self.began

    def tell_cpu(self, seconds: float) -> None:
        """How much processor time its box has used."""
        self.cpu = seconds
        if self.above is not None:
            self.above.others[self.agent] = seconds

    def pay_cpu(self, seconds: float) -> None:
        """Processor time of sandboxes beside its own, which counts as its box's."""
        self.more_cpu += seconds
        if self.above is not None:
            self.above.more_cpu += seconds

    def now(self) -> Phase:
        """The phase at this moment. It only ever moves on."""
        limits = self.box.limits
        shares = [
            ("wall", self.used / self.wall),
            ("steps", self.steps / limits.steps),
            ("cpu_time", (self.cpu + self.more_cpu + sum(self.others.values())) / limits.cpu_time if limits.cpu_time else 0.0),
        ]
        name, share = max(shares, key=lambda pair: pair[1])
        if share >= 1:
            self.stop(name)
        elif share >= _LAST_SHARE:
            self.wind_down(name)
        return self.phase

    def wind_down(self, limit: str, detail: str = "") -> None:
        """The agent has a few turns left to hand in."""
        if self.phase == "work":
            self.phase = "stop" if self.box.limits.on_exhausted == "stop" else "wind_down"
            self._reached(limit, detail)

    def stop(self, limit: str, detail: str = "") -> None:
        """No further turn."""
        if self.phase != "stop":
            self.phase = "stop"
            self._reached(limit, detail)

    def _reached(self, limit: str, detail: str) -> None:
        self.limit = self.limit or limit
        self.recorder.append(LimitReached(limit, detail or self.phase), self.agent)


def open_accounts(ledger: Ledger, box: Box) -> None:
    """The run's account with the box's limits, the lead's and the reserve's carved out of it."""
    limits = box.limits
    declared = {"usd": limits.usd, "tokens": limits.tokens, "calls": limits.calls, "egress": limits.egress}
    whole: Amounts = {name: amount for name, amount in declared.items() if amount is not None}
    reserve: Amounts = {name: int(amount * limits.wind_down_reserve) for name, amount in whole.items()}
    whole["wall"], reserve["wall"] = round(limits.wall * 1000), 0  # the hand-over's own time is booked past the limit
    reserve["egress"] = 0  # a hand-over reaches nothing outside
    ledger.open(RUN, whole)
    ledger.open(RESERVE, reserve, parent=RUN)
    ledger.open(LEAD, {name: amount - reserve[name] for name, amount in whole.items()}, parent=RUN, agent=LEAD)


def open_purse(ledger: Ledger, agent: str, parent: Purse, limits: Amounts, share: float) -> Purse:
    """A sub-agent's accounts, carved out of what its parent works with; `share` of it is its reserve.

    Its time is not carved: agents run at the same time. Raises Refused `budget`; then nothing is open.
    """
    whole: Amounts = {**limits, "wall": 0}
    reserve = {name: int(amount * share) if name != "egress" else 0 for name, amount in whole.items()}
    ledger.open(agent, whole, parent=parent.work, agent=agent)
    purse = Purse(agent, agent, f"{agent}.reserve", agent)
    ledger.open(purse.reserve, reserve, parent=agent, agent=agent)
    return purse


def set_aside(ledger: Ledger, purse: Purse, resource: str) -> tuple[int, int]:
    """What an agent does not have free and has not spent itself: the shares of its sub-agents and repairs, what calls under way hold."""
    work = ledger.balance(purse.work, resource)
    own = ledger.balance(purse.reserve, resource).limit or 0 if purse.whole == purse.work else 0  # carved for its own hand-over
    return work.carved - own, work.held


def carve(ledger: Ledger, parent: str, account: str, agent: str, usd: int) -> None:
    """An account below an agent's with so many nano-dollars, for model calls alone; of tokens and calls a quarter of what is left.

    Raises Refused `budget` when the agent has not so much.
    """
    limits: Amounts = {}
    for resource in RESOURCES:
        free = ledger.balance(parent, resource).free
        if free is not None:
            limits[resource] = usd if resource == "usd" else free // 4 if resource in ("tokens", "calls") else 0
    ledger.open(account, {"usd": usd, **limits}, parent=parent, agent=agent)


def charge_time(ledger: Ledger, seconds: float) -> None:
    """Book the run's box time, less what its checks were charged for. All of it: what went past the limit stands as `over`."""
    charged = ledger.subtree_spent(RUN)["wall"]
    ledger.charge(RUN, {"wall": max(0, round(seconds * 1000) - charged)}, "time")


def close_agent_accounts(ledger: Ledger) -> None:
    """Give what is left back to the run's account, which stays open for the ending."""
    for account in (LEAD, RESERVE):
        ledger.close(account)
