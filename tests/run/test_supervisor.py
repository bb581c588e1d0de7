"""How a run goes and ends: its limits, its brake, its death, and the exit code of each ending."""

import asyncio
import json
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from gearcase.control import command
from gearcase.errors import GearcaseError, UsageError
from gearcase.run.options import RunOptions
from gearcase.run.record import EXIT_CODES, EndRecord
from gearcase.runs import all_runs
from gearcase.sandbox import owners, processes

COMMAND = str(Path(sys.executable).with_name("gearcase"))

MAKE = "mkdir -p out; echo made > out/x"


async def until(found, timeout=60):
    for _ in range(timeout * 100):
        if answer := found():
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


# --- endings -------------------------------------------------------------------------------------------------------------------


def test_an_agent_that_may_not_go_on_is_warned_and_the_reserve_pays_its_last_words(stage):
    dear = {"commands": [MAKE], "usage": {"input": 1000, "output": 4000}}
    last = {"commands": ["gear done --note 'out of money'"], "usage": {"input": 100, "output": 100}}
    played = stage.play(*[dear] * 8, last, usd="0.30", wind_down_reserve="40%", on_exhausted="wind_down")
    record = played.record
    assert (record.note, record.limit) == ("out of money", "budget")
    assert record.status == "unverified", "it handed in by itself"
    paid = {r.event.hold: r.event.account for r in played.records("held")}
    settled = [paid[r.event.hold] for r in played.records("settled") if not r.event.purpose]
    assert settled[-1] == "reserve" and "lead" in settled
    assert record.spent["usd"] + record.remaining["usd"] == 300_000_000


def test_on_exhausted_stop_ends_a_run_without_last_words(stage):
    dear = {"commands": [MAKE], "usage": {"input": 1000, "output": 4000}}
    played = stage.play(dear, usd="0.30", wind_down_reserve="40%", on_exhausted="stop")
    assert (played.record.status, played.record.limit, played.record.note) == ("exhausted", "budget", "")
    assert {r.event.account for r in played.records("held")} == {"lead"}


def test_every_account_is_closed_and_every_hold_ended_at_the_end(stage):
    played = stage.play({"commands": [MAKE]}, {"status": 500}, {"commands": ["gear done"]}, check="true")
    counts = {kind: len(played.records(kind)) for kind in ("account_opened", "account_closed", "held", "cut", "released")}
    assert counts["account_opened"] == counts["account_closed"] == 3
    charges = [r for r in played.records("settled") if r.event.purpose]
    assert counts["held"] == len(played.records("settled")) - len(charges) + counts["cut"] + counts["released"]
    assert played.records()[-1].type == "run_ended"


def test_an_agent_that_fails_fails_the_run_and_what_it_made_stays_in_the_runs_folder(stage):
    played = stage.play({"commands": [MAKE]}, {"status": 401})
    assert (played.record.status, played.record.exit_code) == ("failed", 13)
    assert played.record.error["code"] == "agent_failed" and not played.out.exists()
    assert (played.folder.delivered / "out/x").read_text() == "made\n"


def test_a_box_that_dies_fails_the_run(stage):
    async def stab(folder):
        file = Path(owners.runtime_folder(), "boxes", f"{folder.id}.json")
        await until(
            lambda: any(folder.journal.glob("*")) and b'"command_started"' in (folder.journal / "000001.jsonl").read_bytes()
        )
        processes.send(int(next(iter(json.loads(file.read_text())["processes"]))), signal.SIGKILL)

    played = stage.play({"commands": ["sleep 4720"]}, beside=stab)
    assert (played.record.status, played.record.residue) == ("failed", [])
    assert "sandbox_lost" in {r.type for r in played.records()}, played.record.error
    assert played.record.error["code"] in ("agent_lost", "agent_failed")


def test_a_killed_run_is_stopped_and_a_frozen_one_stands_still_until_it_is_resumed(stage):
    async def brake(folder):
        beat = folder.journal / "000001.jsonl"
        await until(lambda: beat.exists() and b'"command_started"' in beat.read_bytes())
        for verb in ("freeze", "resume", "freeze"):
            said = await asyncio.to_thread(command, folder, verb)
            assert said["level"] == {"freeze": "frozen", "resume": "running"}[verb]
        assert (await asyncio.to_thread(command, folder, "status"))["level"] == "frozen"
        await asyncio.to_thread(command, folder, "kill", reason="enough")

    played = stage.play({"commands": ["while :; do date > beat; done"]}, beside=brake)
    assert (played.record.status, played.record.exit_code, played.record.residue) == ("stopped", 12, [])
    levels = [level for level, _ in groupby(r.event.level for r in played.records("brake_changed"))]
    assert levels == ["frozen", "running", "frozen", "killed"]
    assert played.records("brake_changed")[-1].event.reason == "enough"
    assert [r.event.ended for r in played.records("command_ended")] == ["lost"], "what the kill cut short has its end, too"


def test_a_freeze_at_any_moment_fails_no_command(stage):
    async def brake(folder):
        beat = folder.journal / "000001.jsonl"
        await until(lambda: beat.exists() and b'"command_started"' in beat.read_bytes())
        for number in range(40):
            try:
                await asyncio.to_thread(command, folder, "freeze")
                await asyncio.sleep(0.001 * (number % 7))
                await asyncio.to_thread(command, folder, "resume")
                await asyncio.sleep(0.001 * (number % 5))
            except GearcaseError:  # it is over
                return

    steps = [{"commands": ["true", "true", "true"]}] * 20 + [{"commands": [MAKE, "gear done"]}]
    played = stage.play(*steps, beside=brake, steps=40)
    assert (played.record.status, played.record.error) == ("unverified", None)
    assert all(r.event.exit_code == 0 for r in played.records("command_ended"))


def test_a_command_that_is_begun_while_a_sub_agent_gets_its_files_runs(stage):
    """A fork looks at the parent's files while nothing moves there; the parent's next command comes meanwhile."""
    begin = "seq 3000 | split -l 1 -a 3 - part-; mkdir out; for i in 1 2 3 4 5 6; do gear spawn --usd 0.05 --background nothing & done"
    played = stage.play(
        {"commands": [begin, *["true"] * 60, "wait", "gear wait; gear done"]},
        worker=stage.script({"commands": ["gear done"]}),
    )
    assert (played.record.status, played.record.error) == ("unverified", None)


def test_a_run_that_is_asked_to_wind_down_hands_in(stage):
    async def ask(folder):
        beat = folder.journal / "000001.jsonl"
        await until(lambda: beat.exists() and b'"command_started"' in beat.read_bytes())
        await asyncio.to_thread(command, folder, "wind_down")

    wait = "until grep -qs operator /box/*.md; do [ -e seen ] && break; touch seen; done"
    played = stage.play({"commands": [f"{MAKE}; {wait}"]}, {"commands": ["gear done --note early"]}, beside=ask)
    assert played.record.note == "early" and played.record.limit in ("operator", "")


def test_a_program_ends_a_run_with_its_own_code(stage):
    options = RunOptions(
        box=stage.box({"text": "x"}), out=stage.work / "result", program=("sh", "-c", f"{MAKE}; exit 7"), program_output=2
    )
    played = stage.execute(options)
    assert (played.record.exit, played.record.exit_code, played.record.status) == (7, 7, "unverified")
    assert (played.out / "out/x").exists()


def test_a_record_is_the_same_after_a_journey_through_json_also_from_a_later_version():
    record = EndRecord("ab", "name", "rejected", spent={"usd": 1}, checks=[{"name": "x"}], residue=["y"])
    told = {**json.loads(json.dumps(record.as_json())), "of_a_later_version": 1}
    assert EndRecord.from_json(told) == record
    assert EXIT_CODES == {
        "accepted": 0, "unverified": 0, "usage": 2, "unsafe": 3, "rejected": 10, "exhausted": 11, "stopped": 12, "failed": 13, "frozen": 14,
    }  # fmt: skip


# --- before there is a run -----------------------------------------------------------------------------------------------------


def test_a_machine_that_cannot_enforce_the_box_starts_nothing(stage):
    box = ["run", "g", "--take", "out/**", "--model", stage.script({"text": "x"}), "--json"]
    text = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    inside = ["unshare", "-r", "-U", "sh", "-c", text, "sh", COMMAND, *box]
    done = subprocess.run(inside, cwd=stage.work, env=stage.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "unsafe" and "max_user_namespaces" in error["remedy"]
    assert all_runs() == []


def test_a_cassette_in_the_way_is_found_before_anything_starts(stage):
    (stage.work / "tape.jsonl").write_text("mine\n")
    options = RunOptions(box=stage.box({"text": "x"}), record=stage.work / "tape.jsonl")
    with pytest.raises(UsageError) as caught:
        stage.execute(options)
    assert caught.value.code == "exists" and all_runs() == []
    assert (stage.work / "tape.jsonl").read_text() == "mine\n"


def test_a_module_that_the_box_needs_and_does_not_find_is_told_before_money_is_spent_with_two_ways_to_get_it(stage):
    text = f'goal = "g"\n[model]\nlead = "{stage.script({"text": "x"})}"\n[sandbox]\npackages = ["python3", "python3:{{}}"]\n'
    (stage.work / "box.toml").write_text(text.format("no_such_module"))
    record = json.loads(stage.types("run", "--json", code=13).stdout)
    assert record["error"]["code"] == "packages" and "python3:no_such_module" in record["error"]["message"]
    assert ".venv" in record["error"]["remedy"] and "apt install" in record["error"]["remedy"]
    assert record["spent"]["usd"] == 0 and record["residue"] == []
    (stage.work / "box.toml").write_text(text.format("json"))
    record = json.loads(stage.types("run", "--json").stdout)
    assert record["error"]["code"] != "packages" and record["spent"]["calls"] > 0  # it went on to ask its model


def test_a_program_that_the_box_needs_and_does_not_find_is_told_before_money_is_spent(stage):
    (stage.work / "box.toml").write_text(
        f'goal = "g"\n[model]\nlead = "{stage.script({"text": "x"})}"\n[sandbox]\npackages = ["sh", "no-such-program"]\n'
    )
    said = stage.types("run", "--json", code=13)
    record = json.loads(said.stdout)
    assert record["error"]["code"] == "packages" and "no-such-program" in record["error"]["message"]
    assert record["spent"]["usd"] == 0 and record["residue"] == []
