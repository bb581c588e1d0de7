"""What stayed of a box: the search at the end of every teardown. Empty is the promise.

Looks for processes in the box's user namespace, its loop device, and descriptors of this process that still hold its network
namespace (an accepted connection does). Threat: an accepted socket or a forgotten process that keeps a dead box alive.
"""

from __future__ import annotations

import os
import socket
import struct

from gearcase.sandbox import disks

_SO_NETNS_COOKIE = 71


def netns_cookie(descriptor: int) -> int:
    """The kernel's name of the network namespace that a socket lives in, 0 for what is no socket or knows none."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return struct.unpack("=Q", copy.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
    except OSError:
        return 0


def processes_in(user_namespace: int) -> list[int]:
    """Pids of processes in the user namespace of this descriptor (-1: none), as far as we may look. None of a box can leave it."""
    if user_namespace < 0:
        return []
    wanted = f"user:[{os.fstat(user_namespace).st_ino}]"
    return [int(text) for text in os.listdir("/proc") if text.isdigit() and _user_namespace_of(text) == wanted]


def _user_namespace_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


def descriptors_in(cookie: int) -> list[int]:
    """Descriptors of this process that live in the network namespace with this cookie."""
    if not cookie:
        return []
    found: list[int] = []
    for text in os.listdir("/proc/self/fd"):
        try:
            is_socket = os.readlink(f"/proc/self/fd/{text}").startswith("socket:")
        except OSError:
            continue
        if is_socket and netns_cookie(int(text)) == cookie:
            found.append(int(text))
    return found


def loop_in_use(device: str, identity: str) -> bool:
    """Whether a loop device is still the disk of this identity (see `disks.identity`); another box may have it by now."""
    return bool(device) and disks.identity(device) == identity
