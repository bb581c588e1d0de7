"""Sub-agents and databases: they share their parent's, or have a branch of it that is gone when they end."""

import asyncio
import json
import subprocess

import pytest

from gearcase.box import Override
from gearcase.control import command
from gearcase.doors.postgres.binaries import candidates
from gearcase.doors.postgres.difference import DATABASES, compare, recall
from gearcase.errors import RunError


def database(name="shop", kind="postgres", **more):
    return [Override(("doors", kind, name), more, "box")]


def by(agent, *commands):
    return {"agent": agent, "commands": list(commands)}


def said(played, name):
    return (played.out / "out" / name).read_text().split()


SQL = "psql -XqAt -v ON_ERROR_STOP=1 -c"
MAKE = f"mkdir out; {SQL} 'CREATE TABLE t AS SELECT generate_series(1, 100) x'"
SPAWN = "gear spawn --take 'a*'"
EMPTY = f"{SQL} 'SELECT count(*) FROM t; DELETE FROM t; SELECT count(*) FROM t'"


def test_a_branch_is_the_sub_agents_own_and_the_parents_stays_as_it_is(stage):
    """Control: without --branch the same statements reach the parent's tables."""
    played = stage.play(
        {"commands": [f"{MAKE}; {SPAWN} --branch shop empty > out/told; {SQL} 'SELECT count(*) FROM t' > out/kept"]},
        {"commands": [f"{SPAWN} empty; {SQL} 'SELECT count(*) FROM t' > out/gone; cp a1 a2 out; gear done"]},
        by("a1", f"{EMPTY} > a1; psql -Xqc 'DROP TABLE t'; psql -Xqc 'CREATE VIEW v AS SELECT 1'", "gear done"),
        by("a2", f"{EMPTY} > a2", "gear done"),
        more=database(),
    )
    assert said(played, "a1") == ["100", "0"] and said(played, "kept") == ["100"]
    assert said(played, "a2") == ["100", "0"] and said(played, "gone") == ["0"]
    assert played.record.residue == []
    told = (played.out / "out/told").read_text()
    assert "its postgres.shop: 2 changed" in told and "dropped  table public.t (100 rows)" in told, told
    opened = {r.event.door: r for r in played.records("database_opened")}
    branch = opened["postgres.shop@a1"]
    assert (branch.agent, branch.event.mode, branch.event.source, branch.event.rows) == ("a1", "branch", "postgres.shop", 100)
    assert branch.event.nonce != opened["postgres.shop"].event.nonce


def test_contact_is_each_ones_own_and_what_is_copied_is_none(stage):
    """The parent's `must_touch` is not met by what its sub-agent does in a branch."""
    played = stage.play(
        {"commands": [f"mkdir out; {SQL} 'CREATE TABLE t AS SELECT 1 x; CREATE TABLE u (x int)'"]},
        {"commands": [f"{SPAWN} --branch shop go; gear done"]},
        by("a1", f"{SQL} 'INSERT INTO u VALUES (1), (2)'", "gear done"),
        more=[*database(must_touch=["public.u"]), Override(("monitors", "no_contact"), "off", "box")],
    )
    last = {r.event.door: r.event for r in played.records("contact")}
    assert last["postgres.shop@a1"].relations == {"public.u": {"read": 0, "written": 2}}
    assert last["postgres.shop"].relations == {"public.t": {"read": 0, "written": 1}}
    assert last["postgres.shop"].missing == ["public.u"] and last["postgres.shop@a1"].missing == []


def test_a_branch_of_a_branch_and_of_a_database_that_is_in_use(stage):
    """What is not committed is not in it; whoever is in the database goes on."""
    (stage.work / "hold.sql").write_text(
        "BEGIN; INSERT INTO t VALUES (1000);\n\\! touch held; while [ ! -e go ]; do sleep 0.05; done\nCOMMIT;\n"
    )
    hold = "(psql -Xqf hold.sql; touch over) & while [ ! -e held ]; do sleep 0.05; done"
    below = f"{SQL} 'DELETE FROM t WHERE x > 10'; {SPAWN} --branch postgres.shop deeper; {SQL} 'SELECT count(*) FROM t' >> a2; mv a2 a1"
    played = stage.play(
        {"commands": [f"{MAKE}; {hold}; {SPAWN} --branch shop work; {SQL} 'SELECT count(*) FROM t' > out/kept; cp a1 out"]},
        {
            "commands": [
                f"touch go; while [ ! -e over ]; do sleep 0.05; done; {SQL} 'SELECT count(*) FROM t' > out/committed; gear done"
            ]
        },
        by("a1", below, "gear done"),
        by("a2", f"{SQL} 'SELECT count(*) FROM t; DROP TABLE t' > a2", "gear done"),
        more=database(),
        wall="3m",
        give=[stage.work / "hold.sql"],
    )
    assert said(played, "a1") == ["10", "10"] and said(played, "kept") == ["100"] and said(played, "committed") == ["101"]
    sources = {r.event.door: r.event.source for r in played.records("database_opened")}
    assert sources == {"postgres.shop": "", "postgres.shop@a1": "postgres.shop", "postgres.shop@a2": "postgres.shop@a1"}
    assert played.record.residue == []


def test_what_became_of_each_branch_is_told_and_its_parent_can_have_a_dump_of_it(stage):
    played = stage.play(
        {"commands": [f"{MAKE}; gear spawn --branch shop --take postgres:shop go; cp shop.dump out"]},
        {"commands": ["gear doors > out/doors; gear result a1 --json > out/result; gear done"]},
        by("a1", f"{SQL} 'CREATE TABLE made AS SELECT 1 x'", "gear doors > /tmp/doors; gear done"),
        more=database(),
    )
    dump = played.out / "out/shop.dump"
    listed = subprocess.run([candidates()[0].program("pg_restore"), "-l", dump], capture_output=True, text=True, check=True)
    assert "TABLE DATA public made" in listed.stdout
    assert json.loads((played.out / "out/result").read_text())["databases"] == {
        "postgres.shop": ["added    table public.made (1 rows)"]
    }
    kept = {one.name: one for one in recall(played.folder.path / DATABASES)}
    assert set(kept) == {"shop", "shop@a1"} and kept["shop@a1"].source == "postgres.shop"
    assert [one.name for one in compare(kept["shop@a1"].before, kept["shop@a1"].after)] == ["public.made"]


def test_the_first_destructive_statement_of_a_branch_is_preceded_by_a_snapshot_of_it(stage):
    played = stage.play(
        {"commands": [f"{MAKE}; {SPAWN} --branch shop go; gear done"]},
        by("a1", f"{SQL} 'DROP TABLE t'", "gear done"),
        more=database(),
    )
    (kept,) = played.records("database_snapshot")
    assert (kept.event.door, kept.event.file) == ("postgres.shop@a1", "shop@a1-before.dump")
    assert (played.folder.path / DATABASES / kept.event.file).stat().st_size > 0


def test_where_there_is_nothing_to_branch_it_is_refused_and_nothing_is_begun(stage):
    wrong = [f"{SPAWN} --branch {name} go >> out/said 2>&1" for name in ("other", "postgres.shop,api.shop", "http")]
    played = stage.play(
        {"commands": [f"mkdir out; {'; '.join(wrong)}; {SPAWN} --doors none --branch shop go >> out/said 2>&1; gear done"]},
        more=database(),
    )
    text = (played.out / "out/said").read_text()
    assert text.count("no database of yours") == 4, text
    assert not played.records("agent_spawned")


def test_a_freeze_while_a_branch_is_made_ends_well(stage):
    """The server whose files are copied stands still anyway; whoever resumes does not set it going too early."""
    big = f"mkdir out; {SQL} \"CREATE TABLE t AS SELECT n, repeat('x', 500) x FROM generate_series(1, 100000) n\""

    async def brake(folder):
        while True:
            try:
                await asyncio.sleep(0.35)
                await asyncio.to_thread(command, folder, "freeze")
                await asyncio.sleep(0.05)
                await asyncio.to_thread(command, folder, "resume")
            except RunError as error:
                assert error.code == "not_running"  # it has ended
                return

    played = stage.play(
        {"commands": [f"{big}; {SPAWN} --branch shop go; cp a1 out; {SQL} 'SELECT count(*) FROM t' > out/lead"]},
        {"commands": ["gear done"]},
        by("a1", f"{SQL} 'SELECT count(*), sum(n), sum(length(x)) FROM t' > a1", "gear done"),
        more=database(),
        beside=brake,
        wall="3m",
    )
    assert said(played, "a1") == ["100000|5000050000|50000000"] and said(played, "lead") == ["100000"]
    assert played.record.residue == []
    assert sum(r.event.level == "frozen" for r in played.records("brake_changed")) > 3


@pytest.mark.parametrize("after", [0.0, 0.15, 0.4, 0.7])
def test_a_kill_while_a_branch_is_made_leaves_nothing(stage, after):
    async def kill(folder):
        while not stage.has("agent_spawned"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(after)
        await asyncio.to_thread(command, folder, "kill")

    played = stage.play(
        {"commands": [f"{MAKE}; {SPAWN} --branch shop go; gear done"]},
        by("a1", "sleep 60", "gear done"),
        more=database(),
        beside=kill,
    )
    assert played.record.status == "stopped" and played.record.residue == []
    assert [r.event.status for r in played.records("agent_returned")] == ["killed"]
    assert len(played.records("sandbox_opened")) == len(played.records("sandbox_closed"))


CLIENT = """
import socket, sys
for words in sys.argv[1:]:
    with socket.create_connection(("cache.box", 6379)) as sock:
        sock.sendall(words.encode() + b"\\r\\n")
        print(sock.recv(4096).decode().split()[-1])
"""


def test_a_redis_database_has_branches_too(stage):
    """Control: without --branch the sub-agent empties its parent's."""
    (stage.work / "cache.py").write_text(CLIENT)
    cache = "python3 cache.py"
    empty = f"{cache} DBSIZE FLUSHALL DBSIZE"
    played = stage.play(
        {"commands": [f"mkdir out; {cache} 'SET k v' 'SET l w'; {SPAWN} --branch redis.cache go > out/told"]},
        {"commands": [f"{cache} DBSIZE 'GET k' > out/kept; {SPAWN} go; {cache} DBSIZE > out/gone; cp a1 a2 out"]},
        {"commands": ["gear done"]},
        by("a1", f"{empty} > a1", "gear done"),
        by("a2", f"{empty} > a2", "gear done"),
        more=database("cache", "redis"),
        give=[stage.work / "cache.py"],
    )
    assert said(played, "a1") == [":2", "+OK", ":0"] and said(played, "kept") == [":2", "v"]
    assert said(played, "a2") == [":2", "+OK", ":0"] and said(played, "gone") == [":0"]
    assert "its redis.cache: 1 changed" in (played.out / "out/told").read_text()
    opened = {r.event.door: (r.event.source, r.event.rows) for r in played.records("database_opened")}
    assert opened == {"redis.cache": ("", 0), "redis.cache@a1": ("redis.cache", 2)}
    assert played.record.residue == []
