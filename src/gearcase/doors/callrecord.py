"""What doors of HTTP calls have on record, and how they refuse: the same words and bounds for the api door and for opened hosts.

Threat: a box that calls without end to fill the journal, and texts of others in it that hold a secret. So: a cap, refusals at powers of
ten, and every text masked.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from gearcase.doors.masks import Mask
from gearcase.doors.server import Reply
from gearcase.errors import GearcaseError
from gearcase.events import DoorRefused, Event
from gearcase.seams import Recorder

MOST_RECORDS = 5000
_SHOWN = 300

_STATUS = {
    "bad_path": 400,
    "bad_request": 400,
    "budget": 402,
    "call_not_allowed": 403,
    "not_passed": 403,
    "wrong_host": 421,
    "rate": 429,
    "slow_upstream": 504,
}


class CallRecord:
    """The calls of one door."""

    def __init__(self, door: str, mask: Mask) -> None:
        self._door = door
        self._mask = mask
        self.recorder: Recorder | None = None
        self._recorded = 0
        self._refused: dict[str, int] = {}

    def ended(self, event: Event, agent: str) -> None:
        """A call has ended; its texts are masked by the caller."""
        self._recorded += 1
        if self._recorded > MOST_RECORDS or self.recorder is None:
            return
        self.recorder.append(event, agent)
        if self._recorded == MOST_RECORDS:
            message = f"{MOST_RECORDS} calls are on record: further ones are metered, not recorded"
            self.recorder.append(DoorRefused(self._door, "too_many_records", message), agent)

    def refused(self, error: GearcaseError, agent: str) -> None:
        """On record: the first of its kind, then at powers of ten."""
        count = self._refused[error.code] = self._refused.get(error.code, 0) + 1
        if str(count).strip("0") == "1" and self.recorder is not None:
            message, cause = self._mask.text(error.message), self._mask.text(error.cause)
            self.recorder.append(DoorRefused(self._door, error.code, message, {"cause": cause, "count": count}), agent)


class Counter:
    """Bytes that left, paid."""

    def __init__(self, pay: Callable[[int], None]) -> None:
        self._pay = pay
        self.count = 0

    def __call__(self, count: int) -> None:
        """Pay for some more. Raises Refused `budget`."""
        self._pay(count)
        self.count += count


def shown(path: bytes) -> str:
    """A path as a reader sees it."""
    return path[:_SHOWN].decode("utf-8", "replace")


def status_of(error: GearcaseError) -> int:
    """The HTTP status that says it."""
    return _STATUS.get(error.code, 502)


def refusal(error: GearcaseError) -> Reply:
    """What the program inside hears."""
    headers = {"content-type": "application/json"}
    if "retry_after" in error.context:
        headers["retry-after"] = str(error.context["retry_after"])
    return Reply(status_of(error), headers, json.dumps({"error": error.envelope()}).encode())
