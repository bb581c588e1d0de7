"""The ledger against an independent model that knows nothing of carving: it adds up the tree afresh after every step."""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gearcase.errors import GearcaseError, Refused, RunError, UsageError
from gearcase.events import AccountClosed, Cut, Event, Held, Released, Sent, Settled
from gearcase.ledger import RESOURCES, Balance, Ledger

EXAMPLES = int(os.environ.get("GEARCASE_EXAMPLES", "2000"))


class Memory:
    """A recorder that keeps events in a list."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []
        self.agents: list[str] = []

    def append(self, event: Event, agent: str = "") -> int:
        self.events.append((len(self.events) + 1, event))
        self.agents.append(agent)
        return len(self.events)

    def flush(self) -> None:
        """Memory needs none."""

    async def durable(self) -> None:
        """Memory needs none."""

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kind)]


def ledger_with(limits: dict[str, int]) -> tuple[Ledger, Memory]:
    memory = Memory()
    ledger = Ledger(memory)
    ledger.open("run", limits)
    return ledger, memory


# --- what a user pays for --------------------------------------------------------------------------------------------------


def test_a_hold_leaves_the_free_amount_until_it_is_settled_at_the_true_cost() -> None:
    ledger, _ = ledger_with({"usd": 100})
    hold = ledger.hold("run", {"usd": 60})
    assert ledger.balance("run", "usd") == Balance(limit=100, spent=0, held=60, carved=0)
    assert ledger.settle(hold, {"usd": 25}) == {}
    assert ledger.balance("run", "usd") == Balance(limit=100, spent=25, held=0, carved=0)
    assert ledger.balance("run", "usd").free == 75


def test_a_hold_that_does_not_fit_is_refused_with_the_figures_and_leaves_no_trace() -> None:
    ledger, memory = ledger_with({"usd": 100, "calls": 1})
    before = len(memory.events)
    with pytest.raises(Refused) as caught:
        ledger.hold("run", {"calls": 1, "usd": 101})
    assert caught.value.code == "budget"
    assert caught.value.context == {"account": "run", "resource": "usd", "needed": 101, "free": 100}
    assert len(memory.events) == before
    assert ledger.balance("run", "calls").free == 1


def test_a_resource_without_a_limit_is_counted_and_never_refused() -> None:
    ledger, _ = ledger_with({"usd": 1})
    ledger.settle(ledger.hold("run", {"tokens": 10**12}), {"tokens": 7})
    assert ledger.balance("run", "tokens") == Balance(limit=None, spent=7, held=0, carved=0)
    assert ledger.balance("run", "tokens").free is None


def test_sub_accounts_cannot_spend_together_what_each_may_alone() -> None:
    ledger, _ = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 60}, parent="run")
    with pytest.raises(Refused):
        ledger.open("b", {"usd": 60}, parent="run")
    ledger.open("b", {"usd": 40}, parent="run")
    with pytest.raises(Refused):
        ledger.hold("run", {"usd": 1})


def test_a_sub_account_needs_a_share_of_whatever_its_parent_is_limited_in() -> None:
    ledger, _ = ledger_with({"usd": 100})
    with pytest.raises(Refused) as caught:
        ledger.open("a", {"tokens": 5}, parent="run")
    assert caught.value.context["resource"] == "usd"
    ledger.open("a", {"usd": 0, "tokens": 5}, parent="run")
    assert ledger.balance("a", "calls").limit is None


def test_closing_returns_what_is_free_and_books_what_is_held() -> None:
    ledger, memory = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 60}, parent="run")
    ledger.open("b", {"usd": 20}, parent="a")
    ledger.settle(ledger.hold("a", {"usd": 10}), {"usd": 10})
    ledger.hold("b", {"usd": 5})
    ledger.close("a")
    assert ledger.balance("run", "usd") == Balance(limit=100, spent=15, held=0, carved=0)
    assert [event.account for event in memory.of(AccountClosed) if isinstance(event, AccountClosed)] == ["b", "a"]
    assert memory.of(Cut) == [Cut(2, "closed")]
    assert ledger.subtree_spent("run")["usd"] == 15


def test_a_hold_ends_once() -> None:
    ledger, _ = ledger_with({"usd": 100})
    settled, released, cut = (ledger.hold("run", {"usd": 10}) for _ in range(3))
    ledger.settle(settled, {"usd": 1})
    ledger.release(released)
    ledger.cut(cut, "no usage in the answer")
    for hold in (settled, released, cut, 99):
        for end in (lambda: ledger.settle(hold, {"usd": 1}), lambda: ledger.release(hold), lambda: ledger.cut(hold, "x")):  # noqa: B023
            with pytest.raises(Refused) as caught:
                end()
            assert caught.value.code == "hold_ended"
    assert ledger.balance("run", "usd") == Balance(limit=100, spent=11, held=0, carved=0)


def test_a_settlement_above_its_hold_is_booked_and_reported() -> None:
    ledger, memory = ledger_with({"usd": 100})
    hold = ledger.hold("run", {"usd": 60, "calls": 1})
    assert ledger.settle(hold, {"usd": 130, "calls": 1}) == {"usd": 70}
    balance = ledger.balance("run", "usd")
    assert (balance.spent, balance.free, balance.over) == (130, 0, 30)
    assert memory.of(Settled) == [Settled(hold, "run", {"usd": 130, "calls": 1}, {"usd": 70})]


def test_what_a_sub_account_overdraws_is_taken_from_its_parents_room_at_once() -> None:
    ledger, _ = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 50}, parent="run")
    ledger.open("b", {"usd": 20}, parent="a")
    ledger.settle(ledger.hold("b", {"usd": 20}), {"usd": 95})
    assert ledger.balance("b", "usd").over == 75
    assert ledger.balance("a", "usd").over == 45
    assert ledger.balance("run", "usd") == Balance(limit=100, spent=0, held=0, carved=95)
    with pytest.raises(Refused):
        ledger.hold("run", {"usd": 6})
    ledger.close("a")
    assert ledger.balance("run", "usd") == Balance(limit=100, spent=95, held=0, carved=0)


def test_what_was_taken_beyond_a_limit_goes_back_when_a_hold_is_released() -> None:
    ledger, _ = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 50}, parent="run")
    first, second = ledger.hold("a", {"usd": 20}), ledger.hold("a", {"usd": 30})
    ledger.settle(first, {"usd": 40})
    assert ledger.balance("run", "usd").carved == 70
    ledger.release(second)
    assert ledger.balance("run", "usd").carved == 50


def test_a_charge_books_what_has_happened_and_reports_what_did_not_fit() -> None:
    ledger, memory = ledger_with({"cpu": 100})
    assert ledger.charge("run", {"cpu": 80}, "command 1") == {}
    assert ledger.charge("run", {"cpu": 50, "egress": 10}, "command 2") == {"cpu": 30}
    assert ledger.balance("run", "cpu").spent == 130
    assert [event.purpose for event in memory.of(Settled) if isinstance(event, Settled)] == ["command 1", "command 2"]


def test_a_grant_raises_a_limit_and_a_sub_account_is_granted_what_its_parent_has() -> None:
    ledger, _ = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 100}, parent="run")
    with pytest.raises(Refused):
        ledger.grant("a", {"usd": 1})
    ledger.grant("run", {"usd": 50})
    assert ledger.balance("run", "usd").free == 50
    ledger.grant("a", {"usd": 30})
    assert ledger.balance("a", "usd").free == 130
    assert ledger.balance("run", "usd") == Balance(limit=150, spent=0, held=0, carved=130)
    with pytest.raises(UsageError):
        ledger.grant("run", {"calls": 1})
    ledger.close("a")
    assert ledger.balance("run", "usd").free == 150


@pytest.mark.parametrize("amounts", [{"usd": -1}, {"usd": 1.0}, {"usd": True}, {"usd": 2**63}, {"dollars": 1}])
def test_what_is_no_amount_is_refused(amounts: dict[str, int]) -> None:
    ledger, _ = ledger_with({"usd": 100})
    hold = ledger.hold("run", {"usd": 1})
    for act in (
        lambda: ledger.hold("run", amounts),
        lambda: ledger.settle(hold, amounts),
        lambda: ledger.charge("run", amounts),
        lambda: ledger.grant("run", amounts),
        lambda: ledger.open("x", amounts),
    ):
        with pytest.raises(UsageError):
            act()
    assert ledger.balance("run", "usd").held == 1


def test_an_account_is_opened_once_and_not_used_after_its_end() -> None:
    ledger, _ = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 1}, parent="run")
    ledger.close("a")
    for act in (
        lambda: ledger.open("a", {"usd": 1}, parent="run"),
        lambda: ledger.open("run", {}),
        lambda: ledger.open("", {}),
        lambda: ledger.open("b", {"usd": 1}, parent="a"),
        lambda: ledger.hold("a", {"usd": 1}),
        lambda: ledger.close("a"),
        lambda: ledger.balance("nobody", "usd"),
        lambda: ledger.balance("run", "dollars"),
    ):
        with pytest.raises(UsageError):
            act()


def test_events_carry_the_agent_whose_account_it_is() -> None:
    ledger, memory = ledger_with({"usd": 100})
    ledger.open("a", {"usd": 10}, parent="run", agent="sub-1")
    ledger.release(ledger.hold("a", {"usd": 1}))
    assert memory.agents == ["", "sub-1", "sub-1", "sub-1"]
    again = Ledger.recover(memory.events, memory)
    again.hold("a", {"usd": 1})
    assert memory.agents[-1] == "sub-1"


def test_an_event_that_cannot_be_recorded_changes_nothing() -> None:
    class Broken(Memory):
        def append(self, event: Event, agent: str = "") -> int:
            if isinstance(event, Held):
                raise RunError("journal_failed", "no space left", remedy="make room")
            return super().append(event, agent)

    ledger = Ledger(Broken())
    ledger.open("run", {"usd": 5})
    with pytest.raises(RunError):
        ledger.hold("run", {"usd": 5})
    assert ledger.balance("run", "usd") == Balance(limit=5, spent=0, held=0, carved=0)


# --- recovery --------------------------------------------------------------------------------------------------------------


def test_after_a_crash_what_had_left_is_spent_and_what_had_not_is_free() -> None:
    ledger, memory = ledger_with({"usd": 100})
    waiting, left = ledger.hold("run", {"usd": 10}), ledger.hold("run", {"usd": 20})
    ledger.sent(left)
    again = Ledger.recover(list(memory.events), memory)
    assert again.balance("run", "usd") == Balance(limit=100, spent=20, held=0, carved=0)
    assert [event for _, event in memory.events[-2:]] == [Released(waiting), Cut(left, "crash")]
    assert again.hold("run", {"usd": 80}) == left + 1


def test_a_second_recovery_finds_nothing_to_do() -> None:
    ledger, memory = ledger_with({"usd": 100})
    ledger.sent(ledger.hold("run", {"usd": 20}))
    Ledger.recover(list(memory.events), memory)
    length = len(memory.events)
    again = Ledger.recover(list(memory.events), memory)
    assert len(memory.events) == length
    assert again.balance("run", "usd").spent == 20


@pytest.mark.parametrize("impossible", [Sent(7), Settled(0, "run", {"usd": 1}), Held(1, "nobody", {"usd": 1}), Cut(7, "x")])
def test_a_journal_that_no_ledger_wrote_is_not_recovered(impossible: Event) -> None:
    _, memory = ledger_with({"usd": 100})
    with pytest.raises(RunError) as caught:
        Ledger.recover([*memory.events, (2, impossible)], memory)
    assert caught.value.code == "ledger_unreadable"
    assert caught.value.context["seq"] == 2


# --- waiting ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["settle", "release", "cut", "close", "grant"])
def test_a_waiter_wakes_when_room_may_have_appeared(how: str) -> None:
    async def scenario() -> None:
        ledger, _ = ledger_with({"usd": 10})
        ledger.open("a", {"usd": 5}, parent="run")
        hold = ledger.hold("a", {"usd": 5})
        waiters = [asyncio.create_task(ledger.wait_change()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiters)
        waiters[0].cancel()
        await asyncio.sleep(0)
        {
            "settle": lambda: ledger.settle(hold, {"usd": 1}),
            "release": lambda: ledger.release(hold),
            "cut": lambda: ledger.cut(hold, "x"),
            "close": lambda: ledger.close("a"),
            "grant": lambda: ledger.grant("run", {"usd": 1}),
        }[how]()
        await asyncio.wait_for(asyncio.gather(*waiters[1:]), 10)

    asyncio.run(scenario())


def test_what_a_lease_was_drawn_for_is_spent_and_what_is_left_of_it_stays_held_until_it_ends() -> None:
    ledger, memory = ledger_with({"usd": 100, "calls": 9})
    lease = ledger.hold("run", {"usd": 60, "calls": 3})
    ledger.sent(lease)
    number, over = ledger.draw(lease, {"usd": 10, "calls": 1})
    assert over == {} and number != lease and ledger.left(lease) == {"usd": 50, "calls": 2}
    assert ledger.balance("run", "usd") == Balance(100, spent=10, held=50, carved=0)
    again = Ledger.recover(memory.events, Memory())
    assert again.balance("run", "usd") == Balance(100, spent=60, held=0, carved=0), "a crash counts what is left as spent"
    assert ledger.draw(lease, {"usd": 55})[1] == {"usd": 5}, "what exceeds it is booked and told"
    assert ledger.balance("run", "usd") == Balance(100, spent=65, held=0, carved=0)
    ledger.settle(lease, {})
    assert ledger.balance("run", "calls") == Balance(9, spent=1, held=0, carved=0)
    with pytest.raises(Refused, match="ended"):
        ledger.draw(lease, {"usd": 1})


# --- random interleavings --------------------------------------------------------------------------------------------------


@dataclass
class ModelAccount:
    parent: str
    limits: dict[str, int]
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0))


@dataclass
class Model:
    """Accounts and holds, summed afresh: an account commits its parent to its limit, or to more if facts passed that."""

    accounts: dict[str, ModelAccount] = field(default_factory=dict)
    holds: dict[int, tuple[str, dict[str, int], bool]] = field(default_factory=dict)
    billed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0))

    def used(self, name: str, resource: str) -> tuple[int, int, int]:
        held = sum(amounts.get(resource, 0) for account, amounts, _ in self.holds.values() if account == name)
        carved = sum(
            max(child.limits[resource], sum(self.used(id, resource)))
            for id, child in self.accounts.items()
            if child.parent == name and resource in child.limits
        )
        return self.accounts[name].spent[resource], held, carved

    def free(self, name: str, resource: str) -> int | None:
        limit = self.accounts[name].limits.get(resource)
        return None if limit is None else max(0, limit - sum(self.used(name, resource)))

    def fits(self, name: str, amounts: dict[str, int]) -> bool:
        return all((free := self.free(name, resource)) is None or amount <= free for resource, amount in amounts.items())

    def spend(self, name: str, amounts: dict[str, int]) -> None:
        for resource, amount in amounts.items():
            self.accounts[name].spent[resource] += amount
            self.billed[resource] += amount

    def close(self, name: str) -> None:
        for child in [id for id, account in self.accounts.items() if account.parent == name]:
            self.close(child)
        for number in [number for number, (account, _, _) in self.holds.items() if account == name]:
            self.spend(name, self.holds.pop(number)[1])
        ended = self.accounts.pop(name)
        if ended.parent:
            for resource, amount in ended.spent.items():
                self.accounts[ended.parent].spent[resource] += amount


class Walk:
    """One random history, played on the ledger and on the model."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.ledger = Ledger(self.memory)
        self.model = Model()
        self.names = 0
        self.honest = True  # no settlement above its hold, no charge above what is free
        self.open("", {"usd": 1000, "calls": 20})

    def pick(self, index: int) -> str:
        names = sorted(self.model.accounts)
        return names[index % len(names)]

    def pick_hold(self, index: int) -> int:
        numbers = sorted(self.model.holds)
        return numbers[index % len(numbers)] if numbers else index

    def open(self, parent: str, limits: dict[str, int]) -> None:
        self.names += 1
        name = f"account-{self.names}"
        allowed = not parent or (
            all(resource in limits for resource in self.model.accounts[parent].limits) and self.model.fits(parent, limits)
        )
        self.expect(allowed, lambda: self.ledger.open(name, limits, parent))
        if allowed:
            self.model.accounts[name] = ModelAccount(parent, dict(limits))

    def expect(self, allowed: bool, act: object) -> object:
        assert callable(act)
        if allowed:
            return act()
        with pytest.raises(GearcaseError):
            act()
        return None

    def step(self, kind: str, one: int, two: int, amounts: dict[str, int]) -> None:
        getattr(self, f"do_{kind}")(one, two, amounts)
        self.check()

    def do_open(self, one: int, two: int, amounts: dict[str, int]) -> None:
        self.open(self.pick(one), amounts)

    def do_root(self, one: int, two: int, amounts: dict[str, int]) -> None:
        self.open("", amounts)

    def do_hold(self, one: int, two: int, amounts: dict[str, int]) -> None:
        name = self.pick(one)
        allowed = self.model.fits(name, amounts)
        number = self.expect(allowed, lambda: self.ledger.hold(name, amounts))
        if allowed:
            assert isinstance(number, int)
            assert number not in self.model.holds
            self.model.holds[number] = (name, dict(amounts), False)

    def do_sent(self, one: int, two: int, amounts: dict[str, int]) -> None:
        number = self.pick_hold(one)
        known = self.model.holds.get(number)
        self.expect(known is not None, lambda: self.ledger.sent(number))
        if known:
            self.model.holds[number] = (known[0], known[1], True)

    def end(self, number: int, act: object, amounts: dict[str, int] | None) -> None:
        known = self.model.holds.pop(number, None)
        self.expect(known is not None, act)
        if known:
            self.model.spend(known[0], known[1] if amounts is None else amounts)
        self.expect(False, act)  # never twice

    def do_settle(self, one: int, two: int, amounts: dict[str, int]) -> None:
        number = self.pick_hold(one)
        held = self.model.holds.get(number, ("", {}, False))[1]
        true = {resource: amount * (two % 5) // 4 for resource, amount in held.items()}
        self.end(number, lambda: self.ledger.settle(number, true), true)

    def do_overrun(self, one: int, two: int, amounts: dict[str, int]) -> None:
        number = self.pick_hold(one)
        self.honest = False
        self.end(number, lambda: self.ledger.settle(number, amounts), amounts)

    def do_draw(self, one: int, two: int, amounts: dict[str, int]) -> None:
        number = self.pick_hold(one)
        account, held, sent = self.model.holds.get(number, ("", {}, False))
        true = {resource: amount * (two % 5) // 4 for resource, amount in held.items()}
        self.expect(bool(account), lambda: self.ledger.draw(number, true))
        if account:
            self.model.holds[number] = (account, {name: amount - true[name] for name, amount in held.items()}, sent)
            self.model.spend(account, true)

    def do_release(self, one: int, two: int, amounts: dict[str, int]) -> None:
        number = self.pick_hold(one)
        self.end(number, lambda: self.ledger.release(number), {})

    def do_cut(self, one: int, two: int, amounts: dict[str, int]) -> None:
        number = self.pick_hold(one)
        self.end(number, lambda: self.ledger.cut(number, "test"), None)

    def do_charge(self, one: int, two: int, amounts: dict[str, int]) -> None:
        name = self.pick(one)
        self.honest = self.honest and self.model.fits(name, amounts)
        over = self.ledger.charge(name, amounts)
        assert (not over) == self.model.fits(name, amounts)
        self.model.spend(name, amounts)

    def do_close(self, one: int, two: int, amounts: dict[str, int]) -> None:
        name = self.pick(one)
        if len(self.model.accounts) > 1 and (self.model.accounts[name].parent or two % 4 == 0):
            self.ledger.close(name)
            if not self.model.accounts[name].parent:
                lost = self.total(name)
                self.model.close(name)
                for resource in RESOURCES:
                    self.model.billed[resource] -= lost[resource]
            else:
                self.model.close(name)
        if not self.model.accounts:
            self.open("", {"usd": 500})

    def total(self, name: str) -> dict[str, int]:
        """What would be spent below `name` if it were closed now."""
        total = dict(self.model.accounts[name].spent)
        for account, amounts, _ in self.model.holds.values():
            if account == name:
                for resource, amount in amounts.items():
                    total[resource] += amount
        for child, account in self.model.accounts.items():
            if account.parent == name:
                for resource, amount in self.total(child).items():
                    total[resource] += amount
        return total

    def do_grant(self, one: int, two: int, amounts: dict[str, int]) -> None:
        name = self.pick(one)
        account = self.model.accounts[name]
        allowed = all(resource in account.limits for resource in amounts)
        allowed = allowed and (not account.parent or self.model.fits(account.parent, amounts))
        self.expect(allowed, lambda: self.ledger.grant(name, amounts))
        if allowed:
            for resource, amount in amounts.items():
                account.limits[resource] += amount

    def do_crash(self, one: int, two: int, amounts: dict[str, int]) -> None:
        self.ledger = Ledger.recover(list(self.memory.events), self.memory)
        for number, (account, held, sent) in list(self.model.holds.items()):
            del self.model.holds[number]
            if sent:
                self.model.spend(account, held)

    def check(self) -> None:
        assert dict(self.ledger.accounts()) == {name: account.parent for name, account in self.model.accounts.items()}
        for name, account in self.model.accounts.items():
            for resource in ("usd", "calls", "cpu"):
                balance = self.ledger.balance(name, resource)
                spent, held, carved = self.model.used(name, resource)
                assert balance == Balance(account.limits.get(resource), spent, held, carved)
                assert min(spent, held, carved) >= 0
                if balance.limit is not None:
                    assert balance.free is not None
                    assert balance.free >= 0
                    assert spent + held + carved + balance.free == balance.limit + balance.over
                    if self.honest:
                        assert balance.over == 0
        roots = [name for name, account in self.model.accounts.items() if not account.parent]
        for resource in ("usd", "calls", "cpu"):
            assert sum(self.ledger.subtree_spent(name)[resource] for name in roots) == self.model.billed[resource]


ACTS = {
    **{"open": 6, "root": 1, "hold": 10, "sent": 5, "settle": 6, "overrun": 2, "draw": 4, "release": 3, "cut": 2},
    **{"charge": 3, "close": 3, "grant": 1, "crash": 1},
}
SHARES = {"overrun": (0.5, 2, 5)}  # of what is free


def play(seed: int, length: int) -> Walk:
    """A random history whose amounts lie around what is free, so that about half of what is tried is refused."""
    random, walk = Random(seed), Walk()
    for _ in range(length):
        kind = random.choices(list(ACTS), list(ACTS.values()))[0]
        one, two = random.randrange(8), random.randrange(8)
        room = {resource: walk.model.free(walk.pick(one), resource) for resource in ("usd", "calls", "cpu")}
        amounts = {
            resource: random.randint(
                0, max(1, int((60 if free is None else free) * random.choice(SHARES.get(kind, (0.2, 0.5, 1.3)))))
            )
            for resource, free in room.items()
            if random.random() < (0.9 if free is not None and kind == "open" else 0.6)
        }
        walk.step(kind, one, two, amounts)
    return walk


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**48), length=st.integers(1, 80))
@pytest.mark.timeout(1200)
def test_no_interleaving_breaks_the_invariants(seed: int, length: int) -> None:
    play(seed, length)


def test_the_random_histories_reach_what_they_are_to_test() -> None:
    events = [event for seed in range(60) for _, event in play(seed, 80).memory.events]
    kinds = Counter(type(event).__name__ for event in events)
    assert min(kinds[name] for name in ("AccountOpened", "AccountClosed", "Held", "Sent", "Settled", "Released", "Cut")) > 60
    assert sum(isinstance(event, Settled) and event.lease > 0 for event in events) > 60
    assert any(isinstance(event, Settled) and event.over for event in events)
    assert any(isinstance(event, Cut) and event.reason == "crash" for event in events)
