"""The http door: what passes, what is refused, what is cut, what is paid and what is on record, between real sockets."""

import asyncio
import socket
import ssl

import pytest

from gearcase.box.hosts import parse_rule
from gearcase.errors import Refused
from gearcase.events import ConnectionClosed, ConnectionOpened
from tests.doors.standing import ANSWER, GET, NAME, Outside, Stand, place_of, run


def hello(name=NAME):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_plain_http_to_an_allowed_name_passes_is_paid_and_is_on_record():
    async def scenario():
        async with Outside(ANSWER) as outside:
            stand = Stand(NAME, hosts={NAME: outside.place}, egress=10_000)
            heard, state = await stand.says(GET)
            assert (heard, state) == (ANSWER, "open")
            await stand.close()
            assert bytes(outside.heard[0]) == GET
            [opened], [closed] = stand.facts.of(ConnectionOpened), stand.facts.of(ConnectionClosed)
            assert (opened.name, opened.port, opened.address) == (NAME, 80, "127.0.0.1")
            assert (closed.sent, closed.received) == (len(GET), len(ANSWER))
            assert stand.ledger.balance("lead", "egress").spent == len(GET) + len(ANSWER)

    run(scenario)


def test_tls_passes_unread_after_a_hello_for_the_name():
    async def scenario():
        async with Outside(None) as outside:
            stand = Stand(f"{NAME}:443", hosts={NAME: outside.place})
            data = hello() + b"\x17\x03\x03\x00\x02hi"
            assert await stand.says(data, 443) == (data, "open")
            await stand.close()

    run(scenario)


@pytest.mark.parametrize(
    ("data", "port", "code"),
    [
        (hello("evil.example"), 443, "wrong_host"),
        (hello(None), 443, "no_server_name"),
        (GET, 443, "wrong_protocol"),
        (hello(), 80, "wrong_protocol"),
        (GET.replace(NAME.encode(), b"evil.example"), 80, "wrong_host"),
        (b"SSH-2.0-x\r\n", 8080, "bad_request"),
        (hello("evil.example"), 8080, "wrong_host"),
        (GET, 22, "not_allowed"),
    ],
)
def test_what_says_another_name_or_another_protocol_is_told_so_and_nothing_reaches_the_host(data, port, code):
    async def scenario():
        async with Outside(ANSWER) as outside:
            stand = Stand(NAME, f"{NAME}:8080", hosts={NAME: outside.place})
            heard, state = await stand.says(data, port)
            assert state == "closed" and ANSWER not in heard
            assert heard.startswith((b"HTTP/1.1 403", b"\x15\x03\x01"))
            assert stand.refusals() == [code] and not outside.heard

            # The positive control: unread, the same bytes reach the host.
            unread = Stand(f"tcp://{NAME}:{port}", hosts={NAME: outside.place})
            assert await unread.says(data, port) == (ANSWER, "open")
            await stand.close()
            await unread.close()

    run(scenario)


def test_a_second_request_for_another_host_is_cut_before_it_leaves():
    async def scenario():
        async with Outside(ANSWER) as outside:
            stand = Stand(NAME, hosts={NAME: outside.place})
            async with stand.client() as (reader, writer):
                writer.write(GET)
                assert await reader.readexactly(len(ANSWER)) == ANSWER
                writer.write(GET.replace(NAME.encode(), b"evil.example"))
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await asyncio.wait_for(reader.readexactly(1), 5)
            await stand.close()
            assert bytes(outside.heard[0]) == GET
            assert stand.facts.of(ConnectionClosed)[0].why == "wrong_host"

    run(scenario)


def test_a_server_that_speaks_first_is_heard_where_the_port_is_unread():
    async def scenario():
        async def banner(reader, writer):
            writer.write(b"SSH-2.0-server\r\n")
            assert await reader.readline() == b"SSH-2.0-client\r\n"
            writer.write(b"welcome")
            writer.close()

        server = await asyncio.start_server(banner, "127.0.0.1", 0)
        place = place_of(server)
        stand = Stand(f"tcp://{NAME}:22", hosts={NAME: place})
        async with stand.client(22) as (reader, writer):
            assert await reader.readline() == b"SSH-2.0-server\r\n"
            writer.write(b"SSH-2.0-client\r\n")
            assert await reader.read() == b"welcome"
        await stand.close()
        server.close()

    run(scenario)


def test_a_name_that_leads_to_this_machine_is_refused_unless_the_operator_means_it(monkeypatch):
    async def scenario():
        async with Outside(ANSWER) as outside:
            _, _, port = outside.place.partition(":")
            for private, expected in ((), "private_address"), (("loopback.example",), ""):
                stand = Stand(f"loopback.example:{port}", hosts={}, private=private)
                loop = asyncio.get_running_loop()

                async def lookup(_, to, **__):
                    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", to or 0))]

                monkeypatch.setattr(loop, "getaddrinfo", lookup)  # stands for the DNS of somebody who owns the name
                data = GET.replace(NAME.encode(), b"loopback.example")
                heard, _ = await stand.says(data, int(port), "loopback.example")
                assert stand.refusals() == ([expected] if expected else [])
                assert (ANSWER in heard) == (not expected)
                await stand.close()

    run(scenario)


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_dialled(monkeypatch):
    """Somebody's DNS that says one thing to the check and another to the dial (rebinding), or both at once."""
    public, home = "93.184.215.14", "127.0.0.1"

    async def scenario():
        async with Outside(ANSWER) as outside:
            port = int(outside.place.partition(":")[2])
            for answers, refusal in (([[public], [home]], "unreachable"), ([[public, home]], "private_address")):
                asked, dialled = [], []
                loop = asyncio.get_running_loop()

                async def lookup(host, to, *, asked=asked, answers=answers, **__):
                    asked.append(host)
                    now = answers[min(len(asked), len(answers)) - 1]
                    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, to or 0)) for one in now]

                async def dial(_sock, address, dialled=dialled):
                    dialled.append(address)
                    raise ConnectionRefusedError

                monkeypatch.setattr(loop, "getaddrinfo", lookup)
                monkeypatch.setattr(loop, "sock_connect", dial)
                stand = Stand(f"changing.example:{port}", hosts={})
                await stand.says(GET.replace(NAME.encode(), b"changing.example"), port, "changing.example")
                monkeypatch.undo()
                assert stand.refusals() == [refusal]
                assert asked == ["changing.example"]
                assert dialled == ([(public, port)] if refusal == "unreachable" else [])
                await stand.close()
            assert outside.heard == []

    run(scenario)


def test_a_host_that_is_down_is_an_error_that_says_so():
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            place = f"127.0.0.1:{taken.getsockname()[1]}"
        stand = Stand(NAME, hosts={NAME: place})
        heard, _ = await stand.says(GET)
        assert b"502" in heard and b"cannot be reached" in heard
        assert stand.refusals() == ["unreachable"]
        await stand.close()

    run(scenario)


def test_a_rule_that_is_taken_away_cuts_what_is_open_and_a_new_one_opens():
    async def scenario():
        async with Outside(ANSWER) as outside:
            stand = Stand(NAME, hosts={NAME: outside.place, "other.example": outside.place})
            assert await stand.seat.find("other.example") is None
            async with stand.client() as (reader, writer):
                writer.write(GET)
                await reader.readexactly(len(ANSWER))
                stand.door.remove(parse_rule(NAME))
                with pytest.raises(ConnectionResetError):  # what ends with its connection must not look whole
                    await asyncio.wait_for(reader.read(), 5)
            assert stand.facts.of(ConnectionClosed)[0].why == "not_allowed"
            assert (await stand.says(GET))[1] == "closed" and await stand.seat.find(NAME) is None
            stand.door.allow(parse_rule("other.example"))
            assert await stand.seat.find("other.example") is not None
            await stand.close()

    run(scenario)


def test_when_the_bytes_are_used_up_the_connection_is_cut_and_not_a_byte_more_is_paid():
    async def scenario():
        async with Outside(b"x" * 40_000) as outside:
            stand = Stand(f"tcp://{NAME}:80", hosts={NAME: outside.place}, egress=100_000)
            async with stand.client() as (reader, writer):
                heard = 0
                while True:
                    writer.write(b"more")
                    try:
                        chunk = await asyncio.wait_for(reader.read(40_000), 5)
                    except ConnectionError:
                        break
                    if not chunk:
                        break
                    heard += len(chunk)
            await stand.close()
            spent = stand.ledger.balance("lead", "egress").spent
            assert 60_000 < heard <= spent <= 100_000
            assert stand.facts.of(ConnectionClosed)[0].why == "budget" and "budget" in stand.refusals()

    run(scenario)


def test_latched_nothing_new_leaves_and_unlatched_it_goes_on():
    async def scenario():
        async with Outside(ANSWER) as outside:
            stand = Stand(NAME, hosts={NAME: outside.place})
            async with stand.client() as (reader, writer):
                writer.write(GET)
                await reader.readexactly(len(ANSWER))
                stand.door.latch()
                writer.write(GET)
                await asyncio.sleep(0.1)
                assert bytes(outside.heard[0]) == GET
                assert (await stand.says(GET))[0] == b"" and len(outside.heard) <= 2 and not any(outside.heard[1:])
                stand.door.unlatch()
                assert await asyncio.wait_for(reader.readexactly(len(ANSWER)), 5) == ANSWER
            await stand.close()

    run(scenario)


def test_large_bodies_pass_whole_both_ways_with_a_slow_reader():
    async def scenario():
        async with Outside(None) as outside:
            stand = Stand(f"tcp://{NAME}:80", hosts={NAME: outside.place})
            data = bytes(range(256)) * 16384
            async with stand.client() as (reader, writer):

                async def write():
                    writer.write(data)
                    await writer.drain()
                    writer.write_eof()

                writing = asyncio.create_task(write())
                await asyncio.sleep(0.2)
                heard = await asyncio.wait_for(reader.read(-1), 30)
                await writing
            assert heard == data
            await stand.close()

    run(scenario)


def test_each_name_has_an_address_of_its_own_and_listens_at_its_ports_only():
    async def scenario():
        stand = Stand("*.example.org", "git.example.org:9418", hosts={})
        first, second = await stand.seat.find("a.example.org"), await stand.seat.find("git.example.org")
        assert first != second and first == await stand.seat.find("a.example.org")
        assert {(one.name, one.port) for one in stand.bound} == {
            ("a.example.org", 80),
            ("a.example.org", 443),
            ("git.example.org", 80),
            ("git.example.org", 443),
            ("git.example.org", 9418),
        }
        for name in ("example.org", "a.example.org.evil", "gear.box", "evilexample.org"):
            assert await stand.seat.find(name) is None
        await stand.close()

    run(scenario)


def test_names_without_end_are_refused():
    async def scenario():
        stand = Stand("*.example.org:80", hosts={})
        found = [await stand.seat.find(f"n{number}.example.org") for number in range(258)]
        assert (
            None not in found[:256] and found[256:] == [None, None] and stand.refusals() == ["too_many_names", "too_many_names"]
        )
        await stand.close()

    run(scenario)


def test_a_rule_for_every_name_still_leads_to_the_public_internet_only():
    async def scenario():
        stand = Stand("*", hosts={})
        assert await stand.seat.find("anything.invalid") is not None
        with pytest.raises(Refused):
            await stand.door.connect("localhost", 80)
        await stand.close()

    run(scenario)
