"""A branch of a server of ours that runs: what it holds, that nothing is torn, and files that somebody made to mislead."""

import asyncio
import os
import random
import threading
from contextlib import asynccontextmanager

import psycopg
import pytest
import uvloop

from gearcase.doors.postgres.cluster import Cluster
from gearcase.errors import RunError
from gearcase.events import DatabaseOpened
from gearcase.seams import Command
from tests.doors.postgres.test_cluster import opened

MIB = 1 << 20
SIZE = {"memory": 256 * MIB, "disk": 512 * MIB}


@asynccontextmanager
async def branched(door, agent="a1"):
    """A branch of what is behind a door, and its server."""
    branch = door.branch(agent)
    try:
        await branch.open(door._housing)
        yield branch, branch._cluster
    finally:
        await branch.close()


async def run(dsn, *statements):
    with await asyncio.to_thread(psycopg.connect, dsn, autocommit=True) as session:
        for one in statements:
            await asyncio.to_thread(session.execute, one)


def test_a_branch_holds_everything_and_neither_reaches_the_other(tmp_path):
    """Also what only a superuser could restore, and what an agent defined: it runs nowhere while it is copied."""

    async def scenario():
        async with opened(tmp_path, **SIZE) as (door, facts, dsn):
            await door._cluster.ask(
                "CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE TABLE public.ran (who text);"
                "CREATE FUNCTION public.tells() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
                "'BEGIN INSERT INTO public.ran VALUES (current_user); RETURN NULL; END';"
                "CREATE OPERATOR CLASS public.mine FOR TYPE int4 USING btree AS OPERATOR 1 pg_catalog.<(int4, int4),"
                "FUNCTION 1 btint4cmp(int4, int4); GRANT ALL ON public.ran TO agent; GRANT CREATE ON SCHEMA public TO agent;"
            )
            await run(
                dsn,
                'CREATE TABLE "Odd ""name" (x int PRIMARY KEY, y text DEFAULT gen_random_uuid()::text)',
                'INSERT INTO "Odd ""name" SELECT generate_series(1, 1000)',
                'CREATE TRIGGER t AFTER INSERT ON "Odd ""name" EXECUTE FUNCTION tells()',
                "SELECT lo_from_bytea(4711, 'a large object')",
                "CREATE UNLOGGED TABLE scratch AS SELECT 1 x",
                "ALTER DATABASE orders SET work_mem = '7MB'",
            )
            async with branched(door) as (_branch, cluster):
                told = await cluster.facts(
                    'SELECT json_build_array((SELECT count(*) FROM public."Odd ""name"), (SELECT count(*) FROM public.ran), '
                    "convert_from(lo_get(4711), 'UTF8'), (SELECT count(*) FROM public.scratch), "
                    "(SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'hstore'), "
                    "(SELECT count(*) FROM pg_opclass WHERE opcname = 'mine'), current_setting('work_mem'));"
                )
                assert told == [1000, 0, "a large object", 0, "ext", 1, "7MB"]
                await cluster.ask('DROP TABLE public."Odd ""name"; SELECT lo_unlink(4711);')
            assert (
                await door._cluster.facts(
                    'SELECT count(*) + (SELECT count(*) FROM pg_largeobject_metadata) FROM public."Odd ""name";'
                )
                == 1001
            )
            branch = facts.of(DatabaseOpened)[1]
            assert (branch.tables, branch.rows, branch.left_out) == (3, 1000, ["public.scratch: unlogged, so it comes empty"])

    uvloop.run(scenario())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_branch_is_of_one_moment_whatever_is_written_meanwhile(tmp_path, seed):
    """Money moves between rows all the time: its sum stays, and all that was acknowledged before is there."""
    stop, acknowledged = threading.Event(), []

    def write(dsn, dice):
        with psycopg.connect(dsn, autocommit=True) as session:
            while not stop.is_set():
                one, other, amount = dice.randrange(5000), dice.randrange(5000), dice.randrange(100)
                with session.transaction():
                    session.execute("UPDATE money SET x = x - %s, pad = repeat('y', 200) WHERE id = %s", (amount, one))
                    session.execute("UPDATE money SET x = x + %s WHERE id = %s", (amount, other))
                    number = session.execute("INSERT INTO log DEFAULT VALUES RETURNING n").fetchone()[0]
                acknowledged.append(number)

    async def scenario():
        async with opened(tmp_path, **SIZE) as (door, _facts, dsn):
            await run(
                dsn,
                "CREATE TABLE money AS SELECT id, 1000 x, repeat('x', 100) pad FROM generate_series(0, 4999) id",
                "CREATE INDEX ON money (id)",
                "CREATE TABLE log (n serial PRIMARY KEY)",
            )
            writers = [threading.Thread(target=write, args=(dsn, random.Random(seed * 10 + n))) for n in range(3)]
            for one in writers:
                one.start()
            try:
                for number in range(4):
                    await asyncio.sleep(random.Random(seed).random())
                    known = list(acknowledged)
                    cluster = await Cluster.open_branch(door._housing, door._cluster, **SIZE)
                    try:
                        told = await cluster.facts(
                            "SELECT json_build_array((SELECT sum(x) FROM public.money), (SELECT count(*) FROM public.money WHERE id >= 0), "
                            "(SELECT json_agg(n) FROM public.log));"
                        )
                    finally:
                        await cluster.close()
                    assert told[:2] == [5_000_000, 5000], number
                    assert set(known) <= set(told[2] or []), "what was committed before is there"
                assert len(acknowledged) > len(known), "the writers go on"
            finally:
                stop.set()
                await asyncio.gather(*(asyncio.to_thread(one.join) for one in writers))

    uvloop.run(scenario())


TRICKS = {
    "a link in place of all": "mv data d; ln -s /etc data",
    "a link in place of a folder": "cd data; mv global g; ln -s {outside} global",
    "a link in place of a file": "cd data; rm global/pg_control; ln -s {outside}/pg_control global/pg_control",
    "a FIFO": "cd data; rm global/pg_control; mkfifo global/pg_control",
    "a FIFO among the tables": "cd data; mkfifo base/5/99999",
    "a link out among the tables": "cd data; ln -s {outside}/pg_control base/5/99999",
    "a log without end": "cd data; rm pg_wal/0*; mkfifo pg_wal/000000010000000000000001",
    "what is no control file": "cd data; echo nonsense > global/pg_control",
    "one that claims another place": "cd data; head -c 8192 /dev/urandom > global/pg_control",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_files_that_mislead_lead_nowhere(tmp_path, trick):
    """Control: without the trick a branch is made. What is outside is neither read nor copied, and nothing stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "pg_control").write_bytes(b"canary" * 2000)

    async def scenario():
        async with opened(tmp_path, **SIZE) as (door, _facts, _dsn):
            cluster = await Cluster.open_branch(door._housing, door._cluster, **SIZE)
            await cluster.close()
            played = Command(("/bin/sh", "-c", TRICKS[trick].format(outside=outside)))
            assert (await door._cluster.housed.run(played)).exit_code == 0

            async def ask(sql, database=""):
                return ""

            door._cluster.ask = ask  # a server that was taken over says what it likes
            try:
                with pytest.raises(RunError) as caught:
                    await Cluster.open_branch(door._housing, door._cluster, **SIZE)
                assert caught.value.code in ("door_failed", "tree_changed"), caught.value
                assert "canary" not in str(caught.value.envelope())
            finally:
                del door._cluster.ask
                door._cluster.life.cancel()

    uvloop.run(scenario())
    assert os.listdir(outside) == ["pg_control"]
