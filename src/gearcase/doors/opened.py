"""Hosts whose TLS the http door opens, because the box declares a secret for them (`[secrets.NAME]`).

A connection for such a host ends here, with a certificate that the run's own authority signed and only the box trusts. Its requests are
read strictly, leave over TLS that is verified outside, and hold the secret in place of the placeholder where the box says so. Answers are
searched for the secrets (masks.py), redirects are passed on and not followed, and cookies that a host sets stay outside.

Threat: an agent that wants the secret: by another host, the address, a body, a header that a server shows to others, an answer that
echoes it whole or in ranges; and requests that two parsers read differently. So: one host for a connection, in TLS and in every Host;
a target that is a path; no TRACE, no WebSocket, no ranges; and every call on record, without its query.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearcase.box.hosts import HostRule
from gearcase.box.secrets import HTTPS, HostSecret, secret_host
from gearcase.doors.authority import Authority
from gearcase.doors.callrecord import CallRecord, Counter, refusal, shown, status_of
from gearcase.doors.forwarding import Forwarder, Locate, Pairs, Passage, outgoing_headers, paid, require_authorities
from gearcase.doors.masks import Mask
from gearcase.doors.placeholders import Placeholder, placeholder_text, put_in
from gearcase.doors.secrets import Secret, checked, find_secret, in_keyring
from gearcase.doors.server import HttpRequest, Reply, Server, ServerLimits
from gearcase.errors import GearcaseError, Refused
from gearcase.events import HostCalled
from gearcase.seams import Recorder

BUNDLE, AUTHORITY = "/etc/gearcase/certificates.pem", "/etc/gearcase/authority.pem"
"""Where a box has all authorities, the run's among them, and the run's alone."""
TRUST = {
    "SSL_CERT_FILE": BUNDLE,
    "CURL_CA_BUNDLE": BUNDLE,
    "REQUESTS_CA_BUNDLE": BUNDLE,
    "GIT_SSL_CAINFO": BUNDLE,
    "AWS_CA_BUNDLE": BUNDLE,
    "NODE_EXTRA_CA_CERTS": AUTHORITY,
}
"""For clients that bring authorities of their own."""

_LIMITS = ServerLimits(connections=64)
_TARGET = re.compile(rb"/[!-~]*")
_REFUSED_METHODS = frozenset({"TRACE", "TRACK", "CONNECT"})
_NOT_OUT = frozenset({"range", "if-range"})
"""Parts of an answer could hold parts of an echoed secret, which no mask sees."""
_NOT_BACK = frozenset({"set-cookie", "set-cookie2"})
"""What a host makes of a secret, such as a session, is one."""


@dataclass(frozen=True, slots=True)
class _Host:
    """One host and port, and what is put in for it."""

    name: str
    port: int
    placeholders: tuple[Placeholder, ...]
    context: ssl.SSLContext
    ca: Path | None

    def of(self, secrets: Collection[str] | None) -> _Host:
        """With these secrets alone; None: all."""
        kept = tuple(one for one in self.placeholders if secrets is None or one.secret.name in secrets)
        return replace(self, placeholders=kept)

    def is_named(self, text: bytes) -> bool:
        """Whether a Host header means it."""
        return text.decode("latin-1").strip().lower().removesuffix(f":{self.port}").removesuffix(".") == self.name


class OpenedHosts:
    """The opened hosts of a run. Raises UsageError `missing_secret`, `bad_secret`, `missing_key`, `missing_extra`,
    `bad_ca`."""

    def __init__(self, declared: Mapping[str, HostSecret], environment: Mapping[str, str]) -> None:
        self._declared = declared
        found = {name: find_host_secret(name, one, environment) for name, one in declared.items()}
        placeholders = {
            name: Placeholder(found[name], placeholder_text(found[name].value), frozenset(map(str.lower, one.headers)))
            for name, one in declared.items()
        }
        self.secrets = {f"secrets.{name}": (secret.value,) for name, secret in found.items()}
        """Values that must never be found inside, or in what leaves."""
        for name, one in declared.items():
            require_authorities(one.ca, f"[secrets.{name}]")
        self.environment = {one.env: placeholders[name].text for name, one in declared.items()} | TRUST
        named: dict[tuple[str, int], list[str]] = {}
        for name, one in declared.items():
            for rule in map(secret_host, one.hosts):
                named.setdefault((rule.name, rule.ports[0]), []).append(name)
        authority = Authority(host for host, _ in named)
        self.certificate = authority.certificate
        self._hosts = {
            (host, port): _Host(
                host, port, tuple(placeholders[one] for one in names), authority.server(host), declared[names[0]].ca
            )
            for (host, port), names in named.items()
        }
        self.rules = tuple(HostRule(host, (port,)) for host, port in named)
        self._mask = Mask(secret.value for secret in found.values())
        self._record = CallRecord("http", self._mask)
        self._forwarders: dict[Path | None, Forwarder] = {}
        self._servers: dict[tuple[str, str, int], Server] = {}
        self._entering: set[asyncio.Task[None]] = set()
        self._running = asyncio.Event()
        self._running.set()

    def begin(self, locate: Locate, recorder: Recorder) -> None:
        """Where hosts are found outside, and where facts go."""
        self._record.recorder = recorder
        self._forwarders = {host.ca: Forwarder(locate, host.ca) for host in self._hosts.values()}

    def opens(self, name: str, port: int) -> bool:
        """Whether TLS to there ends here."""
        return (name, port) in self._hosts

    async def enter(
        self, agent: str, name: str, port: int, pay: Callable[[int], None], secrets: Collection[str] | None = None
    ) -> socket.socket:
        """A connection to the host as the box is to have it. `pay` is told what leaves and comes on its behalf.

        Of the secrets of the host those are put in that the agent was given; None: all.
        """
        host = self._hosts[name, port].of(secrets)
        server = self._servers.get((agent, name, port))
        if server is None:
            handler = functools.partial(self._handle, host, agent, pay)
            server = self._servers[agent, name, port] = Server(handler, limits=_LIMITS, cancel=True, streaming=True)
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        task = asyncio.create_task(self._take(server, far, host, agent))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        return near

    async def _take(self, server: Server, sock: socket.socket, host: _Host, agent: str) -> None:
        try:
            await server.take(sock, host.context)
        except OSError as error:
            sock.close()
            message = f"a program inside did not come to terms in TLS for {host.name}"
            remedy = f"let it trust {AUTHORITY}, which SSL_CERT_FILE and its like lead to"
            self._record.refused(Refused("tls_failed", message, cause=str(error)[:300], remedy=remedy), agent)

    async def leave(self, agent: str) -> None:
        """Stop serving in an agent's box."""
        for key in [key for key in self._servers if key[0] == agent]:
            await self._servers.pop(key).close()

    def places_of(self, secret: str) -> frozenset[tuple[str, int]]:
        """The names and ports that a secret is put in for."""
        rules = map(secret_host, self._declared[secret].hosts)
        return frozenset((rule.name, rule.ports[0]) for rule in rules)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the secrets."""
        return tuple(self._declared)

    def environment_of(self, secrets: Iterable[str]) -> dict[str, str]:
        """What tells programs of these secrets: placeholders, and where the certificate authority is."""
        kept = {self._declared[name].env: self.environment[self._declared[name].env] for name in secrets}
        return kept | TRUST if kept else {}

    def describe(self) -> list[Mapping[str, Any]]:
        """What `gear doors` tells of them."""
        return [
            {
                "name": f"secrets.{name}",
                "address": ", ".join(f"https://{host}" for host in one.hosts),
                "purpose": f"{one.env} is a placeholder: what it stands for is put into {', '.join(one.headers)} outside",
            }
            for name, one in self._declared.items()
        ]

    def latch(self) -> None:
        """New calls wait."""
        self._running.clear()

    def unlatch(self) -> None:
        """Undo `latch`."""
        self._running.set()

    async def close(self) -> None:
        """End every connection and call. Idempotent."""
        tasks = list(self._entering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers.values():
            await server.close()
        for forwarder in self._forwarders.values():
            await forwarder.close()

    # --- one call ----------------------------------------------------------------------------------------------------------

    async def _handle(self, host: _Host, agent: str, pay: Callable[[int], None], request: HttpRequest) -> Reply:
        await self._running.wait()
        began, sent, path = time.monotonic(), Counter(pay), self._mask.text(shown(request.raw_path))
        used: list[str] = []

        def record(status: int, why: str, received: int) -> None:
            seconds = round(time.monotonic() - began, 3)
            call = HostCalled(host.name, host.port, request.method, path, used, status, sent.count, received, seconds, why)
            self._record.ended(call, agent)

        try:
            _judge(host, request)
            headers = _outgoing(host, request, used)
            sent(len(request.target) + sum(len(name) + len(value) for name, value in headers))
            body = paid(request.chunks, sent) if request.chunks is not None and request.has_body else None
            place = host.name if host.port == HTTPS else f"{host.name}:{host.port}"
            url = f"https://{place}{request.target.decode('ascii')}"
            answer = await self._forwarders[host.ca].forward(request.method, url, headers, body)
        except GearcaseError as error:
            self._record.refused(error, agent)
            record(status_of(error), error.code, 0)
            return refusal(error)
        except asyncio.CancelledError:
            record(0, "cut", 0)
            raise
        passage = Passage(answer, self._mask, pay, lambda why, received: record(answer.status, why, received))
        back = [(name, self._mask.text(value)) for name, value in answer.headers if name not in _NOT_BACK]
        return Reply(answer.status, {}, passage, back)


def find_host_secret(name: str, declared: HostSecret, environment: Mapping[str, str]) -> Secret:
    """What a secret of the box stands for. Raises UsageError `missing_secret`, `bad_secret`, `missing_key`."""
    wanted_by = f"[secrets.{name}]"
    if declared.keyring is not None:
        found = checked(declared.keyring, in_keyring(declared.keyring, wanted_by), wanted_by)
    else:
        found = find_secret(declared.key_env or declared.env, declared.key_file, environment, wanted_by)
    return Secret(name, found.value)


def _judge(host: _Host, request: HttpRequest) -> None:
    """Raises Refused for what is not a plain call of the host."""
    named = [value for name, value in request.headers if name == b"host"]
    if len(named) != 1:
        raise Refused("bad_request", "the request names no host, or several", remedy="use a plain HTTP/1.1 client")
    if not host.is_named(named[0]):
        said = named[0][:80].decode("latin-1")
        raise Refused(
            "wrong_host", f"the request is for {said!r}, the connection for {host.name}", remedy="open another connection"
        )
    if not _TARGET.fullmatch(request.target) or b"#" in request.target:
        raise Refused("bad_request", "the request's target is no path", remedy="use a plain HTTP/1.1 client")
    if request.method in _REFUSED_METHODS:
        raise Refused(
            "not_passed", f"{request.method} is not passed to a host that a secret is put in for", remedy="use another method"
        )
    if request.header(b"upgrade").strip().lower() == b"websocket":
        message = f"WebSocket is not passed to {host.name}, since a secret is put in for it"
        raise Refused("not_passed", message, remedy="use the API's plain calls; the operator may allow the host without a secret")


def _outgoing(host: _Host, request: HttpRequest, used: list[str]) -> Pairs:
    """The headers as they leave; `used` is told the names of the secrets in them."""
    headers: Pairs = []
    for name, value in outgoing_headers(request, _NOT_OUT.__contains__):
        value, names = put_in(name, value, host.placeholders)
        used += [one for one in names if one not in used]
        headers.append((name, value))
    return headers
