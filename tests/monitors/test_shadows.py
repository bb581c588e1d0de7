"""The detectors that start in shadow: what they would say, and that they only write it down until the box lets them."""

import pytest

from gearcase import events as e
from gearcase.monitors import DETECTORS


def checks(stream, *scores, usd=0.06, steps=7):
    made = stream(usd=1.0)
    for score in scores:
        for _ in range(steps):
            made.call(usd / steps, after=5.0)
        made.check("failed", score)
    return made


def test_a_score_that_stands_while_money_goes_is_seen_and_held_where_the_box_says_so(stream):
    made = checks(stream, 0.5, 0.5, 0.5, 0.5)
    assert made.actions("no_progress") == ["shadow"], "18 % of the budget, 3 evaluations, 21 steps"
    assert made.actions("no_progress", no_progress="note") == ["note"]
    assert checks(stream, 0.5, 0.5, 0.5).actions("no_progress") == [], "two evaluations"
    assert checks(stream, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6).actions("no_progress") == []
    assert checks(stream, 0.5, 0.5, 0.5, 0.5, usd=0.04).actions("no_progress") == [], "12 % of the budget"
    assert checks(stream, 0.5, 0.5, 0.5, 0.5, steps=6).actions("no_progress") == [], "18 steps"


def test_a_score_far_under_the_best_for_three_evaluations_names_the_best_snapshot(stream):
    made = stream().add(e.SnapshotTaken("s3", 1, 1), "lead").check("failed", 0.8)
    made.add(e.SnapshotTaken("s4", 1, 1), "lead").check("failed", 0.5).check("failed", 0.6)
    assert made.actions("regression") == []
    (raised,) = made.check("failed", 0.55).raised("regression")
    assert raised.alarm.remedy.endswith("gear rewind s3") and raised.action == "shadow"
    other = stream().check("failed", 0.8).check("failed", 0.5).check("failed", 0.61).check("failed", 0.5)
    assert other.actions("regression") == [], "it was nearly as good in between"


def test_ever_more_text_without_a_better_score_is_seen(stream):
    def writing(size, scores, tree=10_000):
        made = stream().check("failed", 0.3)
        for score in scores:
            made.call().files(changed_bytes=size, size=tree).check("failed", score)
        return made.actions("volume_without_score")

    assert writing(4001, [0.3] * 4) == ["shadow"]
    assert writing(4000, [0.3] * 4) == []
    assert writing(4001, [0.3] * 3) == []
    assert writing(4001, [0.4, 0.5, 0.6, 0.7]) == []
    assert writing(4001, [0.3] * 4, tree=100_000) == [], "a large tree"


def test_a_run_that_takes_more_than_accepted_ones_is_seen(stream):
    def run(runs, calls):
        made = stream(usd=10).add(e.Baseline(runs, 100_000_000, 1000))
        for _ in range(calls):
            made.call(0.01)
        return made

    assert run(20, 10).actions("out_of_range") == []
    assert run(20, 11).actions("out_of_range") == ["shadow"]
    assert run(19, 50).actions("out_of_range") == []
    assert run(20, 31).actions("out_of_range", out_of_range="latch")[0] == "latch"


def test_the_same_outcome_again_and_again_is_seen_and_polls_are_not(stream):
    def repeated(times, seconds=1.0, thinks=1.0, sleeps=0.0):
        made = stream()
        for number in range(times):
            made.call(after=thinks).command("make test", exit=2, tail=f"error at {number}", seconds=seconds)
            if sleeps:
                made.command(f"sleep {sleeps}", seconds=sleeps)
        return made.actions("repetition")

    assert repeated(3) == []
    assert repeated(4) == ["shadow"]
    assert repeated(9, seconds=15.0) == [] and repeated(9, sleeps=15.0) == []
    assert repeated(4, thinks=40.0) == ["shadow"]  # a slow model does not poll


def test_a_cycle_of_commands_is_seen(stream):
    made = stream()
    for number in range(5):
        for text in ("edit", "build", "run"):
            made.call().command(text, tail="x" * number + text)
    assert made.actions("repetition") == ["shadow"]


@pytest.mark.parametrize(
    ("tests", "seen"),
    [
        ([["test_a.py", 4, 3, 0, 0]], ["shadow"]),
        ([["test_a.py", 4, 4, 0, 1]], ["shadow"]),
        ([["test_a.py", 4, 0, 0, 0]], ["shadow"]),
        ([["test_a.py", 4, 9, 0, 0]], []),
    ],
)
def test_tests_that_were_given_and_became_weaker_are_seen(stream, tests, seen):
    assert stream().files(tests=tests).actions("tamper") == seen


def test_a_protected_file_that_changed_is_seen(stream):
    made = stream().files(protected=["spec.json"])
    assert made.actions("tamper") == ["shadow"] and made.actions("tamper", tamper="latch") == ["latch"]


def test_every_detector_says_what_it_is():
    names = [one.name for one in DETECTORS]
    assert len(set(names)) == len(names) == 16
    for one in DETECTORS:
        assert one.rule and one.kinds and one.__module__ == f"gearcase.monitors.{one.name}"
    acting = (
        "never_started burn_rate no_contact local_green_host_red destructive disk_remedy thrash error_storm fan_out exfiltration"
    )
    assert {one.name for one in DETECTORS if one.acts} == set(acting.split())
