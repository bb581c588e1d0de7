"""Echoed secrets, in every spelling and however they are cut."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.doors.masks import Mask

SECRET = "ghp_canary/4711+never=inside"
WRITTEN = {
    "raw": SECRET,
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 of a pair": base64.b64encode(f"user:{SECRET}".encode()).decode(),
    "base64, one further": base64.b64encode(f"user1:{SECRET};".encode()).decode(),
    "base64, two further": base64.b64encode(f"user12:{SECRET};;".encode()).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(f"a:{SECRET}".encode()).decode(),
    "URL": quote(SECRET, safe=""),
    "URL in lower case": quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"),
    "JSON": json.dumps(SECRET).replace("/", "\\/"),
    "hexadecimal": SECRET.encode().hex(),
}


def streamed(mask, chunks):
    stream = mask.stream()
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.end()])


@pytest.mark.parametrize("how", WRITTEN)
def test_a_secret_is_masked_however_it_is_written_and_the_length_stays(how):
    body = f'{{"before": "x", "value": "{WRITTEN[how]}", "after": 1}}'.encode()
    masked = Mask([SECRET]).whole(body)
    assert len(masked) == len(body)
    assert b"after" in masked
    core = WRITTEN[how].strip('"')
    assert core not in masked.decode()
    assert masked.count(b"*") >= len(SECRET) - 3


@pytest.mark.parametrize("how", WRITTEN)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_wherever_it_is_cut(how, sizes):
    body = f"a{WRITTEN[how]}b{WRITTEN[how]}".encode() * 2
    chunks, at = [], 0
    for size in sizes * (len(body) + 1):
        chunks.append(body[at : at + size])
        at += size
    mask = Mask([SECRET])
    assert streamed(mask, chunks) == mask.whole(body)


def test_what_is_no_secret_passes_at_once():
    stream = Mask([SECRET]).stream()
    assert stream.feed(b"data: hello\n\n") == b"data: hello\n\n"
    assert stream.feed(b"data: ghp_can") == b"data: "
    assert stream.feed(b"teen\n") == b"ghp_canteen\n"


def test_without_a_secret_nothing_is_masked():
    mask = Mask([])
    assert mask.whole(b"anything") == b"anything" and mask.longest == 0
