"""What is given and what may leave: copies, limits, flags, delivery and patches."""

import hashlib
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given as supposing
from hypothesis import settings
from hypothesis import strategies as st

from gearcase.doors import giving
from gearcase.doors.changes import changed
from gearcase.doors.delivery import deliver, sweep, verify
from gearcase.doors.files import MAX_PATH, Delivery, give, take, unasked_git
from gearcase.doors.flags import flags
from gearcase.doors.patches import as_patch, quoted
from gearcase.doors.patterns import Patterns, fits
from gearcase.doors.repositories import Repository, is_repository
from gearcase.errors import GearcaseError, RunError, UsageError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import Weight, weigh
from gearcase.sandbox.manifest import difference
from gearcase.sandbox.snapshots import scan
from gearcase.sandbox.trees import remove_contents

ME = (os.geteuid(), os.getegid())
MUCH = 1 << 30


class Bench:
    """A workspace, a store, a staging folder and a place to deliver to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.root = os.open(self.workspace, os.O_RDONLY | os.O_DIRECTORY)
        self.store = BlobStore(folder / "blobs")
        self.staging = folder / "run" / "delivered"
        self.out = folder / "gearcase-out" / "name"

    def write(self, path: str | bytes, data: bytes = b"x", mode: int = 0o644) -> None:
        target = os.path.join(os.fsencode(self.workspace), path if isinstance(path, bytes) else path.encode())
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)
        os.chmod(target, mode)

    def take(
        self, *patterns: str, most_bytes: int = MUCH, most_files: int = 100, unasked: frozenset[bytes] = frozenset()
    ) -> Delivery:
        return take(self.root, patterns, self.staging, most_bytes=most_bytes, most_files=most_files, unasked=unasked)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    remove_contents(made.root)  # what is left may be too deep for others to remove
    os.close(made.root)


def taken(delivery: Delivery) -> list[bytes]:
    return [file.path for file in delivery.files]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("out/**", ["out/a", "out/b/c"], ["out", "outer/a", "x/out/a"]),
        ("*.csv", ["a.csv", ".csv"], ["d/a.csv", "a.csv.bak"]),
        ("**/*.csv", ["a.csv", "d/a.csv", "d/e/a.csv"], ["a.txt"]),
        ("**", ["a", "a/b"], []),
        ("out", ["out", "out/a/b"], ["x/out", "output"]),
        ("out/", ["out/a"], ["out"]),
        ("./out/a?", ["out/ab"], ["out/a", "out/abc"]),
        ("a/**/b/*.py", ["a/b/x.py", "a/q/r/b/x.py"], ["a/x.py", "a/b/c/x.py"]),
        ("a[b]", ["a[b]"], ["ab"]),
        ("ä*", ["äb"], ["ab"]),
    ],
)
def test_patterns_match_components(pattern, yes, no):
    patterns = Patterns([pattern])
    assert [path for path in yes if not patterns.match(path.encode())] == []
    assert [path for path in no if patterns.match(path.encode())] == []


@pytest.mark.parametrize(
    ("patterns", "yes", "no"),
    [
        (["r/**", "!r/.venv"], ["r/a", "r/b/.venv/x", "r/.venv2"], ["r/.venv", "r/.venv/lib/x"]),
        (["!**/node_modules/**", "r/**"], ["r/a", "r/node_modules"], ["r/node_modules/x", "r/a/node_modules/b/c", "x"]),
        (["**", "!*.log"], ["a", "d/a.log"], ["a.log"]),
        (["!a"], [], ["a", "b", "a/b"]),
        (["./!a"], ["!a"], ["a"]),
    ],
)
def test_what_a_pattern_keeps_back_does_not_leave(patterns, yes, no):
    made = Patterns(patterns)
    assert [path for path in yes if not made.match(path.encode())] == []
    assert [path for path in no if made.match(path.encode())] == []


def test_a_folder_that_is_kept_back_is_not_even_looked_into(bench):
    for name in ("r/a", "r/.venv/lib/x"):
        bench.write(name)
    made = Patterns(["r/**", "!r/.venv"])
    inside = made.below(made.start, b"r")
    assert made.is_open(inside) and not made.is_open(made.below(inside, b".venv"))
    assert taken(bench.take("r/**", "!r/.venv")) == [b"r/a"]


@pytest.mark.parametrize("pattern", ["", "!", "!/x", "!../x", "/etc/*", "../x", "a/../../b", "a//b", "a\0", "."])
def test_patterns_that_are_not_below_the_workspace_are_refused(pattern):
    with pytest.raises(UsageError) as caught:
        Patterns([pattern])
    assert caught.value.code == "bad_pattern"


def test_a_pattern_made_to_blow_up_does_not():
    assert not fits(b"*a" * 500 + b"b", b"a" * 2000)
    assert not Patterns(["**/" * 50 + "x"]).match(b"/".join([b"a"] * 500))


# --- give


def test_what_is_given_is_a_copy_and_the_start_of_every_difference(bench, tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "table.csv").write_text("a,b\n")
    (tmp_path / "notes.txt").write_text("note")
    given = give([source, tmp_path / "notes.txt"], bench.root, ME, bench.store)
    assert given.names == (b"data", b"notes.txt") and (given.files, given.size) == (2, 8)
    bench.write("data/table.csv", b"changed")
    assert (source / "table.csv").read_text() == "a,b\n"
    found = difference(given.manifest, scan(bench.root, bench.store, given.manifest))
    assert [pair.after.path for pair in found.changed] == [b"data/table.csv"]


def test_two_given_things_of_one_name_are_an_error_and_nothing_stays(bench, tmp_path):
    for parent in ("one", "two"):
        (tmp_path / parent / "data").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        give([tmp_path / "one/data", tmp_path / "two/data"], bench.root, ME, bench.store)
    assert caught.value.code == "not_given" and os.listdir(bench.workspace) == []


def test_a_given_path_that_is_missing_is_an_error_and_nothing_stays(bench, tmp_path):
    (tmp_path / "there").touch()
    with pytest.raises(RunError) as caught:
        give([tmp_path / "there", tmp_path / "missing"], bench.root, ME, bench.store)
    assert caught.value.code == "vanished" and caught.value.remedy and os.listdir(bench.workspace) == []


def test_giving_tells_how_far_it_has_come_and_counts_what_is_really_copied(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(giving, "FIRST", 0)
    monkeypatch.setattr(giving, "EVERY", 0)
    repository = tmp_path / "project"
    for folder in (repository / ".git/objects", repository / ".git/hooks", repository / ".git/refs", repository / "src"):
        folder.mkdir(parents=True)
    (repository / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (repository / ".git/hooks/post-checkout").write_text("stays outside")
    (repository / "src/a.py").write_text("1234")
    told = []
    given = give([repository], bench.root, ME, bench.store, told.append)
    assert [one.phase for one in told] == ["copying"] * 2 + ["keeping"] * 2
    assert {(one.of_files, one.of_bytes) for one in told} == {(given.files, given.size)} == {(2, 25)}
    assert [(one.files, one.bytes) for one in told if one.phase == "copying"][-1] == (2, 25)


def test_a_hole_takes_no_room(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    whole = Weight()
    weigh(tmp_path, whole)
    assert whole.size == 1 << 40 and whole.disk < 1 << 20


def test_links_out_of_a_given_tree_are_reported_with_their_place_in_the_workspace(bench, tmp_path):
    (tmp_path / "data").mkdir()
    os.symlink("/etc/passwd", tmp_path / "data" / "link")
    given = give([tmp_path / "data"], bench.root, ME, bench.store)
    assert [refusal.path for refusal in given.left_out] == [b"data/link"]


# --- take


def test_what_the_patterns_name_is_staged_with_the_digest_of_its_bytes(bench):
    bench.write("out/a.txt", b"hello")
    bench.write("out/deep/run", b"#!/bin/sh\n", 0o4755)
    bench.write("secret/key", b"no")
    delivery = bench.take("out/**", "*.csv")
    assert taken(delivery) == [b"out/a.txt", b"out/deep/run"] and delivery.total == 15
    assert files_below(bench.staging) == ["out/a.txt", "out/deep/run"]
    for file in delivery.files:
        staged = bench.staging / os.fsdecode(file.path)
        assert hashlib.sha256(staged.read_bytes()).hexdigest() == file.digest
        assert stat.S_IMODE(staged.stat().st_mode) == file.mode
    assert [file.mode for file in delivery.files] == [0o644, 0o755]
    assert delivery.files[1].flags == ("executable", "set-id bit dropped")
    verify(delivery, bench.staging)


def test_special_files_and_links_are_refused_with_the_reason(bench, monkeypatch):
    (bench.workspace / "out").mkdir()
    monkeypatch.chdir(bench.workspace / "out")
    os.symlink("/etc/passwd", "link")
    os.symlink("b", "good-link")
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    bench.write("out/b", b"file")
    delivery = bench.take("out/**")
    assert taken(delivery) == [b"out/b"]
    assert {refusal.path: refusal.reason for refusal in delivery.refused} == {
        b"out/link": "a link, to /etc/passwd",
        b"out/good-link": "a link, to b",
        b"out/fifo": "a fifo",
        b"out/socket": "a socket",
    }


def test_a_linked_folder_is_refused_and_not_looked_into(bench, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").touch()
    os.symlink(tmp_path / "outside", bench.workspace / "out")
    delivery = bench.take("out/**", "out")
    assert taken(delivery) == [] and [refusal.path for refusal in delivery.refused] == [b"out"]


def test_a_file_that_does_not_fit_is_refused_and_the_others_leave(bench):
    bench.write("out/a", b"x" * 60)
    bench.write("out/b", b"x" * 60)
    bench.write("out/c", b"x" * 30)
    with open(bench.workspace / "out" / "d", "wb") as file:
        file.truncate(1 << 40)
    delivery = bench.take("out/**", most_bytes=100)
    assert taken(delivery) == [b"out/a", b"out/c"]
    assert [refusal.path for refusal in delivery.refused] == [b"out/b", b"out/d"]


def test_the_number_of_files_is_limited_and_the_list_of_refusals_too(bench):
    (bench.workspace / "out").mkdir()
    for number in range(1105):
        (bench.workspace / "out" / f"{number:04}").touch()
    delivery = bench.take("out/**", most_files=5)
    assert len(delivery.files) == 5 and len(delivery.refused) == 1000 and delivery.refused_more == 100


def test_the_git_folder_of_a_given_repository_stays_inside_without_a_word_unless_it_is_asked_for(
    bench: Bench, tmp_path: Path
) -> None:
    repository = tmp_path / "mine"
    (repository / ".git").mkdir(parents=True)
    for path in ("mine/.git/HEAD", "mine/a.py", "mine/new/.git/HEAD"):
        bench.write(path)
    delivery = bench.take("mine/**", unasked=unasked_git([repository], ["mine/**"]))
    assert [file.path for file in delivery.files] == [b"mine/a.py"]
    assert [refusal.path for refusal in delivery.refused] == [b"mine/new/.git"]  # made by the agent: it may wonder
    assert unasked_git([repository], ["mine/**", "mine/.git/HEAD"]) == frozenset()
    assert unasked_git([tmp_path], ["**"]) == frozenset()  # no repository


def test_hostile_names_are_delivered_flagged_and_recorded_as_plain_json(bench):
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b"\x1b[2J", "\u202eevil".encode()):
        bench.write(b"out/" + name)
    delivery = bench.take("out/**")
    assert len(delivery.files) == 5 and all(file.flags for file in delivery.files)
    text = json.dumps(delivery.record(), ensure_ascii=False)
    assert "\x1b" not in text and "\u202e" not in text
    text.encode()


def test_a_path_too_long_for_programs_is_refused_and_depth_does_not_matter(bench):
    here = os.dup(bench.root)
    for name in [b"out", *[b"d" * 20] * 3000]:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    bench.write("out/a")
    delivery = bench.take("out/**")
    assert taken(delivery) == [b"out/a"] and "longer than" in delivery.refused[0].reason
    assert len(delivery.refused[0].path) > MAX_PATH
    assert files_below(bench.staging) == ["out/a"] and os.listdir(bench.staging / "out") == ["a"]


def test_an_unknown_staging_folder_state_is_not_built_upon(bench):
    bench.staging.mkdir(parents=True)
    with pytest.raises(RunError) as caught:
        bench.take("**")
    assert caught.value.code == "staging_exists"


def test_a_failure_while_staging_leaves_nothing(bench):
    """A limit on file size stands for the full disk; in a child, since it cannot be taken back."""
    bench.write("out/a")
    bench.write("out/big", os.urandom(2 << 20))
    child = os.fork()
    if child == 0:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            bench.take("out/**")
        except RunError as error:
            os._exit(42 if error.remedy and "out/big" in error.message else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert not bench.staging.exists()


def test_what_nothing_matches_is_an_empty_delivery(bench):
    delivery = bench.take("out/**")
    assert delivery.files == () and delivery.total == 0 and os.listdir(bench.staging) == []


COMPONENTS = st.sampled_from([b"out", b"a", b"b.csv", b"...", b"\xff", b"..a", b"new\nline", b" "])
PLANS = st.dictionaries(
    st.lists(COMPONENTS, min_size=1, max_size=4).map(tuple),
    st.sampled_from(["file", "link", "up", "fifo", "folder link"]),
    max_size=12,
)
PATTERNS = st.lists(
    st.lists(st.sampled_from(["out", "*", "**", "a", "*.csv", "?"]), min_size=1, max_size=3).map("/".join), max_size=3
)


@settings(max_examples=80, deadline=None)
@supposing(PLANS, PATTERNS)
def test_nothing_outside_the_workspace_or_the_patterns_is_ever_taken(plan, patterns):
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        (bench.folder / "outside").mkdir()
        (bench.folder / "outside" / "canary").write_bytes(b"canary")
        for parts, kind in plan.items():
            path = os.path.join(os.fsencode(bench.workspace), *parts)
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if kind == "file":
                    with open(path, "xb") as file:
                        file.write(b"inside")
                elif kind == "fifo":
                    os.mkfifo(path)
                else:
                    targets = {"link": "outside/canary", "up": "workspace", "folder link": "outside"}
                    os.symlink(bench.folder / targets[kind], path)
            except OSError:
                continue  # two paths of the plan are in each other's way, or it leads through a link
        delivery = bench.take(*patterns)
        for file in delivery.files:
            assert Patterns(patterns).match(file.path)
            assert not {b"..", b".", b""} & set(file.path.split(b"/"))
            staged = os.path.join(os.fsencode(bench.staging), file.path)
            assert stat.S_ISREG(os.lstat(staged).st_mode)
            with open(staged, "rb") as opened:
                assert opened.read() == b"inside"
        assert len(files_below(bench.staging)) == len(delivery.files)
        os.close(bench.root)


# --- flags


@pytest.mark.parametrize(
    ("path", "flag"),
    [
        (b"repo/.git/hooks/pre-commit", "git"),
        (b"out/Makefile", "build"),
        (b"out/tests/conftest.py", "run by python tools"),
        (b"out/x.pth", "run by python tools"),
        (b"out/lib.so", "native code"),
        (b"out/lib.so.6", "native code"),
        (b".envrc", "shell start-up"),
        (b".github/workflows/ci.yml", "ci"),
        (b"out/package.json", "package scripts"),
        (b"out/CLAUDE.md", "agent instructions"),
    ],
)
def test_what_host_tools_run_by_themselves_is_flagged(path, flag):
    assert flag in flags(path, 0o644)


def test_plain_data_is_not_flagged():
    assert flags(b"out/clean.csv", 0o644) == () and flags("out/größe.json".encode(), 0o600) == ()


# --- delivery


def test_a_delivery_appears_with_its_manifest_beside_it(bench):
    bench.write("out/a", b"hello")
    bench.write("out/\udcff".encode("utf-8", "surrogateescape"), b"bytes")
    delivery = bench.take("out/**")
    done = deliver(delivery, bench.staging, bench.out, head="f" * 64)
    assert (bench.out / "out/a").read_bytes() == b"hello"
    manifest = json.loads(done.manifest.read_bytes())
    assert manifest["journal_head"] == "f" * 64 and manifest["manifest"] == delivery.manifest_digest
    assert [os.fsencode(row["path"]) for row in manifest["files"]] == [b"out/a", b"out/\xff"]
    assert sorted(os.listdir(bench.out.parent)) == ["name", "name.manifest.json"]


def test_nothing_that_is_there_is_replaced_without_force(bench):
    bench.write("a", b"new")
    bench.write("b", b"new")
    delivery = bench.take("**")
    bench.out.mkdir(parents=True)
    (bench.out / "b").write_text("mine")
    (bench.out / "other").write_text("mine")
    with pytest.raises(UsageError) as caught:
        deliver(delivery, bench.staging, bench.out)
    assert caught.value.code == "exists" and caught.value.context["paths"] == ["b"]
    assert sorted(os.listdir(bench.out)) == ["b", "other"] and os.listdir(bench.out.parent) == ["name"]
    deliver(delivery, bench.staging, bench.out, force=True)
    assert {path.name: path.read_text() for path in bench.out.iterdir()} == {"a": "new", "b": "new", "other": "mine"}


def test_what_a_run_that_died_had_delivered_is_replaced_as_far_as_it_is_still_the_same(bench):
    for name in ("same", "changed", "gone", "edited"):
        bench.write(f"out/{name}", b"first")
    earlier = bench.take("out/**")
    deliver(earlier, bench.staging, bench.out, patch=b"p")
    bench.staging = bench.folder / "run" / "again"
    bench.write("out/changed", b"second")
    os.unlink(bench.workspace / "out/gone")
    delivery = bench.take("out/**")
    (bench.out / "out/edited").write_bytes(b"by hand")
    with pytest.raises(UsageError) as caught:
        deliver(delivery, bench.staging, bench.out, patch=b"q", earlier=earlier)
    assert "out/edited" in caught.value.message and "out/same" not in caught.value.message
    assert (bench.out / "out/changed").read_bytes() == (bench.out / "out/gone").read_bytes() == b"first"
    (bench.out / "out/edited").write_bytes(b"first")
    (bench.out / "notes").write_bytes(b"mine")
    handed = deliver(delivery, bench.staging, bench.out, patch=b"q", earlier=earlier)
    there = {path.name: path.read_bytes() for path in bench.out.rglob("*") if path.is_file()}
    assert there == {"same": b"first", "changed": b"second", "edited": b"first", "notes": b"mine"}
    assert handed.manifest.read_bytes() == delivery.to_json("") and handed.patch.read_bytes() == b"q"
    with pytest.raises(UsageError):
        deliver(delivery, bench.staging, bench.out, earlier=earlier)


@pytest.mark.parametrize("replaces", [False, True])
def test_what_a_delivery_left_whose_process_was_killed_is_swept_but_for_the_operators_files(bench, replaces):
    bench.write("out/a", b"new")
    bench.out.mkdir(parents=True)
    if replaces:
        (bench.out / "out").mkdir()
        (bench.out / "out/a").write_bytes(b"old")
    delivery = bench.take("out/**")
    pid = os.fork()
    if pid == 0:
        os.link = lambda *_arguments, **_more: os._exit(9)  # as `kill -9` before the first file is in place
        deliver(delivery, bench.staging, bench.out, force=True, run="ab12")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (left,) = bench.out.glob(".gearcase-*")
    (bench.folder / "delivering-to").write_bytes(bytes(bench.out))
    assert sweep(bench.folder, "ff00") == []
    assert left.exists(), "it is another run's"
    stayed = sweep(bench.folder, "ab12")
    assert left.exists() == replaces and [str(left) in one for one in stayed] == [True] * replaces
    if replaces:
        assert (left / "0").read_bytes() == b"old"


def test_a_folder_that_exists_takes_what_is_not_in_the_way(bench):
    bench.write("sub/a", b"new")
    delivery = bench.take("**")
    (bench.out / "sub").mkdir(parents=True)
    (bench.out / "sub" / "b").write_text("mine")
    deliver(delivery, bench.staging, bench.out)
    assert files_below(bench.out) == ["sub/a", "sub/b"]


@pytest.mark.parametrize("force", [False, True])
def test_a_linked_folder_in_the_way_is_never_written_through(bench, tmp_path, force):
    bench.write("sub/a", b"new")
    delivery = bench.take("**")
    bench.out.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", bench.out / "sub")
    with pytest.raises(UsageError):
        deliver(delivery, bench.staging, bench.out, force=force)
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("exists", [False, True])
def test_a_staged_file_that_was_changed_stops_the_delivery_and_nothing_is_delivered(bench, exists):
    bench.write("a", b"first")
    bench.write("b", b"checked")
    delivery = bench.take("**")
    if exists:
        bench.out.mkdir(parents=True)
        (bench.out / "a").write_text("mine")
    (bench.staging / "b").write_bytes(b"swapped")
    with pytest.raises(RunError) as caught:
        deliver(delivery, bench.staging, bench.out, force=True)
    assert caught.value.code == "staging_changed"
    assert os.listdir(bench.out.parent) == (["name"] if exists else [])
    if exists:
        assert {path.name: path.read_text() for path in bench.out.iterdir()} == {"a": "mine"}
    with pytest.raises(RunError):
        verify(delivery, bench.staging)


def test_a_failure_half_way_takes_back_what_was_put_and_what_was_replaced(bench):
    """The last step fails: where the manifest goes, a folder stands that appeared after everything was looked at."""
    bench.write("a", b"new")
    bench.write("made/b", b"new")
    delivery = bench.take("**")
    bench.out.mkdir(parents=True)
    (bench.out / "a").write_text("mine")
    long_name = "n" * 245  # its manifest's name is longer than a name may be
    os.rename(bench.out, bench.out.with_name(long_name))
    out = bench.out.with_name(long_name)
    with pytest.raises(GearcaseError):
        deliver(delivery, bench.staging, out, force=True)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "mine"}
    assert os.listdir(out.parent) == [long_name]


# --- patches


def git(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_a_patch_makes_of_the_given_repository_what_was_delivered(bench, tmp_path):
    repository = tmp_path / "repo"
    repository.mkdir()
    git(repository, "init", "-q")
    before = {
        "text.txt": b"one\ntwo\nthree\n" * 50,
        "no newline": b"end",
        "binary": bytes(range(256)) * 5,
        "gone": b"gone\n",
        "empty-gone": b"",
        "mode": b"#!/bin/sh\n",
        "wörter/ümlaut": b"a\n",
        "same": b"same\n",
    }
    for name, data in before.items():
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_bytes(data)
    os.symlink("same", repository / "link")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "start")
    assert is_repository(repository)
    given = give([repository], bench.root, ME, bench.store)
    bench.write("repo/text.txt", b"zero\n" + before["text.txt"].replace(b"two", b"2", 1) + b"last\n")
    bench.write("repo/no newline", b"end\nmore")
    bench.write("repo/binary", bytes(reversed(before["binary"])) + b"\0")
    bench.write("repo/mode", before["mode"], 0o755)
    bench.write("repo/wörter/ümlaut", b"b\n")
    bench.write(b'repo/new "quoted"\t\\name', b"new\n")
    bench.write("repo/empty-new", b"")
    bench.write("repo/new-binary", b"\0\1\2", 0o755)
    bench.write("repo/.git/hooks/post-checkout", b"#!/bin/sh\ntouch /tmp/never\n", 0o755)
    for name in ("gone", "empty-gone"):
        (bench.workspace / "repo" / name).unlink()
    patterns = Patterns(["repo/**"])
    delivery = bench.take("repo/**")
    given_as = Repository(repository, b"repo", "", "", "", given.manifest)
    patch = as_patch(changed(given_as, delivery, bench.staging, patterns), bench.store, bench.staging)
    assert patch.left_out == () and b".git/hooks" not in patch.data
    done = deliver(delivery, bench.staging, bench.out, patch=patch.data)
    assert done.patch is not None
    git(repository, "apply", "--index", str(done.patch))
    assert {name: (repository / name).read_bytes() for name in files_below(repository) if not name.startswith(".git/")} == {
        name: (bench.workspace / "repo" / name).read_bytes()
        for name in files_below(bench.workspace / "repo")
        if not name.startswith(".git/")
    }
    assert os.access(repository / "mode", os.X_OK)
    git(repository, "apply", "--index", "-R", str(done.patch))
    assert git(repository, "status", "--porcelain") == ""


def test_what_was_refused_or_not_asked_for_is_not_deleted_by_the_patch(bench, tmp_path):
    repository = tmp_path / "repo"
    repository.mkdir()
    (repository / "big").write_bytes(b"small")
    (repository / "unasked").write_bytes(b"x")
    given = give([repository], bench.root, ME, bench.store)
    bench.write("repo/big", b"x" * 200)
    (bench.workspace / "repo" / "unasked").unlink()
    delivery = bench.take("repo/b*", most_bytes=100)
    given_as = Repository(repository, b"repo", "", "", "", given.manifest)
    assert list(changed(given_as, delivery, bench.staging, Patterns(["repo/b*"]))) == []


def test_paths_are_quoted_as_git_does():
    assert quoted(b"a/plain name") == b"a/plain name"
    assert quoted(b'a/\xc3\xa4"\n') == b'"a/\\303\\244\\"\\n"'
