"""What a box says of an API's calls: the normal form of paths, rules, rates, headers."""

import pytest
from pydantic import ValidationError

from gearcase.box.calls import ApiDoor, normal_path, parse_call, parse_rate
from gearcase.doors.api import covers
from gearcase.errors import UsageError


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        (b"/", b"/"),
        (b"/repos/%61cme/x", b"/repos/acme/x"),
        (b"/projects/acme%2fx", b"/projects/acme%2Fx"),
        (b"/a%20b/100%25", b"/a%20b/100%25"),
        (b"/a/b/", b"/a/b/"),
        (b"/%7Euser/x.y..z", b"/~user/x.y..z"),
    ],
)
def test_a_path_has_one_form(written, normal):
    assert normal_path(written) == normal


@pytest.mark.parametrize(
    "path",
    [
        *(b"", b"repos", b"http://other/x", b"/a//b", b"//a", b"/a/../b", b"/a/..", b"/a/./b", b"/a/%2e%2e/b", b"/a/.%2E/b"),
        *(b"/a/%252e%252e/b", b"/a/..%2fb", b"/a/%2e%2e%2fb", b"/a%252fb", b"/a\\b", b"/a%5cb", b"/a/..;x=1/b", b"/a%00b"),
        *(b"/a%0d%0aX:1", b"/a%", b"/a%zz", "/ä".encode(), b"/a b", b"/a%25252525252541", b"/a/%2e%2e;/b", b"/a#b", b"/a/ ../b"),
    ],
)
def test_what_could_be_read_in_two_ways_has_none(path):
    with pytest.raises(ValueError, match=r"it "):
        normal_path(path)


@pytest.mark.parametrize(
    ("rule", "method", "path", "allowed"),
    [
        ("GET /repos/acme/**", "GET", "/repos/acme/x", True),
        ("GET /repos/acme/**", "GET", "/repos/acme/x/y/z", True),
        ("GET /repos/acme/**", "HEAD", "/repos/acme/x", True),
        ("GET /repos/acme/**", "GET", "/repos/acme", False),
        ("GET /repos/acme/**", "POST", "/repos/acme/x", False),
        ("GET /repos/acme/**", "GET", "/repos/ACME/x", False),
        ("GET /repos/acme/**", "GET", "/repos/acmex/y", False),
        ("GET /repos/*/issues", "GET", "/repos/a/issues", True),
        ("GET /repos/*/issues", "GET", "/repos/a/b/issues", False),
        ("GET /repos/*/issues", "GET", "/repos/a%2Fb/issues", False),
        ("GET /projects/acme%2f*", "GET", "/projects/acme%2Fx", True),
        ("GET /projects/acme%2f*", "GET", "/projects/acme%2Fx%2Fy", False),
        ("GET,POST /x", "POST", "/x", True),
        ("* /**", "DELETE", "/anything/at/all", True),
        ("* /**", "GET", "/", True),
        ("* /**", "TRACE", "/", False),
        ("GET /a/**/z", "GET", "/a/b/c/z", True),
        ("GET /a/**/z", "GET", "/a/b/c/y", False),
    ],
)
def test_rules(rule, method, path, allowed):
    assert covers(parse_call(rule), method, normal_path(path.encode())) is allowed


@pytest.mark.parametrize("text", ["/repos", "FETCH /x", "GET", "GET repos", "GET /a/../b", "GET /a?b=1", "get /x"])
def test_a_rule_that_is_none(text):
    with pytest.raises(UsageError, match=r"GET|names|method|path"):
        parse_call(text)


def test_rates():
    assert str(parse_rate("60/m")) == "60/m" and parse_rate(" 5 / s").calls == 5
    for text in ("60", "0/m", "60/week", "-1/s"):
        with pytest.raises(UsageError, match="no rate"):
            parse_rate(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"Authorization": "Bearer abc"}},
        {"headers": {"X-Api-Key": "abc"}},
        {"headers": {"bad name": "x"}},
        {"headers": {"X": "a\nb"}},
        {"upstream": "https://api.example.org/?a=1"},
        {"upstream": "ftp://api.example.org"},
        {"upstream": "https://user:pw@api.example.org"},
        {"allow": []},
    ],
)
def test_a_door_that_would_not_keep_its_secret_is_refused(wrong):
    with pytest.raises(ValidationError):
        ApiDoor.model_validate({"upstream": "https://api.example.org", "allow": ["GET /**"], **wrong})
