"""The server name that a TLS client says, read from what real clients send, cut up and tampered with in every way."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.doors.hello import MOST_BYTES, server_name
from gearcase.errors import Refused


def hello(name="files.example.org"):
    """What Python's own TLS client sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data, size):
    """The same handshake message in records of `size` bytes."""
    message = data[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(data[:3] + len(part).to_bytes(2) + part for part in parts)


REAL = hello()
NAME = b"\x00\x00\x11files.example.org"


def changed(old, new):
    """The hello with bytes of the same length in place of others."""
    assert len(old) == len(new) and REAL.count(old) == 1
    return REAL.replace(old, new)


def test_the_name_is_read_and_in_lower_case():
    assert server_name(REAL) == "files.example.org"
    assert server_name(hello("Files.Example.ORG")) == "files.example.org"
    assert server_name(REAL + b"\x17\x03\x03\x00\x01x") == "files.example.org"


def test_a_hello_that_is_not_complete_is_waited_for():
    assert all(server_name(REAL[:count]) is None for count in range(1, len(REAL)))


@given(st.integers(1, 600))
def test_records_may_be_split_anywhere(size):
    assert server_name(in_records(REAL, size)) == "files.example.org"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n", "not TLS"),
        (b"SSH-2.0-x\r\n", "not TLS"),
        (hello(None), "names no server"),
        (changed(NAME, b"\x01" + NAME[1:]), "names no server"),
        (b"\x16\x03\x01\x40\x01" + bytes(0x4001), "malformed"),
        (b"\x16\x02\x01\x00\x05" + bytes(5), "malformed"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "does not begin with a hello"),
        (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03", "malformed"),
        (changed(NAME, b"\x00\x00\x12" + NAME[3:]), "malformed"),
        (changed(b"example", "exämpl".encode()), "malformed"),
    ],
)
def test_what_is_no_hello_with_one_name_is_refused(data, says):
    with pytest.raises(Refused) as error:
        server_name(data)
    assert error.value.code == "no_server_name" and says in error.value.message


def test_a_name_with_a_nul_is_never_equal_to_an_allowed_one():
    assert server_name(changed(b"files.example.org", b"files.exam\0le.org")) != "files.example.org"


def test_a_hello_without_an_end_is_refused():
    with pytest.raises(Refused):
        server_name(in_records(b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(MOST_BYTES + 100), 16000))


@given(st.binary(max_size=400))
def test_no_bytes_whatever_are_more_than_refused(data):
    for prefix in (b"", REAL[:5], REAL[:60]):
        try:
            server_name(prefix + data)
        except Refused:
            continue
