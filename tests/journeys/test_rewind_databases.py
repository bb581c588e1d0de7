"""A run whose agent dropped a table and spoiled files goes back: frozen, looked at, returned, resumed, and forth again."""

import json
import time

from tests.postgres_server import PASSWORD, live

SQL = "psql -XqAt -v ON_ERROR_STOP=1 -c"
BOX = """
[files]
take = ["out/**"]
[doors.postgres.shop]
mode = "branch"
from = "{dsn}"
password_env = "SHOP_PASSWORD"
[monitors]
destructive = "off"  # it would stop what returns to the loss
"""
SHOP = "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 1000)"
WORK = f"mkdir out; {SQL} 'INSERT INTO orders SELECT generate_series(1001, 1500)'; echo good > out/x; gear snapshot"
SPOIL = f"{SQL} 'DROP TABLE orders; CREATE TABLE made (x int)'; echo bad > out/x; touch spoiled; sleep 300"
LOOK = f"{SQL} 'SELECT count(*) FROM orders' > /tmp/back; cat out/x >> /tmp/back; touch looked; sleep 300"
LAST = f"cp /tmp/back out/back; {SQL} 'SELECT count(*) FROM orders' 2> out/forth; cat out/x >> out/forth; gear done"


def holds(user, path):
    """Wait until the agent has made a file."""
    until = time.monotonic() + 60
    while path not in user.types("diff", "amber-fox", "s1", "now", "--stat").out:
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.2)


def test_a_dropped_table_and_spoiled_files_come_back_and_the_drop_can_be_had_back_too(user):
    user.environment["SHOP_PASSWORD"] = PASSWORD
    with live() as server:
        server.sql(SHOP)
        (user.folder / "box.toml").write_text(BOX.format(dsn=server.dsn))
        model = user.script(*({"commands": [one]} for one in (WORK, SPOIL, LOOK, LAST)))
        run = user.starts("run", "g", "-f", "box.toml", "--model", model, "--name", "amber-fox", "--out", "result", "--json")
        holds(user, "spoiled")
        user.types("freeze", "amber-fox", code=0)
        back = user.types("rewind", "amber-fox", "--to", "s1", "--yes", code=0)
        assert "postgres.shop goes back to s1" in back.err and "dropped  table public.orders (1,500 rows)" in back.err
        assert "added    table public.made (0 rows)" in back.err and "out/x" in back.err
        assert "is back at s1, postgres.shop with it" in back.out
        user.types("resume", "amber-fox", code=0)
        holds(user, "looked")
        left = [one["kept"] for one in user.journal("amber-fox") if one["type"] == "database_returned"]
        forth = json.loads(user.types("rewind", "amber-fox", "--to", left[0], "--yes", "--json", code=0).out)
        assert forth["databases"] == ["postgres.shop"]
        user.types("resume", "amber-fox", code=0)
        out, err = run.communicate(timeout=90)
        record = json.loads(out)
        assert (record["status"], record["residue"]) == ("unverified", []), err
        assert server.sql("SELECT count(*) FROM orders") == "1000", "the live database is as it was"
    assert (user.folder / "result/out/back").read_text() == "1500\ngood\n"
    gone = (user.folder / "result/out/forth").read_text()
    assert 'relation "orders" does not exist' in gone and gone.endswith("bad\n")
    told = user.types("db", "diff", "amber-fox", code=0).out
    assert "dropped  table public.orders (1,000 rows)" in told and "added    table public.made" in told
