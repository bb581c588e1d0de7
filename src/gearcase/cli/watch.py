"""Watching a run from a terminal until it ends, and asking a person when the brake is pulled.

The run lives in a process of its own: this one only follows the journal and talks to the control socket, so it may die at any
moment, and the run outlives its terminal. Ctrl-C freezes the run and asks; a second Ctrl-C, and a request to end (SIGTERM), leave it
frozen and go away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.live import Live
from rich.text import Text

from gearcase.cli import lines
from gearcase.cli.bell import rings
from gearcase.cli.console import err, interactive
from gearcase.cli.history import limits_of, turns_of
from gearcase.cli.live import LivePanel
from gearcase.cli.question import choices, prompt, question
from gearcase.cli.text import neutral
from gearcase.cli.view import View, fold
from gearcase.control import command
from gearcase.errors import GearcaseError
from gearcase.journal import follow
from gearcase.run.questions import BUDGET
from gearcase.runs import RunFolder

_REFRESH = 0.125
_TOLD = 1.0
"""Seconds in which the journal tells of a freeze that the run has answered already."""


class Watched(Protocol):
    """A run in a process of its own."""

    @property
    def folder(self) -> RunFolder:
        """Where it is on disk."""
        ...

    def poll(self) -> bool:
        """Whether its process has ended."""
        ...


def watch(started: Watched, quiet: bool) -> bool:
    """Watch a run until it ends (true), or until the person goes away and leaves it frozen (false)."""
    return asyncio.run(_Watch(started, quiet).until_end())


@dataclass(slots=True)
class _Watch:
    started: Watched
    quiet: bool
    view: View = field(default_factory=View)
    interrupts: int = 0
    leaves: bool = False  # told to end: nobody is asked
    asked: str = ""  # the freeze (its sequence number) that the person was asked about
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    panel: LivePanel = field(init=False)

    @property
    def folder(self) -> RunFolder:
        return self.started.folder

    async def until_end(self) -> bool:
        """Follow the journal, draw, and answer interrupts."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        self.panel = LivePanel(limits_of(self.folder), hint="Ctrl-C freezes and asks", turns=turns_of(self.folder))
        follower = asyncio.create_task(self._follow())
        try:
            while True:
                if not await self._draw_until_needed():
                    await asyncio.wait({follower}, timeout=1.0)  # for the last lines; a run that died has no last record
                    return True
                if not await self._ask():
                    return False
        finally:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)

    def _interrupt(self) -> None:
        self.interrupts += 1
        self.wake.set()

    def _terminate(self) -> None:
        """What is told to end takes care that nothing goes on spending unseen."""
        self.leaves = True
        self._interrupt()

    async def _follow(self) -> None:
        plain = not self.quiet and not err().is_terminal
        async for record in follow(self.folder.journal):
            self.view = fold(self.view, record)
            if plain and (said := lines.line(record)) is not None:
                err().print(said, soft_wrap=True)
            if rings(record):
                err().bell()
            if record.type == "brake_changed":
                self.wake.set()
            if record.type == "run_ended":
                return

    async def _draw_until_needed(self) -> bool:
        """Draw until a question must be asked (true) or the run has ended (false)."""
        drawn = not self.quiet and err().is_terminal
        live = Live(self.panel, console=err(), transient=True, auto_refresh=False) if drawn else contextlib.nullcontext()
        with _no_echo(sys.stderr.fileno()) if drawn else contextlib.nullcontext(), live:
            while not self.started.poll():
                if self.interrupts or self._waits_for_answer():
                    return True
                self.panel.view, self.panel.now = self.view, time.time()
                if isinstance(live, Live):
                    live.refresh()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFRESH):
                        await self.wake.wait()
                self.wake.clear()
        return False

    def _waits_for_answer(self) -> bool:
        """Frozen by another than this terminal's Ctrl-C: by a limit that asks. Each such freeze is asked about once."""
        frozen = self.view.level == "frozen" and self.view.braked_by != "operator"
        return frozen and interactive() and self.asked != str(self.view.frozen_since)

    # --- the question ------------------------------------------------------------------------------------------------------

    async def _ask(self) -> bool:
        """Freeze where the person asked for it, and do what they choose. False: they go away."""
        if self.interrupts:
            try:
                await self._command("freeze")
            except GearcaseError as error:
                if error.code == "not_running":
                    return True  # it ended meanwhile
                err().print(Text(f"{neutral(error.message)}: {neutral(error.remedy)}", "red"))
                return False
            await self._until_told()
        self.asked = str(self.view.frozen_since)
        self.interrupts = 0
        if self.leaves or not interactive():
            return self._leave()
        if not self.quiet:
            self._keep_panel()
        more = self.panel.limits.usd if self.view.braked_by == BUDGET else 0
        listed = choices(self.view, more)
        err().print(question(self.view, listed, self.view.brake_reason if self.quiet else ""))
        choice = await self._choice(prompt(listed), {one.key: one.verb for one in listed})
        if choice == "detach":
            return self._leave()
        try:
            await self._command("resume", add_usd=more) if choice == "add" else await self._command(choice)
        except GearcaseError as error:
            if error.code != "not_running":
                err().print(Text(f"{neutral(error.message)}: {neutral(error.remedy)}", "red"))
        self.interrupts = 0
        return True

    def _leave(self) -> bool:
        name = neutral(self.folder.name)
        err().print(Text.assemble((f"{name} is left frozen", "bold cyan"), ": nothing runs, nothing is spent, its clock stands."))
        for what, how in (("go on", "resume"), ("watch", "attach"), ("end it", "kill")):
            err().print(Text(f"  {what:<8}gearcase {how} {name}"))
        return False

    async def _until_told(self) -> None:
        """What is shown next is the frozen run: wait until its journal has told so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TOLD):
                while self.view.level not in ("frozen", "killed"):
                    await self.wake.wait()
                    self.wake.clear()

    def _keep_panel(self) -> None:
        """What the run is now stays on the screen, above the question."""
        self.panel.view, self.panel.now = self.view, time.time()
        err().print(self.panel)

    async def _command(self, verb: str, **arguments: int) -> None:
        await asyncio.to_thread(command, self.folder, verb, timeout=30.0, by="operator", **arguments)

    async def _choice(self, asked: Text, verbs: Mapping[str, str]) -> str:
        """The verb of one key. A second Ctrl-C, the end of input, or the end of the run detaches."""
        keys: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        with _single_keys(sys.stdin.fileno()) as descriptor:
            err().print(asked, end="")
            loop.add_reader(descriptor, lambda: keys.put_nowait(os.read(descriptor, 1).decode("ascii", "replace").lower()))
            try:
                while not self.interrupts:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_REFRESH):
                            key = await keys.get()
                        if key in ("", "\x04"):
                            break
                        if key in verbs:
                            err().print(Text(verbs[key].replace("_", " ")))
                            return verbs[key]
            finally:
                loop.remove_reader(descriptor)
        err().print()
        return "detach"


@contextlib.contextmanager
def _no_echo(descriptor: int) -> Generator[None]:
    """Keys, and the ^C of an interrupt, are not written into the picture, which they would tear.

    Nothing is changed where another job has the terminal.
    """
    if not _is_ours(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
        yield
    finally:
        if _is_ours(descriptor):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _is_ours(descriptor: int) -> bool:
    """Whether this is the foreground job of a terminal: one in the background would be stopped for changing it."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # no terminal, or not the one that we were started from
        return False


@contextlib.contextmanager
def _single_keys(descriptor: int) -> Generator[int]:
    """The terminal gives each key at once, and is as it was afterwards."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # what was typed already counts
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
