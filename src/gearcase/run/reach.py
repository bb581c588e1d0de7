"""What one agent may reach: which of the run's doors, secrets and hosts. It only ever narrows on the way down.

A host that a secret is put in for is reached by those agents alone that were given one of its secrets, and of these only theirs are put
in: a placeholder that somebody wrote into a file opens nothing for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gearcase.agent.prompt import DoorLine
from gearcase.box.hosts import HostRule, parse_rule
from gearcase.doors.http import HttpDoor
from gearcase.doors.opened import OpenedHosts
from gearcase.errors import Refused
from gearcase.run.doors import Doors

_RULES, _HOSTS = 6, 12  # that instructions name
HOSTS = "http"
"""Among the names that are picked: every host that the parent reaches."""


@dataclass(frozen=True, slots=True)
class Reach:
    """`narrowed`: rules of each agent on the way down that picked hosts; a place must fit one of each. One without ports means all."""

    doors: Doors
    opened: OpenedHosts | None
    secrets: tuple[str, ...]
    narrowed: tuple[tuple[HostRule, ...], ...] = ()

    @classmethod
    def whole(cls, doors: Doors, opened: OpenedHosts | None) -> Reach:
        """All that a run has."""
        return cls(doors, opened, opened.names if opened is not None else ())

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its secrets."""
        return self.opened.environment_of(self.secrets) if self.opened is not None else {}

    @property
    def authority(self) -> str:
        """What programs trust beside the host's authorities, as PEM; empty where nothing is opened."""
        return self.opened.certificate.decode() if self.opened is not None and self.secrets else ""

    def within(self, name: str, port: int) -> bool:
        """Whether the http door may lead to a host at this port at all, whatever its rules say."""
        given: set[tuple[str, int]] = set()
        kept: set[tuple[str, int]] = set()
        if self.opened is not None:
            for secret in self.opened.names:
                (given if secret in self.secrets else kept).update(self.opened.places_of(secret))
        if (name, port) in given:
            return True
        if (name, port) in kept or name in {one for one, _ in kept} - {one for one, _ in given}:
            return False
        return all(any(_means(rule, name, port) for rule in rules) for rules in self.narrowed)

    def hosts(self, http: HttpDoor) -> list[str]:
        """The hosts of its rules that it reaches, as people write them."""
        found: list[str] = []
        for rule in http.rules:
            ports = rule.ports if "*" in rule.name else tuple(port for port in rule.ports if self.within(rule.name, port))
            whole = ports == rule.ports
            found += [str(one) for one in ([rule] if whole else [replace(rule, ports=(port,)) for port in ports])]
        return found

    def describe(self, http: HttpDoor) -> list[Mapping[str, Any]]:
        """What is told inside of its secrets and doors."""
        secrets = (one for one in http.describe() if one["name"].removeprefix("secrets.") in self.secrets)
        return [*secrets, *self.doors.describe()]

    def lines(self, http: HttpDoor) -> list[DoorLine]:
        """The same for an agent's instructions, and the hosts."""
        found: list[DoorLine] = []
        for one in self.describe(http):
            allowed = f"; allowed: {', '.join(one['allowed'][:_RULES])}" if one.get("allowed") else ""
            found.append(DoorLine(one["address"], f"{one['purpose']}{allowed}"))
        if hosts := self.hosts(http):
            more = f" and {len(hosts) - _HOSTS} more (`gear doors`)" if len(hosts) > _HOSTS else ""
            found.append(DoorLine(f"{', '.join(hosts[:_HOSTS])}{more}", "hosts outside, by name"))
        return found

    def picked(self, names: Sequence[str], http: HttpDoor) -> Reach:
        """No more than these: ids of doors, `secrets.NAME`, hosts as in `[doors.http] allow`, `http` for all hosts.

        Raises Refused `no_door` for what this one does not reach itself, UsageError for what is no name.
        """
        doors = [name for name in names if name in {door.id for door in self.doors.doors}]
        secrets = tuple(name for name in self.secrets if f"secrets.{name}" in names)
        known = {*doors, *(f"secrets.{name}" for name in secrets), HOSTS}
        rules = tuple(self._rule(name, http) for name in names if name not in known)
        narrowed = self.narrowed if HOSTS in names else (*self.narrowed, rules)
        return Reach(self.doors.only(doors), self.opened, secrets, narrowed)

    def _rule(self, name: str, http: HttpDoor) -> HostRule:
        rule = parse_rule(name) if "." in name and not name.startswith(("secrets.", "api.", "postgres.", "redis.")) else None
        if rule is not None and name.count(":") == name.count("://"):
            rule = replace(rule, ports=())
        if rule is None or ("*" not in name and not self._reaches(rule, http)):
            own = [*(door.id for door in self.doors.doors), *(f"secrets.{one}" for one in self.secrets), HOSTS]
            remedy = f"pick from {', '.join(own)} and the hosts that `gear doors` lists; none for no door at all"
            raise Refused("no_door", f"{name[:80]!r} is no door or host of yours", remedy=remedy)
        return rule

    def _reaches(self, rule: HostRule, http: HttpDoor) -> bool:
        return any(_means(rule, rule.name, port) and self.within(rule.name, port) for port in http.ports(rule.name))


def _means(rule: HostRule, name: str, port: int) -> bool:
    return rule.covers(name) and (not rule.ports or port in rule.ports)
