"""The box's resolver: the names of the box and no others, over UDP and TCP, whatever a packet looks like."""

import asyncio
import socket
import struct
from collections import Counter

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gearcase.doors.resolver import MOST_CONNECTIONS, MOST_NAMES, TTL, Resolver
from tests.recorder import Facts

NAMES = {"model.box": "198.18.0.1", "gear.box": "198.18.0.2", "api.example.org": "198.18.0.9"}
A, AAAA, TXT, ANY, HTTPS = 1, 28, 16, 255, 65
OK, FORMAT, NXDOMAIN, NOT_IMPLEMENTED = 0, 1, 3, 4


def resolver(facts=None):
    return Resolver(NAMES, facts or Facts(), "lead")


def answer_of(asked, packet):
    return asyncio.run(asked.answer(packet))


def labels(name):
    return b"".join(bytes([len(part)]) + part for part in name.encode().split(b".") if part) + b"\0"


def query(name, kind=A, where=1, *, identity=0x1234, flags=0x0100, questions=1, more=b"", answers=0):
    encoded = name if isinstance(name, bytes) else labels(name)
    return struct.pack(">HHHHHH", identity, flags, questions, answers, 0, 0) + encoded + struct.pack(">HH", kind, where) + more


def told(reply):
    """(code, answers, address)."""
    identity, flags, _, answers, authorities, additional = struct.unpack_from(">HHHHHH", reply)
    assert identity == 0x1234 and flags & 0x8000 and not authorities and not additional
    address = socket.inet_ntoa(reply[-4:]) if answers else ""
    return flags & 0xF, answers, address


def test_a_name_of_the_box_has_its_address():
    packet = query("model.box")
    reply = answer_of(resolver(), packet)
    assert told(reply) == (OK, 1, "198.18.0.1")
    assert reply[12 : len(packet)] == packet[12:]
    pointer, kind, where, ttl, size = struct.unpack_from(">HHHIH", reply, len(packet))
    assert (pointer, kind, where, ttl, size) == (0xC00C, A, 1, TTL, 4)


@pytest.mark.parametrize("name", ["MODEL.BOX", "Model.bOX", "api.EXAMPLE.org"])
def test_case_makes_no_difference_and_is_kept_in_the_reply(name):
    reply = answer_of(resolver(), query(name))
    assert told(reply)[:2] == (OK, 1) and labels(name) in reply


@pytest.mark.parametrize("kind", [AAAA, TXT, HTTPS, 2, 5, 6, 12, 15, 33, 64, 255, 999, 65535])
def test_every_other_question_about_a_name_of_the_box_is_answered_empty(kind):
    assert told(answer_of(resolver(), query("model.box", kind))) == (OK, 0, "")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "box",
        "model",
        "x.model.box",
        "model.box.box",
        "modelxbox",
        "model.box.example.org",
        "localhost",
        "example.org",
        "a" * 63 + ".box",
    ],
)
def test_every_other_name_does_not_exist(name):
    for kind in (A, AAAA, ANY):
        assert told(answer_of(resolver(), query(name, kind)))[:2] == (NXDOMAIN, 0)


def test_another_class_has_no_names():
    assert told(answer_of(resolver(), query("model.box", A, 3)))[0] == NXDOMAIN
    assert told(answer_of(resolver(), query("model.box", A, 255)))[:2] == (OK, 1)


STRANGE = {
    "two questions": query("model.box", questions=2, more=labels("evil.org") + b"\0\1\0\1"),
    "no question": query("model.box", questions=0),
    "a pointer to itself": query(b"\xc0\x0c"),
    "a pointer at the end": query(b"\5model\xc0\x0c"),
    "a NUL in a label": query(b"\5mo\0el\3box\0"),
    "a dot in a label": query(b"\x09model.box\0"),
    "a space in a label": query(b"\5mo el\3box\0"),
    "no ASCII": query(b"\6mod\xc3\xa9l\3box\0"),
    "a hyphen at the start": query(b"\6-model\3box\0"),
    "a newline at the end": query(b"\6model\n\3box\0"),
    "a label of 64": query(bytes([64]) + b"a" * 64 + b"\0"),
    "a name of 256": query(b"".join(bytes([63]) + b"a" * 63 for _ in range(4)) + b"\0"),
    "no end of the name": query("model.box")[:17],
    "no type": query("model.box")[:-4],
    "half a class": query("model.box")[:-1],
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_malformed_question_is_a_format_error_and_is_not_repeated(name):
    facts = Facts()
    reply = answer_of(resolver(facts), STRANGE[name])
    assert told(reply)[:2] == (FORMAT, 0) and len(reply) == 12
    assert facts.events == []


def test_what_is_no_query_is_not_answered():
    for packet in (b"", b"\0" * 11, query("model.box", flags=0x8180)):
        assert answer_of(resolver(), packet) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_operations_are_not_implemented(opcode):
    assert told(answer_of(resolver(), query("model.box", flags=opcode << 11)))[:2] == (NOT_IMPLEMENTED, 0)


def test_an_extension_at_the_end_of_a_query_does_no_harm():
    edns = b"\0\0\x29\x10\0\0\0\0\0\0\0"
    packet = bytearray(query("model.box", more=edns))
    packet[11] = 1
    assert told(answer_of(resolver(), bytes(packet))) == (OK, 1, "198.18.0.1")


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=600) | st.binary(max_size=300).map(lambda rest: query("model.box")[:12] + rest))
@example(query("model.box"))
@example(query("model.box") + b"\0" * 65000)
def test_whatever_comes_is_answered_with_a_name_of_the_box_or_with_none(packet):
    reply = answer_of(resolver(), packet)
    if reply is None:
        assert len(packet) < 12 or packet[2] & 0x80
        return
    assert reply[:2] == packet[:2] and reply[2] & 0x80
    assert len(reply) <= 12 + 255 + 4 + 16, "no more comes out than one question and one address"
    if struct.unpack_from(">H", reply, 6)[0]:
        assert socket.inet_ntoa(reply[-4:]) in NAMES.values()


label = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=1, max_size=10)


@settings(max_examples=500, deadline=None)
@given(st.lists(label, min_size=1, max_size=5).map(".".join) | st.sampled_from([*NAMES, *(name.upper() for name in NAMES)]))
def test_a_name_exists_exactly_when_the_box_names_it(name):
    code, answers, address = told(answer_of(resolver(), query(name)))
    if name.lower() in NAMES:
        assert (code, answers, address) == (OK, 1, NAMES[name.lower()])
    else:
        assert code in (NXDOMAIN, FORMAT) and not answers


# --- counts --------------------------------------------------------------------------------------------------------------------


def test_names_are_recorded_the_first_time_and_at_powers_of_ten():
    facts = Facts()
    asked = resolver(facts)
    for _ in range(1000):
        answer_of(asked, query("data.evil.org"))
    answer_of(asked, query("model.box"))
    seen = [(event.name, event.kind, event.allowed, event.count) for event in facts.events]
    assert seen == [("data.evil.org", "A", False, n) for n in (1, 10, 100, 1000)] + [("model.box", "A", True, 1)]


def test_what_was_counted_since_is_recorded_at_the_end():
    facts = Facts()
    asked = resolver(facts)

    async def end():
        for name, times in (("api.evil.org", 12), ("once.evil.org", 1), ("ten.evil.org", 10)):
            for _ in range(times):
                await asked.answer(query(name))
        del facts.events[:]
        await asked.close()
        await asked.close()

    asyncio.run(end())
    assert [(event.name, event.kind, event.allowed, event.count) for event in facts.events] == [("api.evil.org", "A", False, 12)]


def test_a_flood_of_names_is_counted_together():
    facts = Facts()
    asked = resolver(facts)
    for number in range(MOST_NAMES + 1000):
        answer_of(asked, query(f"n{number}.evil.org"))
    rows = Counter(event.name == "(more names)" for event in facts.events)
    assert rows[False] == MOST_NAMES and rows[True] == 4
    assert max(event.count for event in facts.events if event.name == "(more names)") == 1000


# --- sockets -------------------------------------------------------------------------------------------------------------------


def served(scenario):
    """Run `scenario(udp address, tcp address)` beside a resolver, on both event loops."""

    async def whole():
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        places = udp.getsockname(), tcp.getsockname()
        serving = resolver()
        await serving.serve(udp, tcp)
        try:
            await scenario(*places)
        finally:
            await serving.close()
            await serving.close()
            await asyncio.sleep(0)

    for factory in (None, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())


async def by_udp(place, packet):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(place)
        await loop.sock_sendall(client, packet)
        return await asyncio.wait_for(loop.sock_recv(client, 4096), 30)


def framed(packet):
    return struct.pack(">H", len(packet)) + packet


async def read_framed(reader):
    return await reader.readexactly(struct.unpack(">H", await reader.readexactly(2))[0])


def test_it_answers_over_udp():
    async def scenario(udp, tcp):
        assert told(await by_udp(udp, query("gear.box"))) == (OK, 1, "198.18.0.2")
        assert told(await by_udp(udp, query("example.org")))[0] == NXDOMAIN

    served(scenario)


def test_it_answers_over_tcp_several_times_on_one_connection_however_it_is_cut():
    async def scenario(udp, tcp):
        reader, writer = await asyncio.open_connection(*tcp)
        stream = framed(query("gear.box")) + framed(query("example.org")) + framed(query("model.box"))
        for byte in stream:
            writer.write(bytes([byte]))
            await writer.drain()
        codes = [told(await read_framed(reader)) for _ in range(3)]
        assert codes == [(OK, 1, "198.18.0.2"), (NXDOMAIN, 0, ""), (OK, 1, "198.18.0.1")]
        writer.close()

    served(scenario)


def test_nonsense_over_tcp_and_udp_leaves_it_serving():
    async def scenario(udp, tcp):
        for data in (b"\xff\xff", b"\0\0", framed(b"x"), framed(b"x" * 5000), b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection(*tcp)
            writer.write(data)
            writer.write_eof()
            await asyncio.wait_for(reader.read(-1), 30)
            writer.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(udp)
            for data in (b"", b"x", b"\xff" * 1400):
                client.send(data)
        assert told(await by_udp(udp, query("gear.box")))[0] == OK

    served(scenario)


def test_connections_are_limited_and_free_again_when_they_end():
    async def scenario(udp, tcp):
        async def ask(reader, writer):
            writer.write(framed(query("gear.box")))
            return told(await read_framed(reader))[0]

        open_ones = [await asyncio.open_connection(*tcp) for _ in range(MOST_CONNECTIONS)]
        assert [await ask(*one) for one in open_ones] == [OK] * MOST_CONNECTIONS
        reader, writer = await asyncio.open_connection(*tcp)
        assert await asyncio.wait_for(reader.read(-1), 30) == b""
        writer.close()
        for _, one in open_ones:
            one.close()
        served_again = False
        while not served_again:
            reader, writer = await asyncio.open_connection(*tcp)
            try:
                served_again = await ask(reader, writer) == OK
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.01)
            writer.close()

    served(scenario)


def test_close_ends_the_connections_too():
    async def whole():
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        place = tcp.getsockname()
        serving = resolver()
        await serving.serve(udp, tcp)
        reader, writer = await asyncio.open_connection(*place)
        writer.write(framed(query("gear.box")))
        await read_framed(reader)
        await serving.close()
        assert await asyncio.wait_for(reader.read(-1), 30) == b""
        writer.close()

    for factory in (None, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())
