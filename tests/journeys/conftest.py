"""Whole runs through the installed command, as a user types them."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from gearcase.doors.model import pricing

COMMAND = Path(sys.executable).with_name("gearcase")


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def record(self):
        return json.loads(self.out)


class Provider:
    """The scripted provider as a server of its own."""

    def __init__(self, base, log):
        self.base = base
        self._log = log

    def calls(self):
        """What it was asked for and what it billed."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [one for one in map(json.loads, lines) if not one["path"].endswith("count_tokens")]

    def count(self):
        """How many calls it has had, soon told."""
        return self._log.read_bytes().count(b"\n") if self._log.exists() else 0

    def billed(self, provider):
        """Nano-dollars of all of it, at the price table's prices."""
        return sum(pricing.find(provider, one["model"]).cost(pricing.TokenUsage(**one["billed"])) for one in self.calls())


class User:
    """Somebody with a home, a folder to work in, and the command."""

    key = "sk-canary-4711-never-inside"
    keys: ClassVar = {"ANTHROPIC_API_KEY": key, "OPENAI_API_KEY": key, "GEMINI_API_KEY": key}

    def __init__(self, home):
        self.home = home
        self.folder = home / "work"
        self.folder.mkdir(parents=True)
        keep = {name: value for name, value in os.environ.items() if name in ("GEARCASE_DATA", "LANG")}
        self.environment = {
            **keep,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
        }

    def types(self, *arguments, code=None, timeout=90, cwd=None, **environment):
        """Run `gearcase ARGUMENTS` to its end."""
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=cwd or self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        ended = Ended(done.returncode, done.stdout, done.stderr)
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return ended

    def starts(self, *arguments, **environment):
        """Begin `gearcase ARGUMENTS` in the background."""
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def script(self, *steps):
        """A scripted model; returns its name."""
        file = self.folder / f"script-{time.monotonic_ns()}.json"
        file.write_text(json.dumps(list(steps)))
        return f"scripted:{file}"

    @contextmanager
    def provides(self, *steps):
        """A scripted provider as a server of its own, which answers by these steps, and only to the real key."""
        number = time.monotonic_ns()
        script, log = self.home / f"provider-{number}.json", self.home / f"provider-{number}.log"
        script.write_text(json.dumps(list(steps) or [{"text": "ok"}]))
        module = "gearcase.doors.model.upstreams.scripted"
        command = [sys.executable, "-m", module, "--script", script, "--log", log, "--key", self.key]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                yield Provider(server.stdout.readline().strip(), log)
            finally:
                server.kill()

    def journal(self, run=""):
        """The records of a run."""
        told = self.types("journal", "show", *([run] if run else []), "--json", code=0).out
        return [json.loads(line) for line in told.splitlines()]

    def log(self):
        """What the processes of the runs printed."""
        return "\n".join(file.read_text() for file in (self.home / "state").glob("gearcase/runs/*/supervisor.log"))

    def waits_for(self, type_, timeout=30):
        """Until a record of this type is in the newest journal."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for file in (self.home / "state").glob("gearcase/runs/*/journal/*.jsonl"):
                for line in file.read_text().splitlines():
                    if f'"type":"{type_}"' in line:
                        return json.loads(line)
            time.sleep(0.02)
        raise AssertionError(f"no {type_} within {timeout} s\n{self.log()}")


@pytest.fixture
def user(tmp_path):
    return User(tmp_path / "home")
