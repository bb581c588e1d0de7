"""The redis door, served at a port of this machine: what it tells, what it keeps, and what happens when its server ends."""

import asyncio
import contextlib
import os
import time

import pytest
import redis
import uvloop

from gearcase.box.doors import RedisDoor as Declared
from gearcase.doors.redis import door as door_module
from gearcase.doors.redis.door import RedisDoor
from gearcase.errors import GearcaseError
from gearcase.events import ConnectionClosed, Contact, DatabaseOpened, DoorRefused, Failure, StatementsRan, VolumeKept
from gearcase.seams import Command
from tests.redis_server import dump, housing, opened


async def said(function, *arguments, **named):
    return await asyncio.to_thread(function, *arguments, **named)


async def kill(door):
    """End the server as a crash would, and wait until the door knows."""
    script = "kill -9 $(cat /proc/[0-9]*/stat | grep '(valkey-server' | cut -d' ' -f1)"
    life = door._server.life
    await door._server.housed.run(Command(("/bin/sh", "-c", script)))
    await asyncio.wait({life}, timeout=10)
    await asyncio.sleep(0.05)


def codes(facts):
    return [one.error["code"] for one in facts.of(Failure)]


def test_what_was_done_is_told_while_it_goes_on_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(door_module, "LOOK_EVERY", 0.2)

    async def scenario():
        async with opened(tmp_path) as (_, facts, client):
            await said(client.set, "a", "secret value")
            until = time.monotonic() + 10
            while not facts.of(StatementsRan) and time.monotonic() < until:
                await asyncio.sleep(0.05)
            assert facts.of(StatementsRan)[0].kinds["SET"]["count"] == 1
            for _ in range(3):
                await said(client.get, "a")
            with pytest.raises(redis.ResponseError):
                await said(client.eval, "return 1", 0)
        return facts

    facts = uvloop.run(scenario())
    assert facts.of(DatabaseOpened)[0].server >= 9
    ran = facts.of(StatementsRan)
    assert sum(one.kinds.get("GET", {}).get("count", 0) for one in ran) == 3
    assert next(one.kinds["EVAL"] for one in ran if "EVAL" in one.kinds)["errors"] == 1
    assert not {"INFO", "AUTH", "SAVE", "DBSIZE"} & {name for one in ran for name in one.kinds}
    (closed,) = facts.of(ConnectionClosed)
    assert sum(one.sent for one in ran) == closed.sent > 50
    assert facts.of(Contact)[-1].relations == {"keys": {"read": 3, "written": 1}}
    assert "secret value" not in repr(facts.events)
    assert codes(facts) == []


def test_a_volume_keeps_what_it_holds_and_how_much_that_is(tmp_path):
    async def scenario(value):
        async with opened(tmp_path, volume="answers") as (_, facts, client):
            before = await said(client.get, "a")
            await said(client.set, "a", value)
        return before, facts

    assert uvloop.run(scenario("1"))[0] is None
    before, facts = uvloop.run(scenario("2"))
    assert before == b"1"
    (kept,) = facts.of(VolumeKept)
    assert (kept.volume, kept.keys, kept.bytes) == ("answers", 1, (tmp_path / "volumes/answers.rdb").stat().st_size)
    assert facts.of(DatabaseOpened)[0].rows == 1


def test_a_volume_that_was_filled_to_the_brim_is_there_in_the_next_run(tmp_path):
    async def scenario():
        async with opened(tmp_path, volume="answers", memory="8MiB") as (_, _facts, client):
            before = await said(client.dbsize)
            with pytest.raises(redis.ResponseError, match="maxmemory"):
                for number in range(100_000):
                    await said(client.rpush, f"{before}:{number}", os.urandom(1000), *range(100))
            return before, await said(client.dbsize)

    _, kept = uvloop.run(scenario())
    assert kept > 1000
    assert uvloop.run(scenario())[0] == kept


@pytest.mark.parametrize("how", ["killed", "frozen", "full"])
def test_a_volume_that_cannot_be_kept_stays_as_it_was_and_is_told(tmp_path, how, monkeypatch):
    async def scenario(break_it):
        async with opened(tmp_path, volume="answers") as (door, facts, client):
            await said(client.set, "a", "new" if break_it else "old")
            if break_it and how == "killed":
                await kill(door)
            elif break_it and how == "frozen":
                await door._server.housed.sandbox.freeze()
            elif break_it:
                monkeypatch.setattr(os, "fsync", full)
        return facts

    def full(descriptor):
        raise OSError(28, "No space left on device")

    uvloop.run(scenario(False))
    before = (tmp_path / "volumes/answers.rdb").read_bytes()
    facts = uvloop.run(scenario(True))
    assert codes(facts)[-1] == "volume_not_kept"
    assert facts.of(VolumeKept) == []
    assert (tmp_path / "volumes/answers.rdb").read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


def test_a_server_that_is_killed_is_told_inside_and_outside(tmp_path):
    async def scenario():
        async with opened(tmp_path) as (door, facts, client):
            await said(client.set, "a", 1)
            await kill(door)
            for _ in range(12):
                with pytest.raises(redis.RedisError, match="gearcase: the database cache has ended"):
                    await said(redis.Redis(port=client.connection_pool.connection_kwargs["port"], retry=None).get, "a")
        return facts

    facts = uvloop.run(scenario())
    assert codes(facts) == ["door_failed"]
    assert len(facts.of(DoorRefused)) == 2, "the first and the tenth"


def test_a_latched_door_takes_nothing_new_until_it_is_unlatched(tmp_path):
    async def scenario():
        async with opened(tmp_path) as (door, _, client):
            await said(client.set, "a", 1)
            door.latch()
            asked = asyncio.create_task(said(client.get, "a"))
            assert not (await asyncio.wait({asked}, timeout=0.5))[0]
            door.unlatch()
            assert await asked == b"1"

    uvloop.run(scenario())


def test_a_program_that_fetches_nothing_or_sends_without_end_is_closed_and_the_server_lives(tmp_path):
    """More than the server's whole memory, asked for at once or sent as one value, by several at once."""

    async def scenario():
        async with opened(tmp_path, memory="32MiB") as (door, facts, client):
            await said(client.set, "big", "x" * (8 << 20))
            sinks = []
            for _ in range(8):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.connection_pool.connection_kwargs["port"])
                writer.write(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 40)
                sinks.append((reader, writer))
            for _ in range(8):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.connection_pool.connection_kwargs["port"])
                writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$%d\r\n" % (30 << 20) + b"y" * (20 << 20))
                sinks.append((reader, writer))
            await asyncio.sleep(3)
            assert await said(client.strlen, "big") == 8 << 20
            assert not door._server.life.done()
            for _, writer in sinks:
                writer.transport.abort()
        return facts

    assert codes(uvloop.run(scenario())) == []


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ({"source": "redis://127.0.0.1:1"}, "source_unreachable"),
        ({"source": "redis://127.0.0.1:1", "password_env": "NOT_SET_ANYWHERE"}, "missing_password"),
        ({"source": "/no/such/file"}, "bad_dump"),
    ],
)
def test_a_door_that_cannot_be_opened_leaves_nothing(tmp_path, declared, code):
    async def scenario():
        source = declared.pop("source")
        async with housing(tmp_path) as lent:
            door = RedisDoor("cache", Declared(**{"from": source, **declared}), tmp_path / "volumes", alone=True)
            with pytest.raises(GearcaseError) as caught:
                await door.open(lent)
            assert await door.close() == ()
            return caught.value.code

    assert uvloop.run(scenario()) == code
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_volume_stays_and_another_run_may_have_it(tmp_path):
    file = dump(tmp_path / "outside", {"a": "1" * 100})
    (tmp_path / "volumes").mkdir()
    kept = tmp_path / "volumes/answers.rdb"
    kept.write_bytes(file.read_bytes()[:-30])

    async def scenario():
        for _ in range(2):
            with pytest.raises(GearcaseError) as caught:
                async with opened(tmp_path, volume="answers"):
                    pass
            assert caught.value.code == "bad_dump"
            assert str(kept) in caught.value.remedy

    uvloop.run(scenario())
    assert kept.read_bytes() == file.read_bytes()[:-30]


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path):
    """A source that never ends its file, and an operator who does not wait for it."""

    async def serve(reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while asked := await reader.read(100):
                writer.write(b"$1000000\r\nREDIS" if b"SYNC" in asked else b"+OK\r\n")
        writer.transport.abort()

    async def scenario():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, housing(tmp_path) as lent:
            source = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            door = RedisDoor("cache", Declared(**{"from": source}), tmp_path / "volumes", alone=True)
            opening = asyncio.create_task(door.open(lent))
            await asyncio.sleep(1)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert await door.close() == ()

    uvloop.run(scenario())


def test_several_databases_have_variables_of_their_own(tmp_path):
    one = RedisDoor("my-cache", Declared(), tmp_path, alone=True)
    assert one.environment == {"MY_CACHE_REDIS_URL": "redis://my-cache.box:6379", "REDIS_URL": "redis://my-cache.box:6379"}
    assert list(RedisDoor("b", Declared(), tmp_path, alone=False).environment) == ["B_REDIS_URL"]
