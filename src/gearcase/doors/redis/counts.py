"""What a server says of itself, read: how often each command ran, how many keys were looked up and changed.

Threat: the server may have been taken over. So what is read is bounded: numbers, names, and how many of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gearcase.events import Amounts

SECTIONS = ("server", "stats", "commandstats", "persistence", "memory")
_MOST_KINDS = 500
_KIND = re.compile(
    r"^cmdstat_([a-z0-9_|.-]{1,60}):calls=(\d{1,18}),usec=(\d{1,18}),[^\r\n]{0,80}?"
    r"rejected_calls=(\d{1,18}),failed_calls=(\d{1,18})\r?$",
    re.MULTILINE,
)
_NUMBER = re.compile(
    r"^(keyspace_hits|keyspace_misses|rdb_changes_since_last_save|used_memory|valkey_version):(\d{1,18})", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the server began: `kinds` is command -> count, errors, milliseconds; keys looked up and changed; bytes of memory."""

    kinds: Mapping[str, Amounts]
    read: int
    written: int
    memory: int
    version: int


def read_counts(text: str, said: Mapping[str, int]) -> Counts:
    """What INFO of `SECTIONS` tells, without what was `said` by the keeper (lower-case word -> how often)."""
    kinds: dict[str, Amounts] = {}
    for name, calls, spent, rejected, wrong in _KIND.findall(text):
        count = int(calls) - said.get(name, 0) + int(rejected)
        if count > 0 and len(kinds) < _MOST_KINDS:
            kinds[name.upper()] = {"count": count, "errors": int(rejected) + int(wrong), "milliseconds": int(spent) // 1000}
    numbers = {name: int(number) for name, number in _NUMBER.findall(text)}
    looked = numbers.get("keyspace_hits", 0) + numbers.get("keyspace_misses", 0)
    changed, memory = numbers.get("rdb_changes_since_last_save", 0), numbers.get("used_memory", 0)
    return Counts(kinds, looked, changed, memory, numbers.get("valkey_version", 0))


def since(before: Mapping[str, Amounts], now: Mapping[str, Amounts]) -> dict[str, Amounts]:
    """What came to it, of the kinds of which there are more. A server cannot take back what it told."""
    found: dict[str, Amounts] = {}
    for name, amounts in now.items():
        earlier = before.get(name, {})
        if amounts["count"] > earlier.get("count", 0):
            found[name] = {key: max(0, amount - earlier.get(key, 0)) for key, amount in amounts.items()}
    return found
