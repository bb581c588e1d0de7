"""Old runs go whole, living ones never."""

import json
import os

from gearcase import events
from gearcase.run.pruning import old_runs, prune, sweep
from gearcase.runs import all_runs, own

BEGUN = events.RunStarted("ab12cd34", "amber-fox", "g", "ab", "0.1.0", "boot", {})
ENDED = events.RunEnded("accepted", {"status": "accepted"})


def test_a_run_that_ended_goes_whole_and_one_that_lives_stays(journal_of, stage):
    old, alive = journal_of(BEGUN, ENDED), journal_of(BEGUN, name="still-here", identity="99999999")
    (old.path / "blobs/ab").mkdir(parents=True)
    (old.path / "blobs/ab/cd").write_bytes(b"x" * 5000)
    (old.path / "blobs").chmod(0o500)
    (old.path / "out").symlink_to(stage.work)
    (stage.work / "mine").write_text("stays")
    owner = own(alive)
    assert old_runs(2.0) == [old] and not old_runs(1.0)
    assert prune(old) and not prune(alive)
    owner.release()
    assert [run.name for run in all_runs()] == ["still-here"] and not old.path.exists()
    assert (stage.work / "mine").read_text() == "stays"
    assert not list(old.path.parent.glob(".gone*"))


def test_what_was_half_removed_is_no_run_and_goes_with_the_next(journal_of, stage):
    old = journal_of(BEGUN, ENDED)
    gone = old.path.rename(old.path.with_name(f".gone-{old.id}"))
    (gone / "run.json").unlink()
    assert all_runs() == []
    sweep()
    assert not gone.exists()


def test_a_run_that_died_is_put_in_order_before_it_goes(journal_of, stage):
    dead = journal_of(BEGUN)
    assert prune(dead) and not dead.path.exists()


def test_a_run_whose_record_is_damaged_goes_too(journal_of, stage):
    dead = journal_of(BEGUN, BEGUN)
    segment = dead.journal / "000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"g"', b'"h"', 1))
    assert prune(dead) and not dead.path.exists()


def test_prune_says_what_would_go_and_asks_first(stage):
    stage.types("run", "g", "--model", stage.script({"commands": ["gear done"]}), "--name", "first", code=0)
    assert "no run" in stage.types("prune", code=0).stdout
    assert "first" in stage.types("prune", "--older-than", "0s", "--dry-run", code=0).stdout
    assert "--yes" in stage.types("prune", "--older-than", "0s", code=2).stderr
    [told] = json.loads(stage.types("prune", "--older-than", "0s", "--yes", "--json", code=0).stdout)
    assert (told["name"], told["removed"]) == ("first", True) and told["bytes"] > 0
    assert json.loads(stage.types("ps", "--json", code=0).stdout) == []
    assert os.listdir(stage.state / "gearcase/runs") == []
