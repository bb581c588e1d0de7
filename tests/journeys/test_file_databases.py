"""A SQLite database that programs outside and inside have open: in as of one transaction, out with its newest rows."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples/doors/files"
TOTALS = "CREATE TABLE totals AS SELECT shop, sum(amount) AS amount FROM orders GROUP BY 1"


def work(user):
    folder = user.folder / "files"
    shutil.copytree(EXAMPLE, folder)
    return folder


def delivered(user):
    with sqlite3.connect(user.folder / "out/app.sqlite") as db:
        return dict(db.execute("SELECT shop, amount FROM totals"))


def test_the_example_works_beside_a_program_that_has_the_database_open(user):
    folder = work(user)
    with subprocess.Popen([sys.executable, "make.py"], cwd=folder, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout.readline().startswith("app.sqlite is open")
            before = {
                path.name: (path.read_bytes(), path.stat().st_mtime_ns)
                for path in folder.glob("app.sqlite*")
                if "shm" not in path.name
            }
            assert sorted(before) == ["app.sqlite", "app.sqlite-wal"]
            command = f'python3 -c \'import sqlite3; sqlite3.connect("app.sqlite").execute("{TOTALS}")\'; ls; gear done'
            model = user.script({"commands": [command]})
            record = user.types("run", "-f", folder / "box.toml", "--model", model, "--out", "out", "--json", code=0).record
            assert record["status"] == "accepted" and record["checks"][0]["verdict"] == "passed"
            assert [one["path"] for one in record["delivered"]] == ["app.sqlite"]
            assert delivered(user) == {"north": 15, "south": 20}
            assert {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in before} == before
        finally:
            program.kill()


def test_a_database_that_a_program_of_the_box_still_has_open_leaves_with_its_newest_rows(user):
    folder = work(user)
    sqlite3.connect(folder / "app.sqlite").execute("CREATE TABLE orders (shop TEXT, amount INT)")
    (folder / "open.py").write_text(
        "import sqlite3, time\n"
        "db = sqlite3.connect('app.sqlite', isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = WAL')\n"
        "db.execute('PRAGMA wal_autocheckpoint = 0')\n"
        "db.execute(\"INSERT INTO orders VALUES ('east', 7)\")\n"
        f"db.execute('{TOTALS}')\n"
        "open('/tmp/done', 'w').close()\n"
        "time.sleep(600)\n"
    )
    box = (folder / "box.toml").read_text().replace('give = ["app.sqlite"]', 'give = ["app.sqlite", "open.py"]')
    (folder / "box.toml").write_text(box)
    command = "python3 open.py & until [ -e /tmp/done ]; do sleep 0.05; done; gear done"
    record = user.types(
        "run", "-f", folder / "box.toml", "--model", user.script({"commands": [command]}), "--out", "out", "--json", code=0
    ).record
    assert record["status"] == "accepted", record["checks"]
    assert {one["path"]: one["flags"] for one in record["delivered"]} == {
        "app.sqlite": ["open database"],
        "app.sqlite-wal": ["part of a database"],
    }
    alone = user.folder / "alone.sqlite"
    shutil.copy(user.folder / "out/app.sqlite", alone)
    assert sqlite3.connect(alone).execute("SELECT count(*) FROM sqlite_master WHERE name = 'totals'").fetchone() == (0,)
    assert delivered(user) == {"east": 7}
    assert "open database" in user.types("report").out


def test_a_database_that_is_never_let_go_ends_the_run_before_it_begins(user):
    folder = work(user)
    db = sqlite3.connect(folder / "app.sqlite", isolation_level=None)
    db.execute("CREATE TABLE orders (shop TEXT, amount INT)")
    db.execute("BEGIN EXCLUSIVE")
    ended = user.types("run", "-f", folder / "box.toml", "--model", user.script({"commands": ["gear done"]}), "--json", code=13)
    assert ended.record["error"]["code"] == "database_busy" and ".backup" in ended.record["error"]["remedy"]
    assert ended.record["residue"] == []
