"""Addresses of Redis servers: where one is, and nothing that would be dropped unheard."""

import pytest

from gearcase.box.redis_url import RedisUrl, parse_redis_source, parse_redis_url
from gearcase.errors import UsageError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("redis://host", RedisUrl("host", 6379)),
        ("redis://me@host:7000", RedisUrl("host", 7000, "me")),
        ("redis://m%40e@[::1]:7000/", RedisUrl("::1", 7000, "m@e")),
        ("rediss://me@host:7000", RedisUrl("host", 7000, "me", tls=True)),
    ],
)
def test_an_address_says_where_a_server_is(text, meant):
    assert parse_redis_url(text) == meant
    assert parse_redis_source(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "rediss://",
        "redis://",
        "redis://host:port",
        "redis://host:99999",
        "redis://host/3",
        "redis://host?db=3",
        "http://host",
        "redis://[::1",
    ],
)
def test_an_address_that_means_something_else_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_redis_source(text)
    assert caught.value.code == "bad_redis_url"


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(UsageError) as caught:
        parse_redis_source("redis://me:hidden@host")
    assert "hidden" not in str(caught.value.envelope())
    assert caught.value.context["secret"]


def test_what_is_no_address_is_a_file():
    assert parse_redis_source("data/cache.rdb") == "data/cache.rdb"
