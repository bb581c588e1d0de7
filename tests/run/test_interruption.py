"""What a dead run's journal tells of its last moment, what is left of its limits, and what the agent that goes on is told."""

import json
import time

import pytest

from gearcase import events
from gearcase.box import Override, box_from_options, effective_toml
from gearcase.errors import UsageError
from gearcase.journal import read
from gearcase.run.again import options_of
from gearcase.run.interruption import Interruption, told
from gearcase.sandbox.states import State

ENDED = ("exited", 0, 1.0, 0.5, 3, "", "")
SPAWNED = events.AgentSpawned("lead", "a1", "look at b", "m", 1, {}, 1, 1, [], [])
BACK = events.AgentReturned("lead", "done", "", "", "", {}, 1, 1.0)


class Told:
    """Facts of a journal, each with whose it is."""

    def __init__(self):
        self.cut = Interruption()

    def of(self, agent, *happened):
        for event in happened:
            self.cut.add(event, agent, 1.0)
        return self

    def command(self, number, text, ends=True):
        return self.of("lead", events.CommandStarted(number, text), *([events.CommandEnded(number, *ENDED)] if ends else []))


def box(tmp_path, *more, **limits):
    values = [Override(("goal",), "g", "GOAL"), *more]
    values += [Override(("limits", name), value, f"--{name}") for name, value in limits.items()]
    return box_from_options(values, tmp_path).box


def test_what_came_after_a_snapshot_is_what_it_may_lack(tmp_path):
    facts = Told().command(1, "one").command(2, "two").command(3, "three").command(7, "four", ends=False)
    assert facts.cut.under_way() == ["four"]
    assert facts.cut.since(State("k1", 0.0, command=2)) == ["three"]
    assert facts.cut.since(State("k1", 0.0, command=2, running=True)) == ["two", "three"]
    assert facts.cut.since(State("k1", 0.0, command=3)) == []


def test_a_snapshot_that_was_asked_for_is_placed_by_the_record_and_not_by_a_clock_that_may_jump(tmp_path):
    facts = Told().command(1, "one").of("lead", events.SnapshotTaken("s1", 1, 1)).command(2, "two")
    assert facts.cut.since(State("s1", time.time() + 10**6)) == ["two"]
    assert facts.cut.since(State("s0", 0.0)) == ["one", "two"]


def test_the_agent_is_told_who_is_gone_what_came_back_and_what_begins_anew(tmp_path):
    doors = [
        Override(("doors", "postgres", "shop", "mode"), "fresh", "box"),
        Override(("doors", "redis", "q", "volume"), "v", "box"),
    ]
    facts = (
        Told()
        .of("a1", SPAWNED)
        .of("a2", SPAWNED)
        .of("a1", BACK)
        .of("lead", events.AgentTurn(4, "", 1))
        .command(5, "gear wait", False)
    )
    text = told(facts.cut, box(tmp_path, *doors), "amber-fox", State("k3", 0.0, command=4), has_history=True)
    assert "died after your answer 4 in it" in text and "Your files are those of its snapshot k3" in text
    assert "Under way at that moment, with no known result: gear wait." in text
    assert "had not ended are gone: a2 (look at b)." in text and "Ended before: a1 (done); what came back from them is in" in text
    assert "the next one is a3" in text
    assert "begun anew: postgres.shop (fresh)." in text, "a volume stays as it is"
    bare = told(facts.cut, box(tmp_path), "amber-fox", None, has_history=False)
    assert "an earlier run of this goal, amber-fox, was cut off" in bare and "what they brought is gone, too" in bare
    assert "Under way" not in bare and "begun anew: " not in bare


def test_long_lists_and_long_commands_are_told_in_part(tmp_path):
    facts = Told()
    for number in range(1, 31):
        facts.command(number, "x" * 5000, ends=False)
    text = told(facts.cut, box(tmp_path), "amber-fox", None, has_history=True)
    assert "18 others; xxx" in text and len(text) < 6000


def dead(journal_of, tmp_path, *happened, **limits):
    folder = journal_of(events.RunStarted("ab12cd34", "amber-fox", "g", "ab", "0.1.0", "boot", {}), *happened)
    model = Override(("model", "lead"), "local", "--model")
    (folder.path / "box.toml").write_text(effective_toml(box(tmp_path, model, **limits)))
    asked = {"program": [], "folder": "/workspace", "out": "", "force": False, "fork": []}
    (folder.path / "again.json").write_text(json.dumps(asked))
    return folder


ACCOUNT = events.AccountOpened("run", "", {"usd": 2 * 10**9, "wall": 60_000})
LEAD = events.AccountOpened("lead", "run", {"usd": 10**9, "wall": 60_000}, "lead")


def test_what_is_left_of_answers_agents_and_processor_time_is_less_too(journal_of, tmp_path, stage):
    agents = events.Settled(1, "lead", {"agents": 3}, {}, "spawn")
    turns = [events.AgentTurn(step, "", 1) for step in (1, 2, 3)]
    folder = dead(journal_of, tmp_path, ACCOUNT, LEAD, agents, *turns, steps=10, cpu_time="10m", wall="1h")
    made = options_of(folder)
    assert made.box.box.limits.steps == 7
    assert made.box.box.swarm.agents == 61
    assert 0 < made.box.box.limits.cpu_time <= 600
    assert made.continues.told.startswith("[from Gearcase: an earlier run of this goal")


def test_processor_time_since_the_last_tick_counts_at_its_most(journal_of):
    cut = Interruption()
    cut.add(SPAWNED, "a1", 90.0)
    for agent, cpu in (("", 4.0), ("a1", 1.5)):
        cut.add(events.Tick(5.0, cpu, 1, 1, 1), agent, 100.0)
    assert cut.cpu(2.0) == pytest.approx(5.5)
    cut.add(events.CommandStarted(1, "x"), "lead", 103.0)
    assert cut.cpu(2.0) == pytest.approx(5.5 + 3 * 2 * 2), "of two boxes with two cores each"
    folder = journal_of(events.SandboxOpened("s", {}), events.Tick(5.0, 4.0, 1, 1, 1), events.CommandStarted(1, "x"))
    assert Interruption.of(read(folder.journal)).cpu(2.0) > 4.0


def test_a_run_whose_answers_are_used_up_is_not_gone_on_for(journal_of, tmp_path, stage):
    folder = dead(journal_of, tmp_path, ACCOUNT, LEAD, events.AgentTurn(2, "", 1), steps=2)
    with pytest.raises(UsageError) as caught:
        options_of(folder)
    assert caught.value.code == "nothing_left" and "steps" in caught.value.message
