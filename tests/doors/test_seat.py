"""The box's proxy: what a client may reach through it is what it may reach without, by the same words, bytes and record."""

import asyncio

import pytest

from gearcase.box.hosts import parse_rule
from gearcase.doors import seat
from gearcase.events import ConnectionClosed, ConnectionOpened, NameAsked
from tests.doors.standing import ANSWER, GET, NAME, Outside, Stand, run
from tests.doors.test_hello import hello

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def connect(place=f"{NAME}:443"):
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()


class Proxy(Stand):
    """Its clients are those of the proxy."""

    async def tunnelled(self, place, data):
        """What comes back through a tunnel for `data`, or instead of one."""
        async with self.client(0, "") as (reader, writer):
            writer.write(connect(place))
            heard = bytearray()
            try:
                async with asyncio.timeout(0.6):
                    heard += await reader.readuntil(b"\r\n\r\n")
                    if heard != CONNECTED:
                        return bytes(heard + await reader.read())
                    writer.write(data)
                    heard.clear()
                    while part := await reader.read(65536):
                        heard += part
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                pass
            return bytes(heard)


def test_a_tunnel_to_an_allowed_name_passes_is_paid_and_is_on_record_like_a_direct_connection():
    async def scenario():
        async with Outside(None) as outside:
            stand = Proxy(NAME, hosts={NAME: outside.place}, egress=100_000)
            data = hello(NAME) + b"\x17\x03\x03\x00\x02hi"
            assert await stand.tunnelled(f"{NAME}:443", data) == data
            assert await stand.tunnelled(f"{NAME.upper()}.:443", data) == data
            assert await stand.tunnelled(f"{NAME}:80", GET) == GET
            await stand.close()
            opened, closed = stand.facts.of(ConnectionOpened), stand.facts.of(ConnectionClosed)
            assert [(one.name, one.port) for one in opened] == [(NAME, 443), (NAME, 443), (NAME, 80)]
            assert closed[0].sent == closed[0].received == len(data)
            assert stand.ledger.balance("lead", "egress").spent == 4 * len(data) + 2 * len(GET)
            assert stand.refusals() == []

    run(scenario)


def test_bytes_that_come_with_the_head_are_the_first_of_the_tunnel():
    async def scenario():
        async with Outside(None) as outside:
            for rule in (NAME, f"tcp://{NAME}:443"):
                stand = Stand(rule, hosts={NAME: outside.place})
                data = hello(NAME)
                assert await stand.says(connect() + data, 0, "") == (CONNECTED + data, "open")
                await stand.close()

    run(scenario)


@pytest.mark.parametrize(
    ("place", "data", "code"),
    [
        (f"{NAME}:443", hello("evil.example"), "wrong_host"),
        (f"{NAME}:443", hello(None), "no_server_name"),
        (f"{NAME}:443", GET, "wrong_protocol"),
        (f"{NAME}:80", GET.replace(NAME.encode(), b"evil.example"), "wrong_host"),
        (f"{NAME}:80", GET.replace(b"GET /", b"GET http://evil.example/"), "bad_request"),
        (f"{NAME}:22", b"SSH-2.0-x\r\n", "not_allowed"),
        ("evil.example:443", hello("evil.example"), "not_allowed"),
        ("127.0.0.1:443", hello(NAME), "not_allowed"),
        ("model.box:80", GET, "not_allowed"),
        (f"{NAME}@evil.example:443", hello(NAME), "not_allowed"),
    ],
)
def test_what_may_not_be_reached_without_it_may_not_be_reached_by_it(place, data, code):
    async def scenario():
        async with Outside(ANSWER) as outside:
            leads = {NAME: outside.place, "evil.example": outside.place}
            stand = Proxy(NAME, hosts=leads)
            heard = await stand.tunnelled(place, data)
            assert ANSWER not in heard and heard.startswith((b"HTTP/1.1 403", b"\x15\x03\x01"))
            assert stand.refusals() == [code] and not outside.heard
            await stand.close()

            # The positive control: with a rule that lets it pass unread, the same client gets there.
            name, _, port = place.rpartition(":")
            if name in leads:
                unread = Proxy(f"tcp://{name}:{port}", hosts=leads)
                assert await unread.tunnelled(place, data) == ANSWER
                await unread.close()

    run(scenario)


def test_plain_http_through_the_proxy_is_one_request_to_one_host():
    async def scenario():
        async with Outside(ANSWER) as outside:
            stand = Stand(NAME, hosts={NAME: outside.place, "evil.example": outside.place})
            asked = GET.replace(b"GET /", f"GET http://{NAME}/a".encode())
            assert await stand.says(asked, 0, "") == (ANSWER, "open")
            assert bytes(outside.heard[0]) == GET.replace(b"/ ", b"/a ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            other = asked.replace(NAME.encode(), b"evil.example")
            for data in (
                asked.replace(f"Host: {NAME}".encode(), b"Host: evil.example"),
                asked.replace(b"Host:", b"X:"),
                asked.replace(b"\r\n\r\n", b"\r\nHost: evil.example\r\n\r\n"),
                asked.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") + GET,
                asked.replace(f"http://{NAME}/".encode(), f"http://{NAME}:443/".encode()),
                other,
                asked + other,
                GET,
            ):
                heard, state = await stand.says(data, 0, "")
                assert ANSWER not in heard and state == "closed", data
            assert not any(outside.heard[1:])
            await stand.close()

            # The positive control: the host that was not allowed answers where it is.
            wide = Stand("*", hosts={NAME: outside.place, "evil.example": outside.place})
            assert await wide.says(other, 0, "") == (ANSWER, "open")
            await wide.close()

    run(scenario)


def test_names_that_are_not_allowed_are_on_record_without_flooding_it():
    async def scenario():
        stand = Proxy(NAME, hosts={})
        for _ in range(12):
            assert b"403" in await stand.tunnelled("evil.example:443", b"")
        asked = [(one.name, one.kind, one.allowed, one.count) for one in stand.facts.of(NameAsked)]
        assert asked == [("evil.example", "CONNECT", False, 1), ("evil.example", "CONNECT", False, 10)]
        assert stand.refusals() == ["not_allowed", "not_allowed"]
        await stand.close()

    run(scenario)


def test_a_tunnel_is_cut_when_its_rule_goes_and_one_that_asks_slowly_is_closed(monkeypatch):
    async def scenario():
        async with Outside(None) as outside:
            stand = Proxy(NAME, hosts={NAME: outside.place})
            async with stand.client(0, "") as (reader, writer), stand.client(0, "") as (slow, slowly):
                slowly.write(b"CONNECT ")
                writer.write(connect() + hello(NAME))
                assert await reader.readexactly(len(CONNECTED) + 10)
                stand.door.remove(parse_rule(NAME))
                with pytest.raises(ConnectionResetError):
                    while await asyncio.wait_for(reader.read(65536), 5):
                        pass
                assert stand.facts.of(ConnectionClosed)[0].why == "not_allowed"
                began = asyncio.get_running_loop().time()
                while not (slow.at_eof() or slowly.is_closing()) and asyncio.get_running_loop().time() - began < 5:
                    slowly.write(b"x")
                    await asyncio.sleep(0.05)
                assert asyncio.get_running_loop().time() - began < 2
            await stand.close()

    monkeypatch.setattr(seat, "FIRST_BYTES_WITHIN", 0.5)
    run(scenario)
