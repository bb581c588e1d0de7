"""The server behind a postgres door: what its superuser reaches, and what is told when it dies."""

import asyncio
import hashlib
import socket
import threading
import time
from contextlib import asynccontextmanager

import psycopg
import pytest
import uvloop

from gearcase.box.doors import PostgresDoor as Declared
from gearcase.doors.postgres.door import PostgresDoor
from gearcase.events import Contact, DatabaseOpened, Failure
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Housing
from tests.postgres_server import live
from tests.recorder import Facts


@asynccontextmanager
async def opened(folder, **declared):
    """A door with its server, served at a port of this machine."""
    driver, facts, stayed = NamespacesDriver(), Facts(), []

    async def adopt(sandbox):
        assert sandbox.id

    door = PostgresDoor("orders", Declared(**declared), alone=True)
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        await door.open(Housing(driver, facts, adopt, lambda sandbox, residue: stayed.extend(residue), folder))
        await door.serve("lead", door.places[0], listening, lambda count: None)
        yield door, facts, f"postgresql://agent@127.0.0.1:{listening.getsockname()[1]}/orders"
    finally:
        await door.close()
        listening.close()
        await driver.close()
    assert stayed == []


ATTACK = """
CREATE TEMP TABLE got (line text);
COPY got FROM PROGRAM $$cat {canary} 2>&1; (echo > /dev/tcp/127.0.0.1/{port}) 2>&1 && echo reached; ls / | tr '\\n' ' '; true$$;
SELECT string_agg(line, chr(10)) FROM got;
"""


def test_a_superuser_of_the_server_reaches_nothing_but_its_sandbox(tmp_path):
    with live() as control, socket.create_server(("127.0.0.1", 0)) as victim:
        canary = control.folder / "canary"
        canary.write_text("the canary sings")
        accepted = []

        def accept():
            while True:
                try:
                    accepted.append(victim.accept()[0].close())
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        port = victim.getsockname()[1]
        attack = ATTACK.replace("/dev/tcp/127.0.0.1/{port}", "/dev/tcp/127.0.0.1/" + str(port)).replace("{canary}", str(canary))
        attack = attack.replace("(echo >", "bash -c 'echo >").replace(f"{port})", f"{port}'")

        async def inside():
            async with opened(tmp_path) as (door, _facts, _dsn):
                return await door._cluster.ask(attack)

        contained = uvloop.run(inside())
        assert accepted == []
        free = control.sql(attack, "postgres")
        deadline = time.monotonic() + 10
        while not accepted and time.monotonic() < deadline:
            time.sleep(0.01)  # it is connected, and the thread has yet to say so
        assert len(accepted) == 1
        victim.close()
    assert "the canary sings" in free, "the attack works where nothing contains it"
    assert "reached" in free
    assert "the canary sings" not in contained
    assert "No such file or directory" in contained
    assert "reached" not in contained


def test_a_server_that_dies_is_told_inside_and_outside(tmp_path):
    async def scenario():
        async with opened(tmp_path) as (door, facts, dsn):
            session = await asyncio.to_thread(psycopg.connect, dsn, autocommit=True)
            await door._cluster.housed.run(Command(("/bin/sh", "-c", "kill -9 $(head -1 /workspace/data/postmaster.pid)")))
            with pytest.raises(psycopg.OperationalError):
                for _ in range(50):
                    await asyncio.to_thread(session.execute, "SELECT 1")
                    await asyncio.sleep(0.1)
            session.close()
            with pytest.raises(psycopg.OperationalError, match="gearcase: the database server of orders has ended"):
                await asyncio.to_thread(psycopg.connect, dsn, autocommit=True)
            until = time.monotonic() + 10
            while not facts.of(Failure) and time.monotonic() < until:
                await asyncio.sleep(0.05)
            assert [one.error["code"] for one in facts.of(Failure)] == ["door_failed"]

    uvloop.run(scenario())


def test_the_nonce_is_told_to_who_asks_and_on_record_as_a_digest(tmp_path):
    async def scenario():
        async with opened(tmp_path) as (_door, facts, dsn):
            with await asyncio.to_thread(psycopg.connect, dsn, autocommit=True) as session:
                nonce = (await asyncio.to_thread(session.execute, "SHOW gearcase.contact")).fetchone()[0]
            assert len(nonce) == 32
            return nonce, facts.of(DatabaseOpened)[0].nonce

    nonce, digest = uvloop.run(scenario())
    assert hashlib.sha256(nonce.encode()).hexdigest() == digest


def test_contact_is_told_while_the_session_lasts_and_what_was_dropped_stays_told(tmp_path):
    async def scenario():
        async with opened(tmp_path, must_touch=("public.t",)) as (door, facts, dsn):
            with await asyncio.to_thread(psycopg.connect, dsn, autocommit=True) as session:
                await asyncio.to_thread(session.execute, "CREATE TABLE t AS SELECT generate_series(1, 10) x")
            await door.look()
            assert facts.of(Contact)[-1].missing == []
            with await asyncio.to_thread(psycopg.connect, dsn, autocommit=True) as session:
                await asyncio.to_thread(session.execute, "DROP TABLE t")
        assert facts.of(Contact)[-1].relations == {"public.t": {"read": 0, "written": 10}}

    uvloop.run(scenario())


def test_many_rows_pass(tmp_path):
    async def scenario():
        async with opened(tmp_path) as (_door, _facts, dsn):
            with await asyncio.to_thread(psycopg.connect, dsn, autocommit=True) as session:
                found = await asyncio.to_thread(session.execute, "SELECT generate_series(1, 1000000)")
                assert found.rowcount == 1_000_000

    uvloop.run(scenario())


def test_a_latched_door_takes_nothing_new_until_it_is_unlatched(tmp_path):
    async def scenario():
        async with opened(tmp_path) as (door, _facts, dsn):
            with await asyncio.to_thread(psycopg.connect, dsn, autocommit=True) as session:
                door.latch()
                asked = asyncio.create_task(asyncio.to_thread(session.execute, "SELECT 1"))
                assert not (await asyncio.wait({asked}, timeout=0.3))[0]
                door.unlatch()
                assert (await asked).fetchone() == (1,)

    uvloop.run(scenario())
