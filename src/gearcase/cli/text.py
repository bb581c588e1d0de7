"""Text that an agent, an upstream or a file name chose, made harmless before a terminal sees it.

Threat: escape sequences that move the cursor, rewrite earlier lines, set the title or the clipboard; direction overrides and
invisible characters that make a command look like another one; markup of our own renderer. What could act is replaced by a
visible sign, so that nothing that was there is hidden. Consoles are made without markup (`console.py`); this is for the rest.
"""

from __future__ import annotations

import unicodedata

_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories: control, format (direction, zero width), surrogates, private use, unassigned, line and paragraph separators."""


def neutral(value: object, *, lines: bool = False, limit: int = 0) -> str:
    """`value` as text in which no character acts. Newlines stay with `lines`, else they become a visible sign.

    `limit` cuts to so many characters, with an ellipsis.
    """
    text = str(value)
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, lines) for character in text)


def first_line(value: object, limit: int = 200) -> str:
    """The first line that says something, neutral and cut."""
    text = str(value)[: limit * 20]
    return neutral(next((line.strip() for line in text.splitlines() if line.strip()), ""), limit=limit)


def _shown(character: str, lines: bool) -> str:
    if character == "\n":
        return "\n" if lines else "⏎"
    if character == "\t":
        return "    " if lines else " "
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␛ for escape
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in _ACTING or _stacks(character):
        return "�"
    return character


def _stacks(character: str) -> bool:
    """Enclosing marks and long runs of combining ones spill into neighbouring lines; the enclosing ones are never needed."""
    return unicodedata.category(character) == "Me"
