"""A Redis database in a box: redis-py unmodified, a live server that stays as it is, a volume that stays for the next run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.redis_server import Listener, dump, live

PACKAGES = Path(redis.__file__).parents[1]
INSIDE = "PYTHONPATH=/given/site-packages PYTHONDONTWRITEBYTECODE=1"
CONNECT = "import os, redis\nr = redis.from_url(os.environ['REDIS_URL'])\n"


def box(user, text, program):
    (user.folder / "work.py").write_text(CONNECT + program)
    file = user.folder / "box.toml"
    file.write_text(f'[files]\ngive = ["work.py"]\nsee = ["{PACKAGES}"]\n{text}')
    return file


def executes(user, text, program, code=0):
    return user.types("exec", "-f", box(user, text, program), "--", "sh", "-c", f"{INSIDE} python3 work.py 2>&1", code=code)


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


def test_redis_py_works_and_what_it_did_is_on_record_by_command(user):
    program = """
r.set("a", "secret value", ex=100)
print(r.get("a") == b"secret value", r.get("missing"))
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
    assert told.splitlines()[:3] == ["True None", "500", "b'x'"]
    assert "WRONGTYPE" in told
    kinds = {}
    for one in facts(user, "statements_ran"):
        for name, counts in one["kinds"].items():
            kinds[name] = kinds.get(name, 0) + counts["count"]
    assert (kinds["SET"], kinds["GET"], kinds["HSET"], kinds["INCRBY"]) == (1, 2, 500, 1)
    assert not {"AUTH", "INFO", "PING", "DBSIZE"} & set(kinds)
    assert facts(user, "contact")[-1]["relations"]["keys"]["written"] == 501
    passed = str([one for one in user.journal() if one["type"] not in ("command_started", "run_started", "run_ended")])
    assert "secret value" not in passed, "no value is on record"
    assert facts(user, "run_ended")[0]["record"]["residue"] == []


REACHING = """
for words in {words!r}:
    try:
        r.execute_command(*words.split("|"))
        print("DONE", words)
    except redis.RedisError as error:
        print(words, error)
"""


def test_what_reaches_the_server_itself_is_refused_and_gets_through_without_the_door(user, tmp_path):
    """The same program, once inside, once with a server of the host: there the host's ports hear of it."""
    with Listener() as target, Listener() as master:
        words = [f"MIGRATE|127.0.0.1|{target.port}||0|1000|KEYS|a", "EVAL|return 1|0", "FUNCTION|LIST", "SCRIPT|LOAD|return 1"]
        words += [
            f"CONFIG|SET|dir|{tmp_path}",
            "CONFIG|GET|*",
            "MODULE|LIST",
            "ACL|LIST",
            "CLIENT|LIST",
            "SAVE",
            f"REPLICAOF|127.0.0.1|{master.port}",
        ]
        tried = "r.set('a', 1)\n" + REACHING.format(words=words)
        told = executes(user, "[doors.redis.cache]\n", tried + "print('lives', r.get('a'))\n").out
        assert "DONE" not in told
        assert "lives b'1'" in told
        assert (target.reached, master.reached) == (0, 0)
        kinds = [one["kinds"] for one in facts(user, "statements_ran")]
        assert sum(one["EVAL"]["errors"] for one in kinds if "EVAL" in one) == 1, "what was refused is on record"
        with live(tmp_path) as (_, port):
            program = CONNECT + tried
            outside = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{port}"}
            done = subprocess.run([sys.executable, "-c", program], env=outside, capture_output=True, text=True, check=True).stdout
            until = time.monotonic() + 10
            while not (target.reached and master.reached) and time.monotonic() < until:
                time.sleep(0.05)
        assert target.reached and master.reached
        through = [line.removeprefix("DONE ") for line in done.splitlines() if line.startswith("DONE ")]
        assert through == [one for one in words if not one.startswith("MIGRATE")], done


@pytest.mark.parametrize("password", ["", "of the operator"])
def test_a_live_server_stays_as_it_is_when_its_branch_is_emptied(user, tmp_path, password):
    with live(tmp_path, password=password) as (client, port):
        url = f"redis://127.0.0.1:{port}"
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
    (user.folder / "cache.rdb").write_bytes(dump(tmp_path / "outside", {"from": "a file"}).read_bytes())
    (user.folder / "cache.rdb").chmod(0o600)
    text = '[doors.redis.cache]\nfrom = "cache.rdb"\n'
    assert executes(user, text, "print(r.get('from'))\n").out.strip() == "b'a file'"
    (user.folder / "cache.rdb").write_text("no such thing")
    assert "is no RDB file" in user.types("exec", "-f", user.folder / "box.toml", "--", "true").err


VOLUME = '[doors.redis.cache]\nvolume = "answers"\n'
COUNTS = "print(r.get('answer')); r.incrby('answer', 21)\n"


def volume_file(user):
    return user.home / "state/gearcase/volumes/answers.rdb"


def test_a_volume_is_there_in_the_next_run_whatever_became_of_the_last(user):
    assert executes(user, VOLUME, COUNTS).out.strip() == "None"
    assert executes(user, VOLUME, COUNTS + "raise SystemExit(3)\n", code=3).out.strip() == "b'21'"
    assert executes(user, VOLUME, COUNTS).out.strip() == "b'42'"
    assert facts(user, "volume_kept")[0]["keys"] == 1
    assert volume_file(user).stat().st_mode & 0o777 == 0o600


def test_a_volume_belongs_to_one_run_at_a_time_and_a_run_that_is_killed_does_it_no_harm(user):
    executes(user, VOLUME, COUNTS)
    before = volume_file(user).read_bytes()
    file = box(user, VOLUME, COUNTS)
    first = user.starts("exec", "-f", file, "--", "sh", "-c", f"{INSIDE} python3 work.py; touch done; sleep 60")
    deadline = time.monotonic() + 30
    while len(opened := opened_runs(user)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = user.types("exec", "-f", file, "--", "true")
    assert second.code == 13 and "another run has the volume answers" in second.err
    owner = json.loads((opened[-1] / "owner").read_text())["pid"]
    os.kill(owner, signal.SIGKILL)
    first.communicate(timeout=30)
    assert volume_file(user).read_bytes() == before
    assert executes(user, VOLUME, COUNTS).out.strip() == "b'21'"
    assert not list((user.home / "state").rglob("*.part"))


def opened_runs(user):
    """Folders of the runs whose connection to the database has ended, oldest first."""
    journals = (user.home / "state/gearcase/runs").glob("*/journal/*.jsonl")
    found = [file for file in journals if '"connection_closed"' in file.read_text()]
    return [file.parents[1] for file in sorted(found, key=lambda file: file.stat().st_ctime)]


def test_a_volume_that_is_damaged_is_told_and_stays(user):
    executes(user, VOLUME, COUNTS)
    damaged = volume_file(user).read_bytes()[:-12] + bytes(12)
    volume_file(user).write_bytes(damaged)
    ended = user.types("exec", "-f", user.folder / "box.toml", "--", "true")
    assert ended.code == 13
    assert "the volume answers cannot be loaded" in ended.err
    assert f"move {volume_file(user)} away".replace(" ", "") in "".join(ended.err.split())
    assert volume_file(user).read_bytes() == damaged


def test_two_databases_have_variables_of_their_own_and_gear_tells_of_both(user):
    text = '[doors.redis.cache]\nmemory = "8MiB"\n[doors.redis.jobs]\nvolume = "jobs"\n'
    script = 'echo "$CACHE_REDIS_URL $JOBS_REDIS_URL ${REDIS_URL-none}"; gear doors'
    told = user.types("exec", "-f", box(user, text, ""), "--", "sh", "-c", script, code=0).out
    assert told.splitlines()[0] == "redis://cache.box:6379 redis://jobs.box:6379 none"
    assert "redis.cache" in told and "redis.jobs" in told and "redis://jobs.box:6379" in told


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('from = "redis://u:hidden@h:1"', "the address holds a password"),
        ('from = "redis://h/3"', "all of it is copied"),
        ('from = "x.rdb"\nvolume = "v"', "name one of them"),
        ('password_env = "P"', "is for a running server"),
        ('volume = "../x"', "volume"),
        ('memory = "1MiB"', "at least 4MiB"),
        ('volume = "v"\n[doors.redis.other]\nvolume = "v"', "two doors cannot keep one volume"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_what_to_write(user, table, told):
    (user.folder / "x.rdb").touch()
    (user.folder / "box.toml").write_text(f"[doors.redis.cache]\n{table}\n")
    ended = user.types("box", "check", "box.toml")
    assert ended.code == 2
    assert told.replace(" ", "") in "".join(ended.err.split())
    assert "hidden" not in ended.err + ended.out


def test_a_database_that_is_full_says_so_and_a_server_that_is_not_there_too(user):
    program = "try:\n    [r.set(n, 'x' * 100000) for n in range(1000)]\nexcept redis.RedisError as error: print(error)\nprint(r.ping())\n"
    told = executes(user, '[doors.redis.cache]\nmemory = "8MiB"\n', program).out
    assert "maxmemory" in told and "True" in told
    (user.folder / "box.toml").write_text('[doors.redis.cache]\nfrom = "redis://127.0.0.1:1"\n')
    ended = user.types("exec", "-f", user.folder / "box.toml", "--", "true")
    assert ended.code == 13 and "127.0.0.1:1 cannot be reached" in ended.err


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_that_is_killed_by_its_operator_leaves_its_volume_as_it_was_and_says_so(user, frozen):
    executes(user, VOLUME, COUNTS)
    before = volume_file(user).read_bytes()
    file = box(user, VOLUME, COUNTS)
    running = user.starts("exec", "-f", file, "--", "sh", "-c", f"{INSIDE} python3 work.py; sleep 60")
    deadline = time.monotonic() + 30
    while len(opened_runs(user)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if frozen:
        user.types("freeze", code=0)
    user.types("kill", "--all", "--yes", code=0)
    running.communicate(timeout=60)
    assert "volume_not_kept" in [one["error"]["code"] for one in facts(user, "failure")]
    assert volume_file(user).read_bytes() == before
    assert facts(user, "run_ended")[0]["record"]["residue"] == []


def test_a_run_whose_time_is_up_keeps_its_volume(user):
    file = box(user, VOLUME, COUNTS)
    ended = user.types("exec", "-f", file, "--wall", "5s", "--", "sh", "-c", f"{INSIDE} python3 work.py; sleep 60")
    assert ended.code != 0
    assert facts(user, "volume_kept")[0]["keys"] == 1
