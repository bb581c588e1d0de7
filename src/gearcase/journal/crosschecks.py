"""Whether a journal agrees with itself: money, calls and commands, counted from different records, come to the same.

Knows nothing of the ledger's code. What is checked:
- A hold ends once, and what ends was held. At the run's end nothing is held any more.
- What was settled and cut adds up to what the ending says was spent.
- What was paid was paid for a call on record, and a call on record was paid by one hold; one that is billed had left for its provider.
- Each command that started has ended, once.

What could not be written is not missed: of a run that goes on, or whose process died, what is open may stay open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gearcase import events
from gearcase.events import Amounts
from gearcase.journal.lines import Record

LEDGER, CALLS, COMMANDS = "ledger", "calls", "commands"

_LEASE = "lease"
"""How the purpose of a hold begins from which many calls are paid."""
_MOST = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not agree. `seq` is the record where it shows."""

    check: str
    seq: int
    fact: str


@dataclass(slots=True)
class _Hold:
    seq: int
    amounts: Amounts
    billed: bool
    lease: bool
    sent: bool = False


@dataclass(slots=True)
class Crosschecks:
    """A fold over records; `findings` are the first hundred. `ended` says whether the run has an ending on record."""

    findings: list[Finding] = field(default_factory=list[Finding])
    spent: Counter[str] = field(default_factory=Counter[str])
    calls: int = 0
    requests: int = 0  # billed ones that left
    commands: int = 0
    ended: bool = False
    _died: bool = False  # the process that wrote it did
    _open: dict[int, _Hold] = field(default_factory=dict[int, _Hold])
    _leases: dict[int, _Hold] = field(default_factory=dict[int, _Hold])  # open and ended ones, and what was drawn on them
    _paid: dict[int, tuple[int, bool]] = field(default_factory=dict[int, tuple[int, bool]])  # hold -> seq, whether it had left
    _numbers: int = 0  # the highest of a hold so far
    _running: dict[int, int] = field(default_factory=dict[int, int])  # command -> seq

    def add(self, record: Record) -> None:
        """One more record."""
        seq = record.seq
        match record.event:
            case events.Held() as event:
                self._hold(seq, event)
            case events.Sent() as event:
                self._send(seq, event)
            case events.Settled() as event:
                self._settle(seq, event)
            case events.Released() | events.Cut() as event:
                self._let_go(seq, event)
            case events.ModelCalled() as event:
                self._call(seq, event)
            case events.CommandStarted() | events.CommandEnded() as event:
                self._command(seq, event)
            case events.RunResumed():
                self.ended, self._died = False, True
            case events.RunEnded() as event:
                self._ending(seq, event)
            case _:
                pass

    # --- the ledger --------------------------------------------------------------------------------------------------------

    def _hold(self, seq: int, event: events.Held) -> None:
        if event.hold <= self._numbers:
            self._find(LEDGER, seq, f"hold {event.hold} is opened again")
        self._numbers = max(self._numbers, event.hold)
        hold = _Hold(seq, dict(event.amounts), bool(event.billed_by), event.purpose.startswith(_LEASE))
        self._open[event.hold] = hold
        if hold.lease:
            self._leases[event.hold] = hold

    def _send(self, seq: int, event: events.Sent) -> None:
        hold = self._open.get(event.hold)
        if hold is None:
            return self._find(LEDGER, seq, f"hold {event.hold} is sent and is not open")
        hold.sent = True
        self.requests += hold.billed
        return None

    def _let_go(self, seq: int, event: events.Released | events.Cut) -> None:
        hold = self._end(seq, event.hold)
        if hold is None:
            return
        if isinstance(event, events.Cut):
            self.spent.update(hold.amounts)
        self._paid[event.hold] = (0, hold.sent)

    def _settle(self, seq: int, event: events.Settled) -> None:
        self.spent.update(event.amounts)
        if event.hold > self._numbers:  # what had happened already, or was drawn on a lease
            self._numbers = event.hold
            if event.lease:
                self._draw(seq, event)
            return
        hold = self._end(seq, event.hold)
        if hold is None:
            return
        more = {name: amount - hold.amounts.get(name, 0) for name, amount in event.amounts.items()}
        if any(amount > event.over.get(name, 0) for name, amount in more.items()):
            self._find(LEDGER, seq, f"hold {event.hold} is settled above what was held, and not told as such")
        if not hold.lease:
            self._paid[event.hold] = (seq if _pays(event.amounts) else 0, hold.sent)

    def _draw(self, seq: int, event: events.Settled) -> None:
        lease = self._leases.get(event.lease)
        if lease is None or event.lease not in self._open:
            return self._find(LEDGER, seq, f"{event.hold} is drawn on hold {event.lease}, which is not open")
        lease.amounts = {name: max(0, amount - event.amounts.get(name, 0)) for name, amount in lease.amounts.items()}
        self._paid[event.hold] = (seq if _pays(event.amounts) else 0, lease.sent)
        return None

    def _end(self, seq: int, number: int) -> _Hold | None:
        hold = self._open.pop(number, None)
        if hold is None:
            self._find(LEDGER, seq, f"hold {number} ends and is not open: it was never held, or had ended")
        return hold

    # --- calls and commands ------------------------------------------------------------------------------------------------

    def _call(self, seq: int, event: events.ModelCalled) -> None:
        self.calls += 1
        if event.hold in self._leases:  # it came after its lease had ended, and was counted with it
            return None
        paid = self._paid.pop(event.hold, None)
        if paid is None:
            state = "is still open" if event.hold in self._open else "is none, or another call's"
            return self._find(CALLS, seq, f"call {event.call} says that hold {event.hold} pays for it, which {state}")
        if event.billed and not paid[1]:
            return self._find(CALLS, seq, f"call {event.call} is billed, and nothing had left for its provider")
        return None

    def _command(self, seq: int, event: events.CommandStarted | events.CommandEnded) -> None:
        if isinstance(event, events.CommandStarted):
            self.commands += 1
            self._running[event.command] = seq
        elif self._running.pop(event.command, None) is None:
            self._find(COMMANDS, seq, f"command {event.command} ends and is not running: it never started, or had ended")

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _ending(self, seq: int, event: events.RunEnded) -> None:
        self.ended = True
        for number, hold in self._open.items():
            self._find(LEDGER, hold.seq, f"hold {number} was never settled, released or cut")
        told: Amounts = event.record.get("spent") or {}
        for name, amount in told.items():
            if amount != self.spent[name]:
                self._find(
                    LEDGER, seq, f"the ending says that {amount} {name} were spent; settled and cut are {self.spent[name]}"
                )
        if self._died:
            return
        for number, (paid, _) in self._paid.items():
            if paid:
                self._find(CALLS, paid, f"hold {number} was paid, and no call on record says for what")
        for number, begun in self._running.items():
            self._find(COMMANDS, begun, f"command {number} started and never ended")

    def _find(self, check: str, seq: int, fact: str) -> None:
        if len(self.findings) < _MOST:
            self.findings.append(Finding(check, seq, fact))


def _pays(amounts: Amounts) -> bool:
    """Whether these are a call's: other holds have no money and no calls."""
    return bool(amounts.get("usd") or amounts.get("calls"))


def crosscheck(records: Iterable[Record]) -> Crosschecks:
    """Check a whole journal, whose chain was verified."""
    checks = Crosschecks()
    for record in records:
        checks.add(record)
    return checks
