"""What stayed of a box: the search at the end of every teardown. Empty is the promise.

Looks for processes in the box's namespaces, cgroups, its loop device, its mounts, and descriptors of this process that still hold its
network namespace (an accepted connection does). Threat: an accepted socket or a forgotten process that keeps a dead box alive.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping

from gearcase.sandbox import cgroups

_SO_NETNS_COOKIE = 71


def netns_cookie(descriptor: int) -> int:
    """The kernel's name of the network namespace that a socket lives in, 0 for what is no socket or knows none."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return struct.unpack("=Q", copy.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
    except OSError:
        return 0


def processes_in(inodes: Mapping[str, int]) -> list[int]:
    """Pids of processes in any of these namespaces ({name: inode}), as far as we may look."""
    wanted = {f"{name}:[{inode}]" for name, inode in inodes.items()}
    found: list[int] = []
    for text in os.listdir("/proc"):
        if text.isdigit() and _in_any(text, inodes, wanted):
            found.append(int(text))
    return found


def _in_any(pid: str, inodes: Mapping[str, int], wanted: set[str]) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/ns/{name}") in wanted for name in inodes)
    except OSError:
        return False


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


def loop_in_use(device: str) -> bool:
    """Whether a loop device of a deleted image of ours still has it."""
    backing = cgroups.read(f"/sys/block/{os.path.basename(device)}/loop/backing_file") if device else ""
    return bool(backing) and "(deleted)" in backing


def mounts_of(names: tuple[str, ...]) -> list[str]:
    """Mount points of this process's own table that come from one of these devices."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        lines = [line.split() for line in file]
    return [fields[4] for fields in lines if any(name and name in fields for name in names)]
