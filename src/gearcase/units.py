"""Money, bytes and durations: parse what people write, print what people read.

Money is an integer of nano-dollars everywhere; bytes are integers; durations are seconds as float. Nothing else in the code
converts between text and these.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from gearcase.errors import UsageError

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""

_UNITS = {
    **{"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"K": 2**10, "M": 2**20, "G": 2**30, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_money(value: str | int | float | Decimal) -> int:
    """Dollars (`5`, `0.25`, `"$1.50"`) to nano-dollars. More than nine decimals is an error, never rounded."""
    text = str(value).strip().removeprefix("$").replace("_", "")
    try:
        nano = Decimal(text) * NANO
    except InvalidOperation:
        raise UsageError("bad_money", f"{value!r} is not an amount of dollars", remedy='write dollars: 2, 0.25 or "$2"') from None
    if not nano.is_finite() or nano != nano.to_integral_value() or nano < 0:
        raise UsageError(
            "bad_money",
            f"{value!r} is not a payable amount",
            remedy="write dollars from 0 up, with at most nine decimals",
        )
    return int(nano)


def format_money(nano: int) -> str:
    """`$0.41`; below a cent four significant decimals (`$0.0004`); never scientific."""
    sign, nano = ("-" if nano < 0 else ""), abs(nano)
    if nano == 0 or nano >= NANO // 100:
        cents = (nano + NANO // 200) // (NANO // 100)
        return f"{sign}${cents // 100}.{cents % 100:02d}"
    text = f"{nano / NANO:.9f}"
    digits = len(text) - len(text[2:].lstrip("0")) + 2
    return f"{sign}${text[: max(digits, 6)].rstrip('0')}"


def parse_bytes(value: str | int) -> int:
    """`"4GiB"`, `"500MB"`, `1024` to bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
    if not match or match[2] not in _UNITS:
        raise UsageError(
            "bad_bytes", f"{value!r} is not a size", remedy='write a size such as "500MB", "4GiB" or a number of bytes'
        )
    return int(Decimal(match[1].replace("_", "")) * _UNITS[match[2]])


def format_bytes(count: int) -> str:
    """`1.5 GiB`, `12 MiB`, `873 B`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def parse_duration(value: str | int | float) -> float:
    """`"45m"`, `"1h30m"`, `"90s"`, `90` to seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    text = str(value).strip().replace(" ", "")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise UsageError(
            "bad_duration",
            f"{value!r} is not a duration",
            remedy='write a duration such as "45m", "1h30m" or a number of seconds',
        )
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """`480 ms`, `12 s`, `4m 05s`, `1h 30m`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
