"""A person in place of the model, through the installed command: what was never billed is not counted, however the run ends."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(120)


def waiting(user):
    """A run whose person was asked and has not answered."""
    turns = user.home / "turns"
    running = user.starts("run", "write", "--take", "out/**", "--model", f"manual:{turns}", "--name", "waits", "--json")
    until = time.monotonic() + 30
    while not (turns / "0001.request.md").exists():
        assert time.monotonic() < until, running.poll()
        time.sleep(0.05)
    return running


@pytest.mark.parametrize("how", ["the brake", "SIGKILL"])
def test_a_call_that_nobody_had_answered_costs_nothing_when_its_run_is_killed(user, how):
    running = waiting(user)
    if how == "the brake":
        user.types("kill", "waits", code=0)
    else:
        os.kill(user.types("ps", "--json", code=0).record[0]["pid"], signal.SIGKILL)
    running.communicate(timeout=60)
    told = user.types("report", "waits", "--json", code=0).record
    assert (told["spent"]["usd"], told["uncertain"]) == (0, {"calls": 0, "usd": 0})
    assert "up to $" not in user.types("report", "waits", code=0).out
    user.types("journal", "verify", "waits", code=0)
    assert json.loads(user.types("spend", "--json", code=0).out) is not None
