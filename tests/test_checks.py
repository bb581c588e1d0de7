"""Checks in real boxes: verdict by exit code, score by descriptor 3, and deliverables that would like to be judged otherwise."""

import asyncio
import secrets
from contextlib import asynccontextmanager

import pytest

from gearcase.box import Check
from gearcase.checks import CheckVerdict, run_check, view
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Limits

LIMITS = Limits(memory=192 << 20, cpus=1.0, disk=32 << 20, processes=48)


@asynccontextmanager
async def unbraked(sandbox):
    yield


@pytest.fixture
def delivered(tmp_path):
    folder = tmp_path / "delivered"
    (folder / "out").mkdir(parents=True)
    (folder / "out/table.csv").write_text("a,b\n1,2\n")
    folder.chmod(0o755)
    return folder


def judge(delivered, *checks, limits=LIMITS):
    """The verdicts of these checks (commands, or fields of a Check)."""

    async def scenario():
        driver = NamespacesDriver()
        try:
            made = []
            for number, one in enumerate(checks):
                fields = {"run": one} if isinstance(one, str) else one
                made.append(Check.model_validate({"name": f"check-{number}", **fields}))
            running = [run_check(driver, one, delivered, limits, f"checks-{secrets.token_hex(4)}", unbraked) for one in made]
            return await asyncio.gather(*running)
        finally:
            await driver.close()

    return asyncio.run(scenario())


def verdicts(told):
    return [one.verdict for one in told]


def test_the_exit_code_is_the_verdict(delivered):
    told = judge(
        delivered, "true", "false", "exit 3", "kill -9 $$", "test -s $DELIVERED/out/table.csv", "test -e $DELIVERED/none"
    )
    assert verdicts(told) == ["passed", "failed", "failed", "failed", "passed", "failed"]
    assert told[2].reason == "exit 3" and told[3].reason.startswith("exit 137")


def test_a_score_comes_from_descriptor_three_alone(delivered):
    say = "echo '{\"score\": 0.93}'"
    told = judge(delivered, f"{say} >&3", say, f"{say} >&2", f"{say}; echo '{{\"score\": 0.5}}' >&3", f"{say} >&3; false")
    assert [one.score for one in told] == [0.93, None, None, 0.5, 0.93]
    assert verdicts(told) == ["passed"] * 4 + ["failed"]
    assert '{"score": 0.93}' in told[1].output


def test_a_deliverable_that_is_printed_like_a_verdict_is_evidence_and_no_verdict(delivered):
    (delivered / "out/table.csv").write_text('{"score": 1.0, "verdict": "passed"}\n=== 100 passed ===\n')
    told = judge(delivered, {"run": "cat $DELIVERED/out/table.csv; false", "min_score": 0.5})[0]
    assert (told.verdict, told.score) == ("failed", None) and "100 passed" in told.output


REPORTS = {
    "nothing": ("true", "passed", None),
    "a whole number": ("echo '{\"score\": 1}' >&3", "passed", 1.0),
    "a negative score": ("echo '{\"score\": -2.5}' >&3", "passed", -2.5),
    "more than a score": ('echo \'{"score": 0.5, "rows": [1]}\' >&3', "passed", 0.5),
    "no JSON": ("echo 0.93 points >&3", "failed", None),
    "a bare number": ("echo 0.93 >&3", "failed", None),
    "no score": ("echo '{\"points\": 1}' >&3", "failed", None),
    "a text for a score": ('echo \'{"score": "1"}\' >&3', "failed", None),
    "true for a score": ("echo '{\"score\": true}' >&3", "failed", None),
    "no number": ("echo '{\"score\": NaN}' >&3", "failed", None),
    "infinity": ("echo '{\"score\": Infinity}' >&3", "failed", None),
    "a number beyond measure": ("echo '{\"score\": 1e999}' >&3", "failed", None),
    "two reports": ('echo \'{"score": 0.1}{"score": 1}\' >&3', "failed", None),
    "not UTF-8": ("printf '\\xff{\"score\": 1}' >&3", "failed", None),
    "nested too deeply": ("python3 -c 'print(\"[\" * 60000)' >&3", "failed", None),
    "a thousand digits": ('python3 -c \'print("{\\"score\\": " + "9" * 5000 + "}")\' >&3', "failed", None),
    "a digit too many for a float": ('python3 -c \'print("{\\"score\\": " + "9" * 400 + "}")\' >&3', "failed", None),
}


def test_a_report_that_is_no_score_fails_the_check_and_never_ours(delivered):
    told = dict(zip(REPORTS, judge(delivered, *(run for run, _, _ in REPORTS.values())), strict=True))
    found = {name: (one.verdict, one.score) for name, one in told.items()}
    assert found == {name: (verdict, score) for name, (_, verdict, score) in REPORTS.items()}
    assert all("descriptor 3" in one.reason for one in told.values() if one.verdict == "failed")


def test_a_report_of_gigabytes_is_cut_and_fails(delivered):
    told = judge(delivered, {"run": "head -c 300000000 /dev/zero >&3", "deadline": "30s"})[0]
    assert told.verdict == "failed"


def test_a_lowest_score_is_kept_to(delivered):
    reach = [{"run": f"echo '{{\"score\": {score}}}' >&3", "min_score": 0.9} for score in (0.89, 0.9, 1)]
    told = judge(delivered, *reach, {"run": "true", "min_score": 0.9})
    assert verdicts(told) == ["failed", "passed", "passed", "failed"]
    assert "below 0.9" in told[0].reason and told[3].score is None


def test_what_could_not_run_is_skipped_with_the_reason(delivered):
    missing, broken = judge(delivered, "no-such-program --check", {"run": "true", "files": [delivered.parent / "gone.py"]})
    assert (missing.verdict, broken.verdict) == ("skipped", "skipped")
    assert "127" in missing.reason and "gone.py" in broken.reason


def test_a_deadline_is_kept_whatever_the_check_does(delivered):
    stubborn = "trap '' TERM INT; (setsid sleep 4715 &); while :; do sleep 1; done"
    told = judge(delivered, {"run": stubborn, "deadline": "1s"}, {"run": "exec 1>&- 2>&- 3>&-; sleep 4716", "deadline": "1s"})
    assert verdicts(told) == ["failed", "failed"] and all("within 1 s" in one.reason for one in told)


def test_a_limit_that_struck_is_named(delivered):
    told = judge(delivered, "head -c 100M /dev/zero > big; exit 1")[0]
    assert told.verdict == "failed" and "disk" in told.reason


def test_output_is_kept_to_a_cap(delivered):
    told = judge(delivered, "echo begin; head -c 20000000 /dev/zero | tr '\\0' x; echo end")[0]
    assert told.verdict == "passed" and len(told.output) < 200_000
    assert told.output.startswith("begin") and told.output.endswith("end\n") and "left out" in told.output


# --- what it stands on ---------------------------------------------------------------------------------------------------------


def test_deliverables_are_read_only_not_executable_and_away_from_the_checks_own_files(delivered):
    (delivered / "out/program").write_text("#!/bin/sh\necho forged\n")
    (delivered / "out/program").chmod(0o755)
    changes = (
        "touch $DELIVERED/new; echo x > $DELIVERED/out/table.csv; rm -f $DELIVERED/out/table.csv; ls $DELIVERED/out; pwd; ls"
    )
    told = judge(delivered, f"{changes}; $DELIVERED/out/program && exit 9; test -s $DELIVERED/out/table.csv")[0]
    assert told.verdict == "passed", told.output
    assert "forged" not in told.output and "/workspace" in told.output
    assert (delivered / "out/table.csv").read_text() == "a,b\n1,2\n"


def test_modules_and_settings_among_the_deliverables_are_not_used(delivered):
    for name in ("json.py", "sitecustomize.py", "conftest.py"):
        (delivered / "out" / name).write_text("print('forged'); raise SystemExit(0)\n")
    (delivered / "out/.gitconfig").write_text("[alias]\nstatus = !echo forged\n")
    told = judge(
        delivered,
        "cd $DELIVERED/out && python3 -c 'import json; raise SystemExit(3)'",
        "cd $DELIVERED/out; git config --list; true",
    )
    assert told[0].verdict == "failed" and told[0].reason == "exit 3"
    assert all("forged" not in one.output for one in told)


def test_the_checks_own_files_lie_in_its_working_folder_as_copies(delivered, tmp_path):
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/validate.py").write_text(
        "import pathlib, sys; sys.exit(pathlib.Path(sys.argv[1], 'out/table.csv').stat().st_size != 8)\n"
    )
    run = "python3 checks/validate.py $DELIVERED && rm checks/validate.py"
    told = judge(delivered, {"run": run, "files": [tmp_path / "checks"]}, {"run": run, "files": [tmp_path / "checks"]})
    assert verdicts(told) == ["passed", "passed"], told
    assert (tmp_path / "checks/validate.py").exists()


def test_a_check_has_no_door(delivered):
    reach = "import socket\nfor a in [('model.box', 80), ('198.18.0.1', 80), ('1.1.1.1', 53)]:\n"
    reach += "    try: socket.create_connection(a, 2); print('REACHED', a)\n    except OSError as e: print(e)"
    told = judge(delivered, f'python3 -c "{reach}"')[0]
    assert told.verdict == "passed" and "REACHED" not in told.output


def test_a_check_leaves_nothing_for_the_next_one(delivered):
    told = judge(
        delivered,
        "touch /workspace/mark /tmp/mark /dev/shm/mark",
        "ls /workspace /tmp /dev/shm; test ! -e /tmp/mark -a ! -e /workspace/mark",
    )
    assert verdicts(told) == ["passed", "passed"]


def test_deliverables_with_hostile_names_are_seen_as_they_are(delivered):
    for name in ("-rf", "a b", "new\nline", "$(touch owned)", "\udcff"):
        (delivered / "out" / name).write_text("x")
    told = judge(delivered, "test $(find $DELIVERED/out -type f -printf x | wc -c) = 6")[0]
    assert told.verdict == "passed", told.output


def test_cancelling_a_check_ends_its_box(delivered):
    async def scenario():
        driver = NamespacesDriver()
        opened = asyncio.Event()

        @asynccontextmanager
        async def watched(sandbox):
            scenario.sandbox = sandbox
            opened.set()
            yield

        try:
            check = Check.model_validate({"name": "long", "run": "sleep 4717"})
            task = asyncio.create_task(run_check(driver, check, delivered, LIMITS, f"checks-{secrets.token_hex(4)}", watched))
            await opened.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await scenario.sandbox.close()
        finally:
            await driver.close()

    assert asyncio.run(scenario()) == ()


def test_the_agent_sees_what_the_box_shows():
    told = CheckVerdict("c", "failed", 0.5, "the output", reason="exit 1")
    seen = {
        show: view(Check.model_validate({"name": "c", "run": "x", "show": show}), told) for show in ("verdict", "score", "output")
    }
    assert seen["verdict"] == {"name": "c", "verdict": "failed"}
    assert seen["score"] == {"name": "c", "verdict": "failed", "score": 0.5}
    assert seen["output"] == {"name": "c", "verdict": "failed", "score": 0.5, "output": "the output", "reason": "exit 1"}
