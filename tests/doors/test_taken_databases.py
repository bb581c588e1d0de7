"""Databases that were open when the box stood still: they leave whole, with their logs, and meet no other database's log outside."""

import os
import sqlite3
import subprocess
import sys

import duckdb
import pytest

from gearcase.doors.delivery import deliver
from gearcase.doors.files import take
from gearcase.doors.flags import OPEN_DATABASE, PART_OF_DATABASE
from gearcase.errors import UsageError

MUCH = 1 << 30


class Bench:
    def __init__(self, folder):
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.staging = folder / "staged"
        self.out = folder / "out"

    def take(self, *patterns, most=MUCH):
        root = os.open(self.workspace, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return take(root, patterns, self.staging, most_bytes=most)
        finally:
            os.close(root)

    def wal(self, name="app.sqlite", rows=1):
        db = sqlite3.connect(self.workspace / name, isolation_level=None)
        db.execute("pragma journal_mode = wal")
        db.execute("create table t (x)")
        db.executemany("insert into t values (?)", [(n,) for n in range(rows)])
        return db


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def rows(path):
    with sqlite3.connect(path) as db:
        return db.execute("select count(*) from t").fetchone()[0]


def flags_of(delivery):
    return {file.path.decode(): file.flags for file in delivery.files}


def test_an_open_database_leaves_with_its_log_although_the_pattern_names_it_alone(bench):
    db = bench.wal(rows=3)
    delivery = bench.take("app.sqlite")
    assert flags_of(delivery) == {"app.sqlite": (OPEN_DATABASE,), "app.sqlite-wal": (PART_OF_DATABASE,)}
    alone = bench.staging.with_name("alone.sqlite")
    alone.write_bytes((bench.staging / "app.sqlite").read_bytes())
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(alone)
    out = deliver(delivery, bench.staging, bench.out).out
    assert rows(out / "app.sqlite") == 3
    db.close()


def test_a_database_that_was_closed_leaves_alone_and_unmarked(bench):
    bench.wal().close()
    assert flags_of(bench.take("**")) == {"app.sqlite": ()}


def test_what_a_program_makes_anew_stays_with_its_reason(bench):
    db = bench.wal()
    delivery = bench.take("**")
    assert sorted(flags_of(delivery)) == ["app.sqlite", "app.sqlite-wal"]
    assert [(one.path, one.reason) for one in delivery.refused] == [(b"app.sqlite-shm", "SQLite makes it anew")]
    db.close()


def test_a_database_leaves_whole_or_not_at_all(bench):
    db = bench.wal(rows=2000)
    size = (bench.workspace / "app.sqlite").stat().st_size
    delivery = bench.take("*", most=size + 100)
    assert delivery.files == ()
    assert {one.path for one in delivery.refused} >= {b"app.sqlite", b"app.sqlite-wal"}
    db.close()


def test_half_a_transaction_leaves_with_what_undoes_it(bench):
    program = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('create table t (x)')\n"
        "db.executemany('insert into t values (?)', [('x' * 500,)] * 300)\n"
        "db.execute('pragma cache_size = 5')\n"
        "db.execute('begin')\n"
        "db.execute('delete from t where rowid % 2')\n"
        "db.execute('update t set x = zeroblob(900)')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, bench.workspace / "app.sqlite"], check=False)
    delivery = bench.take("app.sqlite")
    assert sorted(flags_of(delivery)) == ["app.sqlite", "app.sqlite-journal"]
    assert rows(deliver(delivery, bench.staging, bench.out).out / "app.sqlite") == 300


def test_a_link_in_the_place_of_a_log_does_not_leave(bench, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary")
    bench.wal().close()
    (bench.workspace / "app.sqlite-wal").symlink_to(secret)
    delivery = bench.take("**")
    assert flags_of(delivery) == {"app.sqlite": ()}
    assert [one.path for one in delivery.refused] == [b"app.sqlite-wal"]


def test_a_duckdb_database_leaves_with_its_wal(bench):
    db = duckdb.connect(str(bench.workspace / "app.duckdb"))
    db.execute("create table t (x int)")
    db.execute("checkpoint")
    db.execute("insert into t values (1), (2)")
    delivery = bench.take("app.duckdb")
    assert flags_of(delivery) == {"app.duckdb": (OPEN_DATABASE,), "app.duckdb.wal": (PART_OF_DATABASE,)}
    out = deliver(delivery, bench.staging, bench.out).out
    with duckdb.connect(str(out / "app.duckdb")) as found:
        assert found.execute("select count(*) from t").fetchone() == (2,)
    db.close()


def test_the_log_of_another_database_in_the_operators_folder_is_not_played_into_what_is_delivered(bench):
    bench.wal(rows=5).close()
    delivery = bench.take("app.sqlite")
    bench.out.mkdir()
    log = bench.out / "app.sqlite-wal"
    log.write_bytes(b"the log of an earlier one")
    (bench.out / "notes.txt-wal").write_text("none of our business")
    with pytest.raises(UsageError) as caught:
        deliver(delivery, bench.staging, bench.out)
    assert caught.value.code == "exists" and caught.value.context["paths"] == ["app.sqlite-wal"]
    assert log.exists()
    deliver(delivery, bench.staging, bench.out, force=True)
    assert not log.exists() and rows(bench.out / "app.sqlite") == 5
    assert (bench.out / "notes.txt-wal").exists()


def test_a_delivery_that_fails_puts_a_log_back_that_it_took_away(bench, monkeypatch):
    bench.wal(rows=5).close()
    delivery = bench.take("app.sqlite")
    bench.out.mkdir()
    log = bench.out / "app.sqlite-wal"
    log.write_bytes(b"the log of an earlier one")
    bench.out.with_name("out.manifest.json").mkdir()
    with pytest.raises(UsageError):
        deliver(delivery, bench.staging, bench.out, force=True)
    bench.out.with_name("out.manifest.json").rmdir()

    def fails(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gearcase.doors.delivery._write_beside", fails)
    with pytest.raises(OSError):
        deliver(delivery, bench.staging, bench.out, force=True)
    assert log.read_bytes() == b"the log of an earlier one" and not (bench.out / "app.sqlite").exists()
