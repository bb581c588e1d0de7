"""Bytes between two sockets: whole and in order however slow the taker is, and with a bound on what is kept for it."""

import asyncio
import contextlib
import hashlib
import random
import socket

import pytest
import uvloop

from gearcase.doors.relay import BULK, CHUNK, MOST_KEPT, Buffers, Relay
from gearcase.errors import Refused

WHOLE = random.Random(7).randbytes(24 << 20)


@contextlib.contextmanager
def pair():
    """Two connected TCP sockets, as a door has them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


async def given(sock, data):
    await asyncio.get_running_loop().sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)


async def taken(sock, pause):
    loop, found = asyncio.get_running_loop(), hashlib.sha256()
    most = 0
    while data := await loop.sock_recv(sock, 1 << 16):
        found.update(data)
        most = max(most, Buffers.kept)
        if pause:
            await asyncio.sleep(pause)
    return found.hexdigest(), most


def passed(data, pause=0.0, judge=None, meter=lambda count: None):
    """What comes out at the other end, how it ended, the bytes of the way, and the most that was kept."""

    async def scenario():
        with pair() as (client, inner), pair() as (outer, server):
            relay = Relay(inner, outer, meter, None, judge)

            async def run():
                try:
                    return await relay.run()
                finally:  # sockets are closed by whoever made them
                    inner.close()
                    outer.close()

            running = asyncio.ensure_future(run())
            answering = asyncio.ensure_future(given(server, data))
            (digest, most), _ = await asyncio.gather(taken(client, pause), given(client, b"please"))
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await answering
            server.close()
            return digest, await asyncio.wait_for(running, 10), relay.back.passed, most

    return asyncio.run(scenario())


@pytest.mark.parametrize("pause", [0.0, 0.0005])
@pytest.mark.parametrize("judge", [None, bytes])
def test_a_large_body_comes_whole_and_is_paid_once(pause, judge):
    paid = []
    data = WHOLE if not pause else WHOLE[: 8 << 20]
    digest, why, count, _ = passed(data, pause, judge, paid.append)
    assert (digest, why, count) == (hashlib.sha256(data).hexdigest(), "done", len(data))
    assert sum(paid) == len(data) + len(b"please")
    assert max(paid) <= (CHUNK if judge else BULK)
    assert Buffers.kept == 0


def test_where_much_is_kept_for_slow_takers_less_is_read_at_once(monkeypatch):
    paid = []
    monkeypatch.setattr(Buffers, "kept", MOST_KEPT)
    digest, _, _, most = passed(WHOLE, 0.0, None, paid.append)
    assert digest == hashlib.sha256(WHOLE).hexdigest() and max(paid) <= CHUNK
    assert most == Buffers.kept == MOST_KEPT


def test_what_is_not_paid_does_not_pass():
    left = [4 << 20]

    def meter(count):
        left[0] -= count
        if left[0] < 0:
            raise Refused("budget", "no bytes left", remedy="ask for more")

    _, why, count, _ = passed(WHOLE, 0.0, None, meter)
    assert why == "budget" and count <= 4 << 20
    assert Buffers.kept == 0


@pytest.mark.parametrize("words", [b"FATAL: last words", b"x" * (3 << 20)], ids=["a few", "more than one turn"])
def test_a_server_that_dies_with_something_unread_has_its_last_words_and_is_gone(words):
    """The event loop tells a broken socket once: what it said before, and that it is gone, are both in that."""

    async def scenario():
        with pair() as (client, inner):
            outer, server = socket.socketpair()
            with outer, server:
                for one in (outer, server):
                    one.setblocking(False)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
                relay = Relay(inner, outer, lambda count: None, lambda data: data, lambda data: data)
                running = asyncio.ensure_future(relay.run())
                await asyncio.sleep(0)
                client.send(b"SELECT 1")
                while not relay.out.passed:
                    await asyncio.sleep(0.01)
                said = words[: server.send(words)]
                server.close()  # with SELECT 1 unread
                heard = b""
                async with asyncio.timeout(20):
                    while len(heard) < len(said):
                        heard += await asyncio.get_running_loop().sock_recv(client, 1 << 20)
                    return heard == said, len(said), await running

    same, length, why = uvloop.run(scenario())
    assert same and length >= min(len(words), CHUNK) and why == "ConnectionResetError"
