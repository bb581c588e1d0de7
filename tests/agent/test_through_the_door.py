"""A whole agent through the real model door: scripted, recorded, and played back from the cassette with every command run again."""

import asyncio
import json

import pytest

from gearcase.agent.loop import Agent, Surroundings
from gearcase.agent.transcript import Model
from gearcase.box import Model as BoxModel
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.doors.server import HttpRequest
from gearcase.ledger import Ledger

HEADERS = ((b"content-type", b"application/json"),)


def run(play, folder, protocol, reference, record=None, usd=10**9):
    """One agent with a dollar, whose model is `reference`. Returns its end, the stage, the ledger and the routing."""
    stage = play.Stage(folder, protocol=protocol)

    async def whole():
        ledger = Ledger(stage.recorder)
        ledger.open("lead", {"usd": usd})
        routing = Routing(BoxModel(lead=reference))
        if record is not None:
            routing.record(record)
        route = routing.lead()
        door = ModelDoor(ledger, stage.recorder, routing)

        async def ask(path, body):
            stage.bodies.append(body)
            return await door.exchange(Caller("lead", "lead", lead=True), HttpRequest("POST", path, b"", HEADERS, body))

        around = Surroundings(
            ask, stage.shell, stage.keep, stage.status, stage.phase, lambda: stage.limit, stage.done, stage.sleep
        )
        model = Model(route.name, protocol, route.price.context_window, route.price.max_output)
        end = await Agent("lead", model, "You work in a box.", "Count the lines.", around, stage.recorder).run()
        await door.close()
        await routing.close()
        return end, ledger, routing.warnings()

    end, ledger, warnings = asyncio.run(whole())
    for body in stage.bodies:
        play.check_pairing(protocol, body)
    return end, stage, ledger, warnings


def script(folder, *steps):
    folder.mkdir()
    file = folder / "script.json"
    file.write_text(json.dumps(steps))
    return f"scripted:{file}"


WORK = (
    {"text": "I look.", "commands": ["printf 'a\\nb\\n' > two.txt", "wc -l < two.txt; date +%T.%N"]},
    {"status": 529},
    {"fault": "garbage"},
    {"text": "That is all."},
    {"commands": ["gear done --note 'two lines'"]},
)


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_a_recorded_run_plays_back_with_the_same_end_and_every_command_run_again(play, tmp_path, protocol):
    cassette = tmp_path / "a.cassette"
    end, stage, ledger, _ = run(play, tmp_path / "one", protocol, script(tmp_path / "s", *WORK), cassette)
    assert (end.reason, end.note) == ("done", "two lines")
    assert len(stage.sleeps) == 2
    assert ledger.balance("lead", "usd").spent > 0
    again, replayed, _, warnings = run(play, tmp_path / "two", protocol, f"cassette:{cassette}")
    assert again == end
    assert [command for command, _ in replayed.commands] == [command for command, _ in stage.commands]
    assert (tmp_path / "two" / "workspace" / "two.txt").read_text() == "a\nb\n"
    assert len(replayed.bodies) == len(stage.bodies)
    assert warnings == []


def test_a_replay_that_differs_says_so_in_the_warnings(play, tmp_path):
    cassette = tmp_path / "a.cassette"
    steps = ({"commands": ["cat /proc/sys/kernel/random/uuid | tr a-f0-9- g-v | tr -d '\\n'"]}, {"commands": ["gear done"]})
    run(play, tmp_path / "one", "anthropic", script(tmp_path / "s", *steps), cassette)
    end, _, _, [warning] = run(play, tmp_path / "two", "anthropic", f"cassette:{cassette}")
    assert end.reason == "done"
    assert "1 call differs from the cassette, the first: call 1 of agent 'lead'" in warning


def test_a_replay_that_runs_longer_than_its_recording_fails_and_says_why(play, tmp_path):
    cassette = tmp_path / "a.cassette"
    run(play, tmp_path / "one", "anthropic", script(tmp_path / "s", {"commands": ["gear done"]}), cassette)
    cassette.write_text("".join(line.replace("gear done", "true") for line in cassette.read_text().splitlines(keepends=True)))
    end, *_ = run(play, tmp_path / "two", "anthropic", f"cassette:{cassette}")
    assert end.reason == "failed"
    assert "cassette_mismatch" in end.detail
    assert "has 1 calls of agent 'lead' and none with ordinal 1" in end.detail


@pytest.mark.parametrize("protocol", ["anthropic", "chat", "responses"])
def test_the_doors_own_402_winds_down_and_ends_as_budget_with_nothing_over_the_limit(play, tmp_path, protocol):
    steps = [{"text": "word " * 1600, "commands": ["true"]}]
    end, stage, ledger, _ = run(play, tmp_path / "one", protocol, script(tmp_path / "s", *steps), usd=60_000_000)
    assert end.reason == "budget"
    assert any(b"Hand in now" in body for body in stage.bodies)
    balance = ledger.balance("lead", "usd")
    assert balance.spent <= balance.limit
    assert balance.held == 0
