"""Which addresses a door may dial: the public internet, and what the operator named.

Threat: a name that an operator allowed and whose owner points it at this machine, the local network or a cloud's metadata service, in
any spelling: mapped, translated or tunnelled IPv4, ranges that Python's `ipaddress` calls global, this machine's own public addresses.
So: a table of our own after IANA's special-purpose registries, addresses unwrapped before they are looked up, and one resolution whose
every answer is checked; the checked address is what is dialled.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from gearcase.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

RESOLVE_WITHIN = 10.0
"""Seconds."""

_LOCAL4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and one cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # one cloud's host, though the range is public
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_GLOBAL6 = ipaddress.IPv6Network("2000::/3")
_LOCAL6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
]
_MAPPED = [ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/96")]
"""IPv6 in whose last 32 bits an IPv4 address stands."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _LOCAL4)
    if any(address in network for network in _MAPPED):
        # A translated address leads to the IPv4 host only where somebody translates: it is not dialled in either case.
        return address in _MAPPED[0] and is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL6 and not any(address in network for network in _LOCAL6)


def own_addresses() -> frozenset[Address]:
    """The addresses of this machine, from /proc."""
    return frozenset((*_own4(), *_own6()))


def _own4() -> Iterator[Address]:
    last = ""
    for line in Path("/proc/net/fib_trie").read_text(encoding="ascii").splitlines():
        word = line.strip()
        if word.startswith("|-- "):
            last = word.removeprefix("|-- ")
        elif word == "/32 host LOCAL":
            yield ipaddress.IPv4Address(last)


def _own6() -> Iterator[Address]:
    table = Path("/proc/net/if_inet6")
    if table.exists():  # not where the kernel has no IPv6
        for line in table.read_text(encoding="ascii").splitlines():
            yield ipaddress.IPv6Address(int(line.split()[0], 16))


async def resolve(name: str, *, private: bool) -> Sequence[str]:
    """The addresses of a name that may be dialled, in the system's order, resolved once, outside.

    `private`: the operator allows this name to lead to this machine or its networks. Raises Refused `unresolved` and `private_address`:
    one answer that may not be dialled spoils the others, since somebody chose it.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_WITHIN):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        cause = f"no answer within {RESOLVE_WITHIN:g} s" if isinstance(error, TimeoutError) else str(error)
        raise Refused(
            "unresolved",
            f"{name} has no address",
            cause=cause,
            remedy="look whether the name exists and DNS works outside of the box",
        ) from error
    addresses = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    if not private:
        own = own_addresses()
        for text in addresses:
            address = ipaddress.ip_address(text)
            if not is_public(address) or address in own:
                raise Refused(
                    "private_address",
                    f"{name} leads to {text}, which is not an address of the public internet",
                    remedy=f'if you mean it, say so in the box: allow_private = ["{name}"]',
                    address=text,
                )
    return addresses
