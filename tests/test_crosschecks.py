"""A journal that does not agree with itself is found out, and the record is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gearcase import events as e
from gearcase.events import Event
from gearcase.journal import Journal, read
from gearcase.journal.crosschecks import Crosschecks, crosscheck


def called(call: int, hold: int, billed: bool = True) -> Event:
    return e.ModelCalled(call, hold, "anthropic", "m", "m", 200, "complete", {"input": 1}, 1.0, 0.1, billed=billed)


def held(number: int, usd: int = 10, purpose: str = "", billed_by: str = "anthropic/m") -> Event:
    return e.Held(number, "run", {"usd": usd, "calls": 1}, purpose, billed_by)


def settled(hold: int, usd: int = 4, **more: Any) -> Event:
    return e.Settled(hold, "run", {"usd": usd, "calls": 1}, **more)


START = e.RunStarted("ab12cd34", "amber-fox", "goal", "box", "0.1.0", "boot", {})
SOUND = (
    START,
    e.AccountOpened("run", "", {"usd": 100}),
    held(1),
    e.Sent(1),
    settled(1),
    called(1, 1),
    held(2),
    e.Sent(2),
    e.Cut(2, "the upstream reported no usage"),
    called(2, 2),
    held(3),
    e.Sent(3),
    e.Released(3),
    called(3, 3),
    held(4),  # refused before it left
    e.Released(4),
    e.Held(5, "run", {"egress": 100}, "egress"),
    e.Settled(5, "run", {"egress": 60}),
    e.Settled(6, "run", {"wall": 7}, {}, "time"),
    e.CommandStarted(1, "true"),
    e.CommandEnded(1, "exited", 0, 0.1, 0.0, 0, "", ""),
)
SPENT = {"usd": 14, "calls": 2, "egress": 60, "wall": 7, "tokens": 0}
END = e.RunEnded("unverified", {"spent": SPENT})
LEASED = (
    START,
    e.Held(1, "run", {"usd": 100, "calls": 10}, "lease n1", "anthropic/m"),
    e.Sent(1),
    settled(2, 4, lease=1),
    called(1, 2),
    settled(3, 5, lease=1),
    called(2, 3),
)


def checked(tmp_path: Path, *happened: Event) -> Crosschecks:
    journal = Journal.create(tmp_path / "journal")
    for event in happened:
        journal.append(event, "lead")
    journal.close()
    return crosscheck(read(tmp_path / "journal"))


def without(*left: Event, of: tuple[Event, ...] = SOUND) -> tuple[Event, ...]:
    return tuple(one for one in of if one not in left)


def test_a_run_that_ended_in_order_has_nothing_to_find(tmp_path: Path) -> None:
    found = checked(tmp_path, *SOUND, END)
    assert found.findings == []
    assert (found.calls, found.requests, found.commands, found.ended) == (3, 3, 1, True)
    assert found.spent["usd"] == 14


@pytest.mark.parametrize(
    ("happened", "check", "seq", "fact"),
    [
        ((*SOUND, e.RunEnded("unverified", {"spent": {**SPENT, "usd": 13}})), "ledger", 22, "13 usd were spent"),
        ((*SOUND, held(7), END), "ledger", 22, "hold 7 was never settled"),
        ((*SOUND, settled(1), END), "ledger", 22, "hold 1 ends and is not open"),
        ((*SOUND, e.Released(99), END), "ledger", 22, "hold 99 ends"),
        ((*SOUND, e.Cut(3, "again"), END), "ledger", 22, "hold 3 ends"),
        ((*SOUND, e.Sent(2), END), "ledger", 22, "hold 2 is sent"),
        ((*SOUND, held(1), END), "ledger", 22, "hold 1 is opened again"),
        ((START, held(1), e.Sent(1), settled(1, 11), called(1, 1)), "ledger", 4, "above what was held"),
        ((*without(called(1, 1)), END), "calls", 5, "hold 1 was paid, and no call"),
        ((*SOUND, called(4, 1), END), "calls", 22, "hold 1 pays for it, which is none, or another call's"),
        ((*SOUND, called(4, 77), END), "calls", 22, "hold 77"),
        ((START, held(1), e.Sent(1), called(1, 1)), "calls", 4, "which is still open"),
        ((*without(e.Sent(1)), END), "calls", 5, "nothing had left"),
        ((*without(SOUND[-1]), END), "commands", 20, "command 1 started and never ended"),
        ((*SOUND, SOUND[-1], END), "commands", 22, "command 1 ends and is not running"),
        ((*LEASED, settled(4, lease=9), called(3, 4)), "ledger", 8, "drawn on hold 9"),
    ],
)
def test_what_does_not_agree_is_named_with_its_record(
    tmp_path: Path, happened: tuple[Event, ...], check: str, seq: int, fact: str
) -> None:
    first = next(one for one in checked(tmp_path, *happened).findings if fact in one.fact)
    assert (first.check, first.seq) == (check, seq)


def test_what_is_above_its_hold_and_told_as_such_is_no_contradiction(tmp_path: Path) -> None:
    happened = (START, held(1), e.Sent(1), settled(1, 11, over={"usd": 1}), called(1, 1))
    assert checked(tmp_path, *happened, e.RunEnded("stopped", {"spent": {"usd": 11, "calls": 1}})).findings == []


def test_of_a_run_that_goes_on_or_died_nothing_is_missed_that_could_not_be_written(tmp_path: Path) -> None:
    going = (*SOUND, held(7), e.Sent(7), e.CommandStarted(2, "sleep 9"))
    found = checked(tmp_path / "a", *going)
    assert (found.findings, found.ended) == ([], False)
    died = (*going, held(8), settled(8), e.RunResumed("boot"), e.Cut(7, "crash"))
    spent = {**SPENT, "usd": 14 + 4 + 10, "calls": 4}
    assert checked(tmp_path / "b", *died, e.RunEnded("failed", {"spent": spent})).findings == []


def test_calls_of_a_lease_are_paid_by_what_is_drawn_on_it(tmp_path: Path) -> None:
    done = (*LEASED, e.Settled(1, "run", {}), e.RunEnded("unverified", {"spent": {"usd": 9, "calls": 2}}))
    assert checked(tmp_path / "a", *done).findings == []
    lost = (*LEASED, e.Cut(1, "lost"), called(3, 1), called(4, 1), e.RunEnded("failed", {"spent": {"usd": 100, "calls": 10}}))
    assert checked(tmp_path / "b", *lost).findings == [], "what came late was counted with the lease"
