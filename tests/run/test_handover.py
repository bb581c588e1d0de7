"""What leaves a box at the end, and the checks on the way: on request, at last, void, under the brake."""

import asyncio
import os
from pathlib import Path

from gearcase.control import command
from gearcase.errors import GearcaseError
from gearcase.run.handover import MOST_REQUESTS
from gearcase.run.options import RunOptions
from gearcase.run.supervisor import Supervisor
from gearcase.sandbox import owners, processes

MAKE = "mkdir -p out; echo made > out/x"
DONE = {"commands": [f"{MAKE}; gear done --as-is"]}


async def until(found, timeout=60):
    for _ in range(timeout * 100):
        if answer := found():
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


def first_process(folder, request, check="check-1"):
    """Pid of the first process of a check's box; 0 before it is there."""
    file = Path(owners.runtime_folder(), "boxes", f"{folder.id}-{request}-{check}.json")
    try:
        text = file.read_text()
    except FileNotFoundError:
        return 0
    pids = [int(part.split('"')[1]) for part in text.partition('"processes": {')[2].partition("}")[0].split(", ") if part]
    return pids[0] if pids else 0


def busy():
    """The process of a check that only burns time, None before there is one."""
    tree = processes.descendants([os.getpid()])  # the boxes descend from this process's launcher
    return next((one for one in tree if b"gearcase-burns" in cmdline(one.pid)), None)


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def delivered(played):
    return sorted(str(path.relative_to(played.out)) for path in played.out.rglob("*") if path.is_file())


# --- what is delivered ---------------------------------------------------------------------------------------------------------


def test_what_all_checks_accept_is_delivered_with_its_manifest(stage):
    played = stage.play(DONE, check=["test -s $DELIVERED/out/x", "true"])
    assert (played.record.status, played.record.exit_code) == ("accepted", 0)
    assert delivered(played) == ["out/x"] and played.out.with_name("result.manifest.json").exists()
    assert [record.event.final for record in played.records("check_ran")] == [True, True]
    assert played.records("delivered")[0].raw["to"] == str(played.out)


def test_one_failed_check_of_two_rejects_and_what_was_made_stays_in_the_runs_folder(stage):
    played = stage.play(DONE, check=["true", "echo three rows are wrong; false"])
    assert (played.record.status, played.record.exit_code) == ("rejected", 10)
    assert not played.out.exists() and not played.records("delivered")
    assert Path(played.record.out, "out/x").read_text() == "made\n"
    failed = played.record.checks[1]
    assert failed["verdict"] == "failed" and failed["output"] == "three rows are wrong\n"


def test_a_skipped_check_is_not_a_passed_one(stage):
    played = stage.play(DONE, check="no-such-program")
    assert played.record.checks[0]["verdict"] == "skipped"
    assert (played.record.status, played.out.exists()) == ("rejected", False)


def test_without_a_check_it_is_delivered_as_unverified(stage):
    played = stage.play(DONE)
    assert (played.record.status, played.record.unchecked, played.record.exit_code) == ("unverified", True, 0)
    assert delivered(played) == ["out/x"]


def test_a_missing_deliverable_is_for_the_check_to_judge(stage):
    played = stage.play({"commands": ["gear done --as-is"]}, check="test -s $DELIVERED/out/x")
    assert (played.record.status, played.record.delivered) == ("rejected", [])
    nothing = stage.play({"commands": ["gear done"]})
    assert (nothing.record.status, nothing.record.out, nothing.out.exists()) == ("unverified", "", False)


def test_a_limit_that_ends_a_run_still_delivers_what_no_check_stands_against(stage):
    played = stage.play({"commands": [MAKE]}, steps=1, check="test -s $DELIVERED/out/x")
    assert (played.record.status, played.record.limit, played.record.exit_code) == ("accepted", "steps", 0)
    unchecked = stage.play({"commands": [MAKE]}, steps=1, out="unchecked")
    assert (unchecked.record.status, unchecked.record.exit_code) == ("exhausted", 11)
    assert delivered(unchecked) == ["out/x"]
    failed = stage.play({"commands": [MAKE]}, steps=1, check="false", out="failed")
    assert (failed.record.status, failed.record.exit_code) == ("exhausted", 11)
    assert delivered(failed) == ["out/x"] and failed.record.checks[0]["verdict"] == "failed"


def test_a_folder_that_holds_such_files_already_is_not_written_over_and_nothing_is_lost(stage):
    (stage.work / "result/out").mkdir(parents=True)
    (stage.work / "result/out/x").write_text("mine\n")
    played = stage.play(DONE)
    assert played.record.status == "failed" and played.record.error["code"] == "exists"
    assert (stage.work / "result/out/x").read_text() == "mine\n"
    assert Path(played.record.out, "out/x").read_text() == "made\n"


def test_two_runs_at_once_do_not_meet(stage):
    boxes = [stage.box({"commands": [f"{MAKE}; echo {n} > out/n; gear done"]}, check="true") for n in (1, 2)]

    async def scenario():
        options = [RunOptions(box=box, out=stage.work / str(number)) for number, box in enumerate(boxes)]
        return await asyncio.gather(*(Supervisor(one, lambda folder: None).execute() for one in options))

    one, two = asyncio.run(scenario())
    assert (one.status, two.status, one.residue, two.residue) == ("accepted", "accepted", [], [])
    assert one.run != two.run
    assert [(stage.work / f"{n}/out/n").read_text() for n in (0, 1)] == ["1\n", "2\n"]


# --- checks on request ---------------------------------------------------------------------------------------------------------


def test_a_check_on_request_judges_this_moment_and_its_time_is_charged_to_the_agent(stage):
    steps = [{"commands": ["gear check --json > first; mkdir out; touch out/x; gear check check-1 --json > second"]}]
    steps.append({"commands": ["mkdir -p out; cp first second out; gear done"]})
    played = stage.play(*steps, check={"run": "test -e $DELIVERED/out/x", "show": "output"})
    first, second = [record for record in played.records("check_ran") if not record.event.final][:2]
    assert (first.event.verdict, second.event.verdict) == ("failed", "passed")
    assert '"passed": false' in (played.out / "out/first").read_text()
    assert f'"checks_left": {MOST_REQUESTS - 2}' in (played.out / "out/second").read_text()
    charges = [record.event for record in played.records("settled") if record.event.purpose == "check check-1"]
    assert len(charges) == len(played.records("check_ran")) == 4
    assert {charge.account for charge in charges} == {"lead"}
    assert all(charge.amounts["wall"] > 0 for charge in charges)
    assert not list((played.folder.path / "asked").iterdir())


def test_checks_on_request_are_counted_and_the_last_ones_still_run(stage):
    ask = f"for n in $(seq {MOST_REQUESTS + 1}); do gear check >> out/said 2>> out/refused; done"
    played = stage.play({"commands": [f"mkdir out; {ask}; gear done --as-is"]}, check="true")
    ran = played.records("check_ran")
    assert len([record for record in ran if not record.event.final]) == MOST_REQUESTS
    assert played.record.status == "accepted"
    assert (played.out / "out/refused").read_text().count("which is all") == 1


def test_a_check_that_the_box_does_not_declare_is_refused_and_not_counted(stage):
    played = stage.play({"commands": ["mkdir out; gear check other 2> out/said; gear done --as-is"]}, check="true")
    assert "declared: check-1" in (played.out / "out/said").read_text()
    assert len(played.records("check_ran")) == 1


def test_what_the_agent_sees_of_a_verdict_is_what_the_box_lets_it_see(stage):
    say = "echo the secret is 42; echo '{\"score\": 0.25}' >&3"
    checks = [{"run": say, "show": show} for show in ("verdict", "score", "output")]
    played = stage.play({"commands": ["mkdir out; gear check --json > out/seen; gear done"]}, check=checks)
    seen = (played.out / "out/seen").read_text()
    assert seen.count("the secret is 42") == 1 and seen.count("0.25") == 2
    assert [check["score"] for check in played.record.checks] == [0.25] * 3


# --- void checks and the brake -------------------------------------------------------------------------------------------------


def test_a_check_whose_input_changed_while_it_ran_is_void(stage):
    async def change(folder):
        staged = folder.delivered / "out/x"
        await until(lambda: first_process(folder, "final"))
        staged.write_text("forged\n")

    wait = "until grep -q forged $DELIVERED/out/x; do sleep 0.02; done; echo fine"
    played = stage.play(DONE, check=wait, beside=change)
    check = played.record.checks[0]
    assert (check["verdict"], check["score"]) == ("skipped", None) and "void" in check["reason"]
    assert (played.record.status, played.out.exists()) == ("rejected", False)
    assert "void" in played.records("check_ran")[0].event.reason


def test_a_kill_ends_a_run_in_the_middle_of_its_last_check_and_nothing_is_delivered(stage):
    async def kill(folder):
        await until(lambda: first_process(folder, "final"))
        await asyncio.to_thread(command, folder, "kill")

    played = stage.play(DONE, check="sleep 4713", beside=kill)
    assert (played.record.status, played.record.exit_code) == ("stopped", 12)
    assert not played.out.exists() and played.record.residue == []
    assert played.record.seconds < 60


def test_a_frozen_run_freezes_its_checks(stage):
    async def freeze(folder):
        burning = await until(lambda: busy())
        await asyncio.to_thread(command, folder, "freeze")
        before = processes.look(burning.pid).ticks
        await asyncio.sleep(0.3)  # of a clock that must not have moved
        after = processes.look(burning.pid).ticks
        await asyncio.to_thread(command, folder, "resume")
        went_on = await until(lambda: processes.look(burning.pid).ticks > after)
        await asyncio.to_thread(command, folder, "kill")
        assert (before, went_on) == (after, True)

    played = stage.play(DONE, check="exec -a gearcase-burns bash -c 'while :; do :; done'", beside=freeze)
    assert played.record.status == "stopped"


def test_the_time_of_a_run_is_booked_whole_also_what_went_past_its_limit(stage):
    played = stage.play({"commands": [f"{MAKE}; sleep 60"]}, wall="1s", check="sleep 0.4; test -s $DELIVERED/out/x")
    record = played.record
    assert (record.limit, record.status) == ("wall", "accepted")
    assert record.spent["wall"] == sum(r.event.amounts.get("wall", 0) for r in played.records("settled")) > 1400
    assert record.spent["wall"] <= round(record.seconds * 1000) + 1
    over = [record.event.over for record in played.records("settled") if record.event.purpose == "time"]
    assert over and over[0]["wall"] > 0 and record.remaining["wall"] == 0


def test_the_brake_of_a_run_answers_while_its_checks_run(stage):
    async def look(folder):
        await until(lambda: first_process(folder, "final"))
        said = await asyncio.to_thread(command, folder, "status")
        try:
            await asyncio.to_thread(command, folder, "no-such-verb")
        except GearcaseError as error:
            said["code"] = error.code
        assert said == {"level": "running", "phase": "work", "code": "unknown_verb"}
        await asyncio.to_thread(command, folder, "kill")

    assert stage.play(DONE, check="sleep 4714", beside=look).record.status == "stopped"
