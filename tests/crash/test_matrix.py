"""A run is killed at a few kinds of moments and gone on for; the whole matrix is `scripts/crash-run`."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gearcase import events
from gearcase.journal import Journal
from gearcase.runs import RunFolder

HERE = Path(__file__).parent


@pytest.fixture
def audit(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    for name in ("audit", "books", "played"):
        sys.modules.pop(name, None)
    return importlib.import_module("audit")


@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_at_ten_kinds_of_moments_leaves_nothing_and_is_gone_on_for(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [
        sys.executable,
        HERE / "matrix.py",
        "--kills",
        "10",
        "--seed",
        "7",
        "--patience",
        "30",
        "--keep",
        tmp_path / "kept",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


def test_what_outlives_a_run_is_found_and_named():
    """A positive control: a process in a session of its own, whose parent is gone."""
    script = """if True:
        import subprocess, survivors
        survivors.adopt_orphans()
        subprocess.run(["setsid", "-f", "sleep", "4711"])
        (pid, name), = survivors.wait_until_gone((), 0.2, 0.3)[1].items()
        assert "sleep 4711" in name, name
        import os; os.kill(pid, 9)
        assert survivors.wait_until_gone((), 60)[1] == {}
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


OPENED = events.AccountOpened("run", "", {"usd": 10**9})
ASKED = (events.Held(1, "run", {"usd": 10**7}), events.Sent(1))


def life(audit, path, spent, *happened):
    path.mkdir()
    journal = Journal.create(path / "journal")
    for event in happened:
        journal.append(event, "lead")
    journal.close()
    return audit.Life(RunFolder(path.name, "n", "g", 1.0, path), {"spent": {"usd": spent}, "remaining": {}})


def test_the_audit_finds_a_call_that_was_billed_and_given_back_after_a_kill(audit, tmp_path):
    billed = [{"model": "claude-haiku-4-5", "status": 200, "asked": "", "billed": {"input": 1000, "output": 9}}]
    dead = life(audit, tmp_path / "a", 0, OPENED, *ASKED, events.Released(1))
    assert audit.audit([dead], billed, 10**9)[0] == "billed 1045000 nano-dollars, charged 0"
    charged = life(audit, tmp_path / "b", 10**7, OPENED, *ASKED, events.Cut(1, "crash"))
    assert audit.audit([charged], billed, 10**9) == []
    assert audit.audit([charged], billed, 10**6)[0] == "charged 10000000 of 1000000"


def test_the_audit_finds_answers_and_sub_agents_that_are_lost(audit, tmp_path):
    back = (
        events.ResultsCopied("lead", 1, 0, ["out/x"], [], []),
        events.AgentReturned("lead", "done", "", "", "", {}, 1, 1.0, ""),
    )
    dead = life(audit, tmp_path / "a", 0, OPENED, events.AgentTurn(1, "hi", 1), *back)
    heir = life(audit, tmp_path / "b", 0, events.RunContinues("a", "n", {}, 0), OPENED)
    found = audit.audit([dead, heir], [], 10**9)
    assert "1 answers were on record, 0 go on" in found
    assert "out/x had come back and is not in None" in found
    asked = [{"model": "m", "status": 200, "asked": "@@item part-1", "billed": {}}] * 3
    assert "part-1 was asked about 3 times" in audit.audit([dead, heir], asked, 10**9)
