"""What stands in place of a secret, and where it becomes one."""

import base64
import re

import pytest

from gearcase.doors.masks import forms
from gearcase.doors.placeholders import Placeholder, placeholder_text, put_in
from gearcase.doors.secrets import Secret

SECRET = "ghp_canary4711neverinside0000"
ONE = Placeholder(Secret("github", SECRET), "ghp_standsForIt00000000000Aa", frozenset({"authorization", "x-api-key"}))


def basic(pair, encode=base64.b64encode):
    return f"Basic {encode(pair.encode()).decode()}"


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (SECRET, r"ghp_[A-Za-z0-9]{25}"),
        ("sk-ant-api03-abcdefghijklmnopqrstuvwxyz", r"sk-ant-api03-[A-Za-z0-9]{26}"),
        ("0123456789abcdef0123456789abcdef", r"[0-9a-f]{32}"),
        ("my-own password", r"[A-Za-z0-9]{24}"),
        ("x" * 5000, r"[A-Za-z0-9]{200}"),
    ],
)
def test_a_placeholder_looks_like_its_secret_and_tells_nothing_of_it(value, shape):
    texts = {placeholder_text(value) for _ in range(50)}
    assert len(texts) == 50 and all(re.fullmatch(shape, text) for text in texts)
    for text in texts:
        assert not any(form.decode() in text for form in forms(value))


@pytest.mark.parametrize("written", ["Bearer {}", "token {}", "{}", "a{}b", 'GoogleLogin auth="{}"'])
def test_it_is_replaced_in_the_headers_that_are_named(written):
    for name in ("authorization", "x-api-key"):
        assert put_in(name, written.format(ONE.text), [ONE]) == (written.format(SECRET), ["github"])


@pytest.mark.parametrize("pair", ["{}:", "user:{}", "{}:x-oauth-basic", "us\u00e9r:{}"])
def test_and_within_the_base64_of_basic(pair):
    for scheme in ("Basic", "basic"):
        value = basic(pair.format(ONE.text)).replace("Basic", scheme)
        said, used = put_in("authorization", value, [ONE])
        assert said == basic(pair.format(SECRET)).replace("Basic", scheme) and used == ["github"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user-agent", ONE.text),
        ("cookie", f"session={ONE.text}"),
        ("x-amz-meta-note", ONE.text),
        ("x_api_key", ONE.text),
        ("authorization", "Bearer another"),
        ("authorization", basic("user:another")),
        ("authorization", "Basic !!!"),
        ("x-api-key", basic(f"user:{ONE.text}")),
        ("authorization", ONE.text[:-1]),
        ("authorization", ONE.text.swapcase()),
    ],
)
def test_nothing_else_is_touched(name, value):
    assert put_in(name, value, [ONE]) == (value, [])


def test_several_secrets_of_one_host_are_each_its_own():
    other = Placeholder(
        Secret("other", "another-secret-4711"), placeholder_text("another-secret-4711"), frozenset({"authorization"})
    )
    said, used = put_in("authorization", basic(f"{ONE.text}:{other.text}"), [ONE, other])
    assert said == basic(f"{SECRET}:another-secret-4711") and used == ["github", "other"]
    assert put_in("authorization", f"Bearer {other.text}", [ONE]) == (f"Bearer {other.text}", [])
