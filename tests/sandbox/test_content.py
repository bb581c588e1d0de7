"""The bytes of one file, copied inside the kernel: whole, with its holes, or not at all."""

import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.sandbox.content import ContentChanged, copy_content, digest_bytes, send_content

PARTS = st.lists(st.tuples(st.booleans(), st.integers(1, 200_000)), max_size=6)


def written(parts):
    """A file of data and holes, open; and what it holds."""
    file, content = tempfile.TemporaryFile(), b""  # noqa: SIM115 - handed out open
    for is_hole, length in parts:
        part = bytes(length) if is_hole else os.urandom(min(length, 64)) * (length // min(length, 64) + 1)
        part = part[:length]
        if not is_hole:
            os.pwrite(file.fileno(), part, len(content))
        content += part
    os.ftruncate(file.fileno(), len(content))
    return file, content


@settings(deadline=None, max_examples=60)
@given(PARTS)
def test_what_is_sent_is_what_was_there_whatever_holes_it_has(parts):
    source, content = written(parts)
    with source, tempfile.TemporaryFile() as target, tempfile.TemporaryFile() as other:
        send_content(source.fileno(), target.fileno(), len(content))
        assert os.pread(target.fileno(), len(content) + 1, 0) == content
        assert copy_content(source.fileno(), other.fileno(), len(content)) == digest_bytes(content)
        assert os.pread(other.fileno(), len(content) + 1, 0) == content


def test_a_hole_of_a_terabyte_costs_nothing_there_either():
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        os.ftruncate(source.fileno(), 1 << 40)
        os.pwrite(source.fileno(), b"in the middle", 1 << 39)
        send_content(source.fileno(), target.fileno(), 1 << 40)
        assert os.pread(target.fileno(), 13, 1 << 39) == b"in the middle"
        assert os.fstat(target.fileno()).st_size == 1 << 40 and os.fstat(target.fileno()).st_blocks < 1000


@pytest.mark.parametrize("told", [99_999, 100_001, 0, 200_000])
def test_a_file_that_is_not_as_long_as_was_said_is_an_error(told):
    source, _ = written([(False, 100_000)])
    with source, tempfile.TemporaryFile() as target, pytest.raises(ContentChanged):
        send_content(source.fileno(), target.fileno(), told)
