"""Who is told when a run waits for a person, and until when: the run's side of `notify`.

Whoever asks pulls the brake first; only when it is in force is somebody paged, and paged again until the question is over. Sending is the
work of a process of its own (`notify/pager.py`), which also tells when this one is gone. What became of each page is on record.

Invariant: no target, however slow or dead, holds up anything here, but for at most `PATIENCE` seconds at the very end of a run.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from gearcase.box.notify import Notify
from gearcase.events import PageAnswered, Paged, PageFailed, PageTaken
from gearcase.notify import pager
from gearcase.notify.page import Page, Words, gone, silent
from gearcase.notify.shapes import Destination, resolve, trigger
from gearcase.runs import RunFolder
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Recorder

PATIENCE = 5.0
"""Seconds that the end of a run waits for its last page."""
BEAT = 15.0
SILENCE = 120.0
"""Seconds without a sign of life after which somebody is told."""
_EXIT = 2.0
_KEPT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(slots=True)
class _Open:
    """A page that nobody has answered yet, and when it is said again."""

    page: Page
    timer: asyncio.TimerHandle | None = None


class Paging:
    """The pages of one run. `watched`: a person sits before a terminal or said that they answer."""

    def __init__(self, folder: RunFolder, notify: Notify, to: Sequence[Destination], recorder: Recorder) -> None:
        self.watched = False
        self._folder = folder
        self._notify = notify
        self._to = tuple(to)
        self._recorder = recorder
        self._open: dict[str, _Open] = {}
        self._count = 0
        self._missed: Counter[str] = Counter()
        self._why: dict[str, str] = {}  # a target did not take a page, the last time
        self._failing: set[str] = set()  # did not take what it was sent last
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: Counter[str] = Counter()
        self._sent = asyncio.Event()

    @property
    def reaches(self) -> bool:
        """Whether a person is told of whatever waits."""
        return bool(self._to)

    async def __aenter__(self) -> Self:
        """Start the process that pages, where there is somebody to be paged."""
        if self._to:
            await self._begin()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The run is over and nothing is left of this, unless it failed: then who pages tells that we are gone."""
        for key in list(self._open):
            self._forget(key)
        self._rest()
        if self._writer is not None:
            if kind is None:
                self._say({"bye": True})
            self._writer.close()
        if self._process is not None and kind is None:
            try:
                await in_thread(self._process.wait, _EXIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await in_thread(self._process.wait)

    async def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        log = os.open(self._folder.path / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        environment = {name: value for name, value in os.environ.items() if name.upper() in _KEPT}
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns when the child has its program, within a millisecond
                [sys.executable, "-I", "-S", str(Path(pager.__file__))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,  # who kills the run's whole session does not kill who tells of it
            )
        finally:
            theirs.close()
            os.close(log)
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._say(self._first())
        self._tasks = [asyncio.create_task(self._hear(reader)), asyncio.create_task(self._beat())]

    def _first(self) -> dict[str, Any]:
        """What the process is to send by itself."""
        name, pid = self._folder.name, os.getpid()
        over, quiet = self._page(pager.GONE, gone(name, pid)), self._page(pager.SILENT, silent(name, pid))
        return {
            "pid": pid,
            "gone": [trigger(to, over).as_json() for to in self._to],
            "silent": [trigger(to, quiet).as_json() for to in self._to],
            "silent_ends": [post.as_json() for to in self._to if (post := resolve(to, quiet)) is not None],
            "patience": SILENCE,
        }

    @contextmanager
    def waiting(self, words: Words) -> Generator[None]:
        """Somebody is paged while this lasts."""
        key = f"{words.about} {self._count}"
        self.call(key, words)
        try:
            yield
        finally:
            self.answered(key)

    def call(self, key: str, words: Words, *, later: bool = False) -> None:
        """Page until `answered`. A key that is open already has these words from its next repetition on. `later`: not at once."""
        if not (self._to or self.watched):
            return
        if (known := self._open.get(key)) is not None:
            known.page = replace(known.page, words=words)
            return
        self._count += 1
        self._open[key] = one = _Open(self._page(self._count, words, told=0))
        if later:
            self._later(one)
        else:
            self._send(one)

    def answered(self, key: str) -> None:
        """It is over, whoever ended it. Idempotent."""
        one = self._forget(key)
        if one is not None and one.page.told:
            self._say({"drop": one.page.number})
            ends = [post.as_json() for to in self._to if (post := resolve(to, one.page)) is not None]
            self._post(one.page.number, ends, ends=True)
            self._recorder.append(PageAnswered(one.page.number))

    async def end(self, failed: str) -> list[str]:
        """The run has ended: nothing waits any more, and where it failed somebody is told so (what happened). Returns what went wrong."""
        for key in list(self._open):
            self.answered(key)
        if failed and self._to:
            answers = (f"gearcase report {self._folder.name}",)
            self.call("ended", Words("ended", failed, "Nothing runs and nothing is spent any more.", answers))
            self._forget("ended")  # it is said once
        try:
            async with asyncio.timeout(PATIENCE):
                while self._sending.total():
                    self._sent.clear()
                    await self._sent.wait()
        except TimeoutError:
            for to in +self._sending:
                self._missed[to] += 1
                self._why[to] = "no answer when the run had ended"
        self._rest()  # the end of the run is the last that is on record
        return [f"{count} of the pages to {to} did not arrive: {self._why[to]}" for to, count in self._missed.items()]

    def _rest(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _forget(self, key: str) -> _Open | None:
        if (one := self._open.pop(key, None)) is not None and one.timer is not None:
            one.timer.cancel()
        return one

    def _later(self, one: _Open) -> None:
        one.timer = asyncio.get_running_loop().call_later(self._notify.repeat, self._send, one)

    def _send(self, one: _Open) -> None:
        one.page = page = replace(one.page, told=one.page.told + 1)
        self._later(one)
        self._post(page.number, [trigger(to, page).as_json() for to in self._to])
        names = [to.name for to in self._to]
        words, bell = page.words, self._notify.bell and page.words.about != "ended"
        self._recorder.append(Paged(page.number, words.about, words.what, words.meanwhile, names, page.told, bell))

    def _page(self, number: int, words: Words, told: int = 1) -> Page:
        return Page(self._folder.id, self._folder.name, number, words, told)

    def _post(self, page: int, posts: list[dict[str, Any]], ends: bool = False) -> None:
        if posts and self._writer is not None:
            self._sending.update(str(post["to"]) for post in posts)
            self._say({"page": page, "posts": posts, "ends": ends})

    def _say(self, line: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(line).encode() + b"\n")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self._say({})

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """What became of pages, until the process that sends them is no more."""
        with suppress(ConnectionError):  # of what it had been told, something was unread
            async for line in reader:
                self._note(json.loads(line))
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        for to in self._to:
            self._note({"page": 0, "to": to.name, "ends": False, "attempt": 0, "why": "the process that pages has ended"})
            self._missed[to.name] += 1 + self._sending.pop(to.name, 0)
        self._sent.set()

    def _note(self, told: dict[str, Any]) -> None:
        page, to, why, ends = int(told["page"]), str(told["to"]), str(told.get("why") or ""), bool(told["ends"])
        status = int(told.get("status") or 0)
        if why:
            self._why[to] = why
            self._failing.add(to)
            self._recorder.append(PageFailed(page, to, why, int(told["attempt"]), float(told.get("again") or 0)))
        elif status and not ends:
            self._failing.discard(to)
            self._recorder.append(PageTaken(page, to, status, int(told["attempt"])))
        if told.get("done") and page > 0:
            if to in self._failing and not ends:  # given up, or answered before it arrived
                self._missed[to] += 1
            self._sending[to] -= 1
            self._sent.set()
