from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.errors import UsageError
from gearcase.units import (
    NANO,
    format_bytes,
    format_duration,
    format_money,
    parse_bytes,
    parse_duration,
    parse_money,
)

# --- money -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "nano"),
    [
        (2, 2 * NANO),
        (0, 0),
        ("$1.50", 1_500_000_000),
        (" 0.25 ", 250_000_000),
        ("1_000", 1000 * NANO),
        (0.1, 100_000_000),
        (Decimal("0.000000001"), 1),
        ("1e-9", 1),
    ],
)
def test_dollars_become_nano_dollars(written: str | int | float | Decimal, nano: int) -> None:
    assert parse_money(written) == nano


@pytest.mark.parametrize("written", ["", "two", "-1", -0.5, "1.0000000001", "nan", "inf", "$", "1,5", "$$1"])
def test_what_cannot_be_paid_is_refused_and_never_rounded(written: str | float) -> None:
    with pytest.raises(UsageError) as caught:
        parse_money(written)
    assert caught.value.code == "bad_money"
    assert "dollars" in caught.value.remedy


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0.00"),
        (410_000_000, "$0.41"),
        (2 * NANO, "$2.00"),
        (1_999_999_999, "$2.00"),
        (10_000_000, "$0.01"),
        (400_000, "$0.0004"),
        (1, "$0.000000001"),
        (-410_000_000, "-$0.41"),
        (1234 * NANO, "$1234.00"),
    ],
)
def test_money_is_shown_as_dollars(nano: int, shown: str) -> None:
    assert format_money(nano) == shown


@given(st.integers(0, 10**15))
def test_money_as_text_comes_back(nano: int) -> None:
    assert parse_money(f"{nano // NANO}.{nano % NANO:09d}") == nano


@given(st.integers(1, 10**7 - 1))
def test_money_below_a_cent_never_looks_like_nothing(nano: int) -> None:
    shown = parse_money(format_money(nano))
    assert shown > 0
    assert abs(shown - nano) <= nano // 2


# --- bytes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (1024, 1024),
        ("4GiB", 4 * 2**30),
        ("4 G", 4 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5KiB", 1536),
        ("12", 12),
        ("3TB", 3 * 10**12),
    ],
)
def test_sizes_become_bytes(written: str | int, count: int) -> None:
    assert parse_bytes(written) == count


@pytest.mark.parametrize("written", ["", "GiB", "-1", "4 gigs", "1e3", -1, True, "4GiB free"])
def test_what_is_no_size_is_refused(written: str | int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(written)
    assert caught.value.code == "bad_bytes"
    assert "500MB" in caught.value.remedy


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (873, "873 B"), (1536, "1.5 KiB"), (12 * 2**20, "12 MiB"), (3 * 2**40, "3.0 TiB")]
)
def test_bytes_are_shown_in_binary_units(count: int, shown: str) -> None:
    assert format_bytes(count) == shown


@given(st.integers(0, 2**45))
def test_shown_bytes_come_back_within_a_twentieth(count: int) -> None:
    assert abs(parse_bytes(format_bytes(count).replace(" ", "")) - count) <= count / 20 + 1


# --- durations -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("45m", 2700), ("1h30m", 5400), ("1h 30m", 5400), ("90s", 90), (90, 90), (0.5, 0.5), ("250ms", 0.25), ("2d", 172800)],
)
def test_durations_become_seconds(written: str | int | float, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", "90", "1 hour", "-5s", "m", -1, True, "1h30"])
def test_what_is_no_duration_is_refused(written: str | int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(written)
    assert caught.value.code == "bad_duration"
    assert "45m" in caught.value.remedy


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.48, "480 ms"), (12.3, "12 s"), (245, "4m 05s"), (5400, "1h 30m"), (3599.9, "59m 59s")]
)
def test_durations_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@given(st.integers(1, 10**6))
def test_a_shown_duration_comes_back_within_a_minute(seconds: int) -> None:
    assert abs(parse_duration(format_duration(seconds)) - seconds) < 60
