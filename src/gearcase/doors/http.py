"""The http door: hosts outside, by name, and nothing else.

The box's resolver asks `find` for a name; if a rule covers it, listeners are born inside, at an address that no other name of the run
ever gets, and everything that connects there is passed on to that name. What the client says that it wants (TLS server name, HTTP Host)
must be that name, unless the operator allowed the port unread. The name is resolved once, outside, when somebody connects; the checked
address is the one that is dialled. Every connection is paid in bytes and on record.

TLS is opened only for hosts that have a secret to be put in (opened.py). What one box has of the door is in seat.py.

Threat: names, addresses and parsers that lead somewhere else (see addresses.py, hello.py, webwatch.py, proxying.py); hosts that never
answer. So: a deadline for connecting, and what seat.py says.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gearcase.box import doors as declaration
from gearcase.box.hosts import OWN, HostRule, parse_place, parse_rule
from gearcase.doors.addresses import resolve
from gearcase.doors.metering import EgressMeter
from gearcase.doors.opened import OpenedHosts
from gearcase.doors.seat import Listen, Seat, Within, everywhere
from gearcase.errors import Refused
from gearcase.seams import Recorder

CONNECT_WITHIN = 20.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class HttpRules:
    """What a box says of the outside. `hosts` maps a name to the place that it means, `private` may lead to this machine's networks."""

    allow: tuple[HostRule, ...] = ()
    private: frozenset[str] = frozenset()
    hosts: Mapping[str, str] = field(default_factory=dict[str, str])

    async def locate(self, name: str, port: int) -> list[tuple[str, int]]:
        """The addresses and ports that may be dialled for a name, resolved once, outside. Raises what `resolve` does."""
        place, own_port = parse_place(self.hosts[name]) if name in self.hosts else (name, 0)
        addresses = await resolve(place, private=name in self.private or name in self.hosts)
        return [(address, own_port or port) for address in addresses]


class HttpDoor:
    """The http door of a run. Each agent's box has a `Seat` at it."""

    def __init__(self, rules: HttpRules, recorder: Recorder, opened: OpenedHosts | None = None) -> None:
        """The hosts of `opened` may be reached, at their ports, beside what the rules allow."""
        self._known = rules
        self._rules = [*rules.allow, *(opened.rules if opened is not None else ())]
        self._denied: list[HostRule] = []
        self.opened = opened
        if opened is not None:
            opened.begin(rules.locate, recorder)
        self.recorder = recorder
        self._seats: list[Seat] = []
        self._paused = False
        self._numbers = itertools.count(1)
        self.open = asyncio.Event()
        self.open.set()

    @property
    def rules(self) -> tuple[HostRule, ...]:
        """What may be reached now."""
        return tuple(self._rules)

    def seat(
        self,
        agent: str,
        meter: EgressMeter,
        listen: Listen,
        within: Within = everywhere,
        secrets: Collection[str] | None = None,
    ) -> Seat:
        """The door as one agent's box has it. `listen` makes listening sockets inside; `within` says of a name and port whether it may
        have it at all, `secrets` which of them are put in for it (None: all)."""
        seat = Seat(self, agent, meter, listen, within, secrets)
        self._seats.append(seat)
        return seat

    async def leave(self, seat: Seat) -> None:
        """Close a box's seat: its connections end. Idempotent."""
        await seat.close()
        if self.opened is not None:
            await self.opened.leave(seat.agent)
        with contextlib.suppress(ValueError):
            self._seats.remove(seat)

    def allow(self, rule: HostRule) -> None:
        """One more rule, from now on."""
        self._denied = [one for one in self._denied if one != rule]
        if rule not in self._rules:
            self._rules.append(rule)

    def remove(self, rule: HostRule) -> int:
        """What a rule means may not be reached any more, also where a wider one allows it; returns how many connections were cut."""
        with contextlib.suppress(ValueError):
            self._rules.remove(rule)
        if rule not in self._denied:
            self._denied.append(rule)
        return sum(seat.cut_unruled() for seat in self._seats)

    def ports(self, name: str) -> frozenset[int]:
        """At which ports a name may be reached."""
        if name.endswith(OWN):
            return frozenset()
        allowed = frozenset(port for rule in self._rules if rule.covers(name) for port in rule.ports)
        return allowed - frozenset(port for rule in self._denied if rule.covers(name) for port in rule.ports)

    def is_raw(self, name: str, port: int) -> bool:
        """Whether what passes there is not read. Where two rules differ, it is read."""
        rules = [rule for rule in self._rules if rule.covers(name) and port in rule.ports]
        return bool(rules) and all(rule.raw for rule in rules) and not self.opens(name, port)

    def opens(self, name: str, port: int) -> bool:
        """Whether TLS to there ends here."""
        return self.opened is not None and self.opened.opens(name, port)

    def describe(self) -> list[Mapping[str, Any]]:
        """What `gear doors` tells beside the names."""
        return self.opened.describe() if self.opened is not None else []

    def latch(self) -> None:
        """Nothing new leaves; what is on its way back comes."""
        self.open.clear()
        if self.opened is not None:
            self.opened.latch()
        for seat in self._seats:
            seat.pause()

    def unlatch(self) -> None:
        """Undo `latch`."""
        self.open.set()
        if self.opened is not None:
            self.opened.unlatch()
        for seat in self._seats:
            seat.resume()

    async def connect(self, name: str, port: int) -> tuple[socket.socket, str]:
        """A connection to a name outside, and the address that it leads to. Raises Refused `unreachable` and what `resolve` does."""
        places = await self._known.locate(name, port)
        causes: list[str] = []
        for address, at in places:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_WITHIN / len(places)):
                    await asyncio.get_running_loop().sock_connect(sock, (address, at))
            except (OSError, TimeoutError) as error:
                sock.close()
                causes.append(f"{address}: {error or 'no answer in time'}")
                continue
            except BaseException:
                sock.close()
                raise
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, address
        remedy = "try again later; look outside of the box whether it answers"
        raise Refused("unreachable", f"{name}:{port} cannot be reached", cause="; ".join(causes), remedy=remedy)

    def number(self) -> int:
        """Of the next connection of the run."""
        return next(self._numbers)

    async def close(self) -> None:
        """Close every seat, and what is opened. Idempotent."""
        for seat in self._seats:
            await seat.close()
        if self.opened is not None:
            await self.opened.close()


def rules_of(declared: declaration.HttpDoor) -> HttpRules:
    """The rules of a box."""
    return HttpRules(tuple(map(parse_rule, declared.allow)), frozenset(declared.allow_private), dict(declared.hosts))
