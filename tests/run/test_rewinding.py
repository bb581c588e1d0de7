"""A run's files go back to a snapshot, by the operator: shown first, asked, told to the agent; in order with all that goes on."""

import asyncio
import json

import pytest

from gearcase.control import command
from gearcase.errors import Refused
from gearcase.run.options import RunOptions
from gearcase.sandbox.states import States

DONE = {"commands": ["gear done"]}
WORK = {"commands": ["mkdir out; echo good > out/x; sleep 2"]}
SPOIL = {"commands": ["echo bad > out/x; echo more > out/y; sleep 30"]}
LOOK = {"commands": ["cat out/x > out/found; ls out >> out/found; cat /box/history/*.txt > out/said; gear done"]}


async def until(found, seconds=30.0):
    for _ in range(int(seconds / 0.05)):
        if answer := found():
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("not in time")


def holding(folder, path):
    """Names of kept states that hold a path."""
    states = States(folder.states)
    return [name for name in states.states if states.kept(name) and states.manifest(name).find(path) is not None]


async def ask(folder, verb, **arguments):
    return await asyncio.to_thread(command, folder, verb, **arguments)


async def spoiled(folder):
    """Wait until the second command has spoiled what the first made; returns the name of the good state."""
    good = (await until(lambda: holding(folder, b"out/x")))[0]
    while True:
        name = (await ask(folder, "snapshot"))["snapshot"]
        if States(folder.states).manifest(name).find(b"out/y") is not None:
            return good
        await asyncio.sleep(0.1)


def test_files_go_back_programs_end_and_the_agent_is_told(stage):
    said = {}

    async def beside(folder):
        good = await spoiled(folder)
        said["plan"] = await ask(folder, "rewind_plan", to=good)
        assert (await ask(folder, "status"))["level"] == "frozen"
        said["done"] = await ask(folder, "rewind", to=good)
        assert (await ask(folder, "status"))["level"] == "frozen", "it stays frozen until it is resumed"
        await ask(folder, "resume")

    played = stage.execute(RunOptions(box=stage.box(WORK, SPOIL, LOOK), out=stage.work / "result"), beside)
    assert played.record.status == "unverified", played.record
    assert (played.out / "out/found").read_text() == "good\nfound\nx\n"
    told = (played.out / "out/said").read_text()
    assert "[from the operator: your files were returned to snapshot k1" in told and "out/y" in told
    assert said["done"]["ended"] >= 1 and said["done"]["kept"] == "s1"
    (event,) = [record.event for record in played.records("rewound")]
    assert (event.by, event.kept, event.added, event.changed) == ("operator", "s1", 1, 1)
    left = States(played.folder.states).manifest("s1")
    assert left.find(b"out/y") is not None, "what was undone is kept"


def test_an_agent_that_was_held_between_two_turns_hears_of_the_return_with_the_very_next_one(stage):
    """Its next request is made when it goes on, not when it was held: it must not act on files that are gone."""
    told = {"when": "[from the operator: your files were returned", "commands": ["mkdir out; echo told > out/found; gear done"]}
    untold = {"commands": ["mkdir -p out; echo untold > out/found; gear done"]}

    async def beside(folder):
        await until(lambda: b'"command_started"' in (folder.journal / "000001.jsonl").read_bytes())
        await ask(folder, "freeze", latch=True)
        await until(lambda: b'"command_ended"' in (folder.journal / "000001.jsonl").read_bytes())
        await ask(folder, "rewind", to="s0")
        await ask(folder, "resume")

    played = stage.execute(RunOptions(box=stage.box(WORK, untold, told), out=stage.work / "result"), beside)
    assert (played.out / "out/found").read_text() == "told\n"


def test_a_program_that_was_removing_files_does_not_go_on_with_it(stage):
    (stage.work / "data").mkdir()
    for number in range(300):
        (stage.work / f"data/{number}").write_text("x")
    remove = {"commands": ["for f in data/*; do rm $f; sleep 0.02; done"]}

    async def beside(folder):
        await until(lambda: folder.states.exists() and States(folder.states).last.removed)
        await ask(folder, "rewind", to="s0")
        await ask(folder, "resume")

    look = {"commands": ["mkdir out; sleep 1; ls data | wc -l > out/found; gear done"]}
    options = RunOptions(box=stage.box(remove, look, give=[stage.work / "data"]), out=stage.work / "result", answered=True)
    played = stage.execute(options, beside)
    assert (played.out / "out/found").read_text() == "300\n"


def test_what_is_not_there_is_refused_and_nothing_is_undone(stage):
    async def beside(folder):
        await until(lambda: holding(folder, b"out/x"))
        with pytest.raises(Refused) as caught:
            await ask(folder, "rewind", to="k99")
        assert caught.value.code == "no_snapshot" and "s0" in caught.value.remedy
        await ask(folder, "resume")

    played = stage.execute(RunOptions(box=stage.box(WORK, DONE), out=stage.work / "result"), beside)
    assert (played.out / "out/x").read_text() == "good\n" and not played.records("rewound")


def test_sub_agents_that_live_are_told_of_and_stopped_if_asked(stage):
    spawn = {"commands": ["mkdir out; gear spawn 'make it' --background --take 'out/**' --usd 0.2; echo good > out/x; sleep 60"]}
    child = {"commands": ["mkdir -p out; echo child > out/child; sleep 50; gear done"], "when": "make it"}
    look = {"commands": ["ls out > out/found; gear agents > out/agents; gear done"]}
    said = {}

    async def beside(folder):
        await until(lambda: b'"type":"agent_spawned"' in (folder.journal / "000001.jsonl").read_bytes())
        await asyncio.sleep(2)
        good = (await ask(folder, "snapshot"))["snapshot"]
        said["plan"] = await ask(folder, "rewind_plan", to=good)
        said["done"] = await ask(folder, "rewind", to=good, children="stop")
        await ask(folder, "resume")

    played = stage.execute(RunOptions(box=stage.box(spawn, child, look), out=stage.work / "result"), beside)
    assert [one["agent"] for one in said["plan"]["agents"]] == ["a1"]
    assert [one["agent"] for one in said["done"]["stopped"]] == ["a1"]
    assert "child" not in (played.out / "out/found").read_text().split()
    (ended,) = [record.event for record in played.records("agent_returned")]
    assert ended.status == "stopped" and "operator" in ended.detail
    assert played.record.residue == []


# --- from the command line -------------------------------------------------------------------------------------------------------


def test_it_asks_shows_the_difference_and_needs_yes_without_a_terminal(stage):
    script = stage.script(WORK, SPOIL, LOOK)
    run = stage.starts("run", "g", "--model", script, "--take", "out/**", "--name", "amber-fox", "--out", "result", "--json")
    stage.until(lambda: stage.has("step_kept"))
    refused = stage.types("rewind", "amber-fox", "--to", "s0", code=2)
    assert "--yes" in refused.stderr and "running" in stage.types("ps", code=0).stdout, "and nothing was frozen"
    stage.until(lambda: "out/y" in stage.types("diff", "amber-fox", "k1", "--stat", code=0).stdout)
    assert "-good\n+bad\n" in stage.types("diff", "amber-fox", "k1", "now", code=0).stdout
    done = stage.types("rewind", "amber-fox", "--to", "k1", "--yes", code=0)
    assert "out/y" in done.stderr and "added" in done.stderr and "gearcase resume amber-fox" in done.stdout
    assert "frozen" in stage.types("ps", code=0).stdout
    stage.types("resume", "amber-fox", code=0)
    out, err = run.communicate(timeout=60)
    assert json.loads(out)["status"] == "unverified", err
    assert (stage.work / "result/out/found").read_text() == "good\nfound\nx\n"
    rows = json.loads(stage.types("diff", "amber-fox", "--json", code=0).stdout)
    assert (rows["from"], {one["path"]: one["change"] for one in rows["files"]}["out/x"]) == ("s0", "added")
    assert "rewind" in stage.types("logs", "amber-fox", code=0).stdout


def test_two_snapshots_of_a_run_that_has_ended_are_compared_text_by_lines_and_the_rest_by_size(stage):
    first = "mkdir -p out .git; echo one > out/x; head -c 3000 /dev/zero > out/bin; echo a > moved; echo g > .git/x; sleep 1.5"
    second = (
        "echo two > out/x; printf '\\0' >> out/bin; mv moved out/moved; rm -r .git; chmod 700 out/x; ln -s x out/link; gear done"
    )
    model = stage.script({"commands": [first]}, {"commands": [second]})
    stage.types("run", "g", "--model", model, "--take", "out/**", "--name", "amber-fox", "--json", code=0)
    told = stage.types("diff", "amber-fox", "k1", "now", code=0)
    assert "-one\n+two\n" in told.stdout and "(no text: 3,000 bytes became 3,001 bytes)" in told.stdout
    assert "moved out/moved (from moved)" in told.stdout and "added out/link (link)" in told.stdout
    assert ".git" not in told.stdout and "below .git" in told.stderr
    rows = {one["path"]: one for one in json.loads(stage.types("diff", "amber-fox", "k1", "--json", code=0).stdout)["files"]}
    assert (rows["out/bin"]["size_before"], rows["out/bin"]["size"], rows["out/x"]["change"]) == (3000, 3001, "changed")
    assert "+two" in rows["out/x"]["diff"]
    assert "no_snapshot" in stage.types("diff", "amber-fox", "k77", code=2).stderr
    ended = stage.types("rewind", "amber-fox", "--to", "k1", "--yes", code=13)
    assert "not_running" in ended.stderr


def test_a_sub_agent_that_hands_in_meanwhile_does_so_before_or_after_never_in_the_middle(stage):
    spawn = "mkdir out; echo good > out/x; gear spawn 'make it' --background --take 'made/**' --usd 0.2; sleep 60"
    make = "mkdir -p made; for n in $(seq 400); do echo $n > made/$n; done; sleep 1; gear done"
    child = {"commands": [make], "when": "make it"}
    look = {"commands": ["sleep 3; ls made 2>/dev/null | wc -l > out/found; gear done"]}

    async def beside(folder):
        journal = folder.journal / "000001.jsonl"
        await until(lambda: b'"type":"agent_spawned"' in journal.read_bytes())
        good = (await ask(folder, "snapshot"))["snapshot"]
        await until(lambda: b'"operation":"done"' in journal.read_bytes())
        await ask(folder, "rewind", to=good)
        await ask(folder, "resume")

    played = stage.execute(RunOptions(box=stage.box({"commands": [spawn]}, child, look), out=stage.work / "result"), beside)
    left = States(played.folder.states).manifest("s1")
    before = sum(entry.path.startswith(b"made/") for entry in left.entries)
    after = int((played.out / "out/found").read_text())
    assert (before, after) in ((400, 0), (0, 400)), "as a whole, on one side of the return"
    assert played.record.residue == []
