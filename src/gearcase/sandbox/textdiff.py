"""Differences of two texts, line by line, in bounded time whatever the texts are.

Purpose: show what an agent changed, and write patches. Threat: the usual algorithms are quadratic or worse, and the agent chooses
both texts; here the search stops after `_STEPS` comparisons and then says "all of the middle changed", which is always true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gearcase.sandbox.beneath import printable

_STEPS = 1_000_000
_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Block:
    """Lines `before[a:b]` became `after[c:d]`."""

    a: int
    b: int
    c: int
    d: int


def is_text(data: bytes) -> bool:
    """Whether a content is shown by lines: no NUL in its first 8 kB, as git tells it."""
    return b"\0" not in data[:8000]


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their newline; the last one may have none."""
    lines = data.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def changes(before: Sequence[bytes], after: Sequence[bytes]) -> list[Block]:
    """What changed, in order; few and small blocks where that is found in bounded time."""
    start, end_a, end_b = 0, len(before), len(after)
    while start < min(end_a, end_b) and before[start] == after[start]:
        start += 1
    while end_a > start and end_b > start and before[end_a - 1] == after[end_b - 1]:
        end_a, end_b = end_a - 1, end_b - 1
    if start == end_a and start == end_b:
        return []
    if start in (end_a, end_b):
        return [Block(start, end_a, start, end_b)]
    numbers: dict[bytes, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in before[start:end_a]]
    b = [numbers.setdefault(line, len(numbers)) for line in after[start:end_b]]
    trail = _search(a, b)
    if trail is None:
        return [Block(start, end_a, start, end_b)]
    return [Block(i + start, j + start, k + start, m + start) for i, j, k, m in _blocks(trail, len(a), len(b))]


def _search(a: list[int], b: list[int]) -> list[dict[int, int]] | None:
    """Myers' greedy search: how far each diagonal reaches after each number of edits; None when it takes too long."""
    reach = {1: 0}
    trail: list[dict[int, int]] = []
    steps = 0
    for edits in range(len(a) + len(b) + 1):
        trail.append(dict(reach))
        for diagonal in range(-edits, edits + 1, 2):
            down = diagonal == -edits or (diagonal != edits and reach[diagonal - 1] < reach[diagonal + 1])
            x = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
            y = x - diagonal
            began = x
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            reach[diagonal] = x
            if x >= len(a) and y >= len(b):
                return trail
            steps += 1 + x - began
        steps += len(reach)
        if steps > _STEPS:
            return None
    return trail


def _blocks(trail: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int, int, int]]:
    """Walk the trail back from the end; edits that touch are one block."""
    blocks: list[tuple[int, int, int, int]] = []
    for edits in range(len(trail) - 1, 0, -1):
        reach = trail[edits]
        diagonal = x - y
        down = diagonal == -edits or (diagonal != edits and reach[diagonal - 1] < reach[diagonal + 1])
        above = diagonal + 1 if down else diagonal - 1
        old_x = reach[above]
        old_y = old_x - above
        new_x, new_y = (old_x, old_y + 1) if down else (old_x + 1, old_y)
        if blocks and (blocks[-1][0], blocks[-1][2]) == (new_x, new_y):
            blocks[-1] = (old_x, blocks[-1][1], old_y, blocks[-1][3])
        else:
            blocks.append((old_x, new_x, old_y, new_y))
        x, y = old_x, old_y
    blocks.reverse()
    return blocks


def hunks(before: bytes, after: bytes) -> Iterator[bytes]:
    """The body of a unified difference, without its two header lines; nothing when both are equal."""
    old, new = split_lines(before), split_lines(after)
    group: list[Block] = []
    for block in changes(old, new):
        if group and block.a - group[-1].b > 2 * _CONTEXT:
            yield _hunk(old, new, group)
            group = []
        group.append(block)
    if group:
        yield _hunk(old, new, group)


def _hunk(old: list[bytes], new: list[bytes], group: list[Block]) -> bytes:
    lead = min(_CONTEXT, group[0].a)
    first_old, first_new = group[0].a - lead, group[0].c - lead
    last_old = min(len(old), group[-1].b + _CONTEXT)
    last_new = group[-1].d + last_old - group[-1].b
    parts = [b"@@ -%b +%b @@\n" % (_span(first_old, last_old), _span(first_new, last_new))]
    place = first_old
    for block in group:
        parts += [_line(b" ", line) for line in old[place : block.a]]
        parts += [_line(b"-", line) for line in old[block.a : block.b]]
        parts += [_line(b"+", line) for line in new[block.c : block.d]]
        place = block.b
    parts += [_line(b" ", line) for line in old[place:last_old]]
    return b"".join(parts)


def _span(start: int, end: int) -> bytes:
    count = end - start
    first = start + 1 if count else start
    return b"%d" % first if count == 1 else b"%d,%d" % (first, count)


def _line(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + b"\n\\ No newline at end of file\n"


def unified(before: bytes | None, after: bytes | None, path_before: bytes, path_after: bytes) -> str:
    """A unified difference as text for people, unprintable characters escaped. None: too long to show; path b"": not there."""
    header = f"--- {_title(path_before)}\n+++ {_title(path_after)}\n"
    if before is None or after is None:
        return header + "(too long to show)\n"
    if not is_text(before) or not is_text(after):
        return header + f"(no text: {len(before):,} bytes became {len(after):,} bytes)\n"
    body = b"".join(hunks(before, after))
    return header + "".join(_shown_line(line.removesuffix(b"\n")) + "\n" for line in split_lines(body))


def _title(path: bytes) -> str:
    return printable(path) if path else "/dev/null"


def _shown_line(line: bytes) -> str:
    """Tabs as they are, everything else that is not printable escaped; a backslash is itself, unlike in a path."""
    return "\t".join("\\".join(printable(piece) for piece in part.split(b"\\")) for part in line.split(b"\t"))
