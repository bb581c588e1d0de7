"""Snapshots that are kept by themselves: after commands that changed files, within a limit, cheaply."""

import json
import os
import time

import pytest

from gearcase.box import Override
from gearcase.run.steps import Steps
from gearcase.runs import RunFolder
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import difference
from gearcase.sandbox.snapshots import restore, scan
from gearcase.sandbox.states import States

MB = 1 << 20
DONE = {"commands": ["gear done"]}


class Tree:
    """A run's folder and a tree whose states are kept."""

    def __init__(self, folder, most, seconds=1000.0):
        self.place = folder / "tree"
        self.place.mkdir()
        self.root = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        (self.place / "given").write_text("given")
        self.run = RunFolder("id", "name", "goal", 0.0, folder)
        store = BlobStore(self.run.blobs)
        self.seen = scan(self.root, store)
        self.steps = Steps(self.run, store, most, seconds)
        self.steps.begin(self.seen)
        self.count = 0

    def step(self, before_loss=False, **files):
        """Write files, and look."""
        for name, size in files.items():
            (self.place / name).write_bytes(os.urandom(size))
        self.count += 1
        files = self.steps.look(self.root, self.seen)
        before, self.seen = self.seen, files
        return self.steps.keep(files, before, difference(before, files), self.count, False, before_loss)

    def whole(self):
        states = States(self.run.states)
        return [name for name in states.states if states.kept(name)]

    def kinds(self):
        return [event.type for event in self.steps.events]


@pytest.fixture
def tree(tmp_path):
    made = []

    def make(most=10 * MB, **options):
        made.append(Tree(tmp_path, most, **options))
        return made[-1]

    yield make
    for one in made:
        os.close(one.root)


def test_the_oldest_go_when_room_is_short_and_what_stays_can_be_returned_to(tree):
    one = tree(most=8 * MB)
    contents = {}
    for _ in range(30):
        name = one.step(work=MB)
        contents[name] = (one.place / "work").read_bytes()
        assert one.steps.pool.size <= 8 * MB
    stay = one.whole()
    assert stay[0] == "s0" and stay[-1] == "k30" and 3 <= len(stay) <= 8 and "k1" not in stay
    for name in stay[1:]:
        restore(one.root, one.steps.files_of(name), one.steps.store)
        assert (one.place / "work").read_bytes() == contents[name] and (one.place / "given").read_text() == "given"
    pruned = [event for event in one.steps.events if event.type == "steps_pruned"]
    assert pruned and pruned[0].why == "size" and pruned[0].snapshots[0] == "k1"


def test_one_that_stood_before_given_files_were_lost_is_never_pruned(tree):
    one = tree(most=8 * MB)
    one.step(work=MB)
    one.step(work=MB)
    (one.place / "given").unlink()
    one.step(before_loss=True)
    for _ in range(30):
        one.step(work=MB)
    assert "k2" in one.whole() and "k1" not in one.whole()
    assert (one.steps.files_of("k2").find(b"given")) is not None


def test_what_was_asked_for_stays(tree):
    one = tree(most=8 * MB)
    one.step(work=MB)
    asked = scan(one.root, BlobStore(one.run.blobs), one.seen, hash_all=True)
    one.steps.named("s1", "good", asked)
    for _ in range(20):
        one.step(work=MB)
    assert "s1" in one.whole()
    restore(one.root, one.steps.files_of("s1"), one.steps.store)


def test_they_grow_old(tree):
    one = tree(seconds=0.24)
    one.step(work=10)
    time.sleep(0.3)
    one.step(work=10)
    assert one.whole() == ["s0", "k2"]
    assert [event.why for event in one.steps.events if event.type == "steps_pruned"] == ["age"]


def test_what_has_no_room_is_known_by_name_alone_and_is_kept_once_there_is(tree):
    one = tree(most=4 * MB)
    assert one.step(large=5 * MB, small=10) == "k1"
    (kept,) = one.steps.events
    assert (kept.lacking, kept.kept) == (5 * MB, 10)
    assert one.whole() == ["s0"] and one.steps.pool.size == 10
    assert States(one.run.states).manifest("k1").find(b"large").size == 5 * MB
    (one.place / "large").unlink()
    assert one.step() == "k2" and one.whole() == ["s0", "k2"]


def test_nothing_new_is_nothing_kept(tree):
    one = tree()
    assert one.step() == "s0"
    assert one.step(work=10) == "k1"
    assert one.step() == "k1" and one.kinds() == ["step_kept"]


# --- whole runs ------------------------------------------------------------------------------------------------------------------


def test_after_commands_that_change_files_there_is_a_snapshot(stage):
    steps = [{"commands": ["mkdir out; echo one > out/x; sleep 2"]}, {"commands": ["true"]}]
    steps += [{"commands": ["echo two > out/x; sleep 0.3"]}, {"commands": ["gear rewind > out/list; sleep 0.3"]}, DONE]
    played = stage.play(*steps)
    states = States(played.folder.states)
    store = BlobStore(played.folder.pool, BlobStore(played.folder.blobs))
    found = [store.read(states.manifest(name).find(b"out/x").digest, 100) for name in states.states if name != "s0"]
    assert b"one\n" in found and found[-1] == b"two\n"
    assert next(iter(states.states)) == "s0" and set(states.states) - {"s0"} == {f"k{n}" for n in range(1, len(states.states))}
    told = [record.event for record in played.records("step_kept")]
    assert [one.snapshot for one in told] == list(states.states)[1:]
    assert told[0].added >= 1 and told[0].kept >= 4 and told[0].command >= 1
    assert "kept by itself" in (played.out / "out/list").read_text()


def test_the_end_of_a_run_is_kept_and_one_that_changes_nothing_keeps_nothing(stage):
    played = stage.play({"commands": ["mkdir out; echo last > out/x; gear done"]})
    states = States(played.folder.states)
    assert states.manifest(states.last.name).find(b"out/x") is not None
    other = stage.play({"commands": ["gear done"]}, out="other")
    assert not other.folder.states.exists() and not other.records("step_kept")


def test_an_agent_returns_to_one_that_was_kept_by_itself(stage):
    first = {"commands": ["mkdir out; echo one > out/x; sleep 0.5"]}
    back = "echo two > out/x; gear rewind k1 > /tmp/said; cat out/x /tmp/said > out/y; gear done"
    played = stage.play(first, {"commands": [back]})
    assert (played.out / "out/y").read_text().startswith("one\n")
    (event,) = [record.event for record in played.records("rewound")]
    assert (event.snapshot, event.by, event.kept) == ("k1", "agent", "s1")


def test_what_they_may_take_is_the_boxs_to_say(stage):
    more = [Override(("files", "snapshots_max"), "1MiB", "box")]
    work = {"commands": ["mkdir -p out; head -c 3000000 /dev/urandom > out/x; sleep 0.3"]}
    played = stage.play(work, DONE, more=more)
    assert [record.event.lacking for record in played.records("step_kept")][-1] == 3_000_000
    assert sum(file.stat().st_size for file in played.folder.pool.rglob("*") if file.is_file()) < MB


def test_they_are_listed_with_the_command_after_which_each_was_kept(stage):
    script = stage.script(
        {"commands": ["mkdir out; echo one > out/x; sleep 1"]}, {"commands": ["gear snapshot --note good"]}, DONE
    )
    stage.types("run", "g", "--model", script, "--take", "out/**", "--name", "amber-fox", "--json", code=0)
    rows = json.loads(stage.types("snapshots", "amber-fox", "--json", code=0).stdout)
    assert [rows[0]["snapshot"], rows[1]["snapshot"]] == ["s0", "k1"]
    assert rows[1]["kept"] and rows[1]["added"] >= 1 and "echo one" in rows[1]["text"]
    assert [one["note"] for one in rows if one["snapshot"] == "s1"] == ["good"]
    told = stage.types("snapshots", code=0)
    assert "k1" in told.stdout and "as given" in told.stdout
