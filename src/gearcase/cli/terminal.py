"""A program's terminal in a box, joined to the operator's: keys go in, what `screen` lets pass comes out, sizes follow.

The operator's terminal is raw meanwhile, so Ctrl-C is a key of the program's. It is as it was when this ends, whatever ends it: a guard,
a process of its own, waits for that and puts it right where this process could not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
import sys
import termios
import time
import tty
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from gearcase.allowance import day_total, today, user_limits
from gearcase.cli.bell import rings
from gearcase.cli.screen import LEAVE, Screen
from gearcase.cli.text import neutral
from gearcase.cli.view import View, fold
from gearcase.errors import GearcaseError
from gearcase.journal import follow
from gearcase.run.process import Started
from gearcase.run.terminal import TerminalLink
from gearcase.seams import TerminalSize
from gearcase.units import format_money

NARROW = 40
"""Columns below which no status is shown."""
_CHUNK = 64 * 1024
_MOST_TYPED = 256 * 1024
_POLL = 0.02
_DAY_LOOK = 2.0
"""Seconds between two looks at what today has come to."""
_KEYS_IN, _SCREEN_OUT = 0, 1
_TERMINFO = ("/usr/share/terminfo", "/lib/terminfo", "/etc/terminfo")


def is_terminal() -> bool:
    """Whether a person sits at both ends of this command."""
    return os.isatty(_KEYS_IN) and os.isatty(_SCREEN_OUT)


def size() -> TerminalSize:
    """Rows and columns of the operator's terminal."""
    rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(_SCREEN_OUT, termios.TIOCGWINSZ, bytes(8)))
    return TerminalSize(rows or 24, columns or 80)


def variables() -> dict[str, str]:
    """What a program must be told of the terminal. One that a box knows nothing of is called by its common name."""
    name = os.environ.get("TERM", "dumb")
    known = any(os.path.exists(f"{top}/{name[:1]}/{name}") for top in _TERMINFO)  # noqa: PTH110 - a name, joined to be looked for
    told = {key: os.environ[key] for key in ("COLORTERM", "NO_COLOR") if key in os.environ}
    return {"TERM": name if known or name == "dumb" else "xterm-256color", **told}


def shows_status() -> bool:
    """Whether the title line says what is spent: never where a person wants plain text, or has no room."""
    return size().columns >= NARROW and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


class Attached:
    """The operator's terminal joined to a run's. `until_end` is called once."""

    def __init__(self, started: Started, link: TerminalLink) -> None:
        self._started = started
        self._link = link
        self._screen = Screen()
        self._terminal = -1
        self._typed = bytearray()
        self._view = View()
        self._title = ""
        self._today = ""
        self._looked = -_DAY_LOOK
        self._status = shows_status()
        self._gone = False

    async def until_end(self, wanted: asyncio.Event) -> bool:
        """Join them until the program's terminal is closed (true), or `wanted` is set (false). The run may go on: wait for its end."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._link.ours, lambda: None if taken.done() else taken.set_result(None))
        await _first(taken, wanted)
        loop.remove_reader(self._link.ours)
        self._terminal = self._link.take() if taken.done() else -1
        if self._terminal < 0:
            return not wanted.is_set()
        os.set_blocking(self._terminal, False)
        followers = [asyncio.create_task(one) for one in (self._follow(), self._look())]
        closed: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._terminal, self._show, closed)
        loop.add_signal_handler(signal.SIGWINCH, self._resize)
        self._resize()
        try:
            with _raw():
                loop.add_reader(_KEYS_IN, self._type)
                await _first(closed, wanted)
                self._write(self._screen.leave() + (b"\x1b[23;2t" if self._title else b""))
            return closed.done()
        finally:
            loop.remove_reader(_KEYS_IN)
            loop.remove_reader(self._terminal)
            loop.remove_writer(self._terminal)
            loop.remove_signal_handler(signal.SIGWINCH)
            for follower in followers:
                follower.cancel()
            os.close(self._terminal)

    # --- in ----------------------------------------------------------------------------------------------------------------

    def _type(self) -> None:
        """Keys of the operator's."""
        try:
            data = os.read(_KEYS_IN, _CHUNK)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(_KEYS_IN)  # the terminal is gone; SIGHUP says so
        if len(self._typed) < _MOST_TYPED:
            self._typed += data
        self._pass_on()

    def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError):
            while self._typed:
                del self._typed[: os.write(self._terminal, self._typed[:_CHUNK])]
        if self._typed:
            loop.add_writer(self._terminal, self._pass_on)
        else:
            loop.remove_writer(self._terminal)

    def _resize(self) -> None:
        now = size()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("4H", now.rows, now.columns, 0, 0))

    # --- out ---------------------------------------------------------------------------------------------------------------

    def _show(self, closed: asyncio.Future[None]) -> None:
        try:
            data = os.read(self._terminal, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal says that nobody has it open any more
                raise
            data = b""
        if data:
            self._write(self._screen.feed(data))
        elif not closed.done():
            asyncio.get_running_loop().remove_reader(self._terminal)
            closed.set_result(None)

    def _write(self, data: bytes) -> None:
        while data and not self._gone:
            try:
                data = data[os.write(_SCREEN_OUT, data) :]
            except BlockingIOError:
                time.sleep(0.005)  # somebody else made it so; nothing else is waited for here
            except OSError:
                self._gone = True

    async def _follow(self) -> None:
        """Keep the title line up to date with what happens in this run."""
        async for record in follow(self._started.folder.journal):
            self._view = fold(self._view, record)
            if rings(record):
                self._write(b"\x07")
            self._entitle()

    async def _look(self) -> None:
        """And with what other runs spend, and what this one spent after it was last looked at."""
        while True:
            await asyncio.sleep(_DAY_LOOK)
            self._entitle()

    def _entitle(self) -> None:
        if self._status and self._view.name and (title := self._told()) != self._title:
            saved = b"" if self._title else b"\x1b[22;2t"
            self._title = title
            self._write(saved + b"\x1b]2;" + title.encode() + b"\x07")

    def _told(self) -> str:
        limit = self._view.limits.get("usd")
        money = format_money(self._view.spent.get("usd", 0)) + (f" of {format_money(limit)}" if limit is not None else "")
        name = neutral(self._view.name)
        if self._view.level == "running":
            return f"{money} · {self._day()} · freeze: gearcase freeze {name}"
        return f"{money} · {self._view.level} · go on: gearcase resume {name}"

    def _day(self) -> str:
        """What today has come to, looked at now and then."""
        if time.monotonic() >= self._looked + _DAY_LOOK:
            self._looked = time.monotonic()
            with contextlib.suppress(GearcaseError):  # whoever starts a run is told of it; a title need not
                spent = self._view.spent.get("usd", 0)
                day, most = day_total(today(), self._started.folder.id, spent).spent, user_limits().usd_per_day
                self._today = f"today {format_money(day)} of {format_money(most)}"
        return self._today


async def _first(future: asyncio.Future[None], wanted: asyncio.Event) -> None:
    """Wait for either."""
    asked = asyncio.create_task(wanted.wait())
    await asyncio.wait({future, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()


@contextmanager
def _raw() -> Generator[None]:
    """The operator's terminal passes every key on, and is as it was afterwards; answers that are still on their way are dropped."""
    before = termios.tcgetattr(_KEYS_IN)
    guard = _guard(before)
    try:
        tty.setraw(_KEYS_IN, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(_KEYS_IN, termios.TCSAFLUSH, before)
        os.write(guard, b".")
        os.close(guard)


def _guard(before: list[Any]) -> int:
    """Fork who puts the terminal right if this process is killed; returns the pipe on which it is told that all is well."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTOU, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            os.close(writing)
            if not os.read(reading, 1):
                os.write(_SCREEN_OUT, LEAVE + b"\r\n")
                termios.tcsetattr(_KEYS_IN, termios.TCSAFLUSH, before)
        finally:
            os._exit(0)
    os.close(reading)
    return writing
