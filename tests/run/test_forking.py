"""Another run begins from a snapshot of one: its files, the same box, another goal, on record."""

import json
import shutil
import subprocess

WORK = {"commands": ["mkdir out; echo one > out/x; sleep 1.5"]}
MORE = {"commands": ["echo two > out/x; echo y > out/y; gear done"]}
LOOK = {"commands": ["ls out > out/seen; cat out/x given.txt >> out/seen; gear done"]}


def first(stage, *more):
    (stage.work / "given.txt").write_text("given\n")
    model = stage.script(WORK, MORE, name="first")
    box = ["--model", model, "--take", "out/**", "--give", "given.txt", "--name", "amber-fox", "--usd", "1"]
    return stage.types("run", "the first goal", *box, *more, "--json", code=0)


def test_a_run_begins_from_a_snapshot_of_one_that_has_ended(stage):
    first(stage)
    (stage.work / "given.txt").unlink()
    other = ["--model", stage.script(LOOK, name="other"), "--name", "red-fox", "--out", "b", "--usd", "0.50"]
    done = stage.types("fork", "amber-fox", "another goal", "--at", "k1", *other, "--json", code=0)
    record = json.loads(done.stdout)
    assert record["status"] == "unverified"
    assert (stage.work / "b/out/seen").read_text() == "seen\nx\none\ngiven\n"
    report = json.loads(stage.types("report", "red-fox", "--json", code=0).stdout)
    assert report["forked_from"] == {"name": "amber-fox", "snapshot": "k1"} and report["goal"] == "another goal"
    assert "forked from amber-fox at k1" in stage.types("report", "red-fox", code=0).stdout
    assert "begins from amber-fox at k1" in stage.types("logs", "red-fox", code=0).stdout
    (row,) = [one for one in json.loads(stage.types("ps", "--json", code=0).stdout) if one["name"] == "red-fox"]
    assert (row["forked_from"], row["at"], row["limits"]["usd"]) == ("amber-fox", "k1", 500_000_000)
    rows = json.loads(stage.types("snapshots", "red-fox", "--json", code=0).stdout)
    assert rows[0]["snapshot"] == "s0" and rows[0]["files"] == 2


def test_without_a_name_it_begins_where_the_other_ended_and_a_wrong_one_starts_nothing(stage):
    first(stage)
    other = ["--model", stage.script(LOOK, name="other"), "--out", "b", "--json"]
    stage.types("fork", "amber-fox", "go on", *other, code=0)
    assert (stage.work / "b/out/seen").read_text() == "seen\nx\ny\ntwo\ngiven\n"
    refused = stage.types("fork", "amber-fox", "go on", "--at", "k99", *other, code=2)
    assert "no_snapshot" in refused.stdout and len(list(stage.state.glob("gearcase/runs/*"))) == 2


def test_the_change_of_a_repository_is_told_from_where_it_was_given(stage):
    repository = stage.work / "project"
    repository.mkdir()
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(repository)]
    (repository / "a").write_text("one\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    model = stage.script({"commands": ["echo two >> project/a; sleep 1.5"]}, {"commands": ["gear done"]}, name="first")
    box = ["--give", "project", "--take", "project/**", "--usd", "1", "--model", model, "--name", "amber-fox", "--json"]
    stage.types("run", "g", *box, code=0)
    other = stage.script({"commands": ["echo three >> project/a; gear done"]}, name="other")
    stage.types("fork", "amber-fox", "h", "--model", other, "--name", "red-fox", "--out", "b", "--json", code=0)
    assert "+two\n+three\n" in stage.types("diff", "red-fox", code=0).stdout
    applied = stage.types("apply", "red-fox", code=0)
    branch = subprocess.run([*git, "branch", "--list"], check=True, capture_output=True, text=True).stdout
    assert "red-fox" in branch, applied.stdout
    shutil.rmtree(repository)


def test_a_run_that_lives_is_forked_at_this_moment_and_goes_on(stage):
    model = stage.script({"commands": ["mkdir out; echo one > out/x; sleep 20; echo two >> out/x; gear done"]}, name="first")
    run = stage.starts("run", "g", "--model", model, "--take", "out/**", "--name", "amber-fox", "--out", "a", "--json")
    stage.until(lambda: stage.has("step_kept"))
    other = stage.script({"commands": ["echo other >> out/x; gear done"]}, name="other")
    stage.types("fork", "amber-fox", "h", "--model", other, "--out", "b", "--json", code=0)
    out, err = run.communicate(timeout=60)
    assert json.loads(out)["status"] == "unverified", err
    assert (stage.work / "a/out/x").read_text() == "one\ntwo\n"
    assert (stage.work / "b/out/x").read_text() == "one\nother\n"
