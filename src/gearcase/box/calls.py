"""Calls of an API, as people write what is allowed: `GET /repos/acme/**`, `GET,POST /projects/acme%2F*`, `* /**`.

A path has one normal form, in which it is judged and in which it is sent. What two servers could read differently has none: dot segments
and backslashes in any spelling, empty segments, characters that are encoded twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes, urlsplit

from pydantic import BeforeValidator, Field

from gearcase.box.fields import Table, Url, wrong
from gearcase.errors import UsageError
from gearcase.units import format_duration

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PLAIN = re.compile(rb"[!-~]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})?")
_TIMES = 4
"""How often a path may be decoded until nothing is left to decode."""


@dataclass(frozen=True, slots=True)
class CallRule:
    """One rule: methods (none: every one) and the segments of a path, with `*` and `**`."""

    methods: tuple[str, ...]
    segments: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{','.join(self.methods) or '*'} /{b'/'.join(self.segments).decode()}"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in so many seconds."""

    calls: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.calls}/{next(unit for unit, size in _UNITS.items() if size == self.seconds)}"

    def said(self) -> str:
        """For a reader."""
        return f"{self.calls} calls in {format_duration(self.seconds)}"


def normal_path(raw: bytes) -> bytes:
    """The normal form of a path: `%41` is `A`, `%2f` is `%2F`. Raises ValueError that says why it has none."""
    if not raw.startswith(b"/"):
        raise ValueError("it does not begin with /")
    if not _PLAIN.fullmatch(raw) or b"\\" in raw or b"#" in raw or b"?" in raw:
        raise ValueError("it holds characters that must be encoded")
    path = _ENCODED.sub(_encoded_once, raw)
    if b"" in path[1:].split(b"/")[:-1]:
        raise ValueError("it has an empty segment")
    decoded = unquote_to_bytes(path)
    for _ in range(_TIMES):
        _refuse_dots(decoded)
        again = unquote_to_bytes(decoded)
        if again == decoded:
            return path
        if again.count(b"/") != decoded.count(b"/"):
            raise ValueError("it holds a slash that is encoded twice")
        decoded = again
    raise ValueError("it is encoded too often")


def _encoded_once(found: re.Match[bytes]) -> bytes:
    if found[1] is None:
        raise ValueError("it holds a % that begins nothing")
    byte = int(found[1], 16)
    return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte


def _refuse_dots(path: bytes) -> None:
    if b"\\" in path or any(byte < 32 for byte in path):
        raise ValueError("it holds a backslash or a control character")
    for segment in path.split(b"/"):
        if segment.partition(b";")[0].strip() in (b".", b".."):  # some servers take what follows a ; away
            raise ValueError("it holds . or .. as a segment")


def parse_call(text: str) -> CallRule:
    """A rule. Raises UsageError `bad_call`."""
    methods, space, path = text.strip().partition(" ")
    if not space:
        raise _wrong(text, "names no method or no path", "write METHOD PATH: GET /repos/acme/**, or * /** for all")
    named = () if methods == "*" else tuple(methods.split(","))
    if unknown := [name for name in named if name not in METHODS]:
        raise _wrong(text, f"has no known method {unknown[0]!r}", f"methods: {', '.join(METHODS)}, or *")
    try:
        normal = normal_path(path.strip().encode())
    except (ValueError, UnicodeError) as error:
        raise _wrong(
            text, f"has a path that cannot be: {error}", "write it as it stands in the address, without a query"
        ) from None
    return CallRule(named, tuple(normal[1:].split(b"/")))


def parse_rate(text: str) -> Rate:
    """`60/m`: calls in a second, minute, hour or day. Raises UsageError `bad_rate`."""
    found = re.fullmatch(r"([0-9]{1,9})/([smhd])", text.replace(" ", ""))
    if found is None or int(found[1]) == 0:
        raise UsageError("bad_rate", f"{text[:40]!r} is no rate", remedy='write calls and a unit: "60/m", "10/s", "5000/d"')
    return Rate(int(found[1]), _UNITS[found[2]])


def _wrong(text: str, what: str, remedy: str) -> UsageError:
    return UsageError("bad_call", f"{text[:80]!r} {what}", remedy=remedy)


# --- the keys --------------------------------------------------------------------------------------------------------------

SECRETIVE = re.compile(r"authorization|cookie|key|token|secret|password|credential", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}` in a header's value."""


def _text(check: Any) -> BeforeValidator:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(f"{value!r} is no text")
        try:
            return str(check(value))
        except UsageError as error:
            raise wrong(f"{error.message}: {error.remedy}") from None

    return BeforeValidator(convert)


def _upstream(value: Any) -> Any:
    if isinstance(value, str) and (urlsplit(value).query or urlsplit(value).fragment):
        raise wrong(f"{value!r} has a query or a fragment: write the address of the API alone")
    return value.rstrip("/") if isinstance(value, str) else value


def _headers(value: Any) -> Any:
    """Names are names; a value that looks secret is a reference, since the box is written to disk."""
    if not isinstance(value, dict):
        return value
    for name, text in value.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(name, str) or not isinstance(text, str):
            raise wrong("holds names and texts")
        if not _TOKEN.fullmatch(name) or not text.isprintable() or not text.isascii():
            raise wrong(f"{name!r} is no header")
        if SECRETIVE.search(name) and not REFERENCE.search(text):
            raise wrong(f"{name!r} holds a secret in the box itself: write ${{NAME}} and set NAME outside", secret=True)
    return value  # pyright: ignore[reportUnknownVariableType]


Call = Annotated[str, _text(parse_call), Field(max_length=1000)]
CallRate = Annotated[str, _text(parse_rate), Field(max_length=20)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Headers = Annotated[Mapping[str, str], BeforeValidator(_headers)]


class ApiDoor(Table):
    """An API whose credential stays outside: inside it is plain http://NAME.box."""

    upstream: Annotated[Url, BeforeValidator(_upstream)] = Field(description="address of the API: https://api.github.com")
    headers: Headers = Field(
        default_factory=dict[str, str], description="put into every call outside; ${NAME} stands for a secret that stays there"
    )
    allow: tuple[Call, ...] = Field(
        min_length=1, description="METHODS PATH: GET /repos/acme/**; * is text within a segment, ** is all below"
    )
    rate: CallRate | None = Field(default=None, description="most calls: 60/m")
    key_files: Mapping[Variable, Path] = Field(
        default_factory=dict[str, Path], description="files that hold a NAME's secret, in place of the environment"
    )
    allow_private: bool = Field(default=False, description="the upstream may be on this machine or its networks")
    ca: Path | None = Field(default=None, description="file of the certificate authorities to trust instead of the system's")
