"""The ladder, box time, and that a fold is a fold: the same events say the same, live or replayed, in whatever pieces."""

import pickle
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase import events as e
from gearcase.journal import Journal, read
from gearcase.monitors import Alarm, Watch
from gearcase.monitors.ladder import Ladder
from gearcase.monitors.watch import BoxTime

ACTS = frozenset({"a", "b"})


def alarm(name="a", action="note", key=""):
    return Alarm(name, action, "fact", "remedy", "lead", key=key)


def actions(ladder, *told, heard=True):
    raised = [ladder.weigh(one, step, heard) for step, one in told]
    return [one.action if one else None for one in raised]


# --- the ladder ----------------------------------------------------------------------------------------------------------------


def test_a_detector_is_heard_once_in_ten_steps_and_latches_after_a_note():
    told = [(1, alarm()), (2, alarm()), (10, alarm()), (11, alarm()), (12, alarm()), (21, alarm())]
    assert actions(Ladder({}, ACTS), *told) == ["note", None, None, "latch", None, "latch"]


def test_what_wants_more_is_heard_at_once():
    assert actions(Ladder({}, ACTS), (1, alarm()), (2, alarm(action="latch"))) == ["note", "latch"]


def test_an_agent_is_told_one_note_in_five_steps_and_the_next_is_not_lost():
    told = [(1, alarm()), (5, alarm("b")), (6, alarm("b"))]
    assert actions(Ladder({}, ACTS), *told) == ["note", None, "note"]


def test_a_note_that_nobody_reads_is_held_against_nobody():
    told = [(1, alarm()), (2, alarm("b")), (30, alarm()), (60, alarm())]
    assert actions(Ladder({}, ACTS), *told, heard=False) == ["note"] * 4


def test_a_box_moves_a_detector_up_and_down():
    assert actions(Ladder({"a": "shadow"}, ACTS), (1, alarm(action="freeze"))) == ["shadow"]
    assert actions(Ladder({"a": "freeze"}, ACTS), (1, alarm())) == ["freeze"]
    assert actions(Ladder({"a": "note"}, ACTS), (1, alarm(action="freeze"))) == ["note"]
    assert actions(Ladder({}, frozenset()), (1, alarm(action="freeze"))) == ["shadow"]
    assert actions(Ladder({"c": "latch"}, ACTS), (1, alarm("c"))) == ["latch"]
    assert actions(Ladder({"a": "freeze"}, ACTS), (1, alarm(action="shadow"))) == ["shadow"], "a mark stays a mark"


def test_a_detector_that_is_off_is_not_there(stream):
    assert stream().files(lost=50, of=100).actions("destructive", destructive="off") == []


# --- box time ------------------------------------------------------------------------------------------------------------------


def test_box_time_stands_still_while_frozen_and_goes_on_after_a_restart_of_the_machine():
    clock = BoxTime()

    def pulled(level, boot):
        clock.at(boot)
        clock.add(e.BrakeChanged(level, "operator"), boot)

    assert clock.at(100.0) == 0.0 and clock.at(110.0) == 10.0
    pulled("latched", 110.0)
    assert clock.at(115.0) == 15.0
    pulled("frozen", 120.0)
    assert clock.at(500.0) == 20.0
    pulled("running", 600.0)
    assert clock.at(605.0) == 25.0
    clock.at(3.0)
    clock.add(e.RunResumed("other"), 3.0)
    assert clock.at(8.0) == 30.0


def test_a_freeze_of_an_hour_is_no_idleness(stream):
    made = stream().call()
    for _ in range(60):
        made.tick()
    made.add(e.BrakeChanged("frozen", "operator")).add(e.BrakeChanged("running", "operator"), after=3600.0)
    assert made.tick().actions("never_started") == []


# --- a fold --------------------------------------------------------------------------------------------------------------------


def wild(stream, seed):
    """A run of any kind of events, in any order."""
    dice = random.Random(seed)
    made = stream(usd=dice.choice([0.5, 5.0]), wall=dice.choice([60.0, 3600.0]))
    made.add(e.DatabaseOpened("postgres.shop", "branch", 17, tables=3, rows=1000, must_touch=["public.orders"]))
    steps = [
        lambda: made.call(dice.random() / 50, after=dice.random() * 30, status=dice.choice([200, 200, 200, 500, 429])),
        lambda: made.files((f"src/{dice.randrange(3)}.py", str(dice.randrange(4))), lost=dice.choice([0, 0, 0, 7, 40])),
        lambda: made.command(dice.choice(["make", "ls"]), dice.randrange(2), "error 3", limits=dice.choice([[], [], ["disk"]])),
        lambda: made.check(dice.choice(["failed", "passed", "skipped"]), dice.choice([None, 0.1, 0.6])),
        lambda: made.tests(dice.randrange(50), dice.choice([0, 0, 9])),
        lambda: made.tick(cpu=dice.random(), disk=dice.randrange(100), of_disk=100),
        lambda: made.add(e.NameAsked(f"host{dice.randrange(9)}.com", "A", False, 1), "lead"),
        lambda: made.add(e.BrakeChanged(dice.choice(["frozen", "running"]), "operator"), after=dice.random() * 900),
        lambda: made.add(e.AgentSpawned("lead", "", f"goal {dice.randrange(3)}", "m", 1, {}, 0, 0), f"a{dice.randrange(99)}"),
        lambda: made.add(e.GearUsed(dice.choice(["done", "wait", "check"]), dice.random() < 0.5), "lead"),
    ]
    for _ in range(dice.randrange(10, 200)):
        dice.choice(steps)()
    return made


def said(raised):
    return [(one.action, one.again, one.alarm) for one in raised]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 200))
def test_what_a_watch_says_depends_on_the_events_alone_however_they_come(seed, cut):
    from tests.monitors.conftest import Stream

    made = wild(Stream, seed)
    whole = said(made.raised())
    assert said(made.raised()) == whole
    first = Watch()
    begun = [raised for boot, agent, event in made.facts[:cut] for raised in first.hear(event, agent, boot)]
    second = pickle.loads(pickle.dumps(first))  # all that it knows is in it: it could go on elsewhere
    rest = [raised for boot, agent, event in made.facts[cut:] for raised in second.hear(event, agent, boot)]
    assert said(begun + rest) == whole


def test_a_journal_replayed_says_what_the_live_watch_said(stream, tmp_path, monkeypatch):
    found = 0
    for seed in range(8):
        made, live, spoken = wild(stream, seed), Watch(), []
        journal = Journal.create(tmp_path / str(seed))
        clock = [0.0]
        monkeypatch.setattr("gearcase.journal.writer.time.clock_gettime", lambda _kind, clock=clock: clock[0])
        journal.listener = lambda seq, boot, agent, event, spoken=spoken, live=live: spoken.extend(live.hear(event, agent, boot))
        for boot, agent, event in made.facts:
            clock[0] = boot
            journal.append(event, agent)
        journal.close()
        assert said(raised for _record, raised in Watch().replay(read(tmp_path / str(seed)))) == said(spoken)
        found += len(spoken)
    assert found > 20
