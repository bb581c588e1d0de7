"""The names that a box may reach, as people write them, and all the spellings that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.box.hosts import HostRule, parse_name, parse_place, parse_rule, place_text
from gearcase.errors import UsageError


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("packages.example.org", HostRule("packages.example.org")),
        ("Packages.Example.ORG.", HostRule("packages.example.org")),
        ("packages.example.org:8443", HostRule("packages.example.org", (8443,))),
        ("*.files.example.org:443", HostRule("*.files.example.org", (443,))),
        ("tcp://git.example.org:22", HostRule("git.example.org", (22,), raw=True)),
        ("*", HostRule("*")),
        ("xn--bcher-kva.example", HostRule("xn--bcher-kva.example")),
    ],
)
def test_a_rule_is_read_and_written(text, rule):
    assert parse_rule(text) == rule
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://packages.example.org", "without https://"),
        ("packages.example.org/simple", "NAME"),
        ("10.0.0.5", "hosts ="),
        ("10.0.0.5:5432", "hosts ="),
        ("0x7f.0.0.0x1", "hosts ="),
        ("2130706433", "hosts ="),
        ("[::1]:80", "write"),
        ("localhost:8080", "hosts ="),
        ("model.box", "hosts ="),
        ("a.*.example.org", "write"),
        ("*example.org", "*.example.org"),
        ("allowed.com@evil.com", "write"),
        ("evil.com\0.allowed.com", "write"),
        ("evil.com .allowed.com", "write"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("example.org:0", "1 to 65535"),
        ("example.org:70000", "1 to 65535"),
        ("example.org:53", "resolver"),
        ("tcp://example.org", "tcp://example.org:22"),
        ("", "write"),
        ("-a.example", "write"),
        ("a" * 64 + ".example", "write"),
        (".".join(["a" * 60] * 5), "write"),
    ],
)
def test_what_is_no_name_is_refused_with_what_to_write(text, says):
    with pytest.raises(UsageError) as error:
        parse_rule(text)
    assert error.value.code == "bad_host" and says in error.value.remedy


def test_a_wildcard_covers_what_is_below_it_and_nothing_else():
    rule = parse_rule("*.example.org")
    assert rule.covers("a.example.org") and rule.covers("a.b.example.org")
    assert not rule.covers("example.org") and not rule.covers("evilexample.org") and not rule.covers("a.example.org.evil")


@given(st.text(max_size=80))
def test_no_text_whatever_is_more_than_refused(text):
    try:
        name = parse_name(text)
    except UsageError:
        return
    assert parse_name(name) == name and name.isascii() and name == name.lower()


@pytest.mark.parametrize("text", ["10.0.0.5", "10.0.0.5:80", "[::1]:8443", "mirror.example:80", "[fe80::1]"])
def test_a_place_is_read_and_written(text):
    assert place_text(*parse_place(text)) == text
