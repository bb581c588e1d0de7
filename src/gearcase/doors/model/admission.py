"""Who may call now, and with how large an answer: room, fair share, queue, refusal. Ends in a hold.

A limit is only hard if the request is rewritten: the output ceiling is lowered to what the account can pay, so a call is refused only
when not even a small answer fits. Callers who wait share what is free; where calls in flight could still free room, one waits in
line (nothing has been sent to the client yet), else the call is refused for good. Nothing is held without room for its worst case.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass

from gearcase.doors.model.price import Price
from gearcase.doors.model.protocols.request import ModelRequest
from gearcase.errors import Refused
from gearcase.events import Amounts
from gearcase.ledger import Ledger
from gearcase.seams import Allowance
from gearcase.units import format_money

FLOOR = 4096
"""Output tokens below which an answer is not worth its call; SMALL_FLOOR where the client asks for less than FLOOR."""
SMALL_FLOOR = 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a door waits: in line for room; for the usage of an answer that its client no longer reads, in all and since the
    last byte of a stream; for calls in flight when it closes."""

    line: float = 120.0
    drain: float = 60.0
    silence: float = 10.0
    closing: float = 3.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A hold and the output ceiling that it pays. `day`: where the money is set aside in the user's day, too. It is enough for so many
    `calls` at their worst: one, or those of a lease."""

    hold: int
    output: int
    amounts: Amounts
    day: str = ""
    calls: int = 1


class Admission:
    """Admission to one ledger. `usd_per_minute` (nano-dollars) bounds what is spent in any minute, `allowance` in a day."""

    def __init__(
        self, ledger: Ledger, usd_per_minute: int | None, patience: Patience, allowance: Allowance | None = None
    ) -> None:
        self._ledger = ledger
        self._allowance = allowance
        self._patience = patience
        self._velocity = usd_per_minute
        self._waiting: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        self._recent: deque[tuple[float, int]] = deque()
        self._flying = 0  # nano-dollars of holds that have not ended

    async def admit(
        self, account: str, request: ModelRequest, price: Price, bound: int, purpose: str, billed_by: str, calls: int = 1
    ) -> Admitted:
        """A hold for the worst case. Raises Refused `budget` (never fits), `busy` (too long in line), `velocity`.

        What is `billed_by` somebody, a PROVIDER/MODEL, is set aside in the user's day, too. With more than one of `calls`, a lease: as many
        of them at their worst as half of what is free pays, and one at least.
        """
        wanted = min(request.asked or price.max_output, price.max_output)
        floor = min(wanted, FLOOR if wanted > FLOOR else SMALL_FLOOR)

        def now() -> Admitted | None:
            output = self._output(account, request, price, bound, wanted)
            if output < floor:
                return None
            output = self._of_minute(request, price, bound, output, floor)
            many = self._many(account, self._amounts(request, price, bound, output), calls, billed_by) if calls > 1 else 1
            output, day = self._of_day(request, price, bound, output, floor, many) if billed_by else (output, "")
            return self._hold(account, self._amounts(request, price, bound, output), output, purpose, billed_by, day, many)

        self._waiting[account] += 1
        try:
            if self._waiting[account] == 1 and (admitted := now()) is not None:  # nobody stands in line
                return admitted
            async with asyncio.timeout(self._patience.line), self._turns.setdefault(account, asyncio.Lock()):
                while True:
                    if (admitted := now()) is not None:
                        return admitted
                    self._refuse_if_hopeless(account, request, price, bound, floor)
                    await self._ledger.wait_change()
        except TimeoutError:
            raise Refused(
                "busy",
                f"other calls of this account hold what is left, for {self._patience.line:g} s now",
                remedy="try again when they have ended",
                retry_after=5,
            ) from None
        finally:
            self._waiting[account] -= 1

    def release(self, admitted: Admitted) -> None:
        """A call that has cost nothing gives everything back."""
        self._ledger.release(admitted.hold)
        self._flying -= admitted.amounts["usd"]
        self._settle_day(admitted, 0)

    def spent(self, admitted: Admitted, nano: int) -> None:
        """What a call cost, for the limits of the minute and the day."""
        self._flying -= admitted.amounts["usd"]
        if self._velocity is not None:
            self._recent.append((time.monotonic(), nano))
        self._settle_day(admitted, nano)

    def drawn(self, nano: int, over: int) -> None:
        """A call of a lease has cost so much, of which so much was not in the lease; `given_back` tells what is left when it ends."""
        self._flying -= nano - over
        if self._velocity is not None:
            self._recent.append((time.monotonic(), nano))

    def given_back(self, admitted: Admitted, rest: int, spent: int) -> None:
        """A lease has ended with so much of it not drawn, and cost `spent` in all: less than it held, but where a node was lost."""
        self._flying -= rest
        self._settle_day(admitted, spent)

    def _settle_day(self, admitted: Admitted, nano: int) -> None:
        if self._allowance is not None and admitted.day:
            self._allowance.settle(admitted.day, admitted.amounts["usd"], nano)

    def _many(self, account: str, one: Amounts, wanted: int, billed_by: str) -> int:
        """How many calls a lease may be for: others must find something, too."""
        rooms = [
            free // 2 // amount for name, amount in one.items() if amount and (free := self._free(account, name)) is not None
        ]
        if self._velocity is not None and one["usd"]:
            spent = sum(nano for _, nano in self._recent)
            rooms.append((self._velocity - spent - self._flying) // 2 // one["usd"])
        if self._allowance is not None and billed_by and one["usd"]:
            rooms.append(self._allowance.free() // 2 // one["usd"])
        return max(1, min(wanted, *rooms)) if rooms else wanted

    def _of_day(self, request: ModelRequest, price: Price, bound: int, output: int, floor: int, many: int) -> tuple[int, str]:
        """Set the worst case of the calls aside in the user's day, with a smaller ceiling where only that fits."""
        if self._allowance is None:
            return output, ""
        try:
            return output, self._allowance.hold(many * self._worst(request, price, bound, output))
        except Refused:
            smaller = min(output, self._affordable(self._allowance.free(), request, price, bound))
            if smaller < floor:
                raise
            return smaller, self._allowance.hold(self._worst(request, price, bound, smaller))

    def _of_minute(self, request: ModelRequest, price: Price, bound: int, output: int, floor: int) -> int:
        """The output that the rest of this minute's money pays. Raises Refused `velocity` where that is too little for an answer."""
        if self._velocity is None:
            return output
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - 60:
            self._recent.popleft()
        spent = sum(nano for _, nano in self._recent)
        free = self._velocity - spent - self._flying
        least = self._worst(request, price, bound, floor)
        if least <= free:
            return min(output, self._affordable(free, request, price, bound))
        if least > self._velocity:
            raise Refused(
                "budget",
                f"this call needs up to {format_money(least)}, more than the {format_money(self._velocity)} of a whole minute",
                remedy="a shorter prompt or a cheaper model may fit; the operator sets [limits] usd_per_minute",
                resource="usd_per_minute",
                needed=least,
                free=max(0, free),
            )
        wait = max(1, round(60 - (now - self._recent[0][0]))) if self._recent else 1
        raise Refused(
            "velocity",
            f"this call needs up to {format_money(least)}; {format_money(spent)} were spent in the last minute and calls in flight may "
            f"cost {format_money(self._flying)}, of {format_money(self._velocity)} a minute",
            remedy=f"go on in {wait} s; the operator sets [limits] usd_per_minute",
            retry_after=wait,
        )

    def _output(self, account: str, request: ModelRequest, price: Price, bound: int, wanted: int) -> int:
        """The most output tokens that this caller's share of the free room pays; -1 when not even the input fits."""
        outputs = [wanted]
        callers = max(1, self._waiting[account])
        money, tokens = self._free(account, "usd"), self._free(account, "tokens")
        if money is not None:
            if money < self._worst(request, price, bound, 0):
                return -1
            # The floor is granted from all that is free; what is above it is shared among those who wait.
            shared = self._affordable(money // callers, request, price, bound)
            outputs.append(max(shared, min(FLOOR, self._affordable(money, request, price, bound))))
        if tokens is not None:
            if tokens < bound:
                return -1
            outputs.append(max((tokens - bound) // callers, min(FLOOR, tokens - bound)) // request.choices)
        if self._free(account, "calls") == 0:
            return -1
        return min(outputs)

    def _affordable(self, money: int, request: ModelRequest, price: Price, bound: int) -> int:
        cache, tier, searches = request.cache_write, request.tier, request.web_searches
        whole = price.output_for(money, bound, cache_write=cache, tier=tier, web_searches=searches)
        return whole // request.choices

    def _worst(self, request: ModelRequest, price: Price, bound: int, output: int) -> int:
        cache, tier, searches = request.cache_write, request.tier, request.web_searches
        return price.worst(bound, output * request.choices, cache_write=cache, tier=tier, web_searches=searches)

    def _amounts(self, request: ModelRequest, price: Price, bound: int, output: int) -> Amounts:
        """One call at its worst."""
        return {
            "usd": self._worst(request, price, bound, output),
            "tokens": bound + output * request.choices,
            "calls": 1,
        }

    def _hold(self, account: str, one: Amounts, output: int, purpose: str, billed_by: str, day: str, many: int) -> Admitted:
        amounts = {name: amount * many for name, amount in one.items()}
        try:
            admitted = Admitted(self._ledger.hold(account, amounts, purpose, billed_by), output, amounts, day, many)
            self._flying += amounts["usd"]
            return admitted
        except BaseException:
            if self._allowance is not None and day:
                self._allowance.settle(day, amounts["usd"], 0)
            raise

    def _refuse_if_hopeless(self, account: str, request: ModelRequest, price: Price, bound: int, floor: int) -> None:
        """Refuse when it would not fit even if everything in flight came back unused."""
        for resource, needed in self._amounts(request, price, bound, floor).items():
            balance = self._ledger.balance(account, resource)
            if balance.limit is not None and needed > (balance.free or 0) + balance.held:
                show = format_money if resource == "usd" else str
                raise Refused(
                    "budget",
                    f"this call needs up to {show(needed)} {'' if resource == 'usd' else resource + ' '}"
                    f"and {show(balance.free or 0)} is left",
                    remedy="a shorter prompt or a cheaper model may fit; the operator sets the limit in [limits]",
                    resource=resource,
                    needed=needed,
                    free=balance.free,
                )

    def _free(self, account: str, resource: str) -> int | None:
        return self._ledger.balance(account, resource).free
