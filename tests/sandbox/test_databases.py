"""Databases that other programs write to while they are given: the copy is of one moment, the original is only read."""

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from gearcase.doors.files import give
from gearcase.errors import RunError
from gearcase.sandbox import databases
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import copy_in

ME = (os.geteuid(), os.getegid())
ROWS = 400

WRITER = """
import sqlite3, sys, time
path, mode, pause = sys.argv[1:4]
db = sqlite3.connect(path, isolation_level=None, timeout=60)
db.execute(f"pragma journal_mode = {mode}")
db.execute("pragma wal_autocheckpoint = 50")
db.execute("pragma cache_size = 10")  # spills into the file before it commits
for name in ("a", "b"):
    db.execute(f"create table if not exists {name} (id integer primary key, n int, pad text)")
db.execute("begin")
for name in ("a", "b"):
    db.executemany(f"insert into {name} values (?, 0, ?)", [(i, "x" * 500) for i in range(int(sys.argv[4]))])
db.execute("commit")
print("ready", flush=True)
n = 0
while True:
    n += 1
    db.execute("begin immediate")
    db.execute("update a set n = ?", (n,))
    db.execute("update b set n = ?", (n,))
    db.execute("insert into a values (null, ?, '')", (n,))
    db.execute("insert into b values (null, ?, '')", (n,))
    db.execute("commit")
    time.sleep(float(pause))
"""

DUCK_WRITER = """
import duckdb, sys, time
path, rounds, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
db = duckdb.connect(path)
db.execute("create table a (n int)")
db.execute("create table b (n int)")
db.execute("checkpoint")
for n in range(rounds):
    db.execute("begin")
    db.execute("insert into a select ? from range(1000)", [n])
    db.execute("insert into b select ? from range(1000)", [n])
    db.execute("commit")
    if n == 0:
        print("ready", flush=True)
    time.sleep(pause)
time.sleep(600)
"""


@contextmanager
def writing(program, *arguments):
    with subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def agrees(path):
    """Open it as any program would, which plays the log or undoes a transaction: whether it is whole, and of one transaction."""
    with sqlite3.connect(path) as db:
        whole = db.execute("pragma integrity_check").fetchall()
        states = [
            db.execute(f"select count(*), max(n), count(distinct n) from {name} where id < {ROWS}").fetchone() for name in "ab"
        ]
        counts = [db.execute(f"select count(*) from {name}").fetchone() for name in "ab"]
    db.close()
    return whole == [("ok",)] and states[0] == states[1] and states[0][2] == 1 and counts[0] == counts[1], states[0][1]


def state_of(folder):
    return {name: (folder / name).stat() for name in sorted(os.listdir(folder))}


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir()
        self.root = folder / "workspace"
        self.root.mkdir()

    def copy(self, source: Path, name: str = "copy"):
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return copy_in(source, fd, name.encode(), ME)
        finally:
            os.close(fd)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_a_database_that_is_hammered_comes_in_as_of_one_transaction(place, mode):
    db = place.source / "app.sqlite"
    seen = set()
    with writing(WRITER, db, mode, 0.002, ROWS) as writer:
        for number in range(25):
            place.copy(place.source, f"copy{number}")
            copied = place.root / f"copy{number}"
            assert not (copied / "app.sqlite-shm").exists()
            whole, n = agrees(copied / "app.sqlite")
            assert whole, f"{mode}, copy {number}"
            seen.add(n)
        assert writer.poll() is None
    assert len(seen) > 1, "the writer went on meanwhile"
    assert agrees(db)[0]


def test_the_same_hammering_tears_a_plain_copy(place):
    """The positive control: without locks, as from a slow disk, a copy lacks rows or is torn."""
    copied = place.root / "copied.sqlite"
    until = time.monotonic() + 60
    with writing(WRITER, place.source / "app.sqlite", "wal", 0.0, ROWS):
        while time.monotonic() < until:
            with open(place.source / "app.sqlite", "rb") as source, open(copied, "wb") as to:
                while part := source.read(1 << 16):
                    to.write(part)
                    time.sleep(0.005)
            if not _stands(copied):
                return
    pytest.fail("no plain copy was torn in a minute")


def _stands(path):
    """Whether a copied database can be read, and agrees with itself."""
    try:
        return agrees(path)[0]
    except (sqlite3.DatabaseError, TypeError):
        return False


def test_what_was_committed_and_stands_in_the_wal_alone_comes_along(place):
    path = place.source / "app.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma wal_autocheckpoint = 0")
    db.execute("create table t (x)")
    db.execute("insert into t values (42)")
    before = state_of(place.source)
    plain = place.folder / "plain.sqlite"
    plain.write_bytes(path.read_bytes())
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        sqlite3.connect(plain).execute("select * from t")

    assert place.copy(place.source).files == 2
    single = place.copy(path, "app.sqlite")
    assert single.along == (b"app.sqlite-wal",) and single.files == 2
    for one in (place.root / "copy/app.sqlite", place.root / "app.sqlite"):
        assert sqlite3.connect(one).execute("select x from t").fetchall() == [(42,)]

    after = state_of(place.source)
    assert {name: (one.st_size, one.st_mtime_ns, one.st_ino) for name, one in after.items()} == {
        name: (one.st_size, one.st_mtime_ns, one.st_ino) for name, one in before.items()
    }
    db.execute("insert into t values (43)")  # its locks are as they were
    db.execute("pragma wal_checkpoint(truncate)")


def test_a_transaction_that_a_crash_left_half_written_is_undone_in_the_copy_alone(place):
    path = place.source / "app.sqlite"
    with writing(WRITER, path, "delete", 0.0, ROWS):
        pass
    crashing = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('pragma cache_size = 5')\n"
        "db.execute('begin immediate')\n"
        "db.execute('update a set n = -1')\n"
        "db.execute('update b set pad = zeroblob(800)')\n"  # spills
        "print('ready', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with sqlite3.connect(path) as db:
        db.execute("pragma journal_mode = delete")
        expected = db.execute("select max(n) from a").fetchone()
    db.close()
    subprocess.run([sys.executable, "-c", crashing, path], check=False, stdout=subprocess.DEVNULL)
    journal = place.source / "app.sqlite-journal"
    hot = journal.read_bytes()
    assert hot[:8] == bytes.fromhex("d9d505f920a163d7")

    place.copy(place.source)
    assert agrees(place.root / "copy/app.sqlite")[0]
    assert sqlite3.connect(place.root / "copy/app.sqlite").execute("select max(n) from a").fetchone() == expected
    assert journal.read_bytes() == hot, "the original still waits for its own undoing"

    alone = place.folder / "alone.sqlite"
    alone.write_bytes(path.read_bytes())
    try:
        torn = not agrees(alone)[0]
    except sqlite3.DatabaseError:
        torn = True
    assert torn, "the positive control: without its journal it is torn"


def test_a_journal_of_several_databases_is_refused_with_what_to_do(place):
    path = place.source / "app.sqlite"
    sqlite3.connect(path).execute("create table t (x)")
    magic = bytes.fromhex("d9d505f920a163d7")
    (place.source / "app.sqlite-journal").write_bytes(magic + bytes(600) + b"/x-mj1" + magic)
    with pytest.raises(RunError) as caught:
        place.copy(place.source)
    assert caught.value.code == "database_busy" and "sqlite3" in caught.value.remedy
    assert os.listdir(place.root) == []


def test_a_database_that_is_never_let_go_is_an_error_that_says_so(place, monkeypatch):
    monkeypatch.setattr(databases, "PATIENCE", 0.2)
    path = place.source / "app.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("create table t (x)")
    db.execute("begin exclusive")
    with pytest.raises(RunError) as caught:
        place.copy(path, "app.sqlite")
    assert caught.value.code == "database_busy" and ".backup" in caught.value.remedy
    assert os.listdir(place.root) == []
    db.execute("commit")
    place.copy(path, "app.sqlite")
    assert (place.root / "app.sqlite").read_bytes() == path.read_bytes()


def test_the_lock_outlives_a_writer_that_begins_meanwhile(place):
    """While it is copied nobody can write to the file; afterwards they can."""
    path = place.source / "app.sqlite"
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    db.execute("create table t (x)")
    fd, folder = os.open(path, os.O_RDONLY), os.open(place.source, os.O_RDONLY)
    for moment in databases.moments(folder, b"app.sqlite", fd, databases.SQLITE, b"app.sqlite"):
        with moment:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                db.execute("insert into t values (1)")
            assert moment.held()
        break
    db.execute("insert into t values (1)")
    os.close(folder)
    os.close(fd)


def test_files_that_only_look_like_databases_are_copied_as_they_are(place):
    looks = {
        "short": b"SQLite",
        "head": b"SQLite format 3\0",
        "junk": b"SQLite format 3\0" + b"\xff" * 9000,
        "duck": b"\0" * 8 + b"DUCK",
    }
    for name, data in looks.items():
        (place.source / name).write_bytes(data)
        (place.source / f"{name}-wal").write_bytes(b"not a log")
        (place.source / f"{name}-journal").write_bytes(b"")
    place.copy(place.source)
    for name in ("short", "head", "junk", "duck"):
        assert (place.root / "copy" / name).read_bytes() == (place.source / name).read_bytes()
        assert (place.root / "copy" / f"{name}-wal").read_bytes() == b"not a log"


def test_a_link_to_a_database_brings_what_lies_beside_its_target(place):
    path = place.source / "real.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("create table t (x)")
    (place.folder / "named.sqlite").symlink_to(path)
    place.copy(place.folder / "named.sqlite", "named.sqlite")
    assert sorted(os.listdir(place.root)) == ["named.sqlite", "named.sqlite-wal"]
    assert sqlite3.connect(place.root / "named.sqlite").execute("select count(*) from t").fetchall() == [(0,)]
    db.close()


def test_a_database_and_its_log_given_by_name_come_once(place):
    path = place.source / "app.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("create table t (x)")
    root = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
    given = give([path.with_name("app.sqlite-wal"), path], root, ME, BlobStore(place.folder / "blobs"))
    os.close(root)
    assert given.files == 2 and sorted(os.listdir(place.root)) == ["app.sqlite", "app.sqlite-wal"]
    db.close()


# --- DuckDB


def duck_states(path):
    with duckdb.connect(str(path)) as db:
        return [db.execute(f"select count(*), coalesce(max(n), -1) from {name}").fetchone() for name in "ab"]


def test_a_duckdb_database_that_is_open_elsewhere_comes_with_its_wal(place):
    path = place.source / "app.duckdb"
    with writing(DUCK_WRITER, path, 3, 0.0):
        time.sleep(0.3)
        assert (place.source / "app.duckdb.wal").stat().st_size > 0
        alone = place.folder / "alone.duckdb"
        shutil.copy(path, alone)
        place.copy(place.source)
        single = place.copy(path, "app.duckdb")
        assert single.along == (b"app.duckdb.wal",)
    for one in (place.root / "copy/app.duckdb", place.root / "app.duckdb"):
        assert duck_states(one) == [(3000, 2), (3000, 2)]
    assert duck_states(alone) == [(0, -1), (0, -1)], "the positive control: the file alone lacks every row"


def test_a_duckdb_database_that_is_written_now_and_then_is_copied_between(place):
    path = place.source / "app.duckdb"
    seen = set()
    with writing(DUCK_WRITER, path, 1000, 0.3) as writer:
        for number in itertools.count():
            place.copy(place.source, f"copy{number}")
            a, b = duck_states(place.root / f"copy{number}" / "app.duckdb")
            assert a == b
            seen.add(a)
            if number >= 8 and len(seen) > 1:  # the writer has written between two of them
                break
        assert writer.poll() is None


def test_a_duckdb_database_that_never_rests_is_an_error_that_says_so(place, monkeypatch):
    monkeypatch.setattr(databases, "PATIENCE", 0.5)
    path = place.source / "app.duckdb"
    with writing(DUCK_WRITER, path, 100_000, 0.0), pytest.raises(RunError) as caught:
        place.copy(place.source)
    assert caught.value.code == "database_busy" and "EXPORT DATABASE" in caught.value.remedy
    assert os.listdir(place.root) == []
