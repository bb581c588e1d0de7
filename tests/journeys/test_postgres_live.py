"""The live database, read-only: it is read, and nothing that is tried changes it."""

import pytest

from tests.postgres_server import PASSWORD, live

ATTEMPTS = """
\\set VERBOSITY sqlstate
SELECT sum(total) FROM orders;
INSERT INTO orders VALUES (1, 2);
SET default_transaction_read_only = off;
BEGIN READ WRITE; DELETE FROM orders; COMMIT;
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE;
UPDATE orders SET total = 0;
DO $$ BEGIN EXECUTE 'TRUNCATE ' || 'orders'; END $$;
SELECT set_config('default_transaction_read_only', 'off', false);
DROP TABLE orders;
CREATE TABLE mine (x int);
ALTER TABLE orders ADD x int;

SELECT nextval('numbers');
COPY orders FROM PROGRAM 'echo 1';
"""


@pytest.fixture(scope="module")
def shop():
    with live() as server:
        server.sql(
            "CREATE TABLE orders (id int PRIMARY KEY, total int); CREATE SEQUENCE numbers; "
            "INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n"
        )
        server.sql(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'", "postgres", "postgres")
        server.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        yield server


def box(user, server, role="reader", more=""):
    user.environment["SHOP_PASSWORD"] = PASSWORD
    file = user.folder / "box.toml"
    dsn = server.dsn.replace("owner@", f"{role}@")
    file.write_text(f'[doors.postgres.shop]\nmode = "read_only"\nfrom = "{dsn}"\npassword_env = "SHOP_PASSWORD"\n{more}')
    return file


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


def test_the_live_database_is_read_and_every_attempt_to_write_fails_on_record(user, shop):
    (user.folder / "attempts.sql").write_text(ATTEMPTS)
    file = box(user, shop, more='[files]\ngive = ["attempts.sql"]\n')
    before = shop.digest()
    ended = user.types("exec", "-f", file, "--", "psql", "-XqAt", "-f", "attempts.sql", code=0)
    assert shop.digest() == before
    assert ended.out.splitlines()[0] == "5050"
    errors = [one["error"] for one in facts(user, "statement_ran") if one["error"]]
    assert errors[0] == "25006"
    assert len(errors) == 9 and set(errors) <= {"25006", "42501"}
    journal = str(user.journal())
    assert PASSWORD not in journal
    assert facts(user, "run_ended")[0]["record"]["spent"]["egress"] > 500


def test_cancel_reaches_the_live_server(user, shop):
    told = user.types(
        "exec", "-f", box(user, shop), "--", "sh", "-c", "timeout -s INT 1 psql -c 'select pg_sleep(30)' 2>&1", timeout=20
    )
    assert "canceling statement due to user request" in told.out


def test_a_role_that_may_write_is_refused_with_what_it_may_do(user, shop):
    for role, power in (("owner", "may write orders"), ("postgres", "is a superuser")):
        error = user.types("exec", "--json", "-f", box(user, shop, role), "--", "true", code=13).record["error"]
        assert error["code"] == "powerful_role"
        assert power in error["message"]
        assert "GRANT SELECT" in error["remedy"]


def test_a_wrong_password_is_told_before_anything_runs(user, shop):
    file = box(user, shop)
    user.environment["SHOP_PASSWORD"] = "wrong"
    assert user.types("exec", "--json", "-f", file, "--", "true", code=13).record["error"]["code"] == "source_refused"
