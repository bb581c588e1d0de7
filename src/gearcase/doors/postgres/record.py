"""What passed a database door, on record: each statement's kind, rows, bytes, seconds and error.

What it said is put there only where the box asks for it (`said`).

The kind and the rows are the server's own words at a statement's end, so nothing is parsed here that an agent wrote. The first
`MOST_RECORDS` statements stand in the journal one by one, and errors beyond them at powers of ten; what is more is counted.
"""

from __future__ import annotations

import re
import time

from gearcase.doors.postgres.said import Said
from gearcase.doors.postgres.wire import field_of
from gearcase.events import Amounts, StatementRan, StatementsRan
from gearcase.seams import Recorder

MOST_RECORDS = 1000
COUNTED_EVERY = 5.0
"""Seconds between two records of what was only counted."""
_KIND = re.compile(r"[A-Z][A-Z ]{0,39}")
_COMPLETE, _ERROR, _READY, _EMPTY, _SUSPENDED = b"CEZIs"
WANTED = b"CEZIs"
"""Messages of a server that end a statement, or all of a request."""


class Record:
    """Of one door."""

    def __init__(self, door: str, recorder: Recorder, *, values: bool = False) -> None:
        """`values`: what statements say is on record, too."""
        self.door = door
        self.values = values
        self._recorder = recorder
        self._recorded = 0
        self._kinds: dict[str, Amounts] = {}
        self._sent = self._received = 0
        self._since = time.monotonic()
        self._errors: dict[str, int] = {}
        self.statements = 0

    def ran(self, agent: str, statement: StatementRan) -> None:
        """One statement has ended."""
        self.statements += 1
        if self._recorded < MOST_RECORDS:
            self._recorded += 1
            self._recorder.append(statement, agent)
            return
        if statement.error:
            count = self._errors[statement.error] = self._errors.get(statement.error, 0) + 1
            if len(self._errors) < MOST_RECORDS and str(count).strip("0") == "1":
                self._recorder.append(statement, agent)
        one = self._kinds.setdefault(statement.kind, {"count": 0, "rows": 0, "errors": 0, "milliseconds": 0})
        one["count"] += 1
        one["rows"] += statement.rows
        one["errors"] += bool(statement.error)
        one["milliseconds"] += round(statement.seconds * 1000)
        self._sent += statement.sent
        self._received += statement.received
        if time.monotonic() - self._since > COUNTED_EVERY:
            self.flush()

    def flush(self) -> None:
        """Record what was counted."""
        if self._kinds:
            self._recorder.append(StatementsRan(self.door, self._kinds, self._sent, self._received))
        self._kinds, self._sent, self._received, self._since = {}, 0, 0, time.monotonic()


class Statements:
    """Follows one session: told what passes, it tells the record of each statement that ends."""

    def __init__(self, record: Record, agent: str, session: int) -> None:
        self._record = record
        self._agent = agent
        self._session = session
        self._said = Said() if record.values else None
        self._began = 0.0
        self._sent = self._received = 0

    def sent(self, data: bytes) -> None:
        """Bytes left the client. Raises Refused `bad_protocol` where they are read, and are none of the protocol."""
        count = len(data)
        if self._said is not None:
            self._said.feed(data)
        if not self._began:
            self._began = time.monotonic()
        self._sent += count

    def received(self, count: int) -> None:
        """Bytes came from the server."""
        self._received += count

    def heard(self, kind: int, body: bytes) -> None:
        """A message of the server, of those that are `WANTED`."""
        if kind == _READY:
            self._began = 0.0
            if self._said is not None:
                self._said.ready()
        elif kind == _COMPLETE:
            words = body.rstrip(b"\0").decode("ascii", "replace").split()
            rows = int(words[-1]) if len(words) > 1 and words[-1].isdecimal() and len(words[-1]) < 16 else 0
            name = " ".join(word for word in words if not word.isdecimal())
            self._end(name if _KIND.fullmatch(name) else "OTHER", rows, "")
        elif kind == _ERROR:
            self._end("FAILED", 0, field_of(body, b"C")[:5] or "?")
        else:
            self._end("EMPTY" if kind == _EMPTY else "FETCH", 0, "")

    def _end(self, kind: str, rows: int, error: str) -> None:
        now = time.monotonic()
        seconds = now - self._began if self._began else 0.0
        self._began = now
        sent, received, self._sent, self._received = self._sent, self._received, 0, 0
        text, values = self._said.ended() if self._said is not None else ("", [])
        took = round(seconds, 6)
        statement = StatementRan(self._record.door, self._session, kind, rows, sent, received, took, error, text, values)
        self._record.ran(self._agent, statement)
