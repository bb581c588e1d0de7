"""Runs on disk as `ps`, `logs` and `journal` show them, through the installed command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gearcase import events
from gearcase.journal import Journal

PROGRAM = str(Path(sys.executable).with_name("gearcase"))

HAPPENED = (
    events.RunStarted("ab12cd34", "amber-fox", "count\x1b[2J the rows", "ab", "0.1.0", "boot", {}),
    events.AccountOpened("run", "", {"usd": 2_000_000_000}),
    events.Held(1, "run", {"usd": 900_000_000, "calls": 1}),
    events.Settled(1, "run", {"usd": 410_000_000, "calls": 1}),
    events.ModelCalled(1, 1, "anthropic", "manual", "manual", 200, "complete", {"input": 9}, 0.5, 0.1, billed=False),
    events.CommandStarted(1, "python3 count.py"),
    events.CommandEnded(1, "exited", 3, 1.5, 1.0, 12, "", "\x1b]0;owned\x07no such file\n"),
    events.RunEnded("rejected", {"run": "ab12cd34", "name": "amber-fox", "status": "rejected"}),
)


def run_on_disk(state: Path, *happened: events.Event) -> Path:
    folder = state / "gearcase/runs/ab12cd34"
    folder.mkdir(parents=True, mode=0o700)
    facts = {"id": "ab12cd34", "name": "amber-fox", "goal": "count\x1b[2J the rows", "created": 1.0}
    (folder / "run.json").write_text(json.dumps(facts))
    journal = Journal.create(folder / "journal")
    for event in happened:
        journal.append(event, "lead")
    journal.flush()
    journal.close()
    return folder


def ask(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, "XDG_STATE_HOME": str(state), "COLUMNS": "100"}
    return subprocess.run([PROGRAM, *arguments], env=around, capture_output=True, text=True, timeout=60)


def test_ps_tells_state_and_money(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    told = ask(tmp_path, "ps")
    assert told.returncode == 0, told.stderr
    for expected in ("amber-fox", "ab12cd34", "rejected", "$0.41"):
        assert expected in told.stdout
    assert "\x1b" not in told.stdout
    facts = json.loads(ask(tmp_path, "ps", "--json").stdout)
    assert (facts[0]["state"], facts[0]["spent"]["usd"]) == ("rejected", 410_000_000)


def test_ps_tells_what_a_program_was(tmp_path: Path) -> None:
    ask(tmp_path, "exec", "--usd", "0", "--", "sh", "-c", "exit 0")
    assert "sh -c 'exit 0'" in ask(tmp_path, "ps").stdout


def test_a_limit_that_only_another_version_knows_keeps_nobody_from_listing_runs(tmp_path: Path) -> None:
    folder = run_on_disk(tmp_path, *HAPPENED)
    (folder / "box.toml").write_text('[limits]\nwall = "7m"\nphotons = 12\n')
    assert ask(tmp_path, "ps").returncode == 0
    assert "of 7m" in ask(tmp_path, "report").stdout


def test_a_run_whose_process_died_has_failed_and_its_report_says_why(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED[:3])
    assert json.loads(ask(tmp_path, "ps", "--json").stdout)[0]["state"] == "failed"
    assert json.loads(ask(tmp_path, "report", "--json").stdout)["error"]["code"] == "supervisor_died"


def test_a_dead_run_that_cannot_be_recovered_has_died_and_its_report_says_why(tmp_path: Path) -> None:
    folder = run_on_disk(tmp_path, *HAPPENED[:3])
    with (folder / "journal/000001.jsonl").open("a") as file:
        file.write("not a record\n")
    assert json.loads(ask(tmp_path, "ps", "--json").stdout)[0]["state"] == "died"
    assert "journal_damaged" in ask(tmp_path, "report").stdout


def test_one_damaged_journal_does_not_hide_the_other_runs(tmp_path: Path) -> None:
    folder = run_on_disk(tmp_path, *HAPPENED)
    with (folder / "journal/000001.jsonl").open("a") as file:
        file.write("not a record\n")
    told = ask(tmp_path, "ps", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)[0]["name"] == "amber-fox"


def test_logs_tell_a_line_an_event_without_its_escapes(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    told = ask(tmp_path, "logs", "amber", "--output").stdout
    assert "python3 count.py" in told
    assert "exit 3" in told
    assert "no such file" in told
    assert "\x1b" not in told
    assert "\x07" not in told


def test_following_an_ended_run_ends(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    assert "rejected" in ask(tmp_path, "logs", "-f").stdout


def test_following_a_dead_run_ends(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED[:6])
    assert "python3 count.py" in ask(tmp_path, "logs", "-f").stdout


def test_logs_for_programs_are_the_journals_lines(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    rows = [json.loads(row) for row in ask(tmp_path, "logs", "--json").stdout.splitlines()]
    assert [row["type"] for row in rows] == [event.type for event in HAPPENED]
    only = ask(tmp_path, "journal", "show", "--type", "settled", "--json").stdout.splitlines()
    assert [json.loads(row)["amounts"]["usd"] for row in only] == [410_000_000]


def test_every_event_is_shown_with_its_fields(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    told = ask(tmp_path, "journal", "show").stdout
    assert "account_opened" in told
    assert "410000000" in told
    assert "\x1b" not in told


def test_a_journal_is_verified_against_a_head_that_one_holds(tmp_path: Path) -> None:
    folder = run_on_disk(tmp_path, *HAPPENED)
    proof = json.loads(ask(tmp_path, "journal", "verify", "--json").stdout)
    assert (proof["ok"], proof["records"]) == (True, len(HAPPENED))
    assert ask(tmp_path, "journal", "verify", "amber-fox", "--head", proof["head"]).returncode == 0
    segment = folder / "journal/000001.jsonl"
    segment.write_text("".join(segment.read_text().splitlines(keepends=True)[:-1]))
    assert ask(tmp_path, "journal", "verify").returncode == 0
    assert ask(tmp_path, "journal", "verify", "--head", proof["head"]).returncode == 1


def test_an_altered_record_is_named(tmp_path: Path) -> None:
    folder = run_on_disk(tmp_path, *HAPPENED)
    segment = folder / "journal/000001.jsonl"
    segment.write_text(segment.read_text().replace("410000000", "110000000"))
    told = ask(tmp_path, "journal", "verify")
    assert told.returncode == 1
    assert "record 4" in told.stdout


def test_a_head_that_one_holds_is_found_within_the_chain(tmp_path: Path) -> None:
    folder = run_on_disk(tmp_path, *HAPPENED)
    heads = [json.loads(line)["prev"] for line in (folder / "journal/000001.jsonl").read_text().splitlines()]
    assert ask(tmp_path, "journal", "verify", "--from", heads[3]).returncode == 0
    other = ask(tmp_path, "journal", "verify", "--from", "0123456789abcdef")
    assert other.returncode == 1 and "the head that you hold is not there" in other.stdout


def test_a_journal_that_does_not_agree_with_itself_is_told_with_the_record(tmp_path: Path) -> None:
    run_on_disk(tmp_path / "sound", *HAPPENED)
    told = ask(tmp_path / "sound", "journal", "verify")
    assert told.returncode == 0, told.stdout + told.stderr
    assert all(f"✓ {check}" in told.stdout for check in ("ledger", "calls", "commands")) and "$0.41" in told.stdout
    ended = events.RunEnded("rejected", {"spent": {"usd": 400_000_000}})
    run_on_disk(tmp_path / "other", *(one for one in HAPPENED[:-1] if not isinstance(one, events.CommandEnded)), ended)
    told = ask(tmp_path / "other", "journal", "verify")
    assert told.returncode == 1
    assert "ledger: record 7: the ending says that 400000000 usd were spent" in told.stdout
    assert "commands: record 6: command 1 started and never ended" in told.stdout
    facts = json.loads(ask(tmp_path / "other", "journal", "verify", "--json").stdout)
    assert facts["ok"] and [(one["check"], one["seq"]) for one in facts["findings"]] == [("ledger", 7), ("commands", 6)]


@pytest.mark.parametrize("verb", ["freeze", "resume"])
def test_the_brake_of_a_run_that_ended_says_so(tmp_path: Path, verb: str) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    told = ask(tmp_path, verb, "amber-fox", "--json")
    assert json.loads(told.stdout)["error"]["code"] == "not_running"
    assert json.loads(ask(tmp_path, verb, "--json").stdout)["error"]["code"] == "nothing_lives", "without a name: whatever lives"


def test_kill_without_a_terminal_wants_the_whole_name(tmp_path: Path) -> None:
    run_on_disk(tmp_path, *HAPPENED)
    told = ask(tmp_path, "kill", "amber")
    assert told.returncode == 2
    assert "gearcase kill amber-fox" in told.stderr
    assert "not_running" in ask(tmp_path, "kill", "amber-fox").stderr
