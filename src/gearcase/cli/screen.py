"""What a program in a box may do to the operator's terminal: text, colours, cursor and modes, and nothing that reaches further.

Threat: a terminal obeys whoever writes to it. Left out are the clipboard, the window's title and size, printing, and every string
that makes a terminal answer with text of the program's choosing: its answer would be typed into the operator's shell.
Modes that are switched on are remembered, so that they can be switched off when the program is gone.
"""

from __future__ import annotations

import re

MOST_PENDING = 64 * 1024
"""Bytes of a sequence that has no end yet; one that is longer is thrown away."""

_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"\[(?P<parameters>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    rb"|(?P<string>[\]PX^_])(?P<body>[^\x07\x1b\x18\x1a]*)(?:\x07|\x18|\x1a|\x1b\\|(?=\x1b[^\\]))"
    rb"|(?P<escape>[ -/]*[0-OQ-WYZ`-~=>\\])"
    rb")",
    re.DOTALL,
)
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\x18\x1a]*\x1b?|[ -/]*)\Z", re.DOTALL)
_C1 = re.compile(rb"\xc2[\x80-\x9f]")
_STRINGS = frozenset({b"4", b"8", b"10", b"11", b"12", b"104", b"110", b"111", b"112"})
"""Operating system commands that are passed on: colours and links."""
_REFUSED_FINALS = frozenset({b"t", b"i"})  # the window; the printer
_LASTING = frozenset(
    {b"1", b"9", b"47", b"66", b"1000", b"1002", b"1003", b"1004", b"1005", b"1006", b"1015", b"1047", b"1049", b"2004"}
)
"""Modes that a shell does not expect to find switched on."""
LEAVE = b"\x1b[?1000;1002;1003;1004;1006;2004l\x1b[?47l\x1b[<u\x1b[?1l\x1b>\x1b[r\x1b[?25h\x1b[0m"
"""What puts a terminal right of which nothing is known."""


class Screen:
    """One program's output on its way to the operator's terminal."""

    def __init__(self) -> None:
        self._pending = b""
        self._modes: dict[bytes, None] = {}
        self._hidden = False
        self._keyboard = 0

    def feed(self, data: bytes) -> bytes:
        """What of more output may pass. A sequence that is cut in the middle waits for its rest."""
        data, self._pending = self._pending + data, b""
        passed: list[bytes] = []
        at = 0
        while (escape := data.find(b"\x1b", at)) >= 0:
            passed.append(_C1.sub(b"", data[at:escape]))
            found = _SEQUENCE.match(data, escape)
            if found is not None:
                passed.append(self._judged(found))
                at = found.end()
            elif _BEGUN.match(data, escape) and len(data) - escape <= MOST_PENDING:
                self._pending = data[escape:]
                return b"".join(passed)
            else:
                at = escape + 1  # without its first byte it is text
        rest = data[at:]
        if rest.endswith(b"\xc2"):
            rest, self._pending = rest[:-1], b"\xc2"
        passed.append(_C1.sub(b"", rest))
        return b"".join(passed)

    def leave(self) -> bytes:
        """What switches off whatever the program left on."""
        off = [b"\x1b[?%bl" % mode for mode in reversed(self._modes)]
        off += [b"\x1b[<%du" % self._keyboard] * (self._keyboard > 0) + [b"\x1b[?25h"] * self._hidden
        return b"".join([*off, b"\x1b[0m"])

    def _judged(self, found: re.Match[bytes]) -> bytes:
        if found["string"] is not None:
            number = found["body"].partition(b";")[0]
            return b"\x1b]%b\x07" % found["body"] if found["string"] == b"]" and number in _STRINGS else b""
        if found["final"] is not None:
            if found["final"] in _REFUSED_FINALS and not found["between"]:
                return b""
            self._remember(found["parameters"], found["final"])
        return found[0]

    def _remember(self, parameters: bytes, final: bytes) -> None:
        if final in (b"h", b"l") and parameters.startswith(b"?"):
            for mode in parameters[1:].split(b";"):
                if mode == b"25":
                    self._hidden = final == b"l"
                elif final == b"l":
                    self._modes.pop(mode, None)
                elif mode in _LASTING:
                    self._modes[mode] = None
        elif final == b"u" and parameters.startswith(b">"):
            self._keyboard += 1
        elif final == b"u" and parameters.startswith(b"<"):
            self._keyboard = max(0, self._keyboard - 1)
