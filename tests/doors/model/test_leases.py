"""Leases: what a node may spend, what is booked of it, what returns, and what a lost one costs."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.box import Override, box_from_options
from gearcase.doors.model.admission import Patience
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.errors import Refused
from gearcase.events import ModelCalled
from gearcase.ledger import Ledger
from gearcase.swarm.asking import request_body


def body_of(route):
    return request_body(route, "a line", "", None, 100)


class Facts:
    def __init__(self):
        self.events = []

    def append(self, event, agent=""):
        self.events.append((len(self.events) + 1, event))
        return len(self.events)

    def flush(self):
        """Nothing is held back."""

    async def durable(self):
        """Nothing is held back."""


class Day:
    """A user's day, as an account of its own."""

    def __init__(self, whole):
        self.whole, self.held, self.spent = whole, 0, 0

    def free(self):
        return self.whole - self.held - self.spent

    def hold(self, amount):
        if amount > self.free():
            raise Refused("budget", "the day is used up", remedy="tomorrow")
        self.held += amount
        return "day"

    def settle(self, day, held, spent):
        self.held -= held
        self.spent += spent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    options = [Override(("model", "worker"), "openai/gpt-5-mini", "--worker")]
    return box_from_options(options, tmp_path_factory.mktemp("box")).box.model


def bench(model, usd=10**9, **door):
    facts = Facts()
    ledger = Ledger(facts)
    ledger.open("lead", {"usd": usd, "tokens": 10**9, "calls": 10**6}, agent="lead")
    routing = Routing(model, environment={"OPENAI_API_KEY": "sk-x"})
    made = ModelDoor(ledger, facts, routing, patience=Patience(line=0.05), **door)
    route = routing.worker()
    one = made.leases.worst(route, body_of(route))
    return SimpleNamespace(facts=facts, ledger=ledger, leases=made.leases, route=route, one=one, caller=Caller("lead", "lead"))


def take(bench, calls):
    return asyncio.run(bench.leases.take(bench.caller, bench.route, body_of(bench.route), calls, "n1"))


def called(status=200):
    return {
        **{"call": 1, "hold": 1, "protocol": "chat", "model": "gpt-5-mini", "served": "", "status": status},
        **{"ended": "complete", "usage": {}, "seconds": 0.1, "first_byte": 0.1},
    }


def usd(bench):
    return bench.ledger.balance("lead", "usd")


def test_a_lease_is_so_many_calls_at_their_worst_and_at_most_half_of_what_is_free(model):
    made = bench(model)
    lease = take(made, 10)
    assert lease.admitted.calls == 10 and lease.admitted.amounts["usd"] == 10 * made.one == usd(made).held
    assert lease.one == {"usd": made.one, "tokens": lease.admitted.amounts["tokens"] // 10, "calls": 1}
    small = bench(model, usd=9 * made.one)
    assert take(small, 10).admitted.calls == 4
    assert take(small, 10).admitted.calls == 2, "of what is left"
    least = bench(model, usd=made.one)
    assert take(least, 10).admitted.calls == 1
    with pytest.raises(Refused, match="other calls"):
        take(least, 10)
    with pytest.raises(Refused, match="needs up to"):
        take(bench(model, usd=made.one // 100), 10)


def test_what_was_called_is_booked_once_and_the_rest_returns(model):
    day = Day(10**9)
    made = bench(model, allowance=day)
    lease = take(made, 10)
    assert day.held == 10 * made.one
    made.leases.book(lease, {"usd": 700, "tokens": 30, "calls": 1}, called())
    made.leases.book(lease, {"usd": 300, "tokens": 20, "calls": 1}, called())
    assert (usd(made).spent, usd(made).held) == (1000, 10 * made.one - 1000)
    made.leases.end(lease)
    made.leases.end(lease)
    assert (usd(made).spent, usd(made).held) == (1000, 0) and (day.held, day.spent) == (0, 1000)
    calls = [event for _, event in made.facts.events if isinstance(event, ModelCalled)]
    assert [one.call for one in calls] == [1, 2] and len({one.hold for one in calls}) == 2


def test_a_lost_lease_counts_as_spent_and_what_is_told_later_is_not_booked_again(model):
    day = Day(10**9)
    made = bench(model, allowance=day)
    lease = take(made, 10)
    made.leases.book(lease, {"usd": 700, "tokens": 30, "calls": 1}, called())
    assert made.leases.lose(lease, "n1 is lost") == 10 * made.one - 700
    assert (usd(made).spent, usd(made).held) == (10 * made.one, 0) and (day.held, day.spent) == (0, 10 * made.one)
    made.leases.book(lease, {"usd": 700, "tokens": 30, "calls": 1}, called())
    made.leases.end(lease)
    assert made.leases.lose(lease, "again") == 0 and usd(made).spent == 10 * made.one


def test_a_minute_and_a_day_bound_leases_too(model):
    one = bench(model).one
    minute = bench(model, usd_per_minute=8 * one)
    first = take(minute, 100)
    assert first.admitted.calls == 4
    assert take(minute, 100).admitted.calls == 2
    minute.leases.lose(first, "lost")
    assert take(minute, 100).admitted.calls == 1, "what counts as spent counts in the minute"
    day = Day(5 * one)
    assert take(bench(model, allowance=day), 100).admitted.calls == 2 and day.held == 2 * one


def test_a_call_that_billed_more_than_the_lease_is_booked_told_and_stops_the_model(model):
    made = bench(model, usd=10**12)
    lease = take(made, 2)
    made.leases.book(lease, {"usd": 5 * made.one, "tokens": 30, "calls": 1}, called())
    assert usd(made).spent == 5 * made.one
    told = [event for _, event in made.facts.events if getattr(event, "lease", 0)]
    assert told[0].over == {"usd": 3 * made.one}
    made.leases.end(lease)
    assert usd(made).held == 0


@settings(max_examples=150, deadline=None)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["take", "book", "end", "lose"]), st.integers(0, 5), st.integers(0, 100)), max_size=40
    )
)
def test_no_order_of_leases_passes_a_limit_or_loses_money(model, acts):
    day = Day(10**9)
    made = bench(model, usd=5_000_000, allowance=day)
    leases, spent = [], 0
    for act, which, share in acts:
        if act == "take":
            try:
                leases.append(take(made, which + 1))
            except Refused:
                continue
        elif leases:
            lease = leases[which % len(leases)]
            if act == "book":
                amount = made.leases.left(lease) * share // 100
                made.leases.book(lease, {"usd": amount, "tokens": 1, "calls": 1}, called())
                spent += amount
            elif act == "end":
                made.leases.end(lease)
            else:
                spent += made.leases.lose(lease, "lost")
        balance = usd(made)
        assert balance.spent == spent and balance.over == 0
        assert balance.held == sum(made.leases.left(one) for one in leases)
        assert day.held + day.spent >= balance.spent, "the day knows at least as much"
    for lease in leases:
        made.leases.end(lease)
    assert usd(made).held == 0 and day.held == 0 and day.spent == spent
    again = Ledger.recover(made.facts.events, Facts())
    assert again.balance("lead", "usd").spent == spent
