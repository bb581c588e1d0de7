"""Walking, reading, writing and removing a tree that an agent controls."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gearcase.errors import Refused, RunError, UsageError
from gearcase.sandbox.beneath import open_beneath, printable, split_path
from gearcase.sandbox.copying import copy_in, stays_inside
from gearcase.sandbox.trees import Cursor, measure, read_file, remove_contents, remove_tree, walk, write_file

HOSTILE_NAMES = [b"new\nline", b"\xff\xfe", b"-rf", b"a b", b"\x1b[31m", b"\xe2\x80\xaeevil", b"n" * 255, b"..."]
ME = (os.geteuid(), os.getegid())


@pytest.fixture
def tree(tmp_path: Path):
    folder = tmp_path / "tree"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield folder, descriptor
    remove_contents(descriptor)  # what is left may be too deep for others to remove
    os.close(descriptor)


def dig(root: int, depth: int, name: bytes = b"d") -> int:
    """A chain of folders; returns a descriptor of the last."""
    here = os.dup(root)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    return here


def paths_of(root: int) -> list[bytes]:
    with Cursor(root) as cursor:
        return [
            cursor.path if step.happening == "enter" else cursor.below(step.name)
            for step in walk(cursor)
            if step.happening in ("enter", "entry")
        ]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- walking


def test_a_walk_meets_every_entry_once_in_the_order_of_bytes(tree):
    folder, root = tree
    (folder / "b").mkdir()
    (folder / "b" / "z").touch()
    (folder / "a").touch()
    os.symlink("/etc", folder / "c")
    assert paths_of(root) == [b"a", b"b", b"b/z", b"c"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_walk_takes_names_of_any_bytes(tree, name):
    folder, root = tree
    os.mkdir(os.path.join(os.fsencode(folder), name))
    os.close(os.open(os.path.join(os.fsencode(folder), name, name), os.O_CREAT))
    assert paths_of(root) == [name, name + b"/" + name]


def test_ten_thousand_levels_are_walked_and_removed_with_few_descriptors(tree):
    _, root = tree
    os.close(dig(root, 10_000))
    most = 0
    before = open_descriptors()
    with Cursor(root) as cursor:
        for step in walk(cursor):
            if cursor.depth % 500 == 0 and step.happening == "enter":
                most = max(most, open_descriptors())
        assert cursor.depth == 0
    assert most - before <= 4
    assert measure(root).directories == 10_000
    remove_contents(root)
    assert os.listdir(root) == []


def test_a_walk_with_too_many_entries_is_refused(tree):
    folder, root = tree
    for number in range(12):
        (folder / str(number)).touch()
    with pytest.raises(Refused) as caught:
        measure(root, limit=11)
    assert caught.value.code == "too_many_files"
    assert measure(root, limit=12).files == 12


def test_a_directory_that_was_moved_is_not_gone_up_from(tree):
    folder, root = tree
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    with Cursor(root) as cursor:
        cursor.enter(b"a")
        cursor.enter(b"b")
        os.rename(folder / "a" / "b", folder / "elsewhere" / "b")
        assert cursor.leave() == b"b"  # the parent is found again from the root, not by ".."
        assert os.path.sameopenfile(cursor.fd, os.open(folder / "a", os.O_RDONLY))


def test_a_directory_whose_parents_are_gone_ends_the_walk(tree):
    folder, root = tree
    (folder / "a" / "b" / "c").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    with Cursor(root) as cursor:
        for name in (b"a", b"b", b"c"):
            cursor.enter(name)
        os.rename(folder / "a" / "b" / "c", folder / "elsewhere" / "c")
        os.rename(folder / "a", folder / "renamed")
        with pytest.raises(RunError) as caught:
            cursor.leave()
    assert caught.value.code == "tree_changed"


def test_a_link_in_place_of_a_directory_is_not_entered(tree, tmp_path):
    folder, root = tree
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", folder / "door")
    with Cursor(root) as cursor, pytest.raises(OSError):
        cursor.enter(b"door")


def test_a_cursor_leaves_no_descriptor_behind(tree):
    folder, root = tree
    (folder / "a").mkdir()
    before = open_descriptors()
    with Cursor(root) as cursor:
        cursor.enter(b"a")
        with pytest.raises(OSError):
            cursor.enter(b"missing")
    assert open_descriptors() == before


def test_only_one_component_is_opened_at_a_time(tree):
    _, root = tree
    for name in (b"..", b".", b"", b"a/b", b"a\0b"):
        with pytest.raises(Refused):
            open_beneath(root, name, os.O_RDONLY)


def test_totals_tell_claimed_from_stored_bytes(tree):
    folder, root = tree
    with open(folder / "sparse", "wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(folder / "fifo")
    totals = measure(root)
    assert (totals.files, totals.others, totals.size) == (1, 1, 1 << 40)
    assert totals.stored < 1 << 20


# --- one file


def test_a_file_is_written_with_its_folders_and_read_back(tree):
    folder, root = tree
    write_file(root, b"a/b/c", b"hello", mode=0o600, owner=ME)
    assert read_file(root, b"a/b/c", 100) == b"hello"
    assert stat.S_IMODE(os.stat(folder / "a/b/c").st_mode) == 0o600
    write_file(root, b"a/b/c", b"again")
    assert sorted(os.listdir(folder / "a/b")) == ["c"]


def test_a_file_that_is_longer_than_asked_is_refused(tree):
    _, root = tree
    write_file(root, b"x", b"12345")
    with pytest.raises(Refused) as caught:
        read_file(root, b"x", 4)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("plant", ["link", "fifo", "socket", "folder"])
def test_what_is_no_regular_file_is_not_read(tree, tmp_path, plant, monkeypatch):
    folder, root = tree
    canary = tmp_path / "canary"
    canary.write_text("secret")
    listener = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(folder)  # a socket's path must be short
    {
        "link": lambda: os.symlink(canary, "x"),
        "fifo": lambda: os.mkfifo("x"),
        "socket": lambda: listener.bind("x"),
        "folder": lambda: os.mkdir("x"),
    }[plant]()
    with pytest.raises(RunError):
        read_file(root, b"x", 100)
    listener.close()


def test_writing_replaces_a_link_and_never_writes_through_it(tree, tmp_path):
    folder, root = tree
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    os.symlink(canary, folder / "x")
    write_file(root, b"x", b"mine")
    assert canary.read_text() == "untouched"
    assert (folder / "x").read_text() == "mine" and not (folder / "x").is_symlink()


def test_writing_through_a_linked_folder_is_refused(tree, tmp_path):
    folder, root = tree
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", folder / "sub")
    with pytest.raises(RunError):
        write_file(root, b"sub/x", b"out")
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize("path", [b"", b"/etc/passwd", b"../x", b"a/../../x", b"a//b", b"a\0b"])
def test_paths_that_could_leave_are_refused(path):
    with pytest.raises(Refused):
        split_path(path)


def test_errors_name_the_path_and_what_to_do(tree):
    _, root = tree
    with pytest.raises(RunError) as caught:
        read_file(root, b"missing\x1b[2J", 10)
    assert caught.value.code == "vanished"
    assert "missing\\x1b[2J" in caught.value.message and caught.value.remedy


@pytest.mark.parametrize(
    ("path", "text"),
    [(b"plain/name", "plain/name"), (b"\xff", "\\xff"), (b"a\nb", "a\\x0ab"), (b"\\x", "\\\\x"), ("ä".encode(), "ä")],
)
def test_paths_are_shown_without_ambiguity(path, text):
    assert printable(path) == text


# --- removal


def test_removal_follows_no_link(tree, tmp_path):
    folder, root = tree
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").touch()
    os.symlink(outside, folder / "link")
    (folder / "dir").mkdir()
    os.symlink(outside, folder / "dir" / "link")
    remove_tree(root, b"link")
    remove_tree(root, b"dir")
    assert os.listdir(folder) == [] and os.listdir(outside) == ["canary"]


def test_removing_what_is_not_there_is_done(tree):
    _, root = tree
    remove_tree(root, b"missing")


def test_removal_takes_every_kind_and_every_mode(tree, monkeypatch):
    folder, root = tree
    monkeypatch.chdir(folder)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (folder / "locked" / "in").mkdir(parents=True)
    (folder / "locked" / "in" / "file").touch(mode=0o000)
    os.chmod(folder / "locked" / "in", 0o000)
    os.chmod(folder / "locked", 0o500)
    for name in HOSTILE_NAMES:
        os.mkdir(name)
    remove_contents(root)
    assert os.listdir(folder) == []


# --- copying in


def given(tmp_path: Path) -> Path:
    source = tmp_path / "given"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run").write_text("#!/bin/sh\n")
    os.chmod(source / "sub" / "run", 0o4755)
    os.utime(source / "sub" / "run", ns=(1_000_000_007, 1_000_000_007))
    os.symlink("sub/run", source / "inside")
    os.link(source / "sub" / "run", source / "hard")
    return source


def test_a_copy_keeps_content_modes_times_and_links_but_no_set_id_bit(tree, tmp_path):
    folder, root = tree
    copied = copy_in(given(tmp_path), root, b"given", ME)
    run = os.lstat(folder / "given/sub/run")
    assert stat.S_IMODE(run.st_mode) == 0o755 and run.st_mtime_ns == 1_000_000_007
    assert os.readlink(folder / "given/inside") == "sub/run"
    assert (folder / "given/hard").read_text() == "#!/bin/sh\n"
    assert (copied.files, copied.left_out) == (2, ())


def test_links_that_lead_out_are_left_out_and_reported(tree, tmp_path):
    folder, root = tree
    source = given(tmp_path)
    os.symlink("/etc/passwd", source / "absolute")
    os.symlink("/usr/../etc/passwd", source / "pretends")
    os.symlink("/usr/bin/python3", source / "system")
    os.symlink("../../etc", source / "sub" / "climbs")
    os.symlink("../hard", source / "sub" / "stays")
    copied = copy_in(source, root, b"given", ME)
    assert {refusal.path for refusal in copied.left_out} == {b"absolute", b"pretends", b"sub/climbs"}
    assert sorted(os.listdir(folder / "given/sub")) == ["run", "stays"]
    assert os.readlink(folder / "given/system") == "/usr/bin/python3"  # /usr is the same inside


@pytest.mark.parametrize("plant", ["fifo", "socket"])
def test_a_tree_with_a_special_file_is_refused_by_name_and_nothing_stays(tree, tmp_path, plant, monkeypatch):
    folder, root = tree
    source = given(tmp_path)
    monkeypatch.chdir(source)
    listener = socket.socket(socket.AF_UNIX)
    if plant == "fifo":
        os.mkfifo("zz")
    else:
        listener.bind("zz")
    with pytest.raises(UsageError) as caught:
        copy_in(source, root, b"given", ME)
    listener.close()
    assert caught.value.code == "not_given" and str(source / "zz") in caught.value.message
    assert os.listdir(folder) == []


def test_a_single_file_is_copied(tree, tmp_path):
    folder, root = tree
    (tmp_path / "table.csv").write_text("a,b\n")
    assert copy_in(tmp_path / "table.csv", root, b"table.csv", ME).size == 4
    assert (folder / "table.csv").read_text() == "a,b\n"


def test_a_name_that_is_taken_is_an_error_and_what_was_there_stays(tree, tmp_path):
    folder, root = tree
    (folder / "given").mkdir()
    (folder / "given" / "mine").touch()
    with pytest.raises(UsageError):
        copy_in(given(tmp_path), root, b"given", ME)
    assert os.listdir(folder / "given") == ["mine"]


def test_holes_stay_holes(tree, tmp_path):
    folder, root = tree
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 36)
        file.seek(1 << 35)
        file.write(b"middle")
    copy_in(tmp_path / "sparse", root, b"sparse", ME)
    with open(folder / "sparse", "rb") as file:
        file.seek(1 << 35)
        assert file.read(6) == b"middle"
    found = os.stat(folder / "sparse")
    assert found.st_size == 1 << 36 and found.st_blocks * 512 < 1 << 20


def test_a_mount_below_a_given_tree_is_not_followed(tree, tmp_path):
    """A bind mount of the same file system, which no device number tells; in a mount namespace of its own, so for any user."""
    folder, _ = tree
    source = given(tmp_path)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    (source / "mounted").mkdir()
    (source / "file").touch()
    program = (
        "import os, sys; from pathlib import Path; from gearcase.sandbox.copying import copy_in\n"
        "source, target = sys.argv[1:]; print(os.path.exists(source + '/mounted/key'))\n"
        "copied = copy_in(Path(source), os.open(target, os.O_RDONLY), b'given', (os.geteuid(), os.getegid()))\n"
        "print(sorted(refusal.path for refusal in copied.left_out))"
    )
    mounts = 'mount --bind "$1" "$2/mounted" && mount --bind "$1/key" "$2/file" && exec "$3" -c "$4" "$2" "$5"'
    ran = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            mounts,
            "sh",
            tmp_path / "secret",
            source,
            sys.executable,
            program,
            folder,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == ["True", "[b'file', b'mounted']"]  # the control: an ordinary look would find it
    assert not (folder / "given/mounted").exists() and not (folder / "given/file").exists()


@pytest.mark.parametrize(
    ("depth", "target", "inside"),
    [
        (0, b"a", True),
        (0, b"..", False),
        (1, b"..", True),
        (1, b"../..", False),
        (0, b"/a", False),
        (0, b"a/../..", False),
        (0, b"./a//b", True),
    ],
)
def test_links_are_judged_by_how_far_they_climb(depth, target, inside):
    assert stays_inside(depth, target) is inside
