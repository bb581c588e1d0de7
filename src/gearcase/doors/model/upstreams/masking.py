"""What differs between two runs of the same work, masked: times, sizes, ids, money, paths, hex.

Cassettes compare masked text, so that a replayed run is not told apart from its recording by its clock. Every pattern is one
linear pass with bounded repeats: the text is an agent's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

KEPT = 4000
"""Characters of a masked text that are kept to be shown; its digest covers all of it."""

REMEMBERED = 5000
"""Values whose mask is remembered."""

_MASKS = re.compile(
    r"""
      (?P<id>\b(?:[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}
             |(?:toolu|srvtoolu|call|msg|rs|fc|resp|req|chatcmpl)[_-][A-Za-z0-9_-]{1,200}))
    | (?P<time>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?
             |\b\d{1,2}:\d\d(?::\d\d(?:\.\d{1,9})?)?\b
             |\b\d{1,12}(?:\.\d{1,9})?[ ]?(?:ms|us|µs|ns|s|sec|secs|seconds?|m|min|minutes?|h|hours?)
              (?:[ ]\d{1,2}(?:ms|s|m|h)){0,3}\b)
    | (?P<size>\b\d{1,12}(?:\.\d{1,3})?[ ]?(?:[KMGT]i?B|kB)\b)
    | (?P<money>\$[ ]?\d[\d,]{0,20}(?:\.\d{1,12})?(?:[ ]\(\$\d[\d,.]{0,30}[ ]set[ ]aside[ ]for[ ][a-z ]{1,40}\))?)
    | (?P<path>(?<![\w/+=-])/(?:[\w.@%+~-]{1,255}/){1,60}[\w.@%+~-]{0,255})
    | (?P<opaque>[A-Za-z0-9+/_=]{64,})
    | (?P<hex>\b(?:0x)?(?=[a-fA-F]{0,64}\d)[0-9a-fA-F]{8,}\b)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked text: the digest of all of it, and as much as is kept."""

    digest: str
    text: str


def mask(text: str) -> str:
    """The text with what is incidental replaced by `<time>`, `<size>`, `<id>`, `<money>`, `<path>`, `<hex>`, `<opaque>`."""
    return _MASKS.sub(lambda match: f"<{match.lastgroup}>", text)


def canonical(value: Any) -> str:
    """One text for one JSON value, whatever the order of its keys."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # half of a surrogate pair, a number beyond 64 bits
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Masker:
    """Masks JSON values, each different one once: a conversation repeats itself at every call."""

    def __init__(self) -> None:
        self._seen: dict[str, Masked] = {}

    def __call__(self, value: Any) -> Masked:
        """The value masked."""
        text = canonical(value)
        key = digest(text)
        masked = self._seen.get(key)
        if masked is None:
            if len(self._seen) >= REMEMBERED:
                self._seen.clear()
            whole = mask(text.replace("\\n", "\n"))
            half = KEPT // 2
            kept = whole if len(whole) <= KEPT else f"{whole[:half]}\n[...]\n{whole[-half:]}"
            masked = self._seen[key] = Masked(digest(whole), kept)
        return masked
