"""A folder to work in, and a provider that answers by a script."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

KEY = "sk-canary-4711-never-inside"
CAPITALS = [{"text": "I write.", "commands": ["mkdir -p out; tr a-z A-Z < words.txt > out/words.txt; gear done"]}]


class Desk:
    """Where a script of a user runs: this process, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def script(self, *steps):
        """A scripted model; returns its name."""
        file = self.folder / f"script-{time.monotonic_ns()}.json"
        file.write_text(json.dumps(list(steps)))
        return f"scripted:{file}"

    @contextmanager
    def provides(self, *steps):
        """The address of a provider that answers by these steps, only to the real key."""
        file = self.script(*steps).partition(":")[2]
        command = [sys.executable, "-m", "gearcase.doors.model.upstreams.scripted", "--script", file, "--key", KEY]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                yield server.stdout.readline().strip()
            finally:
                server.kill()


@pytest.fixture
def desk(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "words.txt").write_text("hello\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Desk(folder)
