"""The server behind a redis door: what a program may say to it, what it reaches when it is taken over, and what it begins with."""

import inspect
import json
import time

import pytest
import redis
import uvloop

from gearcase.doors.redis.server import AGENT_MAY, SOCKET, RedisServer
from gearcase.doors.redis.source import from_file
from gearcase.errors import GearcaseError
from gearcase.seams import Command
from tests.redis_server import ATTACKS, Listener, dump, housing, live, module, say

MEMORY = 16 << 20
SAY = f"import json, socket, sys\n{inspect.getsource(say)}"
TAKEN_OVER = """
import os, subprocess, time
subprocess.Popen(["/opt/valkey/valkey-server", "--port", "0", "--unixsocket", "/workspace/other.sock", "--dir", "/workspace", "--save", "",
    "--enable-module-command", "yes", "--enable-protected-configs", "yes", "--enable-debug-command", "yes"], stdout=subprocess.DEVNULL)
while True:
    try:
        say("/workspace/other.sock", "SET", "a", "1"); break
    except OSError:
        time.sleep(0.05)
for words in json.loads(sys.argv[1]):
    print(words, say("/workspace/other.sock", *words.split("|"))[:200])
time.sleep(1)
for path in json.loads(sys.argv[2]):
    try:
        print("FILE", path, open(path).read())
    except OSError as error:
        print(error)
"""


def until(is_so, seconds=10):
    """Whether it became so."""
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.05)
    return is_so()


def attacks(target, master, folder, made):
    return [one.format(port=target.port, master=master.port, folder=folder, module=made) for one in ATTACKS]


def with_server(tmp_path, act, content=None, memory=MEMORY):
    async def scenario():
        async with housing(tmp_path / "run") as lent:
            server, _ = await RedisServer.open(lent, "cache", memory, content)
            try:
                return await act(server)
            finally:
                await server.close()

    return uvloop.run(scenario())


def test_a_program_reaches_nothing_but_data_and_the_same_words_get_through_where_nobody_guards(tmp_path):
    """Nothing of the host is touched: no connection to its port, no file in its folder, no code of its module. Outside, all are."""
    made, entered = module(tmp_path)
    folder = tmp_path / "outside"
    folder.mkdir()
    with Listener() as target, Listener() as master:
        tried = attacks(target, master, folder, made)
        program = SAY + "for words in json.loads(sys.argv[1]): print(say('/workspace/redis.sock', *words.split('|')))"

        async def act(server):
            done = await server.housed.run(Command(("/usr/bin/python3", "-c", program, json.dumps(tried))))
            assert await server.ask("PING") == "+PONG"
            return done.stdout.text().splitlines()

        told = with_server(tmp_path, act)
        assert len(told) == len(ATTACKS)
        assert all(line.startswith("-NOPERM") or "command not allowed" in line for line in told), told
        assert (target.reached, master.reached) == (0, 0)
        assert list(folder.iterdir()) == []
        assert not entered.exists()
        with live(folder) as (_, port):
            say(port, "SET", "a", "1")
            told = {words.partition("|")[0]: say(port, *words.split("|")) for words in tried}
            assert until(lambda: target.reached and master.reached), "MIGRATE and REPLICAOF reach the host's ports"
        assert not [name for name, answer in told.items() if answer.startswith("-") and name not in ("MIGRATE", "MODULE")], told
        assert "NOPERM" not in str(told)
        assert (folder / "planted").exists(), "CONFIG SET dir and SAVE write the host's folder"
        assert entered.exists(), "MODULE LOAD runs code of the host's file"


def test_a_server_that_was_taken_over_reaches_nothing_but_its_sandbox(tmp_path):
    """As whoever runs code in it: another server there, with every guard off, and files read by path."""
    made, entered = module(tmp_path)
    canary = tmp_path / "canary"
    canary.write_text("the canary sings")
    with Listener() as target, Listener() as master:
        tried = attacks(target, master, tmp_path, made)
        paths = [str(canary), f"/proc/1/root{canary}", "/etc/shadow"]
        arguments = (json.dumps(tried), json.dumps(paths))

        async def act(server):
            done = await server.housed.run(Command(("/usr/bin/python3", "-c", SAY + TAKEN_OVER, *arguments), deadline=60.0))
            return done.stdout.text()

        told = with_server(tmp_path, act)
        assert f"REPLICAOF|127.0.0.1|{master.port} +OK" in told, "it was told to, and did try"
        assert "KEYS|a -IOERR" in told
        assert "SAVE +OK" in told
        assert "NOPERM" not in told
        assert "FILE" not in told, told
        assert (target.reached, master.reached) == (0, 0)
        assert not entered.exists()
        assert not (tmp_path / "planted").exists()
        with live(tmp_path) as (_, port):  # the same words, where there is no sandbox
            say(port, "SET", "a", "1")
            for words in tried:
                say(port, *words.split("|"))
            assert until(lambda: target.reached and master.reached)
        assert entered.exists()
        assert (tmp_path / "planted").exists()


def test_every_command_that_reaches_the_server_itself_is_denied_by_its_class(tmp_path):
    """Whatever the server's next version brings in these classes is denied too."""
    given_back = {"info", "keys", "sort", "sort_ro", "flushall", "flushdb"}
    with live(tmp_path) as (_, port):
        client = redis.Redis(port=port, decode_responses=True)
        client.execute_command("ACL", "SETUSER", "agent", "on", "nopass", "~*", "&*", *AGENT_MAY.split())
        found = {name for kind in ("admin", "dangerous", "scripting") for name in client.acl_cat(kind)}
        assert len(found) > 80
        passed = set()
        for name in found:
            words, told = name.split("|"), "wrong number of arguments"
            while "wrong number of arguments" in told:  # which is looked at before who may
                told = say(port, "ACL", "DRYRUN", "agent", *words)
                words.append("1")
            passed |= {name} if "no permissions" not in told else set()
        client.close()
    assert passed == given_back


def test_the_keeper_may_count_and_save_and_nothing_else(tmp_path):
    async def act(server):
        assert await server.ask("SAVE") == "+OK"
        refused = []
        for words in ("CONFIG GET dir", "REPLICAOF 127.0.0.1 1", "GET a", "FLUSHALL", "ACL LIST", "SHUTDOWN"):
            with pytest.raises(GearcaseError) as caught:
                await server.ask(*words.split())
            refused.append(caught.value.message)
        return refused

    assert all("NOPERM" in one for one in with_server(tmp_path, act))


def test_what_it_begins_with_is_there_and_newer_files_are_taken_as_far_as_they_go(tmp_path):
    file = dump(tmp_path / "outside", {"a": "1", "b": "2"})
    newer = bytearray(file.read_bytes())
    newer[5:9] = b"0012" if newer.startswith(b"REDIS") else newer[5:9]
    newer[-8:] = bytes(8)  # no check sum
    (tmp_path / "newer.rdb").write_bytes(newer)

    async def act(server):
        assert await server.keys() == 2
        done = await server.housed.run(Command(("/bin/ls", "/workspace")))
        return done.stdout.text().split()

    assert with_server(tmp_path, act, from_file(file)) == [SOCKET], "no second copy of it stays in its sandbox"
    with_server(tmp_path, act, from_file(tmp_path / "newer.rdb"))


@pytest.mark.parametrize("where", [9, 40, -20])
def test_a_file_that_is_damaged_is_told_with_what_the_server_said(tmp_path, where):
    file = dump(tmp_path / "outside", {str(n): "x" * 50 for n in range(50)})
    damaged = bytearray(file.read_bytes())
    damaged[where] ^= 0xFF
    (tmp_path / "damaged.rdb").write_bytes(damaged)
    with pytest.raises(GearcaseError) as caught:
        with_server(tmp_path, None, from_file(tmp_path / "damaged.rdb", "the file"))
    assert caught.value.code == "bad_dump"
    assert caught.value.message == "the file cannot be loaded"
    assert caught.value.cause


def test_more_than_its_memory_is_too_large_whichever_way_it_shows(tmp_path):
    many = dump(tmp_path / "many", {str(n): "x" * 1000 for n in range(12_000)})  # compresses to little
    with pytest.raises(GearcaseError) as caught:
        with_server(tmp_path, None, from_file(many), 8 << 20)
    assert caught.value.code == "too_large"
    (tmp_path / "big.rdb").write_bytes(b"REDIS0011" + bytes(9 << 20))
    with pytest.raises(GearcaseError) as caught:
        with_server(tmp_path, None, from_file(tmp_path / "big.rdb"), 4 << 20)
    assert caught.value.code == "too_large"
