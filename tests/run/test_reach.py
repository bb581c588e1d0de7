"""What an agent may reach: picked by names, and never more than its parent."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.box.hosts import parse_rule
from gearcase.doors.http import HttpDoor, HttpRules
from gearcase.errors import GearcaseError, Refused
from gearcase.run.doors import Doors
from gearcase.run.reach import Reach

NAMES, PORTS = ("a.example", "b.example", "c.a.example"), (80, 443, 8080)
PLACES = {"one": {("a.example", 443)}, "two": {("a.example", 443), ("b.example", 443)}, "three": {("a.example", 8080)}}


def opened(*secrets):
    return SimpleNamespace(names=secrets, places_of=lambda one: frozenset(PLACES[one])) if secrets else None


def whole(*rules, secrets=()):
    """The reach of a lead, and the http door of its run."""
    http = HttpDoor(HttpRules(tuple(map(parse_rule, rules))), SimpleNamespace())
    return Reach.whole(Doors([]), opened(*secrets)), http


def reached(reach):
    return {(name, port) for name in NAMES for port in PORTS if reach.within(name, port)}


def test_a_host_with_a_port_is_that_port_and_one_without_all_that_the_parent_has():
    lead, http = whole("a.example", "a.example:8080", "b.example")
    assert reached(lead.picked(["a.example:443"], http)) == {("a.example", 443)}
    assert reached(lead.picked(["a.example"], http)) == {("a.example", port) for port in PORTS}
    below = lead.picked(["a.example:443", "b.example"], http)
    assert reached(below.picked(["a.example"], http)) == {("a.example", 443)}
    with pytest.raises(Refused, match="no door or host of yours"):
        below.picked(["a.example:8080"], http)
    assert reached(below.picked(["http"], http)) == reached(below)


def test_what_is_told_of_hosts_is_what_is_reached():
    lead, http = whole("a.example", "tcp://b.example:8080", "*.a.example")
    assert lead.hosts(http) == ["a.example", "tcp://b.example:8080", "*.a.example"]
    assert lead.picked(["a.example:443"], http).hosts(http) == ["a.example:443", "*.a.example"]


def test_a_place_that_a_secret_is_put_in_for_is_theirs_who_were_given_one_of_its_secrets():
    lead, http = whole("a.example", "a.example:8080", "b.example", secrets=("one", "two", "three"))
    assert reached(lead.picked(["secrets.one"], http)) == {("a.example", 443)}
    assert reached(lead.picked(["secrets.three"], http)) == {("a.example", 8080)}
    assert reached(lead.picked(["http"], http)) == {("c.a.example", port) for port in PORTS}, (
        "whose rule it is, is the door's to say"
    )
    both = lead.picked(["http", "secrets.one"], http)
    assert ("a.example", 443) in reached(both) and ("a.example", 80) in reached(both)
    assert ("a.example", 8080) not in reached(both) and ("b.example", 80) not in reached(both)
    assert both.secrets == ("one",)


WORDS = st.lists(
    st.sampled_from(
        ["http", "secrets.one", "secrets.two", "secrets.three", "*.a.example", "*:8080", "tcp://b.example:8080"]
        + [f"{name}{port}" for name in NAMES for port in ("", ":80", ":443", ":8080")]
    ),
    max_size=4,
)


@given(st.lists(WORDS, max_size=4), st.lists(st.sampled_from(list(PLACES)), unique=True))
def test_whatever_is_picked_it_is_never_more_than_the_parent_reaches(picks, secrets):
    reach, http = whole("*", "a.example:8080", "tcp://b.example:8080", secrets=tuple(secrets))
    for words in picks:
        try:
            below = reach.picked(words, http)
        except GearcaseError:
            continue
        assert reached(below) <= reached(reach) and set(below.secrets) <= set(reach.secrets)
        reach = below
