"""Whole runs through the installed command, as a user types them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("gearcase")


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def record(self):
        return json.loads(self.out)


class User:
    """Somebody with a home, a folder to work in, and the command."""

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

    def types(self, *arguments, code=None, timeout=90, **environment):
        """Run `gearcase ARGUMENTS` to its end."""
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=self.folder,
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
