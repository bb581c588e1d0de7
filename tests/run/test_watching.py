"""A run that is watched: what the monitors do to it, and that honest work is left alone. Real boxes, a scripted model."""

import asyncio
import json

import pytest

from gearcase.box import Override
from gearcase.claims import OWN, claimed
from gearcase.control import command
from gearcase.monitors import Watch
from gearcase.run.options import RunOptions

DONE = {"commands": ["gear done"]}
WORK = "mkdir -p out; echo made > out/x"


def monitors(**levels):
    return [Override(("monitors", name), level, "box") for name, level in levels.items()]


def alarms(played, detector=""):
    return [record.event for record in played.records("alarm_raised") if detector in ("", record.event.detector)]


@pytest.fixture
def given(stage):
    """Thirty originals."""
    folder = stage.work / "data"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.csv").write_text(f"content {number}\n" * 20)
    return folder


# --- effects -------------------------------------------------------------------------------------------------------------------


def test_what_commands_do_to_files_is_seen_from_outside(stage, given):
    steps = [{"commands": ["mv data/0.csv data/zero.csv; echo more >> data/1.csv; sleep 0.3"]}]
    steps += [{"commands": ["rm data/2.csv; : > data/3.csv; sleep 0.3"]}, DONE]
    played = stage.play(*steps, give=[given])
    seen = [record.event for record in played.records("files_seen")]
    assert seen and seen[-1].of_files == 30
    assert (seen[-1].lost, sorted(seen[-1].gone)) == (2, ["data/2.csv", "data/3.csv"]), "a move and an edit are no loss"
    assert any(path == "data/1.csv" for event in seen for path, _digest in event.written)


def test_what_programs_make_again_is_no_loss_and_weaker_tests_are_counted(stage):
    folder = stage.work / "project"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "node_modules/a.js").write_text("x" * 100)
    (folder / "test_it.py").write_text("def test_it():\n    assert 1\n    assert 2\n")
    weaken = "rm -r project/node_modules; printf 'def test_it():\\n    assert 1\\n' > project/test_it.py; sleep 0.3"
    played = stage.play({"commands": [weaken]}, DONE, give=[folder])
    seen = [record.event for record in played.records("files_seen")]
    assert (seen[-1].lost, seen[-1].tests) == (0, [["project/test_it.py", 2, 1, 0, 0]])
    (tamper,) = alarms(played, "tamper")
    assert tamper.action == "shadow" and played.record.status == "unverified", "it starts in shadow"


# --- acting ----------------------------------------------------------------------------------------------------------------------


def test_a_run_that_destroys_what_was_given_is_frozen_and_stopped_where_nobody_watches(stage, given):
    steps = [{"commands": [f"{WORK}; rm data/1*.csv data/2*.csv"]}, {"commands": ["sleep 60"]}, DONE]
    played = stage.play(*steps, give=[given])
    (alarm,) = alarms(played, "destructive")
    assert alarm.action == "freeze" and alarm.evidence["lost"] >= 20
    assert (played.record.status, played.record.exit_code) == ("stopped", 12), played.record.error
    braked = next(record.event for record in played.records("brake_changed"))
    assert braked.level == "frozen" and '[monitors] destructive = "note"' in braked.reason, (
        "what a box says of it where it is meant"
    )
    assert any("destructive" in one for one in played.record.warnings)
    assert (played.folder.delivered / "out/x").exists() and not played.out.exists(), "what was made stays in the run's folder"


def test_an_operator_who_answers_lets_it_go_on(stage, given):
    async def answer(folder):
        while b'"frozen"' not in (folder.journal / "000001.jsonl").read_bytes():
            await asyncio.sleep(0.02)
        said = await asyncio.to_thread(command, folder, "status")
        assert said["level"] == "frozen"
        await asyncio.to_thread(command, folder, "resume")

    steps = [{"commands": [f"{WORK}; rm data/1*.csv data/2*.csv"]}, {"commands": ["sleep 1"]}, DONE]
    options = RunOptions(box=stage.box(*steps, give=[given]), out=stage.work / "result", answered=True)
    played = stage.execute(options, answer)
    assert played.record.status == "unverified" and (played.out / "out/x").exists()
    assert [record.event.level for record in played.records("brake_changed")][-1] == "running"


def test_a_box_that_says_note_has_its_agent_told_the_fact_and_the_remedy_and_nothing_held(stage, given):
    steps = [{"commands": [f"{WORK}; rm data/1*.csv data/2*.csv"]}, {"commands": ["sleep 1"]}]
    steps += [{"commands": ["cat /box/history/*.txt > out/said"]}, DONE]
    played = stage.play(*steps, give=[given], more=monitors(destructive="note"))
    assert [one.action for one in alarms(played, "destructive")] == ["note"]
    said = (played.out / "out/said").read_text()
    assert "[from the box:" in said and "given files" in said and "gear rewind" in said
    assert played.record.status == "unverified" and not played.records("brake_changed")


def test_a_file_of_keep_is_never_lost_unseen(stage, given):
    more = [Override(("files", "keep"), ["data/7.csv"], "box")]
    played = stage.play({"commands": ["rm data/7.csv"]}, {"commands": ["sleep 60"]}, DONE, give=[given], more=more)
    assert alarms(played, "destructive")[0].evidence["kept"] == ["data/7.csv"]


def test_tests_that_pass_inside_while_the_check_fails_are_told(stage):
    claim = {"commands": ["echo '=== 40 passed in 0.12s ==='; gear check || true"]}
    played = stage.play(claim, claim, claim, {"commands": ["gear done --as-is"]}, check="false")
    assert [record.event.passed for record in played.records("tests_claimed")] == [40] * 3
    (alarm,) = alarms(played, "local_green_host_red")
    assert alarm.action == "note" and "40 of 40 tests pass inside" in alarm.fact


def test_an_upstream_that_fails_again_and_again_rests(stage):
    ask = "for i in 1 2 3 4 5 6 7; do gear ask same >> out/said 2>&1; done; cat out/said"
    worker = stage.script(*[{"status": 500}] * 7)
    played = stage.play({"commands": [f"{WORK}; {ask}"]}, DONE, worker=worker)
    (alarm,) = alarms(played, "error_storm")
    assert alarm.action == "rest" and alarm.evidence["same"] == 5
    assert "rest for" in (played.out / "out/said").read_text()
    assert {record.event.code for record in played.records("door_refused")} == {"resting"}


def test_a_run_whose_model_never_answered_is_said_to_have_never_started_and_fails_as_it_did(stage):
    played = stage.play(*[{"status": 401}] * 9)
    (alarm,) = alarms(played, "never_started")
    assert "no model had ever answered" in alarm.fact and alarm.evidence["status"] == 401
    assert played.record.status == "failed" and played.record.error["code"] != "never_started", "the upstream's own words stay"
    assert [one["name"] for one in played.record.alarms if one["name"] == "never_started"] == ["never_started"]
    assert played.records()[-1].type == "run_ended", "nothing is said after the last word"
    replayed = [raised for _record, raised in Watch().replay(played.records()) if raised.alarm.detector == "never_started"]
    assert [one.alarm.fact for one in replayed] == [alarm.fact]


def test_a_detector_that_fails_takes_neither_run_nor_record_along(stage, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("gearcase.monitors.repetition.Repetition.update", broken)
    played = stage.play({"commands": [WORK]}, DONE)
    assert played.record.status == "unverified"
    (failure,) = played.records("failure")
    assert failure.event.error["code"] == "monitors_failed" and "mistake of ours" in failure.event.error["cause"]
    assert any("monitors of this run failed" in one for one in played.record.warnings)


# --- honest work, and the same on replay -----------------------------------------------------------------------------------------


def test_honest_work_raises_nothing_and_says_what_can_act(stage, given):
    steps = [
        {"commands": ["mkdir -p out; for f in data/*.csv; do mv $f data/renamed-$(basename $f); done; sleep 0.2"]},
        {"commands": ["cat data/*.csv | sort > out/x; echo '=== 3 passed in 0.1s ==='; sleep 0.2"]},
        {"commands": ["gear check"]},
        DONE,
    ]
    played = stage.play(*steps, give=[given], check="true")
    assert alarms(played) == [] and played.record.status == "accepted"
    (watching,) = played.records("watching")
    assert watching.event.levels["destructive"] == "own" and watching.event.levels["tamper"] == "shadow"
    assert set(watching.event.lacking) == {"no_contact", "out_of_range"}


def test_a_replay_of_the_journal_says_what_the_live_watch_said(stage, given):
    steps = [{"commands": [f"{WORK}; rm data/1*.csv data/2*.csv; sleep 0.3"]}, {"commands": ["false; sleep 0.3"]}, DONE]
    levels = {"destructive": "note", "exfiltration": "off"}
    played = stage.play(*steps, give=[given], more=monitors(**levels))
    replayed = [raised for _record, raised in Watch(levels).replay(played.records())]
    assert [(one.alarm.detector, one.action, one.alarm.fact) for one in replayed] == [
        (one.detector, one.action, one.fact) for one in alarms(played)
    ]
    assert replayed


def test_a_run_that_takes_more_than_accepted_runs_of_its_box_is_seen(stage, given):
    for _ in range(2):
        stage.play({"commands": [WORK]}, DONE, check="true", out=f"result-{_}", script="same")
    played = stage.play({"commands": [WORK]}, DONE, check="true", out="last", script="same")
    (base,) = played.records("baseline")
    assert base.event.runs == 2 and base.event.steps == 2 and base.event.usd > 0


# --- what test runners say -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "runner", "passed", "failed"),
    [
        ("....\n4 passed in 0.12s\n", "pytest", 4, 0),
        ("===== 1 failed, 38 passed, 2 skipped, 1 error in 3.10s =====\n", "pytest", 38, 2),
        ("Ran 5 tests in 0.001s\n\nOK\n", "unittest", 5, 0),
        ("Ran 5 tests in 0.001s\n\nFAILED (failures=1, errors=1)\n", "unittest", 3, 2),
        ("Tests:       1 failed, 5 passed, 6 total\n", "jest", 5, 1),
        ("      Tests  5 passed (5)\n", "jest", 5, 0),
        ("  5 passing (12ms)\n  1 failing\n", "mocha", 5, 1),
        ("# tests 3\n# pass 2\n# fail 1\n", "node", 2, 1),
        ("--- PASS: TestA (0.00s)\n--- FAIL: TestB (0.00s)\nFAIL\tx\t0.1s\n", "go", 1, 1),
        ("ok  \tx/y\t0.01s\nFAIL\tx/z [build failed]\n", "go", 1, 1),
        ("test result: ok. 5 passed; 0 failed; 0 ignored; finished in 0.0s\n", "cargo", 5, 0),
        ("verify: 150/153 checks passed (98 %), round 1\n", OWN, 150, 3),
        ("12 of 12 rows match\n", OWN, 12, 0),
        ("ALL 7 TESTS PASSED\n", OWN, 7, 0),
        ("passed: 5, failed: 1\n", OWN, 5, 1),
        ("5 passed, 1 failed\n", OWN, 5, 1),
        ("accuracy: 97.5 %\n", OWN, 97, 3),
    ],
)
def test_the_summary_of_a_test_runner_is_read(output, runner, passed, failed):
    claim = claimed(1, "noise\n" + output)
    assert claim is not None and (claim.runner, claim.passed, claim.failed) == (runner, passed, failed)


def test_other_output_is_no_summary():
    others = [
        "margin-right: 50%",
        "HTTP/1.1 200 OK",
        "35 ok, 2 failed",
        "keep all tests passing",
        "All checks passed!",
        "Use% 93%",
        "9/8 ok",
    ]
    for text in ("", "5 passed", "I passed 3 tests in school", json.dumps({"passed": 4}), "no tests ran in 0.01s\n", *others):
        assert claimed(1, text) is None, text
