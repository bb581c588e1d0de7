"""Who may spend how much: accounts in a tree, holds before an action, settlement after it.

An account has a limit per resource; a resource that it does not name is unlimited there. Opening a sub-account *carves*: its
limits leave the parent's room at once, and what it did not spend returns when it closes. So a hold touches one account only,
and sub-accounts can never overdraw their parent together. A parent's limit holds for its whole subtree: where the parent is
limited, the child must be.

Invariants, for every account and resource at every instant:
- `spent + held + carved + free = limit`; integers; nothing negative.
- A hold ends once: settled, released or cut. A lease is a hold that is drawn on, call by call, before it ends: what is left of it
  counts as spent whole after a crash, what was drawn as what it was.
- What was not held is never spent, with two exceptions that are facts and not permissions: a settlement above its hold, and a
  charge for what has happened already. They are booked whole and reported (`over`). What exceeds the account's limit is taken
  from its parent's room, and so on up, so that the run as a whole stays within its limit as long as it has anything free.
- Every change is an event that is appended before it takes effect, and a ledger rebuilt from the journal is the same ledger.
  A crash can only over-count: a hold whose action had left counts as spent whole.

One thread, no locks: the event loop that calls it is the lock. Durability is the caller's: `journal.flush()` or
`await journal.durable()` before anything leaves.

The threat: agents that spend together what each may spend alone, by racing, by splitting into sub-agents, or by crashing us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gearcase.errors import GearcaseError, Refused, RunError, UsageError
from gearcase.events import (
    AccountClosed,
    AccountOpened,
    Amounts,
    Cut,
    Event,
    Held,
    LimitGranted,
    Released,
    Sent,
    Settled,
)
from gearcase.seams import Recorder

RESOURCES = ("usd", "tokens", "calls", "wall", "cpu", "egress", "agents")
"""usd in nano-dollars, wall and cpu in milliseconds, egress in bytes, the others are counts."""

_MOST = 2**62  # what a journal can hold in one number


class Balance(NamedTuple):
    """One resource of one account. `limit` is None where it is unlimited."""

    limit: int | None
    spent: int
    held: int
    carved: int

    @property
    def free(self) -> int | None:
        """What can still be held or carved; None where it is unlimited."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held - self.carved)

    @property
    def over(self) -> int:
        """By how much facts have passed the limit; 0 unless a settlement or a charge reported it."""
        return 0 if self.limit is None else max(0, self.spent + self.held + self.carved - self.limit)


@dataclass(slots=True)
class _Account:
    parent: str
    agent: str
    limits: Amounts
    spent: Amounts = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0))
    held: Amounts = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0))
    carved: Amounts = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0))
    taken: Amounts = field(default_factory=dict[str, int])  # from the parent beyond `limits`, because of an excess
    children: set[str] = field(default_factory=set[str])
    holds: set[int] = field(default_factory=set[int])

    def balance(self, resource: str) -> Balance:
        return Balance(self.limits.get(resource), self.spent[resource], self.held[resource], self.carved[resource])


@dataclass(slots=True)
class _Hold:
    account: str
    amounts: Amounts
    sent: bool = False


class Ledger:
    """The accounts of one run. Every method raises UsageError for amounts that are no amounts or an account that is not open."""

    def __init__(self, journal: Recorder) -> None:
        self._journal = journal
        self._accounts: dict[str, _Account] = {}
        self._holds: dict[int, _Hold] = {}
        self._closed: set[str] = set()
        self._next_hold = 1
        self._waiting: list[asyncio.Future[None]] = []
        self._effects: dict[type[Event], Callable[[Any], None]] = {
            AccountOpened: self._opened,
            LimitGranted: self._granted,
            Held: self._held,
            Sent: self._left,
            Settled: self._settled,
            Released: self._released,
            Cut: self._cut,
            AccountClosed: self._ended,
        }

    @classmethod
    def recover(cls, events: Iterable[tuple[int, Event]], journal: Recorder) -> Ledger:
        """The ledger that a journal tells of. Open holds are ended: released when nothing had left, else cut ("crash").

        Raises RunError `ledger_unreadable` for a journal that no ledger can have written.
        """
        ledger = cls(journal)
        for seq, event in events:
            effect = ledger._effects.get(type(event))
            if effect is None:
                continue
            try:
                effect(event)
            except KeyError as error:
                raise RunError(
                    "ledger_unreadable",
                    f"record {seq} of the journal speaks of {error}, which no record before it opened",
                    remedy="verify the journal (gearcase journal verify); a run whose ledger is damaged cannot be recovered",
                    seq=seq,
                ) from None
        for number, hold in list(ledger._holds.items()):
            if hold.sent:
                ledger.cut(number, "crash")
            else:
                ledger.release(number)
        return ledger

    # --- accounts ----------------------------------------------------------------------------------------------------------

    def open(self, account: str, limits: Amounts, parent: str = "", agent: str = "") -> None:
        """A new account; with a parent, its limits are carved out of it. A name is never used twice.

        Raises Refused `budget` when the parent has too little free, or is limited where the child would not be.
        """
        _check(limits)
        if not account or account in self._accounts or account in self._closed:
            raise UsageError("account_exists", f"an account {account!r} exists already", remedy="choose another name")
        if parent:
            above = self._account(parent)
            for resource in above.limits:
                if resource not in limits:
                    raise Refused(
                        "budget",
                        f"account {parent!r} is limited in {resource}, so {account!r} needs a share of it",
                        remedy=f"give the account a limit of {resource}",
                        resource=resource,
                        needed=None,
                        free=above.balance(resource).free,
                    )
            self._fits(parent, limits)
        self._record(AccountOpened(account, parent, dict(limits), agent), agent)

    def close(self, account: str) -> None:
        """End an account and those below it: open holds are cut, what was spent and what is free goes to the parent."""
        mine = self._account(account)
        for child in sorted(mine.children):
            self.close(child)
        for number in sorted(mine.holds):
            self.cut(number, "closed")
        returned = {resource: free for resource in mine.limits if (free := mine.balance(resource).free)}
        self._record(AccountClosed(account, returned), mine.agent)

    def grant(self, account: str, amounts: Amounts) -> None:
        """Raise limits of an account; what a sub-account gets leaves its parent's room.

        Raises UsageError for a resource that is unlimited anyway, Refused `budget` when the parent has too little free.
        """
        _check(amounts)
        mine = self._account(account)
        if unlimited := [resource for resource in amounts if resource not in mine.limits]:
            raise UsageError("not_limited", f"{unlimited[0]} has no limit in {account!r}", remedy="leave it out")
        if mine.parent:
            self._fits(mine.parent, amounts)
        self._record(LimitGranted(account, dict(amounts)), mine.agent)

    # --- holds -------------------------------------------------------------------------------------------------------------

    def hold(self, account: str, amounts: Amounts, purpose: str = "", billed_by: str = "") -> int:
        """Set aside the worst case of an action; returns the hold's number.

        Raises Refused `budget` with `resource`, `needed` and `free` when it does not fit.
        """
        _check(amounts)
        mine = self._account(account)
        self._fits(account, amounts)
        number = self._next_hold
        self._record(Held(number, account, dict(amounts), purpose, billed_by), mine.agent)
        return number

    def sent(self, hold: int) -> None:
        """The action leaves now: from here a crash counts the hold as spent."""
        self._record(Sent(hold), self._agent_of(hold))

    def settle(self, hold: int, amounts: Amounts) -> Amounts:
        """Book what the action really cost and free the rest; returns what exceeded the hold ({} is the promise)."""
        _check(amounts)
        open_hold = self._hold(hold)
        over = {name: amount - held for name, amount in amounts.items() if amount > (held := open_hold.amounts.get(name, 0))}
        self._record(Settled(hold, open_hold.account, dict(amounts), over), self._agent_of(hold))
        return over

    def draw(self, lease: int, amounts: Amounts) -> tuple[int, Amounts]:
        """Book what one call of a lease's holder really cost; returns a number of its own, and what exceeded the lease ({} normally)."""
        _check(amounts)
        open_hold, number = self._hold(lease), self._next_hold
        over = {name: amount - held for name, amount in amounts.items() if amount > (held := open_hold.amounts.get(name, 0))}
        event = Settled(number, open_hold.account, dict(amounts), over, lease=lease)
        self._record(event, self._agent_of(lease))
        return number, over

    def release(self, hold: int) -> None:
        """Give a hold back: its action did not happen, or provably cost nothing."""
        self._record(Released(hold), self._agent_of(hold))

    def cut(self, hold: int, reason: str) -> None:
        """Book the whole hold: what its action cost cannot be known."""
        self._record(Cut(hold, reason), self._agent_of(hold))

    def charge(self, account: str, amounts: Amounts, purpose: str = "") -> Amounts:
        """Book what has happened already; returns what exceeded the account's free amounts ({} normally)."""
        _check(amounts)
        mine = self._account(account)
        room = {name: mine.balance(name).free for name in amounts}
        over = {name: amount - free for name, amount in amounts.items() if (free := room[name]) is not None and amount > free}
        self._record(Settled(self._next_hold, account, dict(amounts), over, purpose), mine.agent)
        return over

    # --- questions ---------------------------------------------------------------------------------------------------------

    def balance(self, account: str, resource: str) -> Balance:
        """One resource of an open account."""
        if resource not in RESOURCES:
            raise _not_a_resource(resource)
        return self._account(account).balance(resource)

    def in_flight(self, resource: str) -> int:
        """What is held for actions that have not ended, in all accounts: the most that they may still cost."""
        return sum(hold.amounts.get(resource, 0) for hold in self._holds.values())

    def subtree_spent(self, account: str) -> Amounts:
        """What an account and all below it have spent, closed ones included."""
        mine = self._account(account)
        total = dict(mine.spent)
        for child in mine.children:
            for resource, amount in self.subtree_spent(child).items():
                total[resource] += amount
        return total

    def accounts(self) -> Iterator[tuple[str, str]]:
        """(account, parent) of every open account, parents first."""
        return ((name, account.parent) for name, account in self._accounts.items())

    async def wait_change(self) -> None:
        """Until room may have appeared somewhere. Try to hold first, then wait without awaiting anything in between."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    # --- events and their effects: the same live and in recovery -----------------------------------------------------------

    def _record(self, event: Event, agent: str) -> None:
        self._journal.append(event, agent)
        self._effects[type(event)](event)

    def _opened(self, event: AccountOpened) -> None:
        if event.parent:
            above = self._accounts[event.parent]
            above.children.add(event.account)
            _add(above.carved, event.limits)
        self._accounts[event.account] = _Account(event.parent, event.of_agent, dict(event.limits))

    def _granted(self, event: LimitGranted) -> None:
        mine = self._accounts[event.account]
        _add(mine.limits, event.amounts)
        if mine.parent:
            _add(self._accounts[mine.parent].carved, event.amounts)
        self._take_excess(mine, event.amounts)
        self._wake()

    def _held(self, event: Held) -> None:
        mine = self._accounts[event.account]
        _add(mine.held, event.amounts)
        mine.holds.add(event.hold)
        self._holds[event.hold] = _Hold(event.account, dict(event.amounts))
        self._next_hold = event.hold + 1

    def _left(self, event: Sent) -> None:
        self._holds[event.hold].sent = True

    def _settled(self, event: Settled) -> None:
        if event.hold == self._next_hold:  # a charge: nothing was held, unless a lease holds it
            self._next_hold += 1
            if event.lease:
                self._shrink(event.lease, event.amounts)
        else:
            self._unhold(event.hold)
        self._spend(event.account, event.amounts)

    def _released(self, event: Released) -> None:
        self._unhold(event.hold)

    def _cut(self, event: Cut) -> None:
        hold = self._unhold(event.hold)
        self._spend(hold.account, hold.amounts)

    def _ended(self, event: AccountClosed) -> None:
        mine = self._accounts.pop(event.account)
        self._closed.add(event.account)
        if mine.parent:
            above = self._accounts[mine.parent]
            above.children.remove(event.account)
            for resource, amount in mine.limits.items():
                above.carved[resource] -= amount + mine.taken.get(resource, 0)
            self._spend(mine.parent, mine.spent)
        self._wake()

    def _shrink(self, lease: int, amounts: Amounts) -> None:
        hold = self._holds[lease]
        before, hold.amounts = hold.amounts, less(hold.amounts, amounts)
        for resource, amount in hold.amounts.items():
            self._accounts[hold.account].held[resource] -= before[resource] - amount
        self._wake()

    def left(self, hold: int) -> Amounts:
        """What an open hold still sets aside."""
        return dict(self._hold(hold).amounts)

    def _unhold(self, number: int) -> _Hold:
        hold = self._holds.pop(number)
        mine = self._accounts[hold.account]
        mine.holds.remove(number)
        for resource, amount in hold.amounts.items():
            mine.held[resource] -= amount
        self._take_excess(mine, hold.amounts)
        self._wake()
        return hold

    def _spend(self, account: str, amounts: Amounts) -> None:
        mine = self._accounts[account]
        _add(mine.spent, amounts)
        self._take_excess(mine, amounts)

    def _take_excess(self, mine: _Account, resources: Iterable[str]) -> None:
        """Keep the parent's carved at this account's limit plus its excess. Nothing to do, O(1), as long as all is in order."""
        if not mine.parent:
            return
        for resource in resources:
            limit = mine.limits.get(resource)
            excess = 0 if limit is None else mine.spent[resource] + mine.held[resource] + mine.carved[resource] - limit
            change = (excess if excess > 0 else 0) - mine.taken.get(resource, 0)
            if change:
                mine.taken[resource] = mine.taken.get(resource, 0) + change
                above = self._accounts[mine.parent]
                above.carved[resource] += change
                self._take_excess(above, (resource,))

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # --- guards ------------------------------------------------------------------------------------------------------------

    def _fits(self, account: str, amounts: Amounts) -> None:
        mine = self._account(account)
        for resource, needed in amounts.items():
            limit = mine.limits.get(resource)
            if limit is None:
                continue
            free = max(0, limit - mine.spent[resource] - mine.held[resource] - mine.carved[resource])
            if needed > free:
                raise Refused(
                    "budget",
                    f"{needed} {resource} are needed and {free} of {limit} are free in account {account!r}",
                    remedy=f"ask for less, wait until what is held is settled, or raise the limit of {resource}",
                    account=account,
                    resource=resource,
                    needed=needed,
                    free=free,
                )

    def _account(self, name: str) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            state = "closed" if name in self._closed else "unknown"
            raise UsageError("no_account", f"account {name!r} is {state}", remedy="name an account that is open")
        return account

    def _hold(self, number: int) -> _Hold:
        hold = self._holds.get(number)
        if hold is None:
            raise _no_hold(number)
        return hold

    def _agent_of(self, hold: int) -> str:
        return self._accounts[self._hold(hold).account].agent


def less(amounts: Mapping[str, int], drawn: Mapping[str, int]) -> Amounts:
    """What a lease of `amounts` still holds after so much was drawn."""
    return {resource: max(0, amount - drawn.get(resource, 0)) for resource, amount in amounts.items()}


def _add(to: Amounts, amounts: Amounts) -> None:
    for resource, amount in amounts.items():
        to[resource] += amount


def _check(amounts: Mapping[str, object]) -> None:
    for resource, amount in amounts.items():
        if resource not in RESOURCES:
            raise _not_a_resource(resource)
        if type(amount) is not int or not 0 <= amount <= _MOST:
            raise UsageError("bad_amount", f"{amount!r} {resource} is not an amount", remedy="give whole numbers from 0 to 2**62")


def _not_a_resource(name: str) -> GearcaseError:
    return UsageError("bad_resource", f"{name!r} is not a resource", remedy=f"use one of: {', '.join(RESOURCES)}")


def _no_hold(number: int) -> GearcaseError:
    return Refused(
        "hold_ended",
        f"hold {number} has ended or was never made",
        cause="a hold is settled, released or cut once; closing its account cuts it",
        remedy="nothing needs to be booked again: what was cut is counted as spent whole",
        hold=number,
    )
