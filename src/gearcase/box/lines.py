"""Where in a TOML text each key and each element of a list stands.

Contract: the text was accepted by `tomllib` before; this scanner does not judge it. It yields the line (from 1) of every path,
a path being the keys and list positions from the root, as `tomllib`'s value has them. A table that is opened twice, by header
and by dotted key, keeps its first line.
"""

from __future__ import annotations

import re
import tomllib

PathKey = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2}(?!"))'
    r"|'''.*?'''(?:'{0,2}(?!'))"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\n]+")


def lines_of(text: str) -> dict[PathKey, int]:
    """The line of every path in an accepted TOML text."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.counted = (0, 1)  # (position, its line): positions only grow, so counting is linear
        self.lines: dict[PathKey, int] = {}
        self.lists: dict[PathKey, int] = {}  # lists of tables: how many so far

    def document(self) -> dict[PathKey, int]:
        table: PathKey = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _line(self) -> int:
        position, line = self.counted
        line += self.text.count("\n", position, self.at)
        self.counted = (self.at, line)
        return line

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:  # only on a text that tomllib would not accept
            raise ValueError(f"not TOML at position {self.at}")
        self.at = match.end()
        return match[0]

    def _mark(self, path: PathKey) -> None:
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], self._line())

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                parts.append(next(iter(tomllib.loads(f"{self._skip(_STRING)} = 0"))))
            else:
                parts.append(self._skip(_BARE))
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _header(self) -> PathKey:
        several = self.text.startswith("[[", self.at)
        self.at += 2 if several else 1
        path: PathKey = ()
        parts = self._key()
        for number, part in enumerate(parts):
            path += (part,)
            if number < len(parts) - 1 and path in self.lists:
                path += (self.lists[path] - 1,)
        if several:
            position = self.lists.get(path, 0)
            self.lists[path] = position + 1
            path += (position,)
        elif path in self.lists:
            path += (self.lists[path] - 1,)
        self._mark(path)
        self.at += 2 if several else 1
        return path

    def _pair(self, table: PathKey) -> None:
        path = (*table, *self._key())
        self._mark(path)
        self.at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: PathKey) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self._skip(_STRING)
        elif opening == "[":
            self._list(path)
        elif opening == "{":
            self._inline(path)
        else:
            self._skip(_PLAIN)

    def _list(self, path: PathKey) -> None:
        self.at += 1
        position = 0
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "]":
                break
            self._mark((*path, position))
            self._value((*path, position))
            position += 1
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _inline(self, path: PathKey) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "}":
                break
            self._pair(path)
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1
