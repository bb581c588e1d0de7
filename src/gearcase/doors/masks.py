"""Secrets that an answer echoes, masked while it streams.

Each secret is looked for as it is, in base64 (both alphabets, wherever in a longer text it stands), URL-encoded, as JSON writes it and in
hexadecimal; what is found becomes as many asterisks, so that lengths stay true. A chunk's end that may be the beginning of a secret is
kept until the next one. This is best effort: who answers compressed, encrypted, reversed or a character at a time is not seen through.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

SHORTEST = 8
"""Characters of a form that is looked for."""


def forms(secret: str) -> list[bytes]:
    """How a secret may be written, the longest first."""
    raw = secret.encode()
    return sorted({form for form in _forms(secret, raw) if len(form) >= min(SHORTEST, len(raw))}, key=len, reverse=True)


def _forms(secret: str, raw: bytes) -> Iterator[bytes]:
    yield raw
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    for safe in ("", "/", "/:"):
        encoded = quote(secret, safe=safe)
        yield encoded.encode()
        yield re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), encoded).encode()
        yield encoded.replace("%20", "+").encode()
    yield json.dumps(secret)[1:-1].encode()
    yield json.dumps(secret)[1:-1].replace("/", "\\/").encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        own = encoded[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]  # the characters that hold nothing of a neighbour
        yield from (own, own.replace(b"+", b"-").replace(b"/", b"_"))


class Mask:
    """Masks what belongs to some secrets. `whole` is for a text, `stream` begins a body."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.forms = sorted({form for secret in secrets for form in forms(secret)}, key=len, reverse=True)
        self._all = re.compile(b"|".join(map(re.escape, self.forms)) or b"(?!)")
        self.longest = max(map(len, self.forms), default=0)
        self._begin: dict[int, list[bytes]] = {}
        for form in self.forms:
            self._begin.setdefault(form[0], []).append(form)

    def whole(self, data: bytes) -> bytes:
        """The data, masked."""
        return self._all.sub(_stars, data)

    def text(self, text: str) -> str:
        """A text, masked."""
        return self.whole(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def stream(self) -> MaskedStream:
        """For the chunks of one body."""
        return MaskedStream(self)

    def kept(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of a secret."""
        for at in range(max(0, len(data) - self.longest + 1), len(data)):
            if any(form.startswith(data[at:]) for form in self._begin.get(data[at], ())):
                return len(data) - at
        return 0


class MaskedStream:
    """One body."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can go on of it."""
        data = self._mask.whole(self._tail + chunk)
        kept = self._mask.kept(data)
        self._tail = data[len(data) - kept :]
        return data[: len(data) - kept]

    def end(self) -> bytes:
        """What was kept."""
        tail, self._tail = self._tail, b""
        return tail


def _stars(found: re.Match[bytes]) -> bytes:
    return b"*" * len(found[0])
