"""The brake holds where the process that drives the run is stopped, busy, or gone to sleep: the hand brake."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

BUSY = "while :; do date +%s%N > /tmp/beat; done"


def driver(user):
    """The process that drives the only run."""
    return json.loads(next((user.home / "state").glob("gearcase/runs/*/owner")).read_text())["pid"]


def handbrakes(user):
    """Processes that hold the hand brake of the only run."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver(user) and "handbrake" in Path(f"/proc/{name}/cmdline").read_text():
                found.append(int(name))
    return found


def moved(seconds=1.0):
    """Processor ticks that the busy programs of all boxes took in these seconds."""

    def ticks():
        total = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if BUSY in Path(f"/proc/{name}/cmdline").read_text().replace("\0", " "):
                    fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                    total += sum(int(fields[place]) for place in (11, 12, 13, 14))  # with the children it waited for
        return total

    before = ticks()
    time.sleep(seconds)
    return ticks() - before


@pytest.fixture
def stopped(user):
    """A run with a busy box, whose own process stands still."""
    run = user.starts("run", "g", "--model", user.script({"commands": [BUSY]}), "--name", "deaf", "--json")
    user.waits_for("command_started")
    pid = driver(user)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        user.types("kill", "deaf", "--yes")
        run.communicate(timeout=30)


def test_a_run_whose_own_process_does_not_answer_is_frozen_by_hand_and_goes_on_later(user, stopped):
    assert moved() > 0, "the control: nobody has pulled anything, and the box works though its run's process stands still"
    told = user.types("freeze", "deaf", "--reason", "3 a.m.", code=0).out
    assert "deaf is frozen" in told and "by hand" in told and "does not answer" in told
    assert moved(2.0) == 0
    os.kill(driver(user), signal.SIGCONT)
    user.waits_for("brake_changed")
    assert moved() == 0, "what was pulled by hand is a freeze like any other"
    changed = next(one for one in user.journal() if one["type"] == "brake_changed")
    assert (changed["level"], changed["by"], changed["reason"]) == ("frozen", "operator", "3 a.m.")
    user.types("resume", "deaf", code=0)
    assert moved() > 0
    user.types("kill", "deaf", "--yes", code=0)
    out, _ = stopped.communicate(timeout=30)
    assert json.loads(out)["status"] == "stopped" and json.loads(out)["residue"] == []


def test_a_run_that_is_killed_while_it_is_frozen_by_hand_leaves_nothing(user, stopped):
    held = handbrakes(user)
    assert len(held) == 1
    user.types("freeze", "deaf", code=0)
    assert "killed" in user.types("kill", "deaf", "--yes", code=0).out
    stopped.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in held) or moved(0.1):
        assert time.monotonic() < deadline, "something outlived the run"
        time.sleep(0.05)


def test_a_hand_brake_that_dies_is_put_back(user):
    run = user.starts("run", "g", "--model", user.script({"commands": [BUSY]}), "--name", "deaf", "--json")
    user.waits_for("command_started")
    [first] = handbrakes(user)
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while handbrakes(user) in ([], [first]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver(user), signal.SIGSTOP)
    told = user.types("freeze", "deaf", code=0).out
    assert "by hand" in told and moved() == 0
    os.kill(driver(user), signal.SIGCONT)
    user.types("kill", "deaf", "--yes", code=0)
    out, _ = run.communicate(timeout=30)
    assert json.loads(out)["residue"] == []
