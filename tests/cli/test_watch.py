"""Ctrl-C on a real terminal: the run freezes and the person is asked; a second one leaves it frozen.

The run is a process with the product's own journal, brake and control socket, and no agent.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gearcase import runs
from gearcase.cli.history import history
from gearcase.control import command

SCRIPT = """
import asyncio, os, sys
from dataclasses import dataclass
from gearcase import events, runs
from gearcase.brake import BoxClock, Brake, Level
from gearcase.cli.watch import watch
from gearcase.control import Control
from gearcase.journal import Journal

@dataclass(frozen=True)
class Started:
    folder: runs.RunFolder
    pid: int
    def poll(self):
        return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid

async def drive(folder):
    journal = Journal.create(folder.journal)
    journal.append(events.RunStarted(folder.id, folder.name, folder.goal, "ab", "0", "boot", {}))
    journal.append(events.AccountOpened("run", "", {"usd": 2_000_000_000}))
    journal.append(events.CommandStarted(1, "python3 count.py"), "lead")
    journal.flush()
    brake = Brake(folder, journal, BoxClock())
    def verb(level):
        async def pull(request):
            took = await brake.pull(level, request.get("by", "operator"), request.get("reason", ""))
            return {"level": brake.level.name.lower(), "milliseconds": took}
        return pull
    names = {"freeze": Level.FROZEN, "resume": Level.RUNNING, "kill": Level.KILLED, "wind_down": Level.KILLED}
    control = Control(folder, {name: verb(level) for name, level in names.items()})
    await control.start()
    if sys.argv[1:] == ["asks"]:
        await asyncio.sleep(0.3)
        await brake.pull(Level.FROZEN, "budget", "the money is spent")
        journal.append(events.Paged(1, "budget", "is frozen", "Nothing is spent.", [], 1, True))
        journal.flush()
    await brake.wait_for(lambda level: level is Level.KILLED)
    await asyncio.sleep(0.1)
    await control.close()
    journal.append(events.RunEnded("stopped", {"status": "stopped"}))
    journal.flush()
    journal.close()

folder, _owner = runs.create("count the rows", "amber-fox")
let_go, letting_go = os.pipe()
pid = os.fork()
if pid == 0:
    os.setsid()
    _owner.release()
    os.read(let_go, 1)  # the parent has it, too
    runs.own(folder)
    out = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(out, stream)
    asyncio.run(drive(folder))
    os._exit(0)
_owner.release()
os.write(letting_go, b".")
print("ENDED" if watch(Started(folder, pid), quiet=False) else "LEFT")
"""


class Terminal:
    """A program on a pseudo-terminal, as a person has it before them."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.leader, follower = pty.openpty()
        around = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "90", "LINES": "30"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=around,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(follower),
        )
        os.close(follower)
        self.seen = ""

    def wait_for(self, wanted: str) -> str:
        """Read until a text is on the screen since the last call; what has come since then."""
        until = time.monotonic() + 20
        while wanted not in self.plain:
            assert time.monotonic() < until, f"no {wanted!r} in {self.plain[-2000:]!r}"
            if select.select([self.leader], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.leader, 65536).decode("utf-8", "replace")
                except OSError:  # the program closed its terminal
                    assert wanted in self.plain, self.plain
        seen, self.seen = self.plain, ""
        return seen

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen)

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.leader)


def _take_terminal(descriptor: int) -> None:
    import fcntl

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    for folder in runs.all_runs():
        if folder.owner_pid():
            command(folder, "kill")


def test_ctrl_c_freezes_and_asks_and_resume_goes_on(state: Path) -> None:
    terminal = Terminal(state)
    try:
        terminal.wait_for("python3 count.py")
        terminal.press("\x03")
        terminal.wait_for("[r/w/k/d]")
        assert json.loads((runs.find().path / "level").read_text()) == {"operator": "frozen"}
        terminal.press("x")  # no choice: the question stays
        terminal.press("r")
        terminal.wait_for("python3 count.py")
        assert json.loads((runs.find().path / "level").read_text()) == {}
        terminal.press("\x03")
        terminal.wait_for("[r/w/k/d]")
        terminal.press("k")
        terminal.wait_for("ENDED")
        assert terminal.process.wait(10) == 0
        assert history(runs.find()).state == "stopped"
    finally:
        terminal.close()


def test_a_second_ctrl_c_leaves_it_frozen_and_says_how_to_go_on(state: Path) -> None:
    terminal = Terminal(state)
    try:
        terminal.wait_for("python3 count.py")
        terminal.press("\x03")
        terminal.wait_for("[r/w/k/d]")
        terminal.press("\x03")
        terminal.wait_for("gearcase resume amber-fox")
        assert terminal.process.wait(10) == 0
        folder = runs.find()
        assert folder.owner_pid()
        assert history(folder).state == "frozen"
    finally:
        terminal.close()


def test_the_question_stands_below_the_frozen_run_and_says_what_each_answer_does_and_how_to_come_back(state: Path) -> None:
    terminal = Terminal(state)
    try:
        terminal.wait_for("python3 count.py")
        terminal.press("x\x03")
        screen = terminal.wait_for("[r/w/k/d]")
        assert "^C" not in screen and "x^" not in screen  # written over the right edge, they would tear the picture
        panel, _, asked = screen.rpartition("amber-fox is frozen by Ctrl-C")
        assert "amber-fox · frozen" in panel
        for told in (
            "goes on exactly where",
            "hand in what there is",
            "nothing is checked or delivered",
            "gearcase resume amber-fox",
        ):
            assert told in " ".join(asked.split())
        terminal.press("d")
        terminal.wait_for("gearcase kill amber-fox")
        assert terminal.process.wait(10) == 0
        assert termios.tcgetattr(terminal.leader)[3] & termios.ECHO
    finally:
        terminal.close()


def test_what_is_typed_meanwhile_is_not_shown_and_the_terminal_echoes_again_afterwards(state: Path) -> None:
    terminal = Terminal(state)
    try:
        terminal.wait_for("python3 count.py")
        assert not termios.tcgetattr(terminal.leader)[3] & termios.ECHO
        command(runs.find(), "kill")
        terminal.wait_for("ENDED")
        assert terminal.process.wait(10) == 0
        assert termios.tcgetattr(terminal.leader)[3] & termios.ECHO
    finally:
        terminal.close()


def test_a_run_that_its_limit_froze_asks_too(state: Path) -> None:
    terminal = Terminal(state, "asks")
    try:
        terminal.wait_for("the money is spent")
        terminal.press("d")
        terminal.wait_for("is left frozen")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()


def test_the_terminal_rings_when_somebody_is_paged(state: Path) -> None:
    terminal = Terminal(state, "asks")
    try:
        terminal.wait_for("\a")
        terminal.press("d")
        terminal.wait_for("is left frozen")
    finally:
        terminal.close()


def test_a_closed_terminal_leaves_the_run_alone(state: Path) -> None:
    terminal = Terminal(state)
    terminal.wait_for("python3 count.py")
    terminal.close()
    assert runs.find().owner_pid()
    assert history(runs.find()).state == "running"
