"""Bytes that pass doors to the outside, paid from an account as they pass.

The ledger is asked for a lease, not for every chunk: a lease that is used up is settled and the next one held. So a crash books at most
one lease too much, and never a byte too little.
"""

from __future__ import annotations

from gearcase.ledger import Ledger

SMALLEST, LARGEST = 256 * 2**10, 64 * 2**20
"""Bytes of a lease. Between them it is a sixteenth of what is free."""


class EgressMeter:
    """The bytes of one account."""

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = account
        self._hold = 0
        self._held = 0
        self._used = 0

    def take(self, count: int) -> None:
        """Pay for so many bytes. Raises Refused `budget` where they do not fit any more; then nothing is paid."""
        if self._used + count > self._held:
            self._renew(count)
        self._used += count

    def _renew(self, count: int) -> None:
        self.close()
        free = self._ledger.balance(self._account, "egress").free
        lease = LARGEST if free is None else min(free, max(SMALLEST, min(LARGEST, free // 16)))
        wanted = max(lease, count)
        self._hold = self._ledger.hold(self._account, {"egress": wanted}, "egress")
        self._ledger.sent(self._hold)
        self._held = wanted

    @property
    def left(self) -> int | None:
        """Bytes that may still pass; None where there is no limit."""
        free = self._ledger.balance(self._account, "egress").free
        return None if free is None else free + self._held - self._used

    def close(self) -> None:
        """Settle what was used. Idempotent; `take` begins anew."""
        if self._held:
            self._ledger.settle(self._hold, {"egress": self._used})
            self._held = self._used = 0
