"""Views: what is chosen of a workspace, and what a sandbox sees of it."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.errors import UsageError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.snapshots import scan
from gearcase.sandbox.views import at_or_below, make_view, remove_view

TREE = {"a.py": b"1", "run.sh": b"#!/bin/sh", "data/x/1.txt": b"one", "data/x/2.txt": b"two", "data/y.txt": b"y", "out/r": b"r"}


@pytest.fixture
def held(tmp_path):
    root = tmp_path / "tree"
    for path, data in TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        (root / path).chmod(0o600)
    (root / "run.sh").chmod(0o700)
    (root / "link").symlink_to("data/y.txt")
    (root / "away").symlink_to("/etc/passwd")
    os.mkfifo(root / "data/pipe")
    store = BlobStore(tmp_path / "blobs")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return scan(descriptor, store), store
    finally:
        os.close(descriptor)


def paths(manifest):
    return {entry.path.decode() for entry in manifest.entries if entry.kind != "directory"}


def test_what_is_named_is_chosen_with_the_folders_that_lead_there(held):
    manifest, _ = held
    some = at_or_below(manifest, [b"data/x", b"a.py"], b"out")
    assert paths(some) == {"a.py", "data/x/1.txt", "data/x/2.txt"}
    assert {entry.path for entry in some.entries if entry.kind == "directory"} == {b"data", b"data/x", b"out"}
    assert paths(at_or_below(manifest, [b""], without=[b"out"])) == {*TREE, "link", "away"} - {"out/r"}
    assert paths(at_or_below(manifest, [])) == set()


@pytest.mark.parametrize("path", [b"nothing", b"data/z", b"../tree", b"..", b"/etc"])
def test_what_is_not_there_is_refused(held, path):
    with pytest.raises(UsageError) as caught:
        at_or_below(held[0], [path])
    assert caught.value.code == "no_file"


def test_a_view_holds_the_contents_readable_by_all_and_links_as_they_are(held, tmp_path):
    manifest, store = held
    view = tmp_path / "views/one"
    view.parent.mkdir()
    make_view(at_or_below(manifest, [b""]), store, view)
    for path, data in TREE.items():
        assert (view / path).read_bytes() == data
        assert stat.S_IMODE((view / path).stat().st_mode) == (0o555 if path == "run.sh" else 0o444)
    assert os.readlink(view / "away") == "/etc/passwd" and not (view / "data/pipe").exists()
    assert (view / "a.py").stat().st_nlink == 2, "the content is in the store and not copied"
    remove_view(view)
    assert not view.exists()
    descriptor = os.open(tmp_path / "again", os.O_RDWR | os.O_CREAT)
    store.copy_to(next(entry.digest for entry in manifest.entries if entry.name == b"a.py"), descriptor)
    os.close(descriptor)
    assert (tmp_path / "again").read_bytes() == b"1"


@given(
    st.lists(st.sampled_from([*TREE, "data", "data/x", "out"]), max_size=4), st.lists(st.sampled_from(["data/x", "out", "a.py"]))
)
def test_a_choice_is_what_lies_at_or_below_and_every_folder_stands_before_what_it_holds(tmp_path_factory, some, without):
    folder = tmp_path_factory.mktemp("views")
    root = folder / "tree"
    for path, data in TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    manifest = scan(descriptor, BlobStore(folder / "blobs"))
    os.close(descriptor)
    got = at_or_below(manifest, [one.encode() for one in some], without=[one.encode() for one in without])

    def below(path, folders):
        return any(path == one or path.startswith(one + "/") for one in folders)

    assert paths(got) == {path for path in TREE if below(path, some) and not below(path, without)}
    seen = {id(None)}
    for entry in got.entries:
        assert id(entry.parent) in seen
        seen.add(id(entry))
