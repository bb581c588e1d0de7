"""Whole runs in this process: the supervisor that the command starts, with a scripted model and real boxes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from gearcase.box import Override, box_from_options
from gearcase.journal import Journal, read, verify
from gearcase.journal.crosschecks import crosscheck
from gearcase.run.options import RunOptions
from gearcase.run.record import EndRecord
from gearcase.run.supervisor import Supervisor
from gearcase.runs import RunFolder

COMMAND = Path(sys.executable).with_name("gearcase")
SMALL = {"memory": "256MiB", "disk": "64MiB", "processes": 64, "cpus": 1.0, "usd": "1.00"}


@dataclass
class Played:
    """A run that has ended."""

    record: EndRecord
    folder: RunFolder
    out: Path

    def records(self, *types):
        return [record for record in read(self.folder.journal) if not types or record.type in types]

    def gear(self, *commands):
        return self.records("gear_used")


class Stage:
    """A place for runs: state, scripts, deliverables."""

    def __init__(self, tmp_path):
        self.folder = tmp_path
        self.state = tmp_path / "state"
        self.work = tmp_path / "work"
        self.work.mkdir()

    def script(self, *steps, name=""):
        file = self.folder / f"script-{name or time.monotonic_ns()}.json"
        file.write_text(json.dumps(list(steps)))
        return f"scripted:{file}"

    def box(
        self, *steps, check=(), take=("out/**",), give=(), see=(), worker=None, allow=(), swarm=None, more=(), script="", **limits
    ):
        values = [
            Override(("goal",), "the goal", "GOAL"),
            Override(("model", "lead"), self.script(*steps, name=script), "--model"),
        ]
        values += [Override(("model", "worker"), worker, "--worker")] * bool(worker)
        values += more
        values += [Override(("model", "allow"), model, "--allow") for model in allow]
        values += [Override(("swarm", key), value, "box") for key, value in (swarm or {}).items()]
        values += [Override(("limits", key), value, f"--{key}") for key, value in {**SMALL, **limits}.items()]
        values += [Override(("files", "take"), pattern, "--take") for pattern in take]
        values += [Override(("files", "give"), str(path), "--give") for path in give]
        values += [Override(("files", "see"), str(path), "--see") for path in see]
        for number, one in enumerate([check] if isinstance(check, str | dict) else check, 1):
            told = {"run": one} if isinstance(one, str) else one
            values.append(Override(("check",), {"name": f"check-{number}", **told}, "--check"))
        return box_from_options(values, self.work)

    def play(self, *steps, out="result", beside=None, **box):
        """A run to its end, in this process. `beside(folder)` is a coroutine that goes on next to it."""
        options = RunOptions(box=self.box(*steps, **box), out=self.work / out)
        return self.execute(options, beside)

    def execute(self, options, beside=None):
        begun = []

        async def scenario():
            other = []

            def began(folder):
                begun.append(folder)
                if beside is not None:
                    other.append(asyncio.create_task(beside(folder)))

            record = await Supervisor(options, began).execute()
            await asyncio.gather(*other)
            return record

        record = asyncio.run(scenario())
        proof = verify(begun[0].journal)
        assert proof.ok, proof
        assert crosscheck(read(begun[0].journal)).findings == []
        return Played(record, begun[0], options.out)

    # --- runs of processes of their own ------------------------------------------------------------------------------------

    @property
    def environment(self):
        keep = {name: value for name, value in os.environ.items() if name in ("LANG", "XDG_RUNTIME_DIR")}
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {**keep, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "XDG_STATE_HOME": str(self.state)}

    def types(self, *arguments, code=None, timeout=60):
        """`gearcase ARGUMENTS`, to its end."""
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def starts(self, *arguments):
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def until(self, found, timeout=60):
        """Until `found()` is something; returns it."""
        deadline = time.monotonic() + timeout
        while not (answer := found()):
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.01)
        return answer

    def run_folder(self):
        return next(iter(self.state.glob("gearcase/runs/*/journal")), None)

    def has(self, type_):
        """The first record of this type of the only run, None before there is one."""
        lines = [line for file in self.state.glob("gearcase/runs/*/journal/*.jsonl") for line in file.read_text().splitlines()]
        for line in lines:
            with suppress(ValueError):
                if (record := json.loads(line))["type"] == type_:
                    return record
        return None

    def kill_the_run(self):
        """SIGKILL to the process that drives the only run; the command that watches it goes on."""
        owner = json.loads(next(self.state.glob("gearcase/runs/*/owner")).read_text())
        os.kill(owner["pid"], signal.SIGKILL)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    stage = Stage(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(stage.state))
    monkeypatch.delenv("GEARCASE_DATA", raising=False)
    return stage


@pytest.fixture
def journal_of(tmp_path):
    """Makes the folder of a run whose journal tells of these events and whose process is gone."""

    def make(*happened, name="amber-fox", identity="ab12cd34"):
        path = tmp_path / "state/gearcase/runs" / identity
        path.mkdir(parents=True, mode=0o700)
        (path / "run.json").write_text(json.dumps({"id": identity, "name": name, "goal": "g", "created": 1.0}))
        (path / "box.toml").write_text("")
        journal = Journal.create(path / "journal")
        for event in happened:
            journal.append(event, "lead")
        journal.close()
        return RunFolder(identity, name, "g", 1.0, path)

    return make
