"""Who may use a model door that stands on a port of this machine, where every local program can connect.

A request is let in when it was sent to this machine by name, was not made by a web page, and carries the door's token where clients
of the protocols carry their API key. All else is refused, and nothing of its body is kept.

Threat: other users and programs of this machine that spend; web pages that reach loopback ports, under a name of their own that
resolves to 127.0.0.1 (DNS rebinding) or across origins.
"""

from __future__ import annotations

import hmac
import secrets
from collections import Counter
from urllib.parse import parse_qs

from gearcase.doors.model.protocols import speech_of
from gearcase.doors.server import HttpRequest, Reply
from gearcase.events import DoorRefused
from gearcase.seams import Recorder

_HERE = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
_RECORDED = 100
"""Refusals of one kind that are put on record: whoever has no token must not be able to fill the disk with them."""


def new_token() -> str:
    """A token that cannot be guessed, without characters that a shell or a header would change."""
    return f"gearcase-{secrets.token_hex(20)}"


class Guard:
    """The gate of one door (see `doors.server.Gate`)."""

    def __init__(self, token: str, recorder: Recorder) -> None:
        self._token = token.encode()
        self._recorder = recorder
        self._refused: Counter[str] = Counter()

    def __call__(self, request: HttpRequest) -> Reply | None:
        """None for a request that may pass, else its refusal in the format of the protocol that it speaks."""
        hosts = {value.lower() for name, value in request.headers if name == b"host"}
        if not hosts or any(_without_port(host) not in _HERE for host in hosts):
            return self._refuse(request, 403, "foreign_host", "this door answers to 127.0.0.1 and localhost only")
        if request.header(b"origin"):
            return self._refuse(request, 403, "browser", "this door does not answer web pages (the request has an Origin header)")
        if not any([hmac.compare_digest(shown, self._token) for shown in _credentials(request)]):
            text = "send this door's token as the API key: `gearcase door` printed it when it was opened"
            return self._refuse(request, 401, "token", text)
        return None

    def _refuse(self, request: HttpRequest, status: int, code: str, text: str) -> Reply:
        self._refused[code] += 1
        if self._refused[code] <= _RECORDED:
            self._recorder.append(DoorRefused("model", code, text, {"method": request.method[:16], "path": request.path[:80]}))
        body = speech_of(request.path).refusal(status, code, text)
        return Reply(status, {"content-type": "application/json", "x-should-retry": "false"}, body)


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host


def _credentials(request: HttpRequest) -> list[bytes]:
    """Anthropic's and Google's clients have a header of their own, older ones of Google a query; everybody else sends a bearer token."""
    kind, _, bearer = request.header(b"authorization").partition(b" ")
    headers = [request.header(b"x-api-key"), request.header(b"x-goog-api-key")]
    return [*headers, bearer.strip() if kind.lower() == b"bearer" else b"", *parse_qs(request.query).get(b"key", [])]
