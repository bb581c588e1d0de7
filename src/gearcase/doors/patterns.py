"""Which paths may leave: patterns of path components, matched on bytes.

`*` stands for any bytes within a component, `?` for one byte, `**` as a whole component for any number of folders; everything
else is itself. `out/**` is all below `out`; a pattern whose last component has no wildcard (`out`) means the file of that name
or all below the folder of that name. What a pattern after `!` names stays, whatever the others say. Matching walks along with the
tree, so it needs no whole path, and takes time in proportion to the lengths: no expression of an agent is ever compiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType

from gearcase.errors import UsageError

State = NewType("State", frozenset[tuple[int, int]])
"""Where each pattern stands in one folder: (which pattern, how many of its components are matched)."""


class Patterns:
    """A set of patterns. Raises UsageError `bad_pattern` for one that is not relative to /workspace."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[list[bytes]] = []
        self._kept: set[int] = set()  # those of what stays
        for pattern in patterns:
            components = _components(pattern.removeprefix("!"))
            whole = b"*" not in components[-1] and b"?" not in components[-1]
            for one in [components, [*components, b"**"]] if whole else [components]:
                if pattern.startswith("!"):
                    self._kept.add(len(self._patterns))
                self._patterns.append(one)
        self.start = State(frozenset(self._reached((index, 0) for index in range(len(self._patterns)))))

    def below(self, state: State, name: bytes) -> State:
        """The state inside the folder `name`."""
        return State(frozenset(self._step(state, name)))

    def is_open(self, state: State) -> bool:
        """Whether anything in a folder of this state, or below it, can match."""
        if any(self._patterns[index][place:] == [b"**"] for index, place in state if index in self._kept):
            return False
        return any(place < len(self._patterns[index]) for index, place in state if index not in self._kept)

    def matches(self, state: State, name: bytes) -> bool:
        """Whether the file `name` in a folder of this state may leave."""
        whole = [index for index, place in self._step(state, name) if place == len(self._patterns[index])]
        return bool(whole) and self._kept.isdisjoint(whole)

    def match(self, path: bytes) -> bool:
        """Whether a whole path may leave."""
        *folders, name = path.split(b"/")
        state = self.start
        for folder in folders:
            state = self.below(state, folder)
        return self.matches(state, name)

    def _step(self, state: State, name: bytes) -> set[tuple[int, int]]:
        places: set[tuple[int, int]] = set()
        for index, place in state:
            pattern = self._patterns[index]
            if place == len(pattern):
                continue
            if pattern[place] == b"**":
                places.add((index, place))
                if place == len(pattern) - 1:
                    places.add((index, place + 1))
            elif fits(pattern[place], name):
                places.add((index, place + 1))
        return self._reached(places)

    def _reached(self, places: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """`**` before another component may also stand for no folder at all."""
        reached: set[tuple[int, int]] = set()
        for index, place in places:
            pattern = self._patterns[index]
            reached.add((index, place))
            while place < len(pattern) - 1 and pattern[place] == b"**":
                place += 1
                reached.add((index, place))
        return reached


def fits(pattern: bytes, name: bytes) -> bool:
    """Whether a component fits `*` and `?`, in at most len(pattern) * len(name) steps."""
    at = here = 0
    star = mark = -1
    while here < len(name):
        if at < len(pattern) and pattern[at] == ord("*"):
            star, mark, at = at, here, at + 1
        elif at < len(pattern) and pattern[at] in (name[here], ord("?")):
            at, here = at + 1, here + 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return not pattern[at:].strip(b"*")


def _components(pattern: str) -> list[bytes]:
    text = pattern.encode("utf-8", "surrogateescape")
    if text.endswith(b"/"):
        text += b"**"
    components = [component for component in text.split(b"/") if component != b"."]
    if not components or b"" in components or b".." in components or b"\0" in text:
        raise UsageError(
            "bad_pattern",
            f"{pattern!r} is not a pattern of files below /workspace",
            remedy='write it relative to /workspace, without "..", such as "out/**" or "*.csv"',
        )
    return components
