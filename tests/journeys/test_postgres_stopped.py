"""A branch of a stopped cluster, made of its files: whatever happens to it, the directory stays as it is, byte by byte."""

import hashlib
import os
import shutil

import pytest

from tests.postgres_server import live

SHOP = """
CREATE SCHEMA extra;
CREATE TABLE customers (id int PRIMARY KEY, email text NOT NULL);
CREATE TABLE extra.orders (id serial PRIMARY KEY, customer int REFERENCES customers, total numeric NOT NULL DEFAULT 0);
INSERT INTO customers SELECT n, 'user' || n || '@example.org' FROM generate_series(1, 200) n;
INSERT INTO extra.orders (customer, total) SELECT 1 + n % 200, n FROM generate_series(1, 1000) n;
CREATE VIEW big AS SELECT * FROM extra.orders WHERE total > 500;
"""
AS_SUPERUSER = """
CREATE ROLE agent SUPERUSER LOGIN PASSWORD 'of-the-source';
CREATE DATABASE other;
CREATE TABLE of_the_superuser AS SELECT 7 AS x;
CREATE FUNCTION powerful() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text';
CREATE FUNCTION hears() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the event trigger runs'; END $$;
CREATE EVENT TRIGGER hears ON ddl_command_start EXECUTE FUNCTION hears();
ALTER SYSTEM SET archive_mode = on;
ALTER SYSTEM SET archive_command = 'touch /workspace/archived';
ALTER SYSTEM SET shared_preload_libraries = 'no_such_library';
ALTER DATABASE shop SET session_preload_libraries = 'no_such_library';
"""
DESTROY = """
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'extra') LOOP
    EXECUTE format('DROP TABLE %I.%I CASCADE', one.schemaname, one.tablename);
  END LOOP;
END $$;
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data directory of a cluster that was stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "data"
    with live() as server:
        server.sql(SHOP)
        for one in AS_SUPERUSER.strip().removesuffix(";").split(";\n"):
            server.sql(one, "postgres", "shop")
        server.keep(folder)
    return folder


def digest(folder):
    """Of every file, its name, mode and times."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        state.update(repr((str(path), found.st_mode, found.st_uid, found.st_mtime_ns, found.st_size)).encode())
        if path.is_file():
            state.update(path.read_bytes())
    return state.hexdigest()


def box(user, folder, more=""):
    file = user.folder / "box.toml"
    file.write_text(f'[doors.postgres.shop]\nmode = "branch"\nfrom = "{folder}"\n{more}')
    return file


def inside(user, file, sql, code=0):
    return user.types("exec", "-f", file, "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, code=code)


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


def test_the_directory_stays_as_it_is_when_its_branch_loses_every_table(user, data):
    before = digest(data)
    told = inside(user, box(user, data), "SELECT count(*), sum(total) FROM extra.orders; SELECT count(*) FROM big;" + DESTROY).out
    assert told.split() == ["1000|500500", "500"]
    assert digest(data) == before
    opened = facts(user, "database_opened")[0]
    assert (opened["mode"], opened["source"], opened["tables"], opened["rows"]) == ("branch", str(data), 3, 1201)
    told = user.types("db", "diff", code=0).out
    for line in ("table public.customers (200 rows)", "table extra.orders (1,000 rows)", "table public.of_the_superuser (1 row"):
        assert f"dropped  {line}" in told
    assert facts(user, "run_ended")[0]["record"]["residue"] == []
    assert [one["kind"] for one in facts(user, "database_snapshot")] == ["DO"]


def test_the_agent_owns_what_is_there_and_holds_no_right_of_the_source(user, data):
    told = inside(
        user,
        box(user, data),
        "SELECT current_user, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles "
        "WHERE rolname = current_user; SELECT powerful(); ALTER TABLE of_the_superuser ADD y int; INSERT INTO extra.orders DEFAULT VALUES; "
        "CREATE TABLE mine (x int); DROP FUNCTION powerful(); "
        "SELECT count(*) FROM pg_auth_members WHERE member = current_user::regrole; SELECT count(*) FROM pg_event_trigger; "
        "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolsuper; "
        "SHOW archive_mode; SHOW local_preload_libraries; SELECT current_database(); "
        "SELECT string_agg(datname, ' ') FROM pg_database WHERE datallowconn",
    ).out
    assert told.split("\n") == [
        *("agent|f|f|f|f|f", "agent", "0", "0", "postgres restorer", "off", "", "shop", "shop", ""),
    ]
    assert inside(user, box(user, data), "COPY customers TO PROGRAM 'true'", code=1)
    assert inside(user, box(user, data), "SELECT pg_read_file('PG_VERSION')", code=1)
    assert inside(user, box(user, data), "SELECT rolpassword FROM pg_authid", code=1)


def test_another_database_of_it_is_named_and_called_by_the_doors_name(user, data):
    file = box(user, data, 'database = "other"\n')
    assert (
        inside(user, file, "SELECT current_database(), count(*) FROM pg_tables WHERE schemaname = 'public'").out.strip()
        == "shop|0"
    )
    ended = user.types("exec", "--json", "-f", box(user, data, 'database = "nothing"\n'), "--", "true")
    assert (ended.record["error"]["code"], ended.record["residue"]) == ("no_such_database", [])


def test_masked_values_are_nowhere_in_it(user, data):
    file = box(user, data, 'mask = { "customers.email" = "hash" }\n')
    told = inside(user, file, "SELECT count(DISTINCT email), count(*) FILTER (WHERE email LIKE '%@%') FROM customers").out
    assert told.strip() == "200|0"


def change(folder, how):
    if how == "no_cluster":
        (folder / "PG_VERSION").unlink()
    elif how == "other_version":
        (folder / "PG_VERSION").write_text("9\n")
    elif how == "served":
        (folder / "postmaster.pid").write_text(f"{os.getpid()}\n")
    elif how == "tablespace":
        (folder / "pg_tblspc/1234").symlink_to("/tmp")
    elif how == "log_elsewhere":
        (folder / "pg_wal").rename(folder.parent / "log")
        (folder / "pg_wal").symlink_to(folder.parent / "log")
    elif how == "file_elsewhere":
        (folder / "base/1/999999").symlink_to("/etc/passwd")
    elif how == "crashed":
        control = folder / "global/pg_control"
        control.write_bytes(control.read_bytes()[:16] + b"\6\0\0\0" + control.read_bytes()[20:])


@pytest.mark.parametrize(
    ("how", "code", "more"),
    [
        ("no_cluster", "not_a_cluster", ""),
        ("other_version", "other_version", ""),
        ("served", "cluster_runs", ""),
        ("crashed", "cluster_runs", ""),
        ("tablespace", "cluster_elsewhere", ""),
        ("log_elsewhere", "cluster_elsewhere", ""),
        ("file_elsewhere", "cluster_elsewhere", ""),
        ("", "too_large", 'disk = "100MiB"\n'),
    ],
)
def test_what_cannot_be_copied_is_told_and_leaves_nothing_behind(user, data, how, code, more):
    folder = user.folder / "data"
    shutil.copytree(data, folder, symlinks=True)
    change(folder, how)
    before = digest(folder)
    ended = user.types("exec", "--json", "-f", box(user, folder, more), "--", "true")
    assert ended.record["error"]["code"] == code
    assert ended.record["error"]["remedy"]
    assert ended.record["residue"] == []
    assert digest(folder) == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("schema_only = true", "copied whole"),
        ('exclude = ["public.t"]', "copied whole"),
        ('password_env = "X"', "without a password"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused(user, more, says):
    told = user.types("box", "check", box(user, "/var/lib/data", more + "\n"), code=2)
    assert says in " ".join(told.err.split())
    other = user.folder / "other.toml"
    other.write_text('[doors.postgres.shop]\nmode = "branch"\nfrom = "postgresql://h/d"\ndatabase = "x"\n')
    assert "for a stopped cluster" in " ".join(user.types("box", "check", other, code=2).err.split())
