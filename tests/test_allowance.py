"""What a user's runs may spend in a day together: never more than the limit, whoever asks and whoever dies."""

import multiprocessing
import os
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.allowance import DailyAllowance, UserLimits, day_total, limits_file, set_user_limits, today, user_limits
from gearcase.errors import Refused, UsageError
from gearcase.units import NANO

NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC
MONDAY, TUESDAY = "2026-11-23", "2026-11-24"


@contextmanager
def home(**limits):
    """Folders of a user of its own, with these limits."""
    before = {name: os.environ.get(name) for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(XDG_STATE_HOME=f"{folder}/state", XDG_CONFIG_HOME=f"{folder}/config")
        try:
            if limits:
                set_user_limits(UserLimits(**limits))
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


def test_limits_exist_before_anybody_set_them_and_hold_what_is_set():
    with home():
        assert user_limits() == UserLimits(20 * NANO, 5 * NANO)
        set_user_limits(UserLimits(usd_per_day=3 * NANO + 1, usd_per_run=NANO // 4))
        assert user_limits() == UserLimits(3 * NANO + 1, NANO // 4)


@pytest.mark.parametrize(
    "text", ["usd_per_day = [", "usd_per_week = 3", "usd_per_day = -1", 'usd_per_day = "many"', "usd_per_day = {}"]
)
def test_limits_that_cannot_be_read_stop_the_door_instead_of_opening_it(text):
    with home():
        limits_file().parent.mkdir(parents=True)
        limits_file().write_text(text)
        with pytest.raises(UsageError) as refused:
            DailyAllowance("one", now=Clock()).hold(1)
        assert refused.value.code == "bad_limits" and "gearcase limits set" in refused.value.remedy


def test_two_runs_share_one_day():
    with home(usd_per_day=10 * NANO):
        one, two = DailyAllowance("one", now=Clock()), DailyAllowance("two", now=Clock())
        one.hold(6 * NANO)
        with pytest.raises(Refused) as refused:
            two.hold(5 * NANO)
        assert refused.value.context == {"resource": "usd_per_day", "needed": 5 * NANO, "free": 4 * NANO}
        two.hold(4 * NANO)
        assert two.free() == 0


def test_what_a_call_did_not_need_is_there_for_the_other_run():
    with home(usd_per_day=10 * NANO):
        one, two = DailyAllowance("one", now=Clock()), DailyAllowance("two", now=Clock())
        one.settle(one.hold(9 * NANO), 9 * NANO, NANO)
        two.settle(two.hold(8 * NANO), 8 * NANO, 8 * NANO)
        one.close()
        two.close()
        assert day_total(MONDAY).spent == 9 * NANO and day_total(MONDAY).leased == 0


def test_what_a_live_run_knows_that_it_spent_counts_before_it_is_written():
    with home(usd_per_day=100 * NANO):
        first, second = DailyAllowance("first", now=Clock()), DailyAllowance("second", now=Clock())
        for one in (first, second):
            one.settle(one.hold(3 * NANO), 3 * NANO, 2 * NANO)
        assert day_total(MONDAY).spent == 0
        assert (day_total(MONDAY, "first", 2 * NANO).spent, day_total(MONDAY, "first", 2 * NANO).leased) == (2 * NANO, 4 * NANO)
        assert day_total(MONDAY, "first", 50 * NANO).spent == 3 * NANO, (
            "no more than it has leased: the rest was billed by nobody"
        )
        assert day_total(TUESDAY, "first", 2 * NANO).spent == 0
        first.close()
        assert day_total(MONDAY, "first", 2 * NANO).spent == 2 * NANO
        second.close()
        assert day_total(MONDAY).spent == 4 * NANO


def test_a_box_can_ask_for_less_than_its_user_allows_and_never_for_more():
    with home(usd_per_day=10 * NANO):
        assert DailyAllowance("one", most=2 * NANO, now=Clock()).free() == 2 * NANO
        assert DailyAllowance("two", most=50 * NANO, now=Clock()).free() == 10 * NANO


def test_a_raised_limit_counts_at_once():
    with home(usd_per_day=NANO):
        run = DailyAllowance("one", now=Clock())
        run.hold(NANO)
        set_user_limits(UserLimits(usd_per_day=2 * NANO))
        run.hold(NANO)
        assert run.free() == 0


def test_a_call_over_midnight_is_paid_by_the_day_in_which_it_began():
    with home(usd_per_day=10 * NANO):
        clock = Clock(NOON + 12 * 3600 - 1)
        run = DailyAllowance("one", now=clock)
        day = run.hold(8 * NANO)
        clock.now += 2
        run.hold(10 * NANO)
        run.settle(day, 8 * NANO, 7 * NANO)
        assert (day_total(MONDAY).spent, day_total(MONDAY).leased) == (7 * NANO, 0)
        assert day_total(TUESDAY).leased == 10 * NANO


def test_a_clock_that_jumps_back_meets_what_was_spent_before():
    with home(usd_per_day=10 * NANO):
        clock = Clock(NOON)
        run = DailyAllowance("one", now=clock)
        run.settle(run.hold(6 * NANO), 6 * NANO, 6 * NANO)
        clock.now += 86400
        run.settle(run.hold(10 * NANO), 10 * NANO, 10 * NANO)
        clock.now -= 86400
        assert run.free() == 4 * NANO


def test_more_than_was_held_is_booked_because_it_happened():
    with home(usd_per_day=10 * NANO):
        run = DailyAllowance("one", now=Clock())
        run.settle(run.hold(9 * NANO), 9 * NANO, 12 * NANO)
        assert day_total(MONDAY).spent + day_total(MONDAY).leased == 12 * NANO
        with pytest.raises(Refused):
            run.hold(1)


def _spend(seed, log):
    """A run that spends in small calls and writes each cost down before it settles, as a provider would."""
    numbers = random.Random(seed)
    run = DailyAllowance(f"run-{seed}")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        held = numbers.randrange(1, NANO // 20)
        try:
            day = run.hold(held)
        except Refused:
            run.close()
            return
        cost = numbers.randrange(0, held + 1)
        os.write(descriptor, b"%d\n" % cost)
        run.settle(day, held, cost)


def test_ten_processes_of_which_three_are_killed_stay_within_the_day():
    with home(usd_per_day=10 * NANO) as folder:
        context = multiprocessing.get_context("fork")
        logs = [folder / f"{seed}.log" for seed in range(10)]
        runs = [context.Process(target=_spend, args=(seed, str(log))) for seed, log in enumerate(logs)]
        day = today()
        for run in runs:
            run.start()
        for number in (2, 5, 7):
            while runs[number].is_alive() and not (logs[number].exists() and logs[number].stat().st_size > 40):
                runs[number].join(0.001)
            runs[number].kill()
        for run in runs:
            run.join()
        billed = sum(int(line) for log in logs if log.exists() for line in log.read_text().splitlines())
        total = day_total(day)
        assert billed <= total.spent + total.leased <= 10 * NANO or day != today()
        assert billed > 9 * NANO or day != today()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 6 * NANO), st.integers(0, 100), st.sampled_from([0, 0, 0, 86400, -86400])),
        max_size=25,
    )
)
def test_no_order_of_holds_settlements_and_jumps_passes_the_limit_of_a_day(steps):
    with home(usd_per_day=10 * NANO):
        clock = Clock()
        runs = [DailyAllowance(str(number), now=clock) for number in range(3)]
        held, real = [], {}
        for who, amount, share, jump in steps:
            clock.now += jump
            try:
                day = runs[who].hold(amount)
            except Refused:
                if held:
                    other, day, amount, cost = held.pop()
                    runs[other].settle(day, amount, cost)
                continue
            cost = amount * share // 100
            real[day] = real.get(day, 0) + cost
            held.append((who, day, amount, cost))
        for who, day, amount, cost in held:
            runs[who].settle(day, amount, cost)
        for run in runs:
            run.close()
        for day, cost in real.items():
            total = day_total(day)
            assert total.leased == 0 and total.spent == cost <= 10 * NANO
