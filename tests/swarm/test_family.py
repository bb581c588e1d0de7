"""The tree of agents: what it refuses, who is next in line, who is seen by whom, and that each ends once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.errors import Refused, UsageError
from gearcase.swarm.family import Family, Kin, Outcome


def adopt(family, parent="lead", name=""):
    family.may_spawn(parent, name)
    key = family.next_id()
    above = family.of(parent)
    kin = Kin(key, name or key, parent, (above.depth if above else 0) + 1, "g", "m", {})
    family.adopt(kin)
    return kin


def test_depth_and_number_are_refused_with_what_is_left():
    family = Family("lead", depth=2, most=3, live=8)
    below = adopt(family, adopt(family).id)
    with pytest.raises(Refused, match="2 deep"):
        adopt(family, below.id)
    adopt(family)
    with pytest.raises(Refused, match="0 are left"):
        adopt(family)


@pytest.mark.parametrize("name", ["a1", "a7", "lead", "parent", "two words", "x" * 41, "new\nline"])
def test_a_name_that_is_taken_or_none_is_refused(name):
    family = Family("lead", 3, 64, 8)
    adopt(family)
    with pytest.raises(UsageError):
        adopt(family, "lead", name)


def test_an_agent_finds_those_below_it_alone():
    family = Family("lead", 3, 64, 8)
    one, two = adopt(family), adopt(family, name="two")
    deeper = adopt(family, one.id)
    assert [kin.id for kin in family.below("lead")] == ["a1", "a3", "a2"]
    assert family.find("lead", "two") is two and family.find("a1", "a3") is deeper
    for stranger in ("a2", "two", "a1", "lead", ""):
        with pytest.raises(Refused):
            family.find("a1", stranger)


OUTCOME = Outcome("done")


@given(st.lists(st.tuples(st.sampled_from(["spawn", "deeper", "start", "end", "lend", "back"]), st.integers(0, 30)), max_size=60))
def test_however_it_goes_no_more_are_at_work_than_may_be_and_nobody_waits_beside_a_free_place(steps):
    family = Family("lead", 3, 20, 3)
    lent: list[str] = []
    back = 0
    for what, number in steps:
        everyone = list(family.below("lead"))
        running = [kin for kin in everyone if kin.state == "running"]
        if what in ("spawn", "deeper"):
            parents = ["lead", *(kin.id for kin in running)] if what == "deeper" else ["lead"]
            try:
                adopt(family, parents[number % len(parents)])
            except Refused as refused:
                assert refused.code in ("too_deep", "too_many_agents")
        elif what == "end" and running:
            ending = running[number % len(running)]
            family.end(ending.id, OUTCOME)
            with pytest.raises(AssertionError):
                family.end(ending.id, OUTCOME)
        elif what == "lend" and running:
            lent.append(running[number % len(running)].id)
            family.lend(lent[-1])
        elif what == "back" and lent:
            family.take_back(lent.pop())
            back += 1
        while family.start_next() is not None:
            assert family.at_work <= 3
        queued = [kin for kin in family.below("lead") if kin.state == "queued"]
        assert not queued or family.at_work >= 3
        assert family.at_work <= 3 + back
