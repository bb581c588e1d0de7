"""The process that pages: a child of the run's own process, which outlives it only to tell that it is gone.

    python3 -I -S pager.py < SOCKET

It is told over a socket, a JSON object a line, and tells back what became of each page. It knows nothing of runs: what it sends was made
ready before, also what it is to send when the process that drives the run is gone, or gives no sign of life. So a target that is slow or
dead costs the run nothing, and `kill -9` of the run's process is told. Standard library only: it starts in 20 ms.

    told    {"pid", "gone": [POST...], "silent": [POST...], "silent_ends": [POST...], "patience"}      once, first
            {"page", "posts": [POST...], "ends": BOOL}    to each target; one that `ends` goes only to those that took the page
            {"drop": PAGE}                                is not tried again
            {}                                            a sign of life
            {"bye": true}                                 the run has ended as it should: exit
    tells   {"page", "to", "ends", "attempt", "status", "why", "again", "done"}

Invariants: a target gets its pages in their order; no page stays in the way of another target's; after `bye` nothing is left of it.
"""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

WAITS = (2.0, 8.0, 30.0, 120.0)
"""Seconds between attempts. What waits for a person is said again anyway."""
LAST_WAITS = (*WAITS, 300.0, 600.0)
"""Of what is said when nobody is left to say it again."""
TIMEOUT = 10.0
LONGEST = 120.0
"""Seconds that a target may ask us to wait."""
MOST_SAID = 300
GONE, SILENT = 0, -1
"""Pages of ours."""
_AGAIN = (408, 425, 429)


class Answer(NamedTuple):
    """What came of one POST. `why` is empty where it was taken; `again`: it may be tried again, after so many seconds at least."""

    status: int = 0
    said: str = ""
    why: str = ""
    again: bool = False
    after: float = 0.0


def attempt(post: Mapping[str, Any], timeout: float = TIMEOUT) -> Answer:
    """POST it once. Redirects are not followed: they would take the secret elsewhere. No text of ours holds the address."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException, InvalidURL

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
            return None

    try:
        body = str(post["body"]).encode()
        request = urllib.request.Request(str(post["url"]), body, dict(post["headers"]), method="POST")
        with urllib.request.build_opener(Stay).open(request, timeout=timeout) as answer:
            return Answer(answer.status, _plain(answer.read1(4 * MOST_SAID)))
    except urllib.error.HTTPError as error:
        with error:
            after = str(error.headers.get("Retry-After", ""))
            again = error.code >= 500 or error.code in _AGAIN
            seconds = min(float(after), LONGEST) if after.isdecimal() else 0.0
            return Answer(error.code, _plain(error.read1(4 * MOST_SAID)), f"it answers {error.code}", again, seconds)
    except (ValueError, InvalidURL) as error:  # an address or a header that cannot be: its text would be in the message
        return Answer(why=f"it cannot be sent: {type(error).__name__}")
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        slow = f"no answer within {timeout:g} s" if isinstance(reason, TimeoutError) else ""
        return Answer(why=slow or str(getattr(reason, "strerror", None) or type(reason).__name__)[:MOST_SAID], again=True)


def _plain(data: bytes) -> str:
    return "".join(one if one.isprintable() else " " for one in data.decode("utf-8", "replace"))[:MOST_SAID].strip()


class _Line:
    """One target's pages, one after the other, in a thread of its own."""

    def __init__(self, pages: _Pages) -> None:
        self._pages = pages
        self._waiting: queue.SimpleQueue[tuple[int, Mapping[str, Any], bool]] = queue.SimpleQueue()
        self._taken: set[int] = set()
        self.wake = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def put(self, page: int, post: Mapping[str, Any], ends: bool) -> None:
        """Behind those that wait."""
        self._waiting.put((page, post, ends))

    def _work(self) -> None:
        while True:
            page, post, ends = self._waiting.get()
            told = {"page": page, "to": post["to"], "ends": ends}
            for said in self._send(page, post, ends):
                self._pages.tell({**told, **said})

    def _send(self, page: int, post: Mapping[str, Any], ends: bool) -> Iterator[dict[str, Any]]:
        if ends and page not in self._taken:
            yield {"done": True}
            return
        waits = LAST_WAITS if page == GONE else WAITS
        for number, wait in enumerate((*waits, 0.0), 1):
            if self._pages.is_dropped(page, ends):
                break
            answer = attempt(post)
            last = not answer.why or not answer.again or not wait
            wait = 0.0 if last else max(wait, answer.after)
            yield {"attempt": number, "status": answer.status, "why": answer.why, "again": wait, "done": last}
            if not answer.why:
                self._taken.add(page)
            if last:
                return
            self._rest(wait, page, ends)
        yield {"done": True}

    def _rest(self, seconds: float, page: int, ends: bool) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._pages.is_dropped(page, ends):
            self.wake.wait(left)
            self.wake.clear()


class _Pages:
    """All lines, and what is told back."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._dropped: set[int] = set()
        self._alone = False
        self._turn = threading.Condition()
        self._open = 0

    def put(self, page: int, posts: Sequence[Mapping[str, Any]], ends: bool = False) -> None:
        """Send to each target."""
        if not ends:
            self._dropped.discard(page)
        for post in posts:
            with self._turn:
                self._open += 1
            name = str(post["to"])
            if name not in self._lines:
                self._lines[name] = _Line(self)
            self._lines[name].put(page, post, ends)

    def drop(self, page: int) -> None:
        """Somebody answered: it is not tried again."""
        self._dropped.add(page)
        self._wake()

    def alone(self) -> None:
        """Nobody is left but us: what was to be said before is past."""
        self._alone = True
        self._wake()

    def is_dropped(self, page: int, ends: bool) -> bool:
        """Whether an attempt is in vain."""
        return page != GONE and (self._alone or (page in self._dropped and not ends))

    def tell(self, what: Mapping[str, Any]) -> None:
        """Tell what became of one; without anybody to tell it stands in the run's log."""
        text = json.dumps(what)
        with self._turn:
            try:
                os.write(0, text.encode() + b"\n")
            except OSError:
                print(f"pager: {text}", file=sys.stderr, flush=True)
            self._open -= bool(what["done"])
            self._turn.notify_all()

    def wait(self) -> None:
        """Until all are sent, or given up."""
        with self._turn:
            self._turn.wait_for(lambda: not self._open)

    def _wake(self) -> None:
        for line in self._lines.values():
            line.wake.set()


class _Told:
    """What we are told, as it comes. `over`: nobody tells anything any more."""

    def __init__(self) -> None:
        self._rest = b""
        self.over = False

    def read(self) -> Iterator[dict[str, Any]]:
        """Wait for more; yields every whole line of it."""
        try:
            data = os.read(0, 1 << 20)
        except OSError:
            data = b""
        self.over = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from (json.loads(line) for line in lines)


def main() -> int:
    """Until `bye`, or until who drives the run is gone and that is told."""
    told = _Told()
    begin: dict[str, Any] = {}
    after: list[dict[str, Any]] = []
    while not begin:
        for line in told.read():
            begin, after = (begin, [*after, line]) if begin else (line, after)
        if told.over:
            return 1
    pages = _Pages()
    if not _follow(begin, after, told, pages):
        return 0
    pages.alone()
    pages.put(GONE, begin["gone"])
    pages.wait()
    return 0


def _follow(begin: Mapping[str, Any], lines: Sequence[dict[str, Any]], told: _Told, pages: _Pages) -> bool:
    """Do what we are told; returns whether who tells it is gone, without a word."""
    poller = select.poll()
    poller.register(0, select.POLLIN)
    try:
        if os.getppid() != begin["pid"]:
            return True
        poller.register(os.pidfd_open(begin["pid"]), select.POLLIN)
    except ProcessLookupError:
        return True
    silent = False
    while True:
        for line in lines:
            if "bye" in line:
                return False
            if silent:
                silent = False
                pages.drop(SILENT)
                pages.put(SILENT, begin["silent_ends"], ends=True)
            if "drop" in line:
                pages.drop(line["drop"])
            elif line:
                pages.put(line["page"], line["posts"], line["ends"])
        ready = {descriptor for descriptor, _ in poller.poll(None if silent else begin["patience"] * 1000)}
        lines = list(told.read()) if 0 in ready else ()
        if told.over or (ready and 0 not in ready):
            return not any("bye" in line for line in lines)
        if not ready:
            silent = True
            pages.put(SILENT, begin["silent"])


if __name__ == "__main__":
    os._exit(main())  # a thread that still waits for a target is not waited for
