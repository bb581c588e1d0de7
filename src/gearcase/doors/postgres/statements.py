"""Whether a statement may destroy what cannot be had back: for the gate that keeps a snapshot before the first of them.

Threat: text that an agent chose. It is read in one pass, no longer than `MOST`, by a pattern without repetition inside repetition; what
is longer counts as destructive. It is a guard against mistakes: SQL that is put together inside the server passes it, and what is at
stake is a throw-away branch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MOST = 256 * 1024
"""Bytes of a statement that are read."""
LONG = "LONG"
_TOKEN = re.compile(
    rb"--[^\n]*|/\*.*?(?:\*/|\Z)|[eE]'(?:[^'\\]|\\.)*(?:'|\Z)|'[^']*(?:'|\Z)|\"[^\"]*(?:\"|\Z)"
    rb"|\$[A-Za-z_]*\$|([A-Za-z_][A-Za-z_0-9]*)|(;)",
    re.DOTALL,
)
_ALWAYS = frozenset(("DROP", "TRUNCATE"))
_FIRST = frozenset(("ALTER", "DO", "CALL", "LOCK", "CLUSTER", "REINDEX", "REFRESH", "VACUUM"))
"""What may do anything, or locks a table so that no snapshot could be made after it."""
_NO_UPDATE = frozenset(("FOR", "DO", "KEY", "ON", "OR", "BEFORE", "AFTER", "OF"))
"""After these, UPDATE is no statement."""


def destructive(text: bytes) -> str:
    """The word for which a text of statements may destroy something; empty where it does not."""
    if len(text) > MOST:
        return LONG
    for words in _statements(text):
        if words[0] in _FIRST:
            return words[0]
        where, sets = _last(words, "WHERE"), _last(words, "SET")
        for at, word in enumerate(words):
            if word in _ALWAYS or (at > where and _is_whole(words, at, sets)):
                return word
    return ""


def _is_whole(words: Sequence[str], at: int, sets: int) -> bool:
    """Whether a DELETE or UPDATE begins at this place; with no WHERE after it, it is for all rows of a table."""
    if words[at] == "DELETE":
        return words[at + 1 : at + 2] == ["FROM"]
    return words[at] == "UPDATE" and words[at - 1 if at else 0] not in _NO_UPDATE and sets > at


def _last(words: Sequence[str], word: str) -> int:
    """Where a word stands for the last time; -1 where it does not."""
    return max((at for at, one in enumerate(words) if one == word), default=-1)


def _statements(text: bytes) -> Iterator[list[str]]:
    """The unquoted words of each statement, in capitals. What stands between dollar signs is read as statements, too."""
    words: list[str] = []
    for found in _TOKEN.finditer(text):
        if found[1]:
            words.append(found[1].decode("ascii").upper())
        elif found[2] and words:
            yield words
            words = []
    if words:
        yield words
