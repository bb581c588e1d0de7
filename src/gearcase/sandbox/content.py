"""The bytes of one file: hashed and copied in one pass, at a cost that follows the data and not the size that a file claims.

Purpose: whoever copies out of an agent's tree (snapshots, delivery) uses `copy_content`, so the bytes that are kept are the bytes
that were hashed. Threat: a sparse file of 1 TB costs an agent nothing; here its holes cost nothing either.

Digests. Up to `WHOLE` bytes, and wherever `plain` is asked for, the digest is the SHA-256 of the content. Above, it is `b` and
the SHA-256 of the size and of every 64 KiB block that is not all zeros, each after its number. Both depend on the content alone,
never on where a file system happens to keep holes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from typing import Protocol

WHOLE = 1 << 20
"""Largest size in bytes whose digest is a plain SHA-256."""

_BLOCK = 1 << 16
_PAGE = 1 << 12
_READ = 1 << 20
_ZERO_BLOCK = bytes(_BLOCK)
_ZERO_PAGE = bytes(_PAGE)


class ContentChanged(Exception):
    """The file became shorter or longer while it was read."""


def copy_content(source: int, target: int | None, size: int, *, plain: bool = False, grows: bool = False) -> str:
    """Hash `size` bytes of `source` and, with a target, write them there (holes stay holes); returns the digest.

    `target` is an empty file. Raises ContentChanged when `source` does not hold exactly `size` bytes (with `grows`: holds fewer),
    OSError as the kernel says.
    """
    digest = _copy_plain(source, target, size) if plain or size <= WHOLE else _copy_blocks(source, target, size)
    now = os.fstat(source).st_size
    if now != size and not (grows and now > size):
        raise ContentChanged
    if target is not None:
        os.ftruncate(target, size)
    return digest


def send_content(source: int, target: int, size: int) -> None:
    """Copy `size` bytes of `source` to an empty file inside the kernel, without a digest; holes stay holes.

    Raises ContentChanged when `source` does not hold exactly `size` bytes, OSError as the kernel says.
    """
    end = 0
    while end < size:
        try:
            at = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # no more than a hole
        end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            sent = os.sendfile(target, source, at, end - at)
            if not sent:
                raise ContentChanged
            at += sent
    if os.fstat(source).st_size != size:
        raise ContentChanged
    os.ftruncate(target, size)


def digest_bytes(data: bytes) -> str:
    """The digest of content that is in memory; equal to what `copy_content` says of a file that holds it."""
    if len(data) <= WHOLE:
        return hashlib.sha256(data).hexdigest()
    state = _block_state(len(data))
    for offset in range(0, len(data), _BLOCK):
        _update_block(state, data[offset : offset + _BLOCK], offset)
    return "b" + state.hexdigest()


def has_hole(data: bytes) -> bool:
    """Whether a page of zeros may be in it, which need not be written."""
    return _ZERO_PAGE in data


def write_all(target: int, data: bytes) -> None:
    """Write all of `data` at the descriptor's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def read_exactly(source: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`; raises ContentChanged when the file ends before."""
    parts: list[bytes] = []
    while length:
        part = os.pread(source, length, offset)
        if not part:
            raise ContentChanged
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _copy_plain(source: int, target: int | None, size: int) -> str:
    state = hashlib.sha256()
    for offset in range(0, size, _READ):
        data = read_exactly(source, min(_READ, size - offset), offset)
        state.update(data)
        if target is not None:
            _write_pages(target, data, offset)
    return state.hexdigest()


def _copy_blocks(source: int, target: int | None, size: int) -> str:
    state = _block_state(size)
    for start, end in _data_ranges(source, size):
        for offset in range(start, end, _READ):
            data = read_exactly(source, min(_READ, end - offset), offset)
            for inner in range(0, len(data), _BLOCK):
                block = data[inner : inner + _BLOCK]
                if _update_block(state, block, offset + inner) and target is not None:
                    _write_pages(target, block, offset + inner)
    return "b" + state.hexdigest()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def _block_state(size: int) -> _Digest:
    return hashlib.sha256(b"gearcase blocks 1\0" + size.to_bytes(8, "big"))


def _update_block(state: _Digest, block: bytes, offset: int) -> bool:
    """Take a block into the digest; False when it is all zeros, and so no part of it."""
    if block == (_ZERO_BLOCK if len(block) == _BLOCK else bytes(len(block))):
        return False
    state.update((offset // _BLOCK).to_bytes(8, "big"))
    state.update(block)
    return True


def _data_ranges(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Where data may be, in whole blocks (the last one ends at `size`), in order, without overlap."""
    done = 0
    while done < size:
        try:
            data = os.lseek(source, done, os.SEEK_DATA)
            hole = os.lseek(source, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                return
            raise
        start = max(done, data // _BLOCK * _BLOCK)
        end = min(size, -(-hole // _BLOCK) * _BLOCK)
        if start >= size:
            return
        yield start, end
        done = end


def _write_pages(target: int, data: bytes, offset: int) -> None:
    """Write at `offset`, leaving pages of zeros out."""
    run = -1  # start of pages that are to be written together
    for page in range(0, len(data), _PAGE):
        if data[page : page + _PAGE] == _ZERO_PAGE:
            if run >= 0:
                _pwrite_all(target, data[run:page], offset + run)
            run = -1
        elif run < 0:
            run = page
    if run >= 0:
        _pwrite_all(target, data[run:] if run else data, offset + run)


def _pwrite_all(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written
