"""The real Claude Code at work in a terminal, as a person sits before it: in tmux, from its first screen to the shell afterwards."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.journeys.test_clients import ANTHROPIC, CLAUDE, STEPS, TASK, Project

COMMAND = Path(sys.executable).with_name("gearcase")

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


class Tmux:
    """A terminal of its own, on a server of its own."""

    def __init__(self, user, line, columns=100, rows=30):
        self.socket = user.home / "tmux"
        environment = {**user.environment, **user.keys, "TERM": "xterm-256color"}
        self.command = ["tmux", "-S", self.socket, "-f", "/dev/null"]
        told = f"{line}; echo ended with $?; exec sleep 1000"
        start = ["new-session", "-d", "-x", columns, "-y", rows, "-c", user.folder, "sh", "-c", told]
        subprocess.run([*self.command, *map(str, start)], env=environment, check=True)

    def __call__(self, *arguments):
        return subprocess.run([*self.command, *map(str, arguments)], check=True, capture_output=True, text=True).stdout

    def screen(self):
        return self("capture-pane", "-p")

    def sees(self, pattern, timeout=60):
        """Until the screen shows it."""
        until = time.monotonic() + timeout
        while not re.search(pattern, shown := self.screen()):
            assert time.monotonic() < until, f"no {pattern!r} on\n{shown}"
            time.sleep(0.1)
        return shown

    def types(self, text, *keys):
        """As a person does: the words, a moment, the keys."""
        self("send-keys", "-l", text)
        time.sleep(0.5)
        if keys:
            self("send-keys", *keys)


@pytest.fixture
def tmux(user):
    made = []

    def begin(line, **size):
        made.append(Tmux(user, line, **size))
        return made[-1]

    yield begin
    for one in made:
        subprocess.run([*one.command, "kill-server"], check=False)


def test_a_person_works_with_claude_code_in_a_box(user, tmux):
    project = Project(user, CLAUDE)
    with user.provides(*STEPS, {"text": "The second answer."}) as provider:
        line = [COMMAND, "claude", "--box", project.box(provider), "--model", ANTHROPIC]
        terminal = tmux(shlex.join(map(str, line)))
        terminal.sees(r"Claude Code v2[\s\S]*❯")  # its first screen asks nothing: no login, no theme, no trust
        terminal.types(TASK, "Enter")
        terminal.sees("All done.")
        assert re.fullmatch(
            r"\$0\.\d\d of \$3\.00 · today .* of .* · freeze: gearcase freeze .*\n", terminal("display", "-p", "#{pane_title}")
        )

        terminal("resize-window", "-x", 70, "-y", 20)
        terminal.sees(rf"\n{'─' * 70}\n")  # it draws itself anew in the new size
        terminal.types("never mind", "C-c")
        terminal.sees(r"❯\s*\n")  # Ctrl-C was the agent's: its line is empty, the run goes on
        terminal.types("once more", "Enter")
        terminal.sees("The second answer.")
        terminal.types("/exit", "Enter")
        terminal.sees("ended with 0")
        assert provider.calls() and all(one["client"].startswith("claude-cli/") for one in provider.calls())
    (made,) = (user.folder / "gearcase-out").glob("*/project/OUT.txt")
    assert made.read_text() == "HELLO\n"
    assert not (user.folder / "OUT.txt").exists()
    settled = sum(one["amounts"].get("usd", 0) for one in user.journal() if one["type"] == "settled")
    assert settled == provider.billed("anthropic") > 0
