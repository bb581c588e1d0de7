"""Messages with descriptors between host, launcher and their children: JSON over a SOCK_SEQPACKET pair.

`Wire` is the blocking side, used by children of the launcher; the host has an asynchronous one in `hostwire`. A message is one
small JSON object; anything large travels in a memory file. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

MESSAGE_BYTES = 64 * 1024
MOST_DESCRIPTORS = 253  # SCM_MAX_FD
PATIENCE = 20.0
"""Seconds that a child waits for the host before it gives up and dies."""


def encode(message: Mapping[str, Any]) -> bytes:
    """The message as bytes. Paths may hold bytes that are no text (surrogateescape)."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


class Wire:
    """The blocking end of a pair."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.socket.settimeout(PATIENCE)

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send one message; descriptors are copied, not given away."""
        data = encode(message)
        if descriptors:
            socket.send_fds(self.socket, [data], list(descriptors))
        else:
            self.socket.send(data)

    def receive(self, expected: str) -> dict[str, Any]:
        """The next message, which must be of the `expected` kind. Raises OSError when the host is gone or says something else."""
        return self._checked(self.socket.recv(MESSAGE_BYTES), expected)

    def await_request(self, expected: str) -> tuple[dict[str, Any], list[int]]:
        """Wait as long as the host lives for a message of this kind; returns the request in the memory file that came with it, and the
        other descriptors that did."""
        self.socket.settimeout(None)
        data, descriptors, _, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, MOST_DESCRIPTORS)
        self.socket.settimeout(PATIENCE)
        self._checked(data, expected)
        request: dict[str, Any] = json.loads(read_all(descriptors[0]))
        os.close(descriptors[0])
        return request, descriptors[1:]

    @staticmethod
    def _checked(data: bytes, expected: str) -> dict[str, Any]:
        if not data:
            raise ConnectionResetError("the host closed the connection")
        message: dict[str, Any] = json.loads(data)
        if message.get("kind") != expected:
            raise ConnectionError(f"expected {expected}, got {message.get('kind')}")
        return message


def read_all(descriptor: int) -> bytes:
    """A memory file from its beginning."""
    parts: list[bytes] = []
    offset = 0
    while part := os.pread(descriptor, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
