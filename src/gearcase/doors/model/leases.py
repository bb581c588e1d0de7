"""Leases: parts of a budget that nodes spend on model calls through doors of their own.

A lease is a hold, drawn before anything is sent to the node and made durable first. What each call cost is drawn on it when the node
tells of it, and stands on record like a call of this door; what is left returns when the node is done. A node that is lost has its lease
counted as spent whole: what was in flight there may be billed.

Invariants: a node has never more than its lease; a call is drawn once; a lease ends once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gearcase.doors.model.admission import Admission, Admitted
from gearcase.doors.model.bounds import Bounds
from gearcase.doors.model.carrying import Caller
from gearcase.doors.model.protocols import PROTOCOLS
from gearcase.doors.model.protocols.request import Address, ModelRequest
from gearcase.doors.model.routing import Route
from gearcase.errors import Refused, UsageError
from gearcase.events import Amounts, ModelCalled
from gearcase.ledger import Ledger
from gearcase.seams import Recorder

LEASE = "lease"
"""How the purpose of its hold begins."""


@dataclass(slots=True)
class Lease:
    """One lease: for `admitted.calls` calls that cost at most `one` each, and answer with `admitted.output` tokens at most."""

    caller: Caller
    admitted: Admitted
    one: Amounts
    spent: int = 0
    open: bool = True


class Leases:
    """The leases of one door. `number` counts calls, `stop` takes no further call of a model."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: Recorder,
        admission: Admission,
        numbers: Iterator[int],
        stop: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._admission = admission
        self._numbers = numbers
        self._stop = stop

    def worst(self, route: Route, body: dict[str, Any]) -> int:
        """Nano-dollars that such a call can cost at most."""
        asked = _read(route, body)
        output = min(asked.asked or route.price.max_output, route.price.max_output) * asked.choices
        return route.price.worst(Bounds().bound(asked, route.price), output, cache_write=asked.cache_write, tier=asked.tier)

    async def take(self, caller: Caller, route: Route, body: dict[str, Any], calls: int, node: str) -> Lease:
        """For as many calls as can be paid, each at most as large as `body`. Raises Refused as the door does; nothing is held then."""
        asked = _read(route, body)
        bound = Bounds().bound(asked, route.price)  # the node's door has learnt nothing
        billed_by = f"{route.provider}/{route.name}" if route.billed else ""
        purpose = f"{LEASE} {node}"
        admitted = await self._admission.admit(caller.account, asked, route.price, bound, purpose, billed_by, max(2, calls))
        try:
            self._ledger.sent(admitted.hold)
            await self._recorder.durable()
        except BaseException:
            self._admission.release(admitted)  # nothing was sent to the node
            raise
        one = {name: amount // admitted.calls for name, amount in admitted.amounts.items()}
        return Lease(caller, admitted, one)

    def book(self, lease: Lease, amounts: Amounts, called: Mapping[str, Any]) -> None:
        """A call that a node made under a lease has ended: `called` is its `ModelCalled` there."""
        number, over = self._draw(lease, amounts)
        told: dict[str, Any] = {**called, "call": next(self._numbers), "hold": number}
        event = ModelCalled(**told)
        self._recorder.append(event, lease.caller.agent)
        if over:
            self._stop(event.model)

    def _draw(self, lease: Lease, amounts: Amounts) -> tuple[int, Amounts]:
        spent = amounts.get("usd", 0)
        lease.spent += spent
        try:
            number, over = self._ledger.draw(lease.admitted.hold, amounts)
        except Refused:  # its account was closed, or the node was given up: all of it is counted already
            return lease.admitted.hold, {}
        self._admission.drawn(spent, over.get("usd", 0))
        return number, over

    def end(self, lease: Lease) -> None:
        """The node is done: what is left returns. Idempotent."""
        if lease.open and (left := self._left(lease)) is not None:
            self._ledger.settle(lease.admitted.hold, {})
            self._admission.given_back(lease.admitted, left, lease.spent)
        lease.open = False

    def lose(self, lease: Lease, why: str) -> int:
        """The node is lost: what is left counts as spent. Returns those nano-dollars. Idempotent."""
        left = self._left(lease) if lease.open else None
        lease.open = False
        if left is None:
            return 0
        self._ledger.cut(lease.admitted.hold, why)
        self._admission.drawn(left, 0)
        self._admission.given_back(lease.admitted, 0, lease.spent + left)
        return left

    def left(self, lease: Lease) -> int:
        """Nano-dollars of it that are not spent."""
        return self._left(lease) or 0

    def _left(self, lease: Lease) -> int | None:
        """None: it is closed, with its account."""
        with suppress(Refused, UsageError):
            return self._ledger.left(lease.admitted.hold).get("usd", 0)
        return None


def _read(route: Route, body: dict[str, Any]) -> ModelRequest:
    return PROTOCOLS[route.protocol].read(dict(body), frozenset(), Address(route.protocol, ""))
