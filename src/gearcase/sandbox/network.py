"""The box's network: a loopback, a range of addresses that are all local, and sockets that are served from outside.

Runs in a box's fresh network namespace before capabilities are dropped. Threat answered: egress. There is no route, no device but
`lo`, and the listening sockets made here are the only way out; they leave as descriptors. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from gearcase.sandbox import syscalls
from gearcase.sandbox.channel import Wire

FAKE_NET, FAKE_BITS = "198.18.0.0", 15
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_RTM_NEWROUTE, _CREATE_EXCLUSIVE_ACK = 24, 0x1 | 0x4 | 0x200 | 0x400
_TABLE_LOCAL, _PROTO_BOOT, _SCOPE_HOST, _TYPE_LOCAL = 255, 3, 254, 2
_BACKLOG = 128


def bring_up() -> None:
    """Loopback up; every address of 198.18.0.0/15 is this box itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING))
    index = socket.if_nametoindex("lo")
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, FAKE_BITS, 0, 0, _TABLE_LOCAL, _PROTO_BOOT, _SCOPE_HOST, _TYPE_LOCAL, 0)
    attributes = struct.pack("=HH4sHHI", 8, 1, socket.inet_aton(FAKE_NET), 8, 4, index)
    body = route + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWROUTE, _CREATE_EXCLUSIVE_ACK, 1, 0) + body)
        (failed,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if failed and -failed != errno.EEXIST:
        raise OSError(-failed, f"{os.strerror(-failed)} (route to {FAKE_NET}/{FAKE_BITS})")


def listen(wanted: Sequence[Mapping[str, Any]]) -> list[socket.socket]:
    """Bind each of `wanted` ({address, port, kind}); streams already listen."""
    sockets: list[socket.socket] = []
    for one in wanted:
        family = socket.AF_INET6 if ":" in one["address"] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM if one["kind"] == "tcp" else socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((one["address"], one["port"]))
        if one["kind"] == "tcp":
            made.listen(_BACKLOG)
        sockets.append(made)
    return sockets


def listen_within(request: Mapping[str, Any], wire: Wire, joined: Sequence[int]) -> None:
    """Bind listeners in the network of a box that lives already. Descriptors: those to join, its user and network namespaces only.

    Runs in a child of the launcher that stays outside of the box's processes and files, so nothing in the box can see it.
    """
    for descriptor, flags in zip(joined, request["join"], strict=True):
        syscalls.setns(descriptor, flags)
    sockets = listen(request["listeners"])
    wire.send({"kind": "listening"}, [one.fileno() for one in sockets])
    os._exit(0)
