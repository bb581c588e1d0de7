"""A branch of a live database in a box: whatever happens to it there, the live one stays as it is."""

import json
import os

import pytest

from tests.postgres_server import PASSWORD, live

SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, email text NOT NULL, "Odd Name" text);
CREATE TABLE orders (id serial PRIMARY KEY, customer int REFERENCES customers, total numeric NOT NULL DEFAULT 0);
CREATE TABLE "Wild ""table"" \n; \\! touch /tmp/owned" ("select" int);
INSERT INTO customers SELECT n, 'user' || n || '@example.org', 'x' FROM generate_series(1, 200) n;
INSERT INTO orders (customer, total) SELECT 1 + n % 200, n FROM generate_series(1, 1000) n;
CREATE VIEW big AS SELECT * FROM orders WHERE total > 500;
CREATE FUNCTION double(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * x';
CREATE INDEX by_customer ON orders (customer);
"""
DESTROY = """
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('DROP TABLE %I.%I CASCADE', one.schemaname, one.tablename);
  END LOOP;
END $$;
CREATE TABLE IF NOT EXISTS left_behind (x int);
"""


@pytest.fixture(scope="module")
def shop():
    with live() as server:
        server.sql(SHOP)
        yield server


def box(user, text):
    file = user.folder / "box.toml"
    file.write_text(text)
    return file


def branch(user, server, more=""):
    user.environment["SHOP_PASSWORD"] = PASSWORD
    return box(user, f'[doors.postgres.shop]\nmode = "branch"\nfrom = "{server.dsn}"\npassword_env = "SHOP_PASSWORD"\n{more}')


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


def inside(user, file, sql, code=0):
    return user.types("exec", "-f", file, "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, code=code)


def test_a_branch_holds_what_the_live_database_holds(user, shop):
    told = inside(
        user,
        branch(user, shop),
        "SELECT count(*), sum(total) FROM orders; SELECT count(*) FROM big; SELECT double(21); SELECT min(email) FROM customers; "
        "INSERT INTO orders (customer, total) VALUES (1, 5) RETURNING id; ALTER TABLE orders ADD note text;",
    ).out
    assert told.split() == ["1000|500500", "500", "42", "user100@example.org", "1001"]
    opened = facts(user, "database_opened")[0]
    assert (opened["mode"], opened["source"], opened["tables"], opened["rows"]) == ("branch", shop.dsn, 3, 1200)
    changed = json.loads(user.types("db", "diff", "--json", code=0).out)["databases"][0]["changes"]
    assert [(one["what"], one["kind"], one["name"], one["rows_before"], one["rows_after"], one["lines"]) for one in changed] == [
        ("changed", "table", "public.orders", 1000, 1001, ["+ column note text"])
    ]
    everything = "".join(file.read_text(errors="replace") for file in (user.home / "state").rglob("*") if file.is_file())
    assert PASSWORD not in everything, "the password stands in no file of the run"


def test_the_live_database_stays_as_it_is_when_its_branch_loses_every_table(user, shop):
    before = shop.digest()
    inside(user, branch(user, shop), DESTROY)
    assert shop.digest() == before
    kept = facts(user, "database_snapshot")
    assert [(one["kind"], one["file"]) for one in kept] == [("DO", "shop-before.dump")]
    (dump,) = (user.home / "state").glob("gearcase/runs/*/databases/shop-before.dump")
    assert dump.stat().st_size == kept[0]["bytes"]
    assert "TABLE DATA public orders" in shop.run("pg_restore", "--list", dump), "what was there can be had back"
    told = user.types("db", "diff", code=0).out
    assert "dropped  table public.customers (200 rows)" in told
    assert "dropped  table public.orders (1,000 rows)" in told
    assert "dropped  view public.big" in told
    assert "added    table public.left_behind" in told
    assert "\n; \\!" not in told, "no name breaks a line"
    assert not os.path.exists("/tmp/owned")
    with live() as control:  # the same script where nothing stands between: it does destroy
        control.sql(SHOP)
        whole = control.digest()
        control.sql(DESTROY)
        assert control.digest() != whole
        assert control.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "1"


def test_rows_can_be_left_out_of_a_branch(user, shop):
    file = branch(user, shop, "schema_only = true\n")
    assert inside(user, file, "SELECT count(*) FROM orders; SELECT count(*) FROM customers").out.split() == ["0", "0"]
    file = branch(user, shop, 'exclude = ["public.orders"]\n')
    assert inside(user, file, "SELECT count(*) FROM orders; SELECT count(*) FROM customers").out.split() == ["0", "200"]


@pytest.mark.parametrize(
    ("more", "environment", "code"),
    [
        ("", {"SHOP_PASSWORD": "wrong"}, "source_refused"),
        ("", {"SHOP_PASSWORD": ""}, "source_refused"),
        ('disk = "32MiB"\n', {}, "too_large"),
    ],
)
def test_a_branch_that_cannot_be_made_says_why_and_leaves_nothing_behind(user, shop, more, environment, code):
    file = branch(user, shop, more)
    ended = user.types("exec", "--json", "-f", file, "--", "true", **environment)
    assert ended.code == 13
    assert ended.record["error"]["code"] == code
    assert ended.record["error"]["remedy"]
    assert ended.record["residue"] == []
    assert PASSWORD not in ended.out


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((":{port}/", ":1/"), "source_unreachable"),
        (("/shop", "/nothing"), "source_refused"),
        (("127.0.0.1", "nowhere.invalid"), "source_unreachable"),
    ],
)
def test_a_source_that_is_not_there_is_named(user, shop, change, code):
    old, new = change[0].format(port=shop.port), change[1]
    file = branch(user, shop)
    file.write_text(file.read_text().replace(old, new))
    assert user.types("exec", "--json", "-f", file, "--", "true").record["error"]["code"] == code


def test_a_large_table_is_branched_whole(user, shop):
    shop.sql("CREATE TABLE large AS SELECT n, n % 97 AS rest FROM generate_series(1, 1000000) n")
    try:
        told = inside(user, branch(user, shop), "SELECT count(*), sum(n), sum(rest) FROM large").out
        assert told.strip() == shop.sql("SELECT count(*), sum(n), sum(rest) FROM large").strip() != ""
        assert facts(user, "database_opened")[0]["rows"] == 1_001_200
    finally:
        shop.sql("DROP TABLE large")


def test_a_disk_that_fills_while_it_is_copied_is_told_and_nothing_stays(user, shop):
    """What the size of tables does not tell: large objects."""
    noise = "SELECT decode(string_agg(md5(random()::text || m), ''), 'hex') INTO one FROM generate_series(1, 65536) m"
    shop.sql(f"DO $$ DECLARE one bytea; BEGIN FOR n IN 1..80 LOOP {noise}; PERFORM lo_from_bytea(0, one); END LOOP; END $$")
    try:
        ended = user.types("exec", "--json", "-f", branch(user, shop, 'disk = "104MiB"\n'), "--", "true", code=13)
        error = ended.record["error"]
        assert (error["code"], ended.record["residue"]) == ("too_large", []), error
        assert "does not fit" in error["message"] and "disk" in error["remedy"]
    finally:
        shop.sql("SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata")


def test_masked_values_are_nowhere_in_the_branch(user, shop):
    shop.sql(
        """CREATE TABLE people (id int PRIMARY KEY, "E Mail" varchar(12) UNIQUE, phone text, note text);
        CREATE TABLE logins (email varchar(12));
        INSERT INTO people SELECT n, 'canary' || n, '555-canary' || n, CASE WHEN n % 2 = 0 THEN 'keep' END FROM generate_series(1, 50) n;
        INSERT INTO logins SELECT "E Mail" FROM people;
        CREATE MATERIALIZED VIEW directory AS SELECT "E Mail" AS email, phone FROM people;
        CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO public.logins VALUES (OLD."E Mail"); RETURN NEW; END $$;
        CREATE TRIGGER tells BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION tells();
        ANALYZE;"""
    )
    before = shop.digest()
    try:
        masks = 'mask = { "people.E Mail" = "hash", "public.people.phone" = "null", "logins.email" = "hash" }\n'
        told = inside(
            user,
            branch(user, shop, masks),
            'SELECT count(*), count(DISTINCT "E Mail"), count(phone), count(note), max(length("E Mail")) FROM people; '
            'SELECT count(*) FROM logins JOIN people ON email = "E Mail"; SELECT count(*), count(phone) FROM directory; '
            "SELECT count(*) FROM pg_stats WHERE (most_common_vals::text || histogram_bounds::text) LIKE '%canary%'; "
            "SELECT count(*) FROM people WHERE people::text LIKE '%canary%'; "
            "SELECT count(*) FROM directory d WHERE d::text LIKE '%canary%'; "
            "SELECT count(*) FROM logins WHERE email LIKE '%canary%';",
        ).out
        assert told.split() == ["50|50|0|25|12", "50", "50|0", "0", "0", "0", "0"]
        assert shop.digest() == before
        plain = inside(user, branch(user, shop), "SELECT count(*) FROM people WHERE people::text LIKE '%canary%'").out
        assert plain.split() == ["50"], "the positive control"
    finally:
        shop.sql("DROP TABLE people CASCADE; DROP TABLE logins; DROP FUNCTION tells")


@pytest.mark.parametrize("masks", ['"customers.no_such" = "hash"', '"orders.total" = "hash"', '"customers.email" = "null"'])
def test_a_column_that_cannot_be_masked_ends_the_run_before_it_begins(user, shop, masks):
    ended = user.types("exec", "-f", branch(user, shop, f"mask = {{ {masks} }}\n"), "--json", "--", "true", code=13)
    assert ended.record["error"]["code"] == "bad_mask" and ended.record["residue"] == []


def test_a_snapshot_of_ours_is_no_contact(user, shop):
    """The gate reads every table to keep what is there: that is not the agent's contact with it."""
    inside(user, branch(user, shop, 'must_touch = ["public.customers"]\n'), "DELETE FROM orders; SELECT 1")
    contact = facts(user, "contact")[-1]
    assert contact["missing"] == ["public.customers"] and "public.orders" in contact["relations"]
    assert "public.customers" not in contact["relations"]


def test_an_empty_database_has_an_empty_branch(user, shop):
    shop.sql("DROP DATABASE IF EXISTS bare", "postgres", "postgres")
    shop.sql("CREATE DATABASE bare OWNER owner", "postgres", "postgres")
    file = branch(user, shop)
    file.write_text(file.read_text().replace("/shop", "/bare"))
    assert inside(user, file, "CREATE TABLE t (x int)").out == ""
    assert facts(user, "database_opened")[0]["tables"] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('mode = "branch"', "needs `from`"),
        ('from = "postgresql://owner:secret@h/d"\nmode = "branch"', "holds a password"),
        ('from = "mysql://h/d"\nmode = "branch"', "no address of a PostgreSQL database"),
        ('from = "postgresql://h/d?options=-csearch_path"\nmode = "branch"', "has a setting 'options'"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused(user, text, says):
    told = user.types("box", "check", box(user, f"[doors.postgres.shop]\n{text}\n"), code=2)
    assert says in " ".join(told.err.split())
    assert "secret" not in told.err


HONEST = """import subprocess
told = subprocess.run(["psql", "-XqAtc", "SELECT sum(total) FROM orders"], capture_output=True, text=True, check=True).stdout
open("out.txt", "w").write(told)
"""
MOCK = 'open("out.txt", "w").write("500500\\n")\n'


def test_who_answers_from_a_mock_is_told_from_who_asked_by_contact_alone(user, shop):
    file = branch(user, shop, 'must_touch = ["public.orders"]\n[files]\ngive = ["work.py"]\ntake = ["out.txt"]\n')
    delivered, contacts = [], []
    for text in (HONEST, MOCK):
        (user.folder / "work.py").write_text(text)
        out = user.folder / f"out-{len(delivered)}"
        record = user.types("exec", "--json", "-f", file, "--out", out, "--", "python3", "work.py", code=0).record
        delivered.append((out / "out.txt").read_bytes())
        contacts.append(facts(user, "contact")[-1])
        assert record["residue"] == []
    assert delivered[0] == delivered[1]
    assert contacts[0]["relations"] == {"public.orders": {"read": 1000, "written": 0}}
    assert contacts[0]["missing"] == []
    assert contacts[1]["relations"] == {}
    assert contacts[1]["missing"] == ["public.orders"]


def test_a_database_leaves_as_a_dump_that_was_checked(user, shop):
    (user.folder / "check.sh").write_text(
        "head -c 5 $DELIVERED/shop.dump | grep -q PGDMP && grep -aq late $DELIVERED/shop.dump\n"
    )
    file = branch(
        user,
        shop,
        '[files]\ntake = ["postgres:shop"]\n[[check]]\nname = "whole"\nrun = "sh check.sh"\n',
    )
    model = user.script(
        {"commands": ["psql -c 'CREATE TABLE late AS SELECT * FROM orders WHERE total > 900'", "gear done --as-is"]}
    )
    record = user.types("run", "List the late ones", "-f", file, "--model", model, "--out", "out", "--json", code=0).record
    assert record["status"] == "accepted"
    assert [one["path"] for one in record["delivered"]] == ["shop.dump"]
    assert "TABLE DATA public late" in shop.run("pg_restore", "--list", user.folder / "out/shop.dump")
    assert "names no database" in user.types("box", "check", box(user, '[files]\ntake = ["postgres:other"]\n'), code=2).err


def test_large_tables_can_be_sampled_and_foreign_keys_that_break_are_told(user, shop):
    shop.sql(
        """CREATE TABLE "Large one" (id int PRIMARY KEY, customer int REFERENCES customers, twice int GENERATED ALWAYS AS (id * 2) STORED);
        INSERT INTO "Large one" SELECT n, 1 + n % 200 FROM generate_series(1, 100000) n;
        CREATE TABLE refers (large int REFERENCES "Large one", note text);
        INSERT INTO refers SELECT n, 'x' FROM generate_series(1, 50) n; ANALYZE;"""
    )
    before = shop.digest()
    try:
        told = inside(
            user,
            branch(user, shop, 'sample = "5%"\n'),
            """SELECT count(*) BETWEEN 3500 AND 6500, bool_and(twice = id * 2) FROM "Large one"; SELECT count(*) FROM refers;
            SELECT count(*) FROM orders; SELECT string_agg(conname || ' ' || convalidated, ' ' ORDER BY conname) FROM pg_constraint
            WHERE contype = 'f'; SELECT count(*) FROM pg_indexes WHERE tablename = 'Large one'""",
        ).out
        valid = "Large one_customer_fkey true orders_customer_fkey true refers_large_fkey false"
        assert told.splitlines() == ["t|t", "50", "1000", valid, "1"]
        assert facts(user, "database_opened")[0]["left_out"] == [
            "public.refers: refers_large_fkey is not valid for the rows that are there"
        ]
        assert shop.digest() == before
    finally:
        shop.sql('DROP TABLE refers; DROP TABLE "Large one"')


def test_a_run_whose_branch_loses_its_tables_is_held_by_what_the_server_counts(user, shop):
    file = branch(user, shop, '[monitors]\ndestructive = "freeze"\n')
    inside(user, file, "SELECT count(*) FROM orders; CREATE TABLE mine AS SELECT 1; DROP TABLE mine")
    assert not facts(user, "alarm_raised"), "a table of its own"
    user.types("exec", "-f", file, "--", "sh", "-c", 'psql -XqAtc "$1"; sleep 20', "sh", DESTROY)
    (alarm,) = facts(user, "alarm_raised")
    assert (alarm["detector"], alarm["action"]) == ("destructive", "freeze")
    assert set(alarm["evidence"]["tables"]) >= {"public.customers", "public.orders"}
    record = facts(user, "run_ended")[0]["record"]
    assert record["status"] == "stopped" and record["alarms"][0]["name"] == "destructive"


def test_work_about_a_database_that_was_never_read_is_not_handed_in(user, shop):
    file = branch(user, shop, 'must_touch = ["public.orders"]\n[files]\ntake = ["out/**"]\n')
    mock = "mkdir -p out; echo 501000 > out/sum; echo '=== 12 passed in 0.1s ==='"
    read = "psql -XqAtc 'SELECT sum(total) FROM orders' > out/sum"
    model = user.script({"commands": [mock, "gear done; gear done --as-is", read, "gear done"]})
    record = user.types("run", "the sum of all orders", "-f", file, "--model", model, "--out", "out", "--json", code=0).record
    assert (user.folder / "out/out/sum").read_text().strip() == "500500" and record["status"] == "unverified"
    refused = facts(user, "alarm_raised")
    assert [(one["detector"], one["action"]) for one in refused] == [("no_contact", "refuse")] * 2


def test_a_parent_and_its_sub_agent_work_on_branches_of_their_own(user, shop):
    """The sub-agent drops every table of its branch; its parent's and the live one are whole, and each difference is told."""
    before = shop.digest()
    (user.folder / "destroy.sql").write_text(DESTROY)
    sql = "psql -XqAt -v ON_ERROR_STOP=1"
    lead = [
        f"mkdir out; {sql} -c 'INSERT INTO orders (customer, total) VALUES (7, 7)'",
        "gear spawn --branch shop --take 'said' 'drop them all' > out/told; cp said out",
        f"{sql} -c 'SELECT count(*) FROM orders; SELECT count(*) FROM customers' > out/kept",
    ]
    left = "SELECT count(*) FROM pg_tables WHERE schemaname = $$public$$"
    child = f"({sql} -c 'SELECT count(*) FROM orders'; {sql} -f destroy.sql; {sql} -c '{left}') > said"
    steps = [
        {"commands": ["; ".join(lead)]},
        {"commands": ["gear done"]},
        {"agent": "a1", "commands": [child]},
        {"agent": "a1", "commands": ["gear done"]},
    ]
    model = user.script(*steps)
    file = branch(user, shop)
    user.types(
        "run",
        "g",
        "-f",
        file,
        "--model",
        model,
        "--give",
        user.folder / "destroy.sql",
        "--take",
        "out/**",
        "--out",
        "made",
        code=0,
    )
    out = user.folder / "made/out"
    assert (out / "said").read_text().split() == ["1001", "1"], "it has what its parent had written, and destroyed all of it"
    assert (out / "kept").read_text().split() == ["1001", "200"]
    assert "dropped  table public.orders (1,001 rows)" in (out / "told").read_text()
    assert shop.digest() == before
    told = json.loads(user.types("db", "diff", "--json", code=0).out)["databases"]
    by_name = {one["name"]: [(change["what"], change["name"]) for change in one["changes"]] for one in told}
    assert by_name["shop"] == [("changed", "public.orders")]
    assert {("dropped", "public.orders"), ("dropped", "public.customers"), ("added", "public.left_behind")} <= set(
        by_name["shop@a1"]
    )
    shown = user.types("db", "diff", code=0)
    assert "shop@a1 (branch of postgres.shop)" in shown.err
    assert [one["file"] for one in facts(user, "database_snapshot")] == ["shop@a1-before.dump"]
    seen = user.types("db", "psql", "--name", "shop@a1", "--before", "-c", "SELECT count(*) AS kept FROM orders", code=0)
    assert "1001" in seen.out
