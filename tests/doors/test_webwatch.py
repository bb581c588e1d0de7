"""Plain HTTP that is read along: nothing leaves that is not for the one host, however it is cut up or smuggled."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.doors.webwatch import MOST_HEAD, WebWatch
from gearcase.errors import Refused

GET = b"GET /a HTTP/1.1\r\nHost: files.example.org\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: files.example.org\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
GOOD = GET + POST + CHUNKED + GET


def watch():
    return WebWatch(lambda host: host == "files.example.org")


def test_good_requests_pass_as_they_are():
    made = watch()
    assert made.feed(GOOD) == GOOD
    assert made.requests == 4


@given(st.lists(st.integers(1, len(GOOD) - 1), max_size=12))
def test_however_they_are_cut_up_all_of_it_passes_in_order(cuts):
    places = [0, *sorted(set(cuts)), len(GOOD)]
    made = watch()
    assert b"".join(made.feed(GOOD[a:b]) for a, b in itertools.pairwise(places)) == GOOD


def test_the_bytes_of_a_head_wait_until_it_is_judged():
    made = watch()
    assert made.feed(b"GET / HTTP/1.1\r\nHost: files.exam") == b""
    assert made.feed(b"ple.org\r\n\r\n").startswith(b"GET / HTTP/1.1")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: files.example.org\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: files.example.org\r\nhost: files.example.org\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: files.example.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: files.example.org@evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: files.example.org, evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: files.example.org\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: files.example.org\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: files.example.org\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")
        + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x02\x00",
        GET[:-2] + b"X: " + b"x" * MOST_HEAD + b"\r\n\r\n",
    ],
)
def test_what_is_for_another_host_or_can_be_read_in_two_ways_never_leaves(data):
    for first in (b"", GET, POST):
        made = watch()
        assert made.feed(first) == first
        with pytest.raises(Refused) as error:
            made.feed(data)
        assert error.value.code in ("bad_request", "wrong_host")


def test_a_request_that_is_hidden_in_a_body_is_a_body():
    hidden = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    made = watch()
    data = b"POST / HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    assert made.feed(data) == data
    with pytest.raises(Refused):
        made.feed(hidden)


def test_after_an_upgrade_to_a_websocket_bytes_pass_unread():
    head = b"GET /ws HTTP/1.1\r\nHost: files.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    made = watch()
    assert made.feed(head) == head
    assert made.feed(b"\x81\x05hello") == b"\x81\x05hello"


@given(st.binary(max_size=300))
def test_no_bytes_whatever_are_more_than_refused(data):
    made = watch()
    try:
        made.feed(data)
    except Refused:
        return


@pytest.mark.parametrize("first", [GET, POST, CHUNKED])
def test_the_offer_of_another_protocol_is_taken_out_and_http_goes_on(first):
    offering = first.replace(b"\r\n", b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUPGRADE: h2c\r\nHTTP2-Settings: AAE\r\n", 1)
    for cut in (1, 20, 60, len(offering) - 1, len(offering)):
        made = watch()
        assert made.feed(offering[:cut]) + made.feed(offering[cut:] + GET) == first + GET
        assert made.feed(POST) == POST
