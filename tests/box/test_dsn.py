"""Addresses of databases."""

import pytest

from gearcase.box.dsn import parse_dsn
from gearcase.errors import UsageError


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@db.example.org:5433/orders?sslmode=verify-full",
        "postgresql://db.example.org/orders",
        "postgresql://me@[2001:db8::1]:5432/orders",
        "postgresql:///orders?host=/var/run/postgresql",
        "postgresql://me%40home@h/odd%20name",
    ],
)
def test_an_address_is_written_as_it_is_read(text):
    assert str(parse_dsn(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders",
        "host=h dbname=d",
        "postgresql://h",
        "postgresql://h:x/d",
        "postgresql://u:p@h/d",
        "postgresql://h/d?password=p",
    ],
)
def test_what_is_no_address_or_holds_a_password_is_refused(text):
    with pytest.raises(UsageError, match=r"."):
        parse_dsn(text)
