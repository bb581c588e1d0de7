"""`kill -9` of a run's own process, and another run goes on: with its files, its conversation, and what is left of its limits."""

import json
import os
import shutil

import pytest

from gearcase.errors import RunError
from gearcase.run.again import Dead, heir_of, last_state
from gearcase.runs import RunFolder
from gearcase.sandbox.states import States

CUT = "[from Gearcase: the process that drove run amber-fox died"
FIRST = {"text": "I begin.", "commands": ["mkdir out; echo one > out/x; echo $((6*7)) found"]}
WAITS = {"text": "Now the long one.", "commands": ["until [ -e /workspace/never ]; do sleep 0.1; done"]}


def begins(stage, *steps, more=()):
    """A run that has done its first command, whose files are kept, and that is killed in its second."""
    (stage.work / "given.txt").write_text("given\n")
    model = stage.script(*steps, name="first")
    box = ["--model", model, "--take", "out/**", "--give", "given.txt", "--name", "amber-fox", "--usd", "1", "--out", "made"]
    watcher = stage.starts("run", "the goal", *box, *more, "--json")
    stage.until(lambda: len(lines(stage, "command_started")) == 2 and stage.has("step_kept"))
    stage.kill_the_run()
    watcher.communicate()


def lines(stage, type_, index=0):
    """The records of this type of a run, the oldest first."""
    found, begun = [], folders(stage)
    if not begun:
        return []
    for file in sorted((begun[index] / "journal").glob("*.jsonl")):
        found += [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [one for one in found if one["type"] == type_]


def folders(stage):
    files = stage.state.glob("gearcase/runs/*/run.json")
    return [file.parent for file in sorted(files, key=lambda file: json.loads(file.read_text())["created"])]


def requests(stage, index=-1):
    """What a run's model was asked first, as it stands in the cassette."""
    return (folders(stage)[index] / "cassette.jsonl").read_text()


HANDS_IN = {"when": CUT, "commands": ["cat given.txt >> out/x; gear done"]}


def test_its_agent_goes_on_with_its_conversation_on_the_files_of_the_last_snapshot(stage):
    begins(stage, FIRST, WAITS, HANDS_IN)
    (stage.work / "given.txt").unlink()
    done = stage.types("recover", code=0)
    assert "its files are those of snapshot k1" in done.stderr and "its agent goes on after 2 answers" in done.stderr
    assert (stage.work / "made/out/x").read_text() == "one\ngiven\n"
    asked = requests(stage)
    for part in ("I begin.", "42 found", "Now the long one.", "and how far it came, is not known", CUT):
        assert part in asked
    assert "after your answer 2 in it" in asked and "Your files are those of its snapshot k1, the last that was kept" in asked
    assert "Under way at that moment, with no known result: until [ -e" in asked
    [continues] = lines(stage, "run_continues", -1)
    assert (continues["snapshot"], continues["turns"], continues["name"]) == ("k1", 2, "amber-fox")
    [forked] = lines(stage, "run_forked", -1)
    assert (forked["name"], forked["snapshot"]) == ("amber-fox", "k1")
    assert (
        "goes on for amber-fox, whose process died; its conversation up to answer 2, files of its k1"
        in stage.types("logs").stdout
    )
    spent = [json.loads(stage.types("report", one.name, "--json", code=0).stdout) for one in folders(stage)]
    assert spent[0]["spent"]["usd"] + spent[1]["spent"]["usd"] + spent[1]["remaining"]["usd"] == 10**9


def test_who_goes_on_can_be_gone_on_for_and_knows_all_of_it(stage):
    again = {"when": CUT, "text": "Again.", "commands": WAITS["commands"]}
    name = "[from Gearcase: the process that drove run red-fox died"
    begins(stage, FIRST, WAITS, again, {"when": name, "commands": ["gear done"]})
    watcher = stage.starts("recover", "--json")
    stage.until(lambda: len(folders(stage)) == 2 and lines(stage, "command_started", 1))
    second = folders(stage)[1]
    facts = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**facts, "name": "red-fox"}))
    os.kill(json.loads((second / "owner").read_text())["pid"], 9)
    watcher.communicate()
    stage.types("recover", "red-fox", "--json", code=0)
    asked = requests(stage)
    places = [asked.index(part) for part in ("I begin.", "Now the long one.", CUT, "Again.", name)]
    assert places == sorted(places)
    assert (stage.work / "made/out/x").read_text() == "one\n"
    assert lines(stage, "run_continues", 2)[0]["turns"] == 3
    assert "went on as" in stage.types("recover", "amber-fox", code=2).stderr


def test_who_died_before_its_first_answer_is_gone_on_for_with_all_that_the_one_before_knew(stage):
    slow = {"when": CUT, "fault": "stall", "times": 1}
    begins(stage, FIRST, WAITS, slow, HANDS_IN)
    watcher = stage.starts("recover", "--json")
    stage.until(lambda: len(folders(stage)) == 2 and lines(stage, "sent", 1))
    second = folders(stage)[1]
    os.kill(json.loads((second / "owner").read_text())["pid"], 9)
    watcher.communicate()
    (stage.folder / "script-first.json").write_text(
        json.dumps([{"when": "died before your first answer", "commands": ["gear done"]}])
    )
    stage.types("recover", "--json", code=0)
    asked = requests(stage)
    assert "I begin." in asked and asked.count("[from Gearcase: the process that drove run") == 2
    assert (stage.work / "made/out/x").read_text() == "one\n"


def test_its_answers_count_for_both(stage):
    begins(stage, FIRST, WAITS, HANDS_IN, more=("--steps", "2"))
    told = stage.types("recover", "--json", code=2)
    assert json.loads(told.stdout)["error"]["code"] == "nothing_left" and "steps" in told.stdout
    assert len(folders(stage)) == 1, "nothing was begun"


def test_a_program_begins_again_on_the_files_of_the_last_snapshot(stage):
    (stage.work / "box.toml").write_text('[files]\ntake = ["out"]\n')
    program = "echo go >> times; test $(wc -l < times) = 2 && cp times out && exit; sleep 1000"
    watcher = stage.starts("exec", "--json", "--", "sh", "-c", program)
    stage.until(lambda: stage.run_folder() and stage.has("step_kept"))
    stage.kill_the_run()
    watcher.communicate()
    done = stage.types("recover", code=0)
    assert "its files are those of snapshot k1" in done.stderr and "the program begins again" in done.stderr
    assert not (folders(stage)[-1] / "conversation.jsonl").exists()


def test_where_no_snapshot_is_kept_what_was_given_is_given_again_and_that_is_said(stage):
    (stage.work / "given.txt").write_text("given\n")
    model = stage.script(
        {**WAITS, "text": "I wait."}, {"when": CUT, "commands": ["mkdir out; cp given.txt out; gear done"]}, name="first"
    )
    watcher = stage.starts(
        "run", "g", "--model", model, "--take", "out/**", "--give", "given.txt", "--name", "amber-fox", "--out", "made", "--json"
    )
    stage.until(lambda: stage.has("command_started"))
    stage.kill_the_run()
    watcher.communicate()
    (stage.work / "given.txt").write_text("newer\n")
    assert "what was given is given again" in stage.types("recover", code=0).stderr
    assert (stage.work / "made/out/given.txt").read_text() == "newer\n"
    assert "what you changed is gone" in requests(stage)


def test_a_snapshot_whose_contents_are_not_whole_is_passed_over(stage):
    begins(stage, FIRST, WAITS)
    path = folders(stage)[0]
    folder = RunFolder(path.name, "amber-fox", "g", 1.0, path)
    assert last_state(folder).name == "k1"
    (entry,) = [one for one in States(folder.states).manifest("k1").entries if one.path == b"out/x"]
    blob = next(
        store / entry.digest[:2] / entry.digest[2:]
        for store in (folder.pool, folder.blobs)
        if (store / entry.digest[:2] / entry.digest[2:]).exists()
    )
    blob.chmod(0o600)
    blob.write_bytes(b"")  # as a power cut leaves it
    assert last_state(folder).name == "s0"
    shutil.rmtree(folder.blobs)
    assert last_state(folder) is None


def test_a_conversation_that_cannot_be_read_starts_nothing_and_the_dead_run_can_still_be_gone_on_for(stage):
    begins(stage, FIRST, WAITS, {"when": "an earlier run of this goal, amber-fox, was cut off", "commands": ["gear done"]})
    kept = folders(stage)[0] / "conversation.jsonl"
    kept.write_text("nonsense\n")
    told = stage.types("recover", "--json", code=13)
    assert json.loads(told.stdout)["error"]["code"] == "conversation_unreadable"
    kept.unlink()
    assert "its agent begins again" in stage.types("recover", code=0).stderr
    assert (stage.work / "made/out/x").read_text() == "one\n"


def test_two_that_are_typed_at_once_are_one_run(stage):
    begins(stage, FIRST, WAITS, HANDS_IN)
    both = [stage.starts("recover", "amber-fox", "--json") for _ in range(2)]
    codes = sorted(one.wait(60) for one in both)
    for one in both:
        one.communicate()
    assert codes == [0, 2]


def test_a_disk_that_refuses_the_conversation_is_told_and_the_dead_run_can_still_be_gone_on_for(stage):
    begins(stage, FIRST, WAITS)
    path = folders(stage)[0]
    dead = Dead(RunFolder(path.name, "amber-fox", "g", 1.0, path), {})
    other = RunFolder("ff000000", "other", "g", 2.0, stage.folder / "other")
    (other.path / "conversation.jsonl").mkdir(parents=True)
    with pytest.raises(RunError) as caught:
        dead.take_over(other)
    assert str(other.path) in caught.value.message + caught.value.cause
    assert heir_of(dead.folder) is None


def test_what_a_sub_agent_hands_in_is_in_a_snapshot_before_its_ending_is_on_record(stage):
    child = {"when": "make it", "commands": ["mkdir -p out; echo made > out/y; gear done"]}
    lead = {"commands": ["mkdir out; echo one > out/x"]}, {"commands": ["gear spawn --usd 0.10 'make it'; gear done"]}
    played = stage.play(child, *lead)
    (returned,) = played.records("agent_returned")
    kept = [one.event.snapshot for one in played.records("step_kept") if one.seq < returned.seq]
    files = {entry.path for entry in States(played.folder.states).manifest(kept[-1]).entries}
    assert b"out/y" in files and returned.event.status == "done"
