"""What all runs of a user may spend in a day together: limits above those of one box.

A door *leases* money from the day before it holds it for a call, some calls' worth at a time, and gives back what it did not need. The
leases of all days stand in one SQLite file of the state folder, which every door of the user shares. A day is one of UTC, as on the
providers' invoices. The day's limit is read again at each lease, so a change counts at once, for every run.

Invariants: no lease takes the sum of a day's leases past the limit, whatever processes ask at the same time; a process that was killed
leaves its lease behind, which counts as spent: over-counted by at most what it had leased and not used, never under-counted. What is
leased in one day is spent in that day, also when its call ends in the next. Only money that somebody is billed for counts: calls of a
person, a cassette or a script do not.

Threat: ten runs that each keep their own limit and together do not; a clock that jumps; a process killed between lease and call.
"""

from __future__ import annotations

import os
import sqlite3
import time
import tomllib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from gearcase.errors import Refused, RunError, UsageError
from gearcase.runs import state_folder, write_atomically
from gearcase.units import NANO, format_money, parse_money

CHUNKS = 100
"""A lease is taken in parts of this share of the day: fewer and larger would starve other runs, smaller would cost time."""
PATIENCE = 30.0
"""Seconds to wait for other doors' transactions, which take milliseconds."""


@dataclass(frozen=True, slots=True)
class UserLimits:
    """Limits of everything that a user runs on this machine, in nano-dollars."""

    usd_per_day: int = 20 * NANO
    usd_per_run: int = 5 * NANO


def limits_file() -> Path:
    """Where a user's limits are written."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "gearcase/limits.toml"


def user_limits() -> UserLimits:
    """The limits that hold now; the defaults where none were set. Raises UsageError `bad_limits` for a file that cannot be read."""
    file = limits_file()
    try:
        table = tomllib.loads(file.read_text(), parse_float=Decimal)
    except FileNotFoundError:
        return UserLimits()
    except (OSError, ValueError) as error:
        raise _bad_limits(file, str(error)) from error
    unknown = sorted(table.keys() - {"usd_per_day", "usd_per_run"})
    if unknown:
        raise _bad_limits(file, f"unknown key {unknown[0]!r}")
    try:
        return UserLimits(**{name: parse_money(value) for name, value in table.items()})
    except (UsageError, TypeError) as error:
        raise _bad_limits(file, str(error)) from error


def set_user_limits(limits: UserLimits) -> None:
    """Write the limits; they hold at once, for runs that live too."""
    file = limits_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {_dollars(getattr(limits, name))}" for name in ("usd_per_day", "usd_per_run")]
    write_atomically(file, ("# limits of everything that you run: gearcase limits\n" + "\n".join(lines) + "\n").encode())


def refuse_above(usd: int) -> None:
    """Raises UsageError `above_limit` for a box that asks for more than a run may have. Nano-dollars."""
    most = user_limits().usd_per_run
    if usd > most:
        raise UsageError(
            "above_limit",
            f"the box asks for {format_money(usd)}, and a run may have {format_money(most)}",
            remedy=f"ask for less with --usd, or allow more: gearcase limits set --usd-per-run {_dollars(usd)}",
        )


def forfeit(run: str) -> None:
    """A run whose process died: what it had leased counts as spent."""
    if _file().exists():
        with _book() as book:
            book.execute("update leases set spent = usd where run = ?", (run,))


@dataclass(frozen=True, slots=True)
class DayTotal:
    """One day: what was spent in it, and what live doors have leased and not spent yet. Nano-dollars."""

    day: str
    spent: int
    leased: int


def today(now: float | None = None) -> str:
    """The day of a moment (unix seconds; now by default)."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def day_total(day: str, run: str = "", knows: int = 0) -> DayTotal:
    """What a day has come to. What a live door has spent of its lease is written now and then: `run` `knows` that it has spent so much
    (nano-dollars), of which as much counts as it has leased on that day."""
    sums = "select coalesce(sum(usd), 0), coalesce(sum(spent), 0) from leases where day = ?"
    with _book() as book:
        leased, spent = book.execute(sums, (day,)).fetchone()
        ours, told = book.execute(f"{sums} and run = ?", (day, run)).fetchone()
    spent += max(0, min(ours, knows) - told)
    return DayTotal(day, spent, leased - spent)


@dataclass(slots=True)
class _Lease:
    """This process's part of one day. Nano-dollars."""

    row: int
    leased: int = 0
    spent: int = 0
    held: int = 0
    holds: int = 0

    @property
    def free(self) -> int:
        return self.leased - self.spent - self.held


class DailyAllowance:
    """One door's share of its user's days, an `Allowance`. `most` narrows the day's limit; `now` gives unix seconds."""

    def __init__(self, run: str, most: int | None = None, now: Callable[[], float] = time.time) -> None:
        self._run = run
        self._most = most
        self._now = now
        self._leases: dict[str, _Lease] = {}
        self._chunk = 0
        self.trouble = ""
        """What stood in the way of giving money back. It counts as spent then, which takes no other run above the day."""

    def free(self) -> int:
        """Nano-dollars that a hold could take at this moment."""
        day = today(self._now())
        lease = self._leases.get(day)
        with _book() as book:
            return max(0, self._limit() - _leased(book, day)) + (lease.free if lease else 0)

    def hold(self, amount: int) -> str:
        """Set money of today aside; returns the day, for `settle`. Raises Refused `budget` when the day has too little left."""
        day = today(self._now())
        lease = self._leases.get(day)
        missing = amount - (lease.free if lease else 0)
        if lease is None or missing > 0:
            lease = self._take(day, amount, missing)
        lease.held += amount
        lease.holds += 1
        return day

    def settle(self, day: str, held: int, spent: int) -> None:
        """A hold of that day has ended and cost `spent`. More than was held is a fact: it is leased without asking."""
        lease = self._leases.get(day)
        if lease is None:
            return  # closed meanwhile, which counted the hold as spent
        lease.held -= held
        lease.holds -= 1
        lease.spent += spent
        ended = day != today(self._now()) and not lease.holds
        if ended or not 0 <= lease.free <= 2 * self._chunk:
            self._give_back(lease)
        if ended:
            del self._leases[day]

    def close(self) -> None:
        """Give back what was not spent. Holds that are still open count as spent."""
        for lease in self._leases.values():
            lease.spent += lease.held
            lease.held = 0
            self._give_back(lease)
        self._leases.clear()

    def _take(self, day: str, amount: int, missing: int) -> _Lease:
        with _book() as book:
            limit, leased = self._limit(), _leased(book, day)
            self._chunk = max(1, limit // CHUNKS)
            left = max(0, limit - leased)
            if missing > left:
                raise Refused(
                    "budget",
                    f"this call needs up to {format_money(amount)}, and the {format_money(limit)} that all runs may spend a day "
                    f"leave {format_money(left + amount - missing)}",
                    remedy="the next day begins at 00:00 UTC; the operator raises the limit with `gearcase limits set`",
                    resource="usd_per_day",
                    needed=amount,
                    free=left + amount - missing,
                )
            part = min(left, max(missing, self._chunk))
            lease = self._leases.get(day)
            if lease is None:
                row = book.execute(
                    "insert into leases (day, run, usd, spent) values (?, ?, ?, 0)", (day, self._run, part)
                ).lastrowid
                assert row is not None
                lease = self._leases[day] = _Lease(row, part)
            else:
                book.execute("update leases set usd = ?, spent = ? where id = ?", (lease.leased + part, lease.spent, lease.row))
                lease.leased += part
        return lease

    def _give_back(self, lease: _Lease) -> None:
        kept = lease.leased - lease.free
        try:
            with _book() as book:
                book.execute("update leases set usd = ?, spent = ? where id = ?", (kept, lease.spent, lease.row))
        except RunError as error:
            self.trouble = f"{error.message}: {error.cause}"
        else:
            lease.leased = kept

    def _limit(self) -> int:
        limit = user_limits().usd_per_day
        return limit if self._most is None else min(limit, self._most)


def _file() -> Path:
    return state_folder() / "days.sqlite"


@contextmanager
def _book() -> Generator[sqlite3.Connection]:
    """The leases of all days, locked for this process until the end of the block, which is one transaction."""
    path = _file()
    try:
        book = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        try:
            book.execute("pragma synchronous = full")
            book.execute("begin immediate")
            book.execute(
                "create table if not exists leases (id integer primary key, day text, run text, usd integer, spent integer)"
            )
            book.execute("create index if not exists by_day on leases (day)")
            with book:
                yield book
        finally:
            book.close()
    except sqlite3.Error as error:
        raise RunError(
            "no_day",
            f"what was spent today cannot be read or written: {path}",
            cause=str(error),
            remedy="see that its disk has room and is writable; a call that cannot be counted is not made",
        ) from error


def _leased(book: sqlite3.Connection, day: str) -> int:
    return int(book.execute("select coalesce(sum(usd), 0) from leases where day = ?", (day,)).fetchone()[0])


def _dollars(nano: int) -> str:
    return f"{Decimal(nano) / NANO:f}"


def _bad_limits(file: Path, cause: str) -> UsageError:
    return UsageError(
        "bad_limits",
        f"your limits in {file} cannot be read",
        cause=cause,
        remedy="write them again: gearcase limits set --usd-per-day 20",
    )
