"""The demo shows what it says, on this machine, every time."""

import json
import subprocess

import pytest

from gearcase.demo.attacks import ATTACKS
from tests.local_model import small


def test_the_demo_does_real_work_and_stops_every_attack(user):
    told = json.loads(user.types("demo", "--json", code=0).out)
    ran = told["run"]
    assert ran["status"] == "accepted" and ran["warnings"] == [] and ran["residue"] == []
    assert [check["score"] for check in ran["checks"]] == [1.0]
    subprocess.run(["git", "init", "-q"], cwd=user.folder, check=True)
    delivered = user.folder / "gearcase-out" / ran["name"] / "out/inventory.csv"
    assert len(delivered.read_text().splitlines()) == 28
    status = subprocess.run(["git", "status", "--porcelain"], cwd=user.folder, capture_output=True, text=True, check=True)
    assert status.stdout == "", "a repository in which the demo is run is left as it was"
    assert {one["name"]: one["held"] for one in told["attacks"]} == dict.fromkeys(ATTACKS, True)
    runs = json.loads(user.types("ps", "--json", code=0).out)
    assert {one["name"] for one in runs} == {ran["name"], *(one["run"] for one in told["attacks"])}
    assert user.types("limits", "show", "--json", code=0).out.count('"spent": 0') == 1


def test_the_demo_tells_a_person_what_happened(user):
    ended = user.types("demo", code=0)
    assert "by recorded models; every command is really executed again" in " ".join(ended.err.split())
    for name in ATTACKS:
        assert f"✓ {name}" in ended.err
    assert (
        "ACCEPTED" in ended.out
        and "left behind: nothing" in ended.out
        and "every attack was stopped" in " ".join(ended.out.split())
    )


def test_the_demo_says_how_often_the_recorded_worker_was_right(user):
    told = " ".join(user.types("demo", code=0).out.split())
    assert "the worker told 10 of 11 licenses rightly, wrong: uvloop (MIT)" in told


@pytest.mark.local
@pytest.mark.timeout(700)
def test_the_demo_asks_the_real_local_model_and_says_what_it_got_wrong(user):
    user.environment["GEARCASE_MODEL"] = str(small())
    told = json.loads(user.types("demo", "--local", "--json", code=0, timeout=300).out)
    ran = told["run"]
    assert ran["status"] == "accepted" and ran["residue"] == []
    output = ran["checks"][0]["output"]
    assert "135 of 135 cells are right" in output and "of 11 licenses rightly" in output
    calls = [one["model"] for one in user.journal(ran["name"]) if one["type"] == "model_called"]
    assert calls.count("local") >= 11 and calls.count("manual") == 4, calls
    again = user.types("replay", ran["name"], "--json", code=0, timeout=300)
    assert again.record["warnings"] == [], "what the local model told is on the run's own cassette"


def test_a_worker_that_tells_nonsense_is_overruled_and_named(user):
    (user.folder / "nonsense.json").write_text(json.dumps([{"text": '{"license": "WTFPL"}'}]))
    ended = user.types("demo", "--worker", "scripted:nonsense.json", code=0)
    told = " ".join(ended.out.split())
    assert "ACCEPTED" in told and "the worker told 0 of 11 licenses rightly, wrong: aiohappyeyeballs (WTFPL)" in told
    assert "differ from the cassette (its worker is live)" in told


def test_a_missing_local_model_is_named_with_what_to_type(user):
    user.environment["XDG_DATA_HOME"] = str(user.folder)
    ended = user.types("demo", "--local", code=2)
    assert "gearcase models pull small" in " ".join(ended.err.split())


def test_an_attack_takes_no_model(user):
    assert "leave the model out" in user.types("demo", "steal", "--local", code=2).err


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_attack_alone(user, attack):
    ended = user.types("demo", attack, code=0)
    assert f"✓ {attack}" in ended.err and "ACCEPTED" not in ended.out


def test_an_attack_that_got_through_is_not_called_stopped(user, monkeypatch):
    """The judge of each attack, told of a box that leaks."""
    from gearcase.demo import attacks

    record = {
        "name": "x",
        "spent": {"usd": 600_000_000},
        "status": "accepted",
        "checks": [{"output": "", "verdict": "passed", "reason": ""}],
    }
    leaks = {
        "overspend": {"answered": 99, "refused": 16, "why": "402"},
        "steal": {"searched": 9, "found": ["/proc/1/environ"], "ways": {}},
        "escape": {"read a file of the host": ""},
        "fill-disk": {"/workspace": [1 << 40, "No space"]},
        "fake-tests": {},
    }
    for name, told in leaks.items():
        monkeypatch.setattr(attacks, "_execute", lambda *_, told=told, **__: (record, told))
        monkeypatch.setattr(attacks, "_run", lambda *_: record)
        assert not attacks.attack(name).held, name


def test_an_attack_that_is_not_known_is_named(user):
    assert "overspend, steal, escape, fill-disk, fake-tests" in user.types("demo", "everything", code=2).err
