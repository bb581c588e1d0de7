"""The head of a request to the box's proxy: one strict grammar, canonical names, or a refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.doors.proxying import MOST_HEAD, Asked, read_head
from gearcase.errors import Refused

CONNECT = b"CONNECT files.example.org:443 HTTP/1.1\r\nHost: files.example.org:443\r\nProxy-Connection: Keep-Alive\r\n\r\n"


def test_a_tunnel_is_asked_for_by_name_and_port():
    assert read_head(CONNECT) == Asked("files.example.org", 443, True, b"")
    assert read_head(CONNECT + b"\x16\x03") == Asked("files.example.org", 443, True, b"\x16\x03")
    assert read_head(b"CONNECT Files.Example.ORG.:443 HTTP/1.0\r\n\r\n") == Asked("files.example.org", 443, True, b"")


@given(st.integers(0, len(CONNECT) - 1))
def test_a_head_that_is_not_complete_is_waited_for(count):
    assert read_head(CONNECT[:count]) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("http://files.example.org/a?b=c", "/a?b=c"),
        ("http://files.example.org", "/"),
        ("HTTP://FILES.example.org:80?b", "/?b"),
    ],
)
def test_a_plain_request_becomes_what_its_server_expects(line, said):
    data = (
        f"GET {line} HTTP/1.1\r\nHost: files.example.org\r\nProxy-Connection: keep-alive\r\nproxy-authorization: Basic eDp5\r\n"
        "Connection: keep-alive\r\nX-Own: 1\r\n\r\nbody"
    )
    asked = read_head(data.encode())
    assert (asked.name, asked.port, asked.tunnel) == ("files.example.org", 80, False)
    assert asked.ahead.decode() == f"GET {said} HTTP/1.1\r\nHost: files.example.org\r\nX-Own: 1\r\nConnection: close\r\n\r\nbody"


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:443", "127.1:443", "2130706433:443", "0x7f.1:443", "0x7f000001:443", "0177.0.0.1:443", "[::1]:443",
        "[::ffff:127.0.0.1]:443", "169.254.169.254:80", "localhost:443", "model.box:80", "gear.box:80", "proxy.box:13128",
        "files.example.org@evil.example:443", "evil.example:443@files.example.org:443", "files.example.org%00:443",
        "files.example.org/x:443", "files.example.org:443:80", "files.example.org", "files.example.org:", "files.example.org:0",
        "files.example.org:65536", "files.example.org:+443", "files.example.org:0x1bb", ":443", "*:443", "f\u00eeles.example.org:443",
        "http://files.example.org:443",
    ],
)  # fmt: skip
def test_what_is_no_name_with_a_port_is_refused(target):
    for data in (f"CONNECT {target} HTTP/1.1\r\n\r\n", f"CONNECT {target} HTTP/1.1\r\nHost: files.example.org:443\r\n\r\n"):
        with pytest.raises(Refused) as error:
            read_head(data.encode())
        assert error.value.code in ("bad_request", "not_allowed")


@pytest.mark.parametrize(
    "data",
    [
        b"CONNECT files.example.org:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nHost: files.example.org:22\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nHost: files.example.org\r\nHost: files.example.org\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\n X: folded\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nX : y\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nX: a\nHost: evil.example:443\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nX: a\rHost: evil.example:443\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"CONNECT files.example.org\0.evil.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT evil.example\0.files.example.org:443 HTTP/1.1\r\n\r\n",
        b"CONNECT  files.example.org:443 HTTP/1.1\r\n\r\n",
        b"CONNECT files.example.org:443 HTTP/2.0\r\n\r\n",
        b"connect files.example.org:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"GET https://files.example.org/ HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"GET ftp://files.example.org/ HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"GET http://evil.example@files.example.org/ HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"GET http://files.example.org/#x HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"\x05\x01\x00\r\n\r\n",
        CONNECT[:-2] + b"X: " + b"x" * MOST_HEAD + b"\r\n\r\n",
        b"x" * (MOST_HEAD + 1),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(data):
    with pytest.raises(Refused):
        read_head(data)


@given(st.binary(max_size=300))
def test_no_bytes_whatever_are_more_than_refused(data):
    for given_ in (data, CONNECT[:40] + data, data + b"\r\n\r\n"):
        try:
            read_head(given_)
        except Refused:
            continue
