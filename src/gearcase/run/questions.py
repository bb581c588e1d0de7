"""What a run asks its operator when its money is used up (more of it, or an end), and when its model does not answer.

It asks by standing still: a freeze of its own source, so that nothing is lost and nothing is spent until somebody answers
(`gearcase resume RUN --add-usd 3` goes on, `gearcase resume RUN` lets it hand in, `gearcase kill RUN` ends it). Where nobody answers
in time, the operator's standing answer holds: it hands in, or it is denied the last turns, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gearcase.brake import Brake, Level
from gearcase.errors import UsageError
from gearcase.ledger import Ledger
from gearcase.notify.page import About, Words
from gearcase.run.accounts import LEAD, RUN, Pace
from gearcase.run.paging import Paging
from gearcase.units import format_duration, format_money

Unanswered = Literal["wind-down", "deny"]
BUDGET, UPSTREAM, OPERATOR = "budget", "upstream", "operator"
"""The sources of the freeze."""


@dataclass(slots=True)
class Questions:
    """The questions of one run. `answered`: somebody watches, or the operator said what holds where nobody does. Seconds."""

    name: str
    brake: Brake
    ledger: Ledger
    pace: Pace
    paging: Paging
    answered: bool = False
    unanswered: Unanswered = "wind-down"
    after: float = 1800.0
    asked_once_more: bool = False  # its model, because nobody told what to do; whoever hears of an answer takes it back

    @property
    def _resume(self) -> str:
        return f"gearcase resume {self.name}"

    @property
    def _kill(self) -> str:
        return f"gearcase kill {self.name}"

    async def more_money(self, resource: str) -> bool:
        """Ask where the lead's next call was refused for want of this. True: it may be tried again."""
        if not self.answered or self.pace.box.limits.on_exhausted != "ask":
            return False
        before = self.ledger.balance(RUN, "usd").limit or 0
        of_day = resource == "usd_per_day"
        if of_day:
            why, answer = "the day's money is used up", f"gearcase limits set --usd-per-day, then gearcase resume {self.name}"
        else:
            why = f"what is left of {format_money(before)} may not pay the next call"
            answer = f"gearcase resume {self.name} --add-usd 2"
        await self.brake.pull(Level.FROZEN, BUDGET, f"{why}: {answer}")
        then = "it is stopped" if self.unanswered == "deny" else "it hands in what it has"
        if not await self.is_answered("budget", f"is frozen: {why}.", then, (answer, self._kill)):
            if self.unanswered == "deny":
                self.pace.stop(BUDGET, f"nobody answered for {format_duration(self.after)}")
            await self.brake.pull(Level.RUNNING, BUDGET, f"nobody answered for {format_duration(self.after)}: {self.unanswered}")
            return False
        return of_day or (self.ledger.balance(RUN, "usd").limit or 0) > before

    async def upstream_answers(self, why: str) -> bool:
        """Stand still where the lead's model does not answer, however often it was asked. True: it may be asked again.

        Where nobody answers in time it is asked once more: a network may have come back by itself.
        """
        if not self.answered or self.asked_once_more:
            return False
        told = why.partition(". Remedy: ")[0]
        await self.brake.pull(
            Level.FROZEN, UPSTREAM, f"its model does not answer: {told}; to ask again: gearcase resume {self.name}"
        )
        if not await self.is_answered(
            "upstream", "is frozen: its model does not answer.", "it asks once more", (self._resume, self._kill)
        ):
            self.asked_once_more = True
            await self.brake.pull(
                Level.RUNNING, UPSTREAM, f"nobody answered for {format_duration(self.after)}: it asks once more"
            )
        return True

    def left_frozen(self) -> None:
        """The operator froze it and knows; one who goes away and forgets is told."""
        meanwhile = "Nothing is spent while it stands, and it stands until you answer."
        words = Words("operator", "still stands frozen by its operator.", meanwhile, (self._resume, self._kill), "normal")
        self.paging.call(OPERATOR, words, later=True)

    async def is_answered(
        self, about: About, what: str, then: str, answers: Sequence[str], stands: str = "Nothing is spent while it stands"
    ) -> bool:
        """Page whoever is to answer, now that the brake is pulled, and wait. False: nobody did in time, and `then` holds."""
        held = self.ledger.in_flight("usd")
        flight = f", but for calls in flight (up to {format_money(held)})" if held else ""
        meanwhile = f"{stands}{flight}; without an answer by {clock(self.after)} {then}."
        with self.paging.waiting(Words(about, what, meanwhile, answers)):
            try:
                async with asyncio.timeout(self.after):
                    await self.brake.wait_for(lambda level: level in (Level.RUNNING, Level.KILLED))
            except TimeoutError:
                return False
            return True

    def grant(self, amount: int, resource: str = "usd") -> int:
        """Give the run and its lead so much more (of money: nano-dollars); returns the run's limit. Raises UsageError."""
        if amount <= 0:
            raise UsageError("bad_amount", "that is no amount of money to add", remedy="gearcase grant RUN --usd 5")
        if self.ledger.balance(RUN, resource).limit is None:
            what = "money" if resource == "usd" else resource
            raise UsageError("not_limited", f"the run has no limit of {what}", remedy="nothing needs to be granted")
        self.ledger.balance(LEAD, resource)  # a run that hands over pays no call any more
        self.ledger.grant(RUN, {resource: amount})
        self.ledger.grant(LEAD, {resource: amount})
        return self.ledger.balance(RUN, resource).limit or 0


def clock(seconds: float) -> str:
    """The time of day in so many seconds."""
    return time.strftime("%H:%M UTC", time.gmtime(time.time() + seconds))
