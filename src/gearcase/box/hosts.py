"""Names that a box may reach, as people write them: `packages.example.org`, `*.files.example.org:443`, `tcp://git.example.org:22`.

A name alone means ports 80 and 443. What begins with `tcp://` is passed on unread; of everything else the door reads the name that the
client says (TLS server name or HTTP Host) and compares it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gearcase.errors import UsageError

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_RULE = re.compile(r"(?P<raw>tcp://)?(?P<name>[^:/]+)(:(?P<port>[0-9]{1,5}))?")
WEB_PORTS = (80, 443)
OWN = ".box"
"""Names of the box itself end so; none outside does."""


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule. `name` is in lower case; `*.` at its beginning stands for any name below, `*` alone for every name."""

    name: str
    ports: tuple[int, ...] = WEB_PORTS
    raw: bool = False

    def covers(self, name: str) -> bool:
        """Whether a name in lower case, without a trailing dot, is meant by it."""
        if self.name == "*":
            return True
        return name.endswith(self.name[1:]) if self.name.startswith("*.") else name == self.name

    def __str__(self) -> str:
        port = "" if self.ports == WEB_PORTS else f":{self.ports[0]}"
        return f"{'tcp://' if self.raw else ''}{self.name}{port}"


def parse_name(text: str) -> str:
    """A host's name in lower case without a trailing dot. Raises UsageError `bad_host`, for addresses too: nobody looks those up."""
    name = text.lower().removesuffix(".")
    if not name.isascii():
        raise _wrong(text, "is not plain ASCII", f"write it as DNS has it: {_punycode(name)}")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise _wrong(text, "is not a host's name", "write a name such as packages.example.org, without https:// and path")
    if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", name.rpartition(".")[2]):
        raise _wrong(text, "is an address, not a name", 'give it a name: hosts = { "db.example" = "10.0.0.5" } and allow that')
    if name.endswith(OWN) or name == "localhost" or name.endswith(".localhost"):
        raise _wrong(text, "is a name of the box itself", 'give it another one: hosts = { "server.example" = "127.0.0.1" }')
    return name


def parse_rule(text: str) -> HostRule:
    """A rule. Raises UsageError `bad_host`."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise _wrong(text, "is no rule", "write NAME, *.NAME, NAME:PORT or tcp://NAME:PORT, without https:// and path")
    name, raw = found["name"], bool(found["raw"])
    port = int(found["port"] or 0)
    if name.startswith("*"):
        if name not in ("*",) and not name.startswith("*."):
            raise _wrong(text, "has its * in the wrong place", "write *.example.org for every name below example.org")
        name = "*" if name == "*" else f"*.{parse_name(name[2:])}"
    else:
        name = parse_name(name)
    if found["port"] and not 0 < port < 65536:
        raise _wrong(text, "has no such port", "ports are from 1 to 65535")
    if raw and not port:
        raise _wrong(text, "names no port", f"write tcp://{name}:22")
    if port == 53:
        raise _wrong(text, "is DNS", "the box has a resolver of its own; names are resolved outside")
    return HostRule(name, (port,) if port else WEB_PORTS, raw)


def parse_place(text: str) -> tuple[str, int]:
    """An address or name outside with or without a port (0: the port that was asked for): `10.0.0.5`, `[::1]:8443`, `mirror.example:80`."""
    found = re.fullmatch(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(:(?P<port>[0-9]{1,5}))?", text.strip())
    if found is None or not int(found["port"] or 1) < 65536:
        raise _wrong(text, "is no place", "write ADDRESS, ADDRESS:PORT or [IPV6]:PORT")
    return found["six"] or found["host"], int(found["port"] or 0)


def place_text(host: str, port: int) -> str:
    """A place as `parse_place` reads it."""
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


def _punycode(name: str) -> str:
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return "xn--..."


def _wrong(text: str, what: str, remedy: str) -> UsageError:
    return UsageError("bad_host", f"{text[:80]!r} {what}", remedy=remedy)
