"""What a session said, for the record: read from its messages however they are cut, and held up to fixed counts."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.doors.postgres import said
from gearcase.doors.postgres.said import Said
from gearcase.errors import Refused


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


def query(text):
    return message(b"Q", text.encode() + b"\0")


def parse(text, name=b""):
    return message(b"P", name + b"\0" + text.encode() + b"\0" + struct.pack("!h", 0))


def bind(values, name=b"", portal=b""):
    told = b"".join(struct.pack("!i", -1) if one is None else struct.pack("!i", len(one)) + one for one in values)
    return message(b"B", portal + b"\0" + name + b"\0" + struct.pack("!h", 0) + struct.pack("!h", len(values)) + told + b"\0\0")


def execute(portal=b""):
    return message(b"E", portal + b"\0" + struct.pack("!i", 0))


SYNC = message(b"S", b"")


@given(st.lists(st.integers(1, 40), min_size=1))
def test_a_statement_with_its_values_is_read_however_it_is_cut(cuts):
    stream = parse("SELECT $1, $2, $3", b"one") + bind([b"7", None, "ü".encode()], b"one", b"p") + execute(b"p") + SYNC
    one, at = Said(), 0
    while at < len(stream):
        cut = cuts[at % len(cuts)]
        one.feed(stream[at : at + cut])
        at += cut
    assert one.ended() == ("SELECT $1, $2, $3", ["7", "NULL", "ü"])
    assert one.ended() == ("", [])


def test_statements_end_in_the_order_in_which_they_were_sent():
    one = Said()
    one.feed(parse("INSERT") + bind([b"1"]) + execute() + bind([b"2"]) + execute() + SYNC + query("SELECT 1; SELECT 2"))
    assert [one.ended(), one.ended()] == [("INSERT", ["1"]), ("INSERT", ["2"])]
    one.ready()
    assert [one.ended(), one.ended()] == [("SELECT 1; SELECT 2", [])] * 2, "a text of several statements ends with the answer"
    one.ready()
    assert one.ended() == ("", [])


def test_what_is_held_is_bounded():
    one = Said()
    for number in range(2000):
        one.feed(parse("x" * 10_000, b"%d" % number) + bind([b"v" * 1000] * 100, b"%d" % number, b"%d" % number))
        one.feed(execute(b"%d" % number))
    text, values = one.ended()
    assert len(text) == said.MOST_TEXT + 1 and text.endswith("…")
    assert len(values) <= said.MOST_VALUES and all(len(value) == said.MOST_VALUE + 1 for value in values)
    assert len(one._prepared) <= 500 and len(one._portals) <= 500 and len(one._waiting) <= 1000


@settings(deadline=None)
@given(
    st.lists(
        st.binary(max_size=60) | st.builds(message, st.sampled_from([b"Q", b"P", b"B", b"E", b"S", b"X"]), st.binary(max_size=40))
    )
)
def test_nothing_that_is_sent_breaks_the_record(parts):
    """It is told as text, or the session is no session of PostgreSQL."""
    one = Said()
    try:
        for part in parts:
            one.feed(part)
            text, values = one.ended()
            assert isinstance(text, str) and all(isinstance(value, str) for value in values)
            one.ready()
    except Refused as error:
        assert error.code == "bad_protocol"
