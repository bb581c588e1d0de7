"""What a killed run leaves, and what the next command makes of it."""

import asyncio
import fcntl
import io
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from gearcase import events
from gearcase.cli import summary
from gearcase.cli.history import history
from gearcase.errors import RunError
from gearcase.journal import read, verify
from gearcase.run.process import ending
from gearcase.run.recovery import recover
from gearcase.runs import own
from gearcase.sandbox import owners

BEGUN = (
    events.RunStarted("ab12cd34", "amber-fox", "g", "ab", "0.1.0", "boot", {}),
    events.AccountOpened("run", "", {"usd": 1000, "calls": 9, "wall": 60_000}),
    events.AccountOpened("reserve", "run", {"usd": 50, "calls": 0, "wall": 0}),
    events.AccountOpened("lead", "run", {"usd": 950, "calls": 9, "wall": 60_000}, "lead"),
)
HOLDS = (
    events.Held(1, "lead", {"usd": 100, "calls": 1}),
    events.Sent(1),
    events.Settled(1, "lead", {"usd": 70, "calls": 1}),
    events.Held(2, "lead", {"usd": 200, "calls": 1}),
    events.Sent(2),
    events.Held(3, "lead", {"usd": 300, "calls": 1}),
)


def told(folder):
    return list(read(folder.journal))


def test_what_had_left_counts_as_spent_and_what_had_not_is_given_back(journal_of):
    folder = journal_of(*BEGUN, *HOLDS)
    assert recover(folder)
    record = ending(folder)
    assert record.status == "failed" and record.exit_code == 13
    assert record.error is not None and record.error["code"] == "supervisor_died"
    assert (record.spent["usd"], record.spent["calls"]) == (70 + 200, 2)
    assert record.remaining["usd"] == 1000 - 270
    ends = {r.event.hold: (r.type, r.raw.get("reason")) for r in told(folder) if r.type in ("settled", "cut", "released")}
    assert ends[1][0] == "settled" and ends[2] == ("cut", "crash") and ends[3][0] == "released"
    assert verify(folder.journal).ok


def test_a_run_is_recovered_once_and_not_when_it_ended_by_itself(journal_of):
    folder = journal_of(*BEGUN)
    assert recover(folder)
    seen = told(folder)
    assert not recover(folder)
    assert told(folder) == seen
    ended = journal_of(*BEGUN, events.RunEnded("accepted", {"status": "accepted"}), name="other", identity="99999999")
    assert not recover(ended)


def test_a_run_with_a_living_owner_is_left_alone(journal_of):
    folder = journal_of(*BEGUN, *HOLDS)
    before = told(folder)
    owner = own(folder)
    assert not recover(folder)
    owner.release()
    assert told(folder) == before


def test_a_run_that_somebody_else_recovers_is_left_to_them(journal_of):
    folder = journal_of(*BEGUN)
    lock = os.open(folder.path / "owner.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert not recover(folder)
    os.close(lock)
    assert recover(folder)


def test_a_folder_in_which_nothing_had_begun_is_left_as_it_is(journal_of):
    folder = journal_of()
    assert not recover(folder)
    shutil.rmtree(folder.journal)
    assert not recover(folder)


def test_a_torn_last_line_is_cut_and_kept_on_record(journal_of):
    folder = journal_of(*BEGUN, *HOLDS)
    segment = folder.journal / "000001.jsonl"
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'{"seq":11,"type":"sett')
    assert recover(folder)
    resumed = next(record for record in told(folder) if record.type == "run_resumed")
    assert resumed.raw["repaired_bytes"]
    assert verify(folder.journal).ok and segment.read_bytes().startswith(whole)


def test_a_damaged_journal_is_told_of_and_not_written_to(journal_of):
    folder = journal_of(*BEGUN, *HOLDS)
    segment = folder.journal / "000001.jsonl"
    damaged = segment.read_bytes().replace(b'"usd":70', b'"usd":10')
    segment.write_bytes(damaged)
    with pytest.raises(RunError) as caught:
        recover(folder)
    assert caught.value.code == "journal_damaged"
    assert segment.read_bytes() == damaged
    record = ending(folder)
    assert record.status == "failed" and record.error is not None and "record" in record.error["cause"]


def test_a_recovery_that_was_killed_is_finished_by_the_next(journal_of):
    folder = journal_of(*BEGUN, *HOLDS)
    recover(folder)
    segment = folder.journal / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    whole = ending(folder)
    for kept in range(len(BEGUN) + len(HOLDS) + 1, len(lines)):
        segment.write_bytes(b"".join(lines[:kept]))
        assert recover(folder)
        again = ending(folder)
        assert (again.spent["usd"], again.status, again.seconds) == (whole.spent["usd"], whole.status, whole.seconds)
        assert verify(folder.journal).ok


def test_what_was_delivered_and_checked_before_the_death_is_in_the_ending(journal_of):
    files = [{"path": "out/a", "sha256": "0", "size": 1, "mode": "644", "flags": []}]
    folder = journal_of(
        *BEGUN,
        events.LimitReached("steps", "stop"),
        events.CheckRan("asked", "failed", None, 1.0, "d", False, "no"),
        events.CheckRan("valid", "passed", 0.5, 1.0, "d", True, "fine"),
        events.Delivered("/somewhere", files, [], "d"),
    )
    recover(folder)
    record = ending(folder)
    assert record.delivered == files and record.out == "/somewhere" and record.limit == "steps"
    assert [(check["name"], check["verdict"], check["score"]) for check in record.checks] == [("valid", "passed", 0.5)]


def test_a_run_that_the_operator_had_killed_is_stopped(journal_of):
    folder = journal_of(*BEGUN, events.BrakeChanged("killed", "operator"))
    recover(folder)
    assert ending(folder).status == "stopped" and ending(folder).exit_code == 12


if os.getuid() == 0:  # only root can give a folder away

    def test_another_users_run_is_not_touched(journal_of):
        folder = journal_of(*BEGUN)
        os.chown(folder.path, 65534, 65534)
        assert not recover(folder)
        assert "run_resumed" not in {record.type for record in told(folder)}


# --- every moment of a real run ------------------------------------------------------------------------------------------------


def test_a_run_that_died_after_any_record_is_recovered_with_every_hold_ended_and_nothing_counted_lower(stage):
    steps = [{"text": "I begin.", "commands": ["mkdir out; gear ask hello > out/said"], "usage": {"input": 500, "output": 90}}]
    steps += [{"text": "hello"}, {"commands": ["gear check; gear snapshot; gear done"]}]
    played = stage.play(*steps, check="test -s $DELIVERED/out/said")
    assert played.record.status == "accepted"
    segment = played.folder.journal / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["type"] for line in lines]
    assert {"held", "sent", "settled", "command_started", "check_ran", "delivered", "sandbox_closed"} <= set(kinds)
    for kept in range(1, len(lines)):
        torn = lines[kept][: len(lines[kept]) // 2] if kept % 3 == 0 else b""
        segment.write_bytes(b"".join(lines[:kept]) + torn)
        assert recover(played.folder)
        assert verify(played.folder.journal).ok
        records = [record.raw for record in read(played.folder.journal)]
        counts = Counter(record["type"] for record in records)
        charges = [record for record in records if record["type"] == "settled" and record["purpose"]]
        assert counts["held"] == counts["settled"] - len(charges) + counts["cut"] + counts["released"]
        assert counts["account_opened"] == counts["account_closed"]
        assert counts["sandbox_opened"] == counts["sandbox_closed"]
        record = ending(played.folder)
        settled = sum(r["amounts"].get("usd", 0) for r in records if r["type"] == "settled")
        assert record.status == "failed" and record.residue == []
        assert record.spent.get("usd", 0) >= settled
        assert record.spent.get("usd", 0) + record.remaining.get("usd", 0) in (0, 1_000_000_000)
        assert bool(record.delivered) == ("delivered" in kinds[:kept])


SLEEP = "sleep 4711"
SHARDS = f"seq 1 9 > w; gear map --over w --split lines:1 --run '{SLEEP}' --give w --out out/m"


def sleeps(stage):
    """Whether a process of a shard is there."""
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return SLEEP in [line.strip() for line in processes.splitlines()] and list(stage.state.glob("gearcase/runs/*/shards/*"))


MOMENTS = {
    "in a command": ([{"commands": [f"touch /tmp/x; {SLEEP}"]}], "true", lambda stage: stage.has("command_started")),
    "in a model call": ([{"fault": "stall"}], "true", lambda stage: stage.has("sent")),
    "in a check that was asked for": ([{"commands": ["mkdir out; touch out/x; gear check"]}], SLEEP, lambda stage: box("1")),
    "in a shard of a map": ([{"commands": [SHARDS]}], "true", sleeps),
    "in a last check": ([{"commands": ["mkdir out; touch out/x; gear done --as-is"]}], SLEEP, lambda stage: box("final")),
}


def box(request):
    """Whether a check's box is up: its owner file names its first process."""
    for name in os.listdir(f"{owners.runtime_folder()}/boxes"):
        if name.endswith(f"-{request}-dying-check.json"):
            text = Path(owners.runtime_folder(), "boxes", name).read_text()
            return bool(text) and json.loads(text)["processes"]
    return False


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_leaves_no_process_and_says_what_happened(stage, moment):
    steps, check, reached = MOMENTS[moment]
    (stage.work / "box.toml").write_text(
        f'goal = "g"\n[model]\nlead = "{stage.script(*steps)}"\n[limits]\nusd = 1.00\nmemory = "256MiB"\ndisk = "64MiB"\n'
        f'[files]\ntake = ["out/**"]\n[[check]]\nname = "dying-check"\nrun = "{check}"\n'
    )
    watcher = stage.starts("run", "--name", "doomed", "--json")
    try:
        stage.until(lambda: reached(stage))
        watcher.kill()  # nobody who watches: the next command finds it
        watcher.communicate()
        stage.kill_the_run()
    finally:
        watcher.kill()
    assert json.loads(stage.types("ps", "--json", code=0).stdout)[0]["state"] == "failed"
    record = json.loads(stage.types("report", "doomed", "--json", code=0).stdout)
    assert (record["error"]["code"], record["residue"]) == ("supervisor_died", [])
    held = stage.has("held")
    if moment == "in a model call":
        assert record["spent"]["usd"] == held["amounts"]["usd"], "what had left counts as spent whole"
    elif moment == "in a command":
        assert record["spent"]["usd"] > 0
    assert record["spent"]["usd"] + record["remaining"]["usd"] == 1_000_000_000
    said = stage.types("logs", "doomed", code=0).stdout
    assert "supervisor_died" in said and "torn down" in said
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert SLEEP not in [line.strip() for line in processes.splitlines()]
    folder = next(stage.state.glob("gearcase/runs/*"))
    assert not (folder / "control.sock").exists() and not (folder / "asked").exists()
    assert not (folder / "shards").exists() and not list(folder.glob(".*part"))
    boxes = f"{owners.runtime_folder()}/boxes"
    assert not [name for name in os.listdir(boxes) if name.startswith(folder.name)]


def test_two_commands_that_find_a_dead_run_at_once_write_one_ending(journal_of, stage):
    folder = journal_of(*BEGUN, *HOLDS)
    looking = [stage.starts("report", "amber-fox", "--json") for _ in range(3)]
    for one in looking:
        out, err = one.communicate(timeout=60)
        assert one.returncode == 0, out + err
    records = told(folder)
    assert [record.type for record in records].count("run_ended") == 1
    assert verify(folder.journal).ok


def test_a_dead_run_is_followed_to_its_ending(journal_of, stage):
    journal_of(*BEGUN)
    said = stage.types("logs", "-f", "amber-fox", code=0).stdout
    assert "failed" in said


def test_recovery_works_inside_an_event_loop(journal_of):
    folder = journal_of(*BEGUN, *HOLDS)

    async def scenario():
        return recover(folder)

    assert asyncio.run(scenario())
    assert verify(folder.journal).ok


def test_the_report_says_in_words_that_a_call_in_flight_counts_with_its_worst_case(journal_of):
    run = history(journal_of(*BEGUN, *HOLDS))  # recovers it
    stream = io.StringIO()
    Console(file=stream, width=100).print(summary.report(run, ending(run.folder)))
    said = " ".join(stream.getvalue().split())
    assert "up to $" in said and "1 call was in flight or broke off" in said and "worst case" in said
    assert summary.as_json(run, None)["uncertain"] == {"calls": 1, "usd": 200}
