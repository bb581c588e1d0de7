"""An account of items that does not add up cannot be made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.swarm.account import ItemAccount

STATES = ["ok", "failed", "quarantined", "skipped"]


@given(st.lists(st.one_of(st.integers(0, 5), st.sampled_from(STATES))))
def test_whatever_happens_to_its_items_it_adds_up(steps):
    account = ItemAccount()
    for step in steps:
        if isinstance(step, int):
            account = account.grown(step)
        elif account.pending:
            account = account.ended(step)
        assert account.items == account.ok + account.failed + account.quarantined + account.skipped + account.pending
        assert account.done == account.items - account.pending


@pytest.mark.parametrize("counts", [{"items": 1}, {"items": 1, "ok": 2, "pending": -1}, {"ok": 1}])
def test_one_that_loses_an_item_or_invents_one_is_refused(counts):
    with pytest.raises(ValueError, match="add up"):
        ItemAccount(**counts)


def test_an_item_ends_once():
    with pytest.raises(ValueError, match="add up"):
        ItemAccount(items=1, pending=1).ended("ok").ended("ok")


def test_what_passes():
    assert ItemAccount(items=0).passes(0)
    assert ItemAccount(items=2, ok=2).passes(0)
    assert not ItemAccount(items=2, ok=1, failed=1).passes(0)
    assert ItemAccount(items=3, ok=1, failed=1, quarantined=1).passes(2)
    assert not ItemAccount(items=2, ok=1, skipped=1).passes(9)
    assert not ItemAccount(items=2, ok=1, pending=1).passes(9)
