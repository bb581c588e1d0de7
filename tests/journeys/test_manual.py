"""A person in place of the model, through the installed command: what was never billed is not counted, however the run ends."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(120)


def waiting(user, *more, **environment):
    """A run whose person was asked and has not answered."""
    turns = user.home / "turns"
    told = ("--take", "out/**", "--model", f"manual:{turns}", "--name", "waits", "--json", *more)
    running = user.starts("run", "write", *told, **environment)
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


def test_an_agent_is_told_of_every_door_that_it_has(user):
    (user.folder / "box.toml").write_text(
        '[doors.api.owners]\nupstream = "https://owners.example.org"\nheaders = { Authorization = "Bearer ${OWNERS_TOKEN}" }\n'
        'allow = ["GET /assets/*"]\n[doors.http]\nallow = ["pypi.org", "*.example.net"]\n'
        '[secrets.hub]\nenv = "HUB_TOKEN"\nhosts = ["hub.example.com"]\n'
    )
    running = waiting(user, "-f", "box.toml", OWNERS_TOKEN="own-4711", HUB_TOKEN="hub-4711")
    told = (user.home / "turns/0001.request.md").read_text()
    user.types("kill", "waits", code=0)
    running.communicate(timeout=60)
    assert "- http://owners.box: owners.example.org; its credential is put in outside; allowed: GET /assets/*" in told
    assert "- https://hub.example.com: HUB_TOKEN is a placeholder" in told
    assert "pypi.org" in told and "*.example.net" in told
    assert "-4711" not in told
