"""States of a tree on disk: each costs what changed, and all of them are read back as they were."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.errors import Refused, RunError, UsageError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Entry, Manifest, difference
from gearcase.sandbox.pool import Pool
from gearcase.sandbox.snapshots import restore, scan
from gearcase.sandbox.states import State, StateLog, States
from gearcase.sandbox.trees import remove_contents

ROOM = 1 << 20
NAMES = st.sampled_from([b"a", b"b", b"c.txt", b"\xff\xfe", b"new\nline", "ä".encode()])
TREES = st.recursive(st.binary(max_size=8), lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=12).filter(
    lambda tree: isinstance(tree, dict)
)


def write(folder: bytes, tree):
    for name, what in tree.items():
        path = os.path.join(folder, name)
        if isinstance(what, dict):
            os.mkdir(path)
            write(path, what)
        else:
            Path(os.fsdecode(path)).write_bytes(what)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    folder.mkdir()
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield folder, root
    os.close(root)


def kept(log, name, files, **facts):
    log.append(State(name, 1.0, **facts), files, difference(log.last, files), ROOM)


@settings(max_examples=60, deadline=None)
@given(st.lists(TREES, min_size=1, max_size=5))
def test_every_state_is_read_back_as_it_was(tmp_path_factory, trees):
    folder = tmp_path_factory.mktemp("states")
    place, store = folder / "tree", BlobStore(folder / "blobs")
    place.mkdir()
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    log, scanned = StateLog(folder / "states"), {}
    try:
        for number, one in enumerate(trees):
            remove_contents(root)
            write(os.fsencode(place), one)
            scanned[f"a{number}"] = files = scan(root, store)
            if number == 0:
                log.begin(State("a0", 0.0), files)
            else:
                kept(log, f"a{number}", files)
        read = States(folder / "states")
        assert list(read.states) == (list(scanned) if len(trees) > 1 else [])
        for name in read.states:
            assert read.manifest(name).digest == scanned[name].digest
            assert set(read.digests({name})) == set(scanned[name].digests())
        back = restore(root, read.manifest("a0"), store) if read.states else ()
        assert back == () and (not read.states or scan(root, store).digest == scanned["a0"].digest)
    finally:
        os.close(root)


def test_a_state_costs_what_changed(tree, tmp_path):
    folder, root = tree
    for number in range(500):
        (folder / f"{number}").write_text("x")
    store, log = BlobStore(tmp_path / "blobs"), StateLog(tmp_path / "states")
    log.begin(State("s0", 0.0), scan(root, store))
    (folder / "7").write_text("y")
    kept(log, "a1", scan(root, store))
    whole = log.bytes
    (folder / "8").write_text("y")
    kept(log, "a2", scan(root, store))
    assert log.bytes - whole < whole / 50


def test_what_was_torn_was_never_written_and_what_is_altered_is_refused(tree, tmp_path):
    folder, root = tree
    path, store = tmp_path / "states", BlobStore(tmp_path / "blobs")
    log = StateLog(path)
    log.begin(State("s0", 0.0), scan(root, store))
    (folder / "a").write_text("one")
    kept(log, "a1", scan(root, store))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"state":{"name":"a2"')
    assert list(States(path).states) == ["s0", "a1"]
    path.write_bytes(whole.replace(b'["a","file"', b'["../a","file"'))
    with pytest.raises(RunError) as caught:
        States(path).manifest("a1")
    assert caught.value.code == "bad_manifest"
    path.write_bytes(b"[]\n")
    with pytest.raises(RunError):
        States(path)


def test_names_that_are_too_long_to_keep_are_given_up_before_they_are_joined(tmp_path):
    entries = [Entry(b"d" * 255, None, "directory", 0o755)]
    for _ in range(3000):
        entries.append(Entry(b"d" * 255, entries[-1], "directory", 0o755))
    log = StateLog(tmp_path / "states")
    log.begin(State("s0", 0.0), Manifest())
    with pytest.raises(Refused) as caught:
        kept(log, "a1", Manifest(tuple(entries)))
    assert caught.value.code == "not_kept" and not (tmp_path / "states").exists()


def test_one_whose_contents_are_gone_is_a_list_of_names(tree, tmp_path):
    folder, root = tree
    store, log = BlobStore(tmp_path / "blobs"), StateLog(tmp_path / "states")
    log.begin(State("s0", 0.0), scan(root, store))
    (folder / "a").write_text("one")
    kept(log, "a1", scan(root, store))
    log.gone(["a1"])
    states = States(tmp_path / "states")
    assert states.manifest("a1").find(b"a") is not None and not states.kept("a1")
    for name, code in (("a1", "not_kept"), ("a9", "no_snapshot")):
        with pytest.raises(UsageError) as caught:
            states.require(name)
        assert caught.value.code == code
    assert json.loads((tmp_path / "states").read_text().splitlines()[0])["format"] == "gearcase-states/1"


def test_a_pool_keeps_what_fits_and_only_tells_apart_what_does_not(tree, tmp_path):
    folder, root = tree
    below = BlobStore(tmp_path / "blobs")
    (folder / "given").write_bytes(b"g" * 5000)
    start = scan(root, below)
    pool = Pool(tmp_path / "pool", below, 10_000)
    (folder / "same").write_bytes(b"g" * 5000)
    (folder / "small").write_bytes(b"s" * 4000)
    (folder / "large").write_bytes(b"l" * 9000)
    (folder / "later").write_bytes(b"z" * 3000)
    files = scan(root, pool, start)
    assert pool.size <= 10_000 and pool.lacking(files) == 7000
    for path in (b"given", b"same"):
        assert pool.store.read(files.find(path).digest, 10_000) == b"g" * 5000, "what lies below takes no room"
    (folder / "large").unlink()
    pool.prune(frozenset())
    assert pool.size == 0
    again = scan(root, pool, files, mapped=pool.unread(files))
    assert (pool.size, pool.lacking(again)) == (7000, 0), "what fits by now is read again"
