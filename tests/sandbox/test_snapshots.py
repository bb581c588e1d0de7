"""Scanning a tree into a manifest, comparing manifests, going back to one."""

import json
import mmap
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.errors import RunError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.content import WHOLE, copy_content, digest_bytes
from gearcase.sandbox.manifest import Manifest, difference, is_digest
from gearcase.sandbox.snapshots import TICKS_NS, restore, scan, shared_mappings, text_difference
from gearcase.sandbox.textdiff import changes, hunks, split_lines
from gearcase.sandbox.trees import measure, remove_contents

ME = (os.geteuid(), os.getegid())


class Place:
    """A tree with a store beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.folder.mkdir()
        self.root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        self.blobs = folder / "blobs"
        self.store = BlobStore(self.blobs)

    def scan(self, previous: Manifest | None = None, **options: object) -> Manifest:
        return scan(self.root, self.store, previous, **options)  # type: ignore[arg-type]

    def settle(self) -> None:
        """Let so much time pass that a scan from now on trusts change times up to here."""
        time.sleep(TICKS_NS * 2 / 1e9)


@contextmanager
def place_in(folder: Path) -> Iterator[Place]:
    made = Place(folder)
    try:
        yield made
    finally:
        os.close(made.root)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made
        remove_contents(made.root)


# --- random trees

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: name not in (b".", b"..") and not set(name) & {0, ord("/")}
) | st.sampled_from([b"new\nline", b"\xff\xfe", b"-rf", b"\x1b[2J", b"n" * 255, "ä".encode(), b"\\", b'"'])
LONG = {
    "page": b"\0" * 5000,
    "dense": b"x" * (WHOLE + 10),
    "holes": b"\0" * WHOLE + b"end",
}  # by name, so that failures print well
CONTENTS = st.binary(max_size=40) | st.sampled_from(sorted(LONG))
LEAVES = (
    st.tuples(st.just("file"), CONTENTS, st.sampled_from([0o644, 0o755, 0o600, 0o000, 0o444]))
    | st.tuples(st.just("link"), st.binary(min_size=1, max_size=30).filter(lambda target: 0 not in target))
    | st.tuples(st.just("fifo"), st.sampled_from([0o600, 0o644]))
)
TREES = st.recursive(LEAVES, lambda below: st.dictionaries(NAMES, below, max_size=5), max_leaves=20).map(
    lambda tree: tree if isinstance(tree, dict) else {b"only": tree}
)


def plant(tree: dict, folder: bytes) -> None:
    for name, what in tree.items():
        path = os.path.join(folder, name)
        if isinstance(what, dict):
            os.mkdir(path)
            plant(what, path)
        elif what[0] == "file":
            with open(path, "wb") as file:
                file.write(LONG.get(what[1], what[1]))
            os.chmod(path, what[2])
        elif what[0] == "link":
            os.symlink(what[1], path)
        else:
            os.mkfifo(path)
            os.chmod(path, what[1])


@settings(max_examples=60, deadline=None)
@given(TREES, TREES)
def test_restoring_over_any_tree_brings_the_scanned_one_back(wanted, current):
    with TemporaryDirectory() as folder, place_in(Path(folder)) as place:
        plant(wanted, os.fsencode(place.folder))
        manifest = place.scan()
        restore(place.root, Manifest(), place.store, ME)
        assert os.listdir(place.folder) == []
        plant(current, os.fsencode(place.folder))
        assert restore(place.root, manifest, place.store, ME) == ()
        again = place.scan()
        assert again.digest == manifest.digest
        assert not difference(manifest, again)
        times = {entry.path: entry.mtime_ns for entry in again.entries}
        assert times == {entry.path: entry.mtime_ns for entry in manifest.entries}
        restore(place.root, Manifest(), place.store, ME)  # modes of 0 must not be in the way of the removal of the folder


@settings(max_examples=60, deadline=None)
@given(TREES, TREES)
def test_a_difference_is_empty_of_itself_and_accounts_for_every_path(first, second):
    with TemporaryDirectory() as folder, place_in(Path(folder)) as place:
        plant(first, os.fsencode(place.folder))
        before = place.scan()
        assert not difference(before, before)
        restore(place.root, Manifest(), place.store, ME)
        plant(second, os.fsencode(place.folder))
        after = place.scan()
        found = difference(before, after)
        old, new = {entry.path for entry in before.entries}, {entry.path for entry in after.entries}
        assert {entry.path for entry in found.added} | {pair.after.path for pair in found.moved} == new - old
        assert {entry.path for entry in found.removed} | {pair.before.path for pair in found.moved} == old - new
        assert {pair.after.path for pair in found.changed} <= old & new
        assert bool(found) == (before.digest != after.digest)
        restore(place.root, Manifest(), place.store, ME)


@settings(max_examples=40, deadline=None)
@given(TREES)
def test_a_manifest_survives_its_json_form(tree):
    with TemporaryDirectory() as folder, place_in(Path(folder)) as place:
        plant(tree, os.fsencode(place.folder))
        manifest = place.scan()
        again = Manifest.from_json(manifest.to_json())
        assert again.digest == manifest.digest and again.scanned_ns == manifest.scanned_ns
        assert [entry.path for entry in again.entries] == [entry.path for entry in manifest.entries]
        restore(place.root, Manifest(), place.store, ME)


# --- what a scan sees


def test_a_second_scan_reads_only_what_changed(place):
    for number in range(20):
        (place.folder / f"f{number}").write_text(f"content {number}")
    place.settle()
    first = place.scan()
    (place.folder / "f3").write_text("changed")
    changed_only = BlobStore(place.blobs.parent / "second")  # what a scan reads, it keeps: an empty store shows what was read
    second = scan(place.root, changed_only, first)
    assert [pair.after.path for pair in difference(first, second).changed] == [b"f3"]
    assert [entry.path for entry in second.entries if entry.digest in changed_only] == [b"f3"]


def test_a_change_within_two_ticks_of_the_scan_is_not_missed(place):
    """Same size, same times: only reading tells."""
    path = place.folder / "f"
    path.write_text("before")
    first = place.scan()
    found = os.stat(path)
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"after!", 0)
    os.close(descriptor)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert [pair.after.path for pair in difference(first, place.scan(first)).changed] == [b"f"]


def test_a_write_through_an_old_mapping_is_seen_when_the_mapping_is_known(place):
    path = place.folder / "f"
    path.write_bytes(b"a" * 4096)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as mapping:
        mapping[0:1] = b"b"  # the page is dirty from here on: later writes move no time
        place.settle()
        mapped = shared_mappings([os.getpid()])
        assert os.stat(path).st_ino in mapped
        first = place.scan(mapped=mapped)
        mapping[1:2] = b"c"
        second = place.scan(first, mapped=mapped)
        assert [pair.after.path for pair in difference(first, second).changed] == [b"f"]
        mapping[2:3] = b"d"
    third = place.scan(second)  # unmapped by now, and still read again
    assert [pair.after.path for pair in difference(second, third).changed] == [b"f"]


def test_hash_all_reads_what_times_call_unchanged(place):
    path = place.folder / "f"
    path.write_text("content")
    place.settle()
    first = place.scan()
    other = BlobStore(place.blobs.parent / "second")
    scan(place.root, other, first)
    assert first.find(b"f").digest not in other
    scan(place.root, other, first, hash_all=True)
    assert first.find(b"f").digest in other


def test_a_file_that_was_moved_is_no_loss(place):
    (place.folder / "a").mkdir()
    (place.folder / "a" / "kept").write_text("kept")
    (place.folder / "gone").write_text("gone")
    first = place.scan()
    os.rename(place.folder / "a" / "kept", place.folder / "elsewhere")
    os.unlink(place.folder / "gone")
    found = difference(first, place.scan(first))
    assert [(pair.before.path, pair.after.path) for pair in found.moved] == [(b"a/kept", b"elsewhere")]
    assert [entry.path for entry in found.removed] == [b"gone"] and not found.added


def test_a_file_of_a_terabyte_of_holes_costs_what_it_stores(place):
    with open(place.folder / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"data")
    first = place.scan()
    assert first.size == 1 << 40
    (place.folder / "sparse").unlink()
    restore(place.root, first, place.store, ME)
    assert place.scan().digest == first.digest
    assert os.stat(place.folder / "sparse").st_blocks * 512 < 1 << 20
    blobs = os.open(place.blobs, os.O_RDONLY)
    assert measure(blobs).stored < 1 << 20
    os.close(blobs)


def test_data_in_every_block_of_a_sparse_file_is_not_blown_up_in_the_store(place):
    with open(place.folder / "sparse", "wb") as file:
        for offset in range(0, 64 << 20, 1 << 16):
            file.seek(offset)
            file.write(b"x")
    place.scan()
    blobs = os.open(place.blobs, os.O_RDONLY)
    stored = measure(blobs).stored
    os.close(blobs)
    assert stored < 3 * os.stat(place.folder / "sparse").st_blocks * 512


def test_a_digest_depends_on_content_and_not_on_holes(tmp_path):
    size = 3 * WHOLE
    with open(tmp_path / "holes", "w+b") as holes, open(tmp_path / "dense", "w+b") as dense:
        holes.truncate(size)
        holes.seek(2 * WHOLE)
        holes.write(b"x")
        holes.flush()
        dense.write(b"\0" * 2 * WHOLE + b"x" + b"\0" * (WHOLE - 1))
        dense.flush()
        first, second = (copy_content(file.fileno(), None, size) for file in (holes, dense))
    assert first == second == digest_bytes(b"\0" * 2 * WHOLE + b"x" + b"\0" * (WHOLE - 1))


def test_trees_with_the_same_content_have_the_same_digest(tmp_path):
    manifests: list[Manifest] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with place_in(tmp_path / name) as place:
            (place.folder / "f").write_text("same")
            manifests.append(place.scan())
    assert manifests[0].digest == manifests[1].digest
    assert not difference(*manifests)


def test_modes_that_lock_everybody_out_hide_nothing_and_are_put_back(place):
    (place.folder / "sub").mkdir()
    (place.folder / "sub" / "f").write_text("hidden")
    (place.folder / "sub" / "f").chmod(0o000)
    (place.folder / "sub").chmod(0o000)
    place.folder.chmod(0o000)
    manifest = place.scan()
    assert stat.S_IMODE(os.fstat(place.root).st_mode) == 0o000
    assert manifest.find(b"sub/f").digest == digest_bytes(b"hidden")
    assert [(entry.path, entry.mode) for entry in manifest.entries] == [(b"sub", 0o000), (b"sub/f", 0o000)]
    restore(place.root, Manifest(), place.store, ME)
    restore(place.root, manifest, place.store, ME)
    place.folder.chmod(0o700)
    assert stat.S_IMODE(os.stat(place.folder / "sub").st_mode) == 0o000
    assert place.scan().digest == manifest.digest


# --- restore


def test_a_socket_cannot_be_made_again_and_is_named(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
    manifest = place.scan()
    assert restore(place.root, manifest, place.store, ME) == ()
    (place.folder / "s").unlink()
    assert restore(place.root, manifest, place.store, ME) == (b"s",)


def test_a_restore_breaks_hard_links_instead_of_writing_through_them(place):
    (place.folder / "a").write_text("one")
    manifest = place.scan()
    (place.folder / "a").unlink()
    (place.folder / "other").write_text("not yours")
    os.link(place.folder / "other", place.folder / "a")
    keeper = os.open(place.folder / "other", os.O_RDONLY)
    restore(place.root, manifest, place.store, ME)
    assert os.pread(keeper, 100, 0) == b"not yours"
    os.close(keeper)
    assert (place.folder / "a").read_text() == "one" and os.listdir(place.folder) == ["a"]


def test_a_restore_never_writes_through_a_link_in_place_of_a_folder(place, tmp_path):
    (place.folder / "sub").mkdir()
    (place.folder / "sub" / "x").write_text("mine")
    manifest = place.scan()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("canary")
    (outside / "y").write_text("canary")
    (place.folder / "sub" / "x").unlink()
    (place.folder / "sub").rmdir()
    os.symlink(outside, place.folder / "sub")
    restore(place.root, manifest, place.store, ME)
    assert (outside / "x").read_text() == "canary" and sorted(os.listdir(outside)) == ["x", "y"]
    assert (place.folder / "sub" / "x").read_text() == "mine"


def test_a_damaged_blob_is_an_error_and_never_a_wrong_file(place):
    (place.folder / "f").write_text("content")
    manifest = place.scan()
    digest = manifest.find(b"f").digest
    blob = place.blobs / digest[:2] / digest[2:]
    blob.chmod(0o600)
    blob.write_text("damaged")
    (place.folder / "f").unlink()
    with pytest.raises(RunError) as caught:
        restore(place.root, manifest, place.store, ME)
    assert caught.value.code == "blob_damaged"
    assert os.listdir(place.folder) == []


def test_prune_keeps_what_is_asked_for(place):
    (place.folder / "f").write_text("first")
    first = place.scan()
    (place.folder / "f").write_text("second")
    second = place.scan(first)
    (place.blobs / "tmp" / "left-by-a-crash").write_text("x")
    assert place.store.prune(set(second.digests())).blobs == 2
    assert restore(place.root, second, place.store, ME) == ()
    with pytest.raises(RunError):
        restore(place.root, first, place.store, ME)


@pytest.mark.parametrize(
    "damage",
    [
        lambda form: form.update(format="gearcase-manifest/9"),
        lambda form: form["entries"][0].__setitem__(1, "../../etc"),
        lambda form: form["entries"][0].__setitem__(1, ".."),
        lambda form: form["entries"][1].__setitem__(0, 7),
        lambda form: form["entries"][1].__setitem__(8, "../../../etc/passwd"),
        lambda form: form["entries"][1].__setitem__(8, "0" * 64),
        lambda form: form.pop("entries"),
        lambda form: form["entries"].append(form["entries"][-1]),
    ],
)
def test_an_altered_manifest_is_not_acted_on(place, damage):
    (place.folder / "a").mkdir()
    (place.folder / "a" / "f").write_text("x")
    form = json.loads(place.scan().to_json())
    damage(form)
    with pytest.raises(RunError) as caught:
        Manifest.from_json(json.dumps(form).encode())
    assert caught.value.code == "bad_manifest"


def test_a_full_disk_is_a_clear_error_and_leaves_the_store_whole(place):
    """A limit on file size is the nearest thing to a full disk that needs no disk; it runs in a child."""
    big = place.folder / "big"
    big.write_bytes(os.urandom(3 << 20))
    child = os.fork()
    if child == 0:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            place.scan()
        except RunError as error:
            os._exit(42 if error.remedy else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert os.listdir(place.blobs / "tmp") == []
    place.scan()
    restore(place.root, place.scan(), place.store, ME)


# --- the race


def swap_until(stop: threading.Event, folder: Path, outside: Path, count: list[int]) -> None:
    """What a hostile box does while host code is at work: a folder becomes a link out and back again, as fast as it goes."""
    link = folder / "link"
    while not stop.is_set():
        try:
            os.symlink(outside, link)
            os.rename(folder / "victim", folder / "aside")
            os.rename(link, folder / "victim")
            os.unlink(folder / "victim")
            os.rename(folder / "aside", folder / "victim")
            count[0] += 1
        except OSError:  # restore removed or made something between: start over
            for name in ("link", "victim"):
                with suppress(OSError):
                    os.unlink(folder / name)
            with suppress(OSError):
                os.mkdir(folder / "victim")


def naive_scan(folder: Path) -> set[bytes]:
    """The control: the same walk by paths, as code does that trusts what it saw a moment ago."""
    found: set[bytes] = set()
    for base, folders, files in os.walk(folder):
        for name in files:
            try:
                found.add(Path(base, name).read_bytes())
            except OSError:
                continue
        del folders
    return found


CANARY = b"canary: never to be read"


def race(place: Place, tmp_path: Path, rounds: int):
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(5):
        (outside / f"f{number}").write_bytes(CANARY)
    (place.folder / "victim").mkdir()
    for number in range(5):
        (place.folder / "victim" / f"f{number}").write_bytes(b"inside")
    stop, count = threading.Event(), [0]
    swapper = threading.Thread(target=swap_until, args=(stop, place.folder, outside, count))
    swapper.start()
    done = 0
    try:
        while done < rounds or count[0] < 1000:
            yield
            done += 1
    finally:
        stop.set()
        swapper.join()
        assert count[0] >= 1000
        assert sorted(os.listdir(outside)) == [f"f{number}" for number in range(5)]
        assert all((outside / name).read_bytes() == CANARY for name in os.listdir(outside))


def test_swapping_folders_for_links_during_scans_reads_nothing_outside(place, tmp_path):
    for _ in race(place, tmp_path, 300):
        try:
            place.scan(hash_all=True)
        except RunError as error:
            assert error.code in ("tree_changed", "vanished")
    assert digest_bytes(b"inside") in place.store
    assert digest_bytes(CANARY) not in place.store


def test_swapping_folders_for_links_during_restores_writes_nothing_outside(place, tmp_path):
    (place.folder / "victim").mkdir()
    for number in range(5):
        (place.folder / "victim" / f"f{number}").write_bytes(b"written by restore")
    manifest = place.scan()
    restore(place.root, Manifest(), place.store, ME)
    for _ in race(place, tmp_path, 100):
        try:
            restore(place.root, manifest, place.store, ME)
        except RunError as error:
            assert error.code in ("tree_changed", "vanished", "file_failed", "not_removed", "unreadable")


def test_the_same_race_does_lead_a_walk_by_paths_outside(place, tmp_path):
    """The positive control: without the guard the attempt succeeds."""
    found: set[bytes] = set()
    until = time.monotonic() + 60
    for _ in race(place, tmp_path, 1):
        while CANARY not in found and time.monotonic() < until:
            found |= naive_scan(place.folder)
        time.sleep(0.001)  # the other thread has its turn
    assert CANARY in found


# --- text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n"]), max_size=30),
    st.lists(st.sampled_from([b"a\n", b"b\n", b"d\n"]), max_size=30),
)
def test_changes_turn_the_first_text_into_the_second(before, after):
    made: list[bytes] = []
    place = 0
    for block in changes(before, after):
        made += before[place : block.a] + after[block.c : block.d]
        place = block.b
    assert made + before[place:] == after


def test_a_hostile_pair_of_texts_is_given_up_on_instead_of_searched_for_ever():
    before, after = [b"%d\n" % number for number in range(60_000)], [b"%d\n" % (number * 7 % 60_000) for number in range(60_000)]
    blocks = changes(before, after)
    assert [after[block.c : block.d] for block in blocks][-1]


def test_a_text_difference_is_readable_and_safe(place):
    (place.folder / "f").write_text("one\ntwo\nthree\n")
    first = place.scan()
    (place.folder / "f").write_bytes(b"one\ntwo \x1b[31m\rred\nthree")
    second = place.scan(first)
    text = text_difference(first.find(b"f"), second.find(b"f"), place.store)
    assert "-two\n" in text and "+two \\x1b[31m\\x0dred\n" in text and "\x1b" not in text
    assert text.startswith("--- f\n+++ f\n@@ -1,3 +1,3 @@\n") and text.endswith("\\ No newline at end of file\n")


def test_hunks_far_apart_are_separate():
    before = b"".join(b"%d\n" % number for number in range(100))
    after = before.replace(b"\n5\n", b"\nfive\n").replace(b"\n90\n", b"\nninety\n")
    assert [hunk.split(b"\n")[0] for hunk in hunks(before, after)] == [b"@@ -3,7 +3,7 @@", b"@@ -88,7 +88,7 @@"]
    assert split_lines(b"a\nb") == [b"a\n", b"b"]


def test_digests_are_told_from_other_text():
    assert is_digest("a" * 64) and is_digest("b" + "0" * 64)
    assert not is_digest("../" + "a" * 61) and not is_digest("A" * 64) and not is_digest(7) and not is_digest("a" * 64 + "\n")
