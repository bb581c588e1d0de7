"""The box's /etc: generated, with read-only copies of the few things that programs of a distribution reach through it.

Threat answered: the host's /etc holds names, keys and configuration that are nobody's business inside. What is not named here does
not exist in the box. `survey` runs once in the launcher, `lay_out` in each box. Standard library only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gearcase.sandbox import syscalls

AGENT_ID = 1000
"""Uid and gid of the agent as the box sees them."""

_SEEN = """
alternatives ca-certificates ca-certificates.conf crypto-policies debian_version fonts gai.conf gnutls inputrc java* jvm* ld.so.cache
ld.so.conf ld.so.conf.d lsb-release magic magic.mime mime.types os-release perl pki/ca-trust/extracted pki/tls/certs pki/tls/cert.pem
protocols python3* redhat-release rpc services ssl/certs ssl/cert.pem ssl/openssl.cnf terminfo ImageMagick-* R maven
""".split()
_COPIED_BYTES = 64 * 1024

_PASSWD = """root:x:0:0:root:/:/usr/sbin/nologin
agent:x:1000:1000:agent:/home/agent:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = "root:x:0:\ntty:x:5:\nagent:x:1000:\nnogroup:x:65534:\n"
_FIXED = {
    "passwd": _PASSWD,
    "group": _GROUP,
    "hostname": "box\n",
    "host.conf": "multi on\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:3 attempts:2\n",
    "shells": "/bin/sh\n/bin/bash\n",
    "timezone": "Etc/UTC\n",
}


class Seen(NamedTuple):
    """One thing of the host's /etc: a link, a small file's content, or a path to be shown as it is."""

    name: str
    link: str = ""
    content: bytes = b""
    shown: bool = False


def survey() -> tuple[Seen, ...]:
    """What of the host's /etc a box sees. Only what everybody may read."""
    here = sorted(os.listdir("/etc"))
    found: list[Seen] = []
    for pattern in _SEEN:
        start = pattern.removesuffix("*")
        names = [pattern] if start == pattern else [name for name in here if name.startswith(start)]
        found += [one for name in names if os.path.lexists(f"/etc/{name}") and (one := _look(f"/etc/{name}"))]
    return tuple(found)


def _look(path: str) -> Seen | None:
    status = os.lstat(path)
    name = os.path.relpath(path, "/etc")
    if stat.S_ISLNK(status.st_mode):
        return Seen(name, link=os.readlink(path))
    if not status.st_mode & 0o004:
        return None
    if stat.S_ISREG(status.st_mode) and status.st_size <= _COPIED_BYTES:
        with open(path, "rb") as file:
            return Seen(name, content=file.read())
    return Seen(name, shown=True) if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else None


def write_names(root: str, names: Mapping[str, str]) -> None:
    """Write /etc/hosts below `root`."""
    hosts = ["127.0.0.1 localhost box", "::1 localhost ip6-localhost", *(f"{address} {name}" for name, address in names.items())]
    _write(f"{root}/etc/hosts", ("\n".join(hosts) + "\n").encode())


def lay_out(root: str, seen: Sequence[Seen]) -> list[str]:
    """Write the rest of /etc below `root`; returns the paths that are mounts of the host's, read-only."""
    base = f"{root}/etc"
    os.mkdir(base)
    for name, text in _FIXED.items():
        _write(f"{base}/{name}", text.encode())
    os.symlink("/usr/share/zoneinfo/Etc/UTC", f"{base}/localtime")
    os.symlink("/proc/self/mounts", f"{base}/mtab")
    mounted: list[str] = []
    for one in seen:
        target = f"{base}/{one.name}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if one.link:
            os.symlink(one.link, target)
        elif one.shown:
            show(f"/etc/{one.name}", target)
            mounted.append(f"/etc/{one.name}")
        else:
            _write(target, one.content)
    return mounted


def show(source: str, target: str, recursive: bool = False) -> None:
    """Mount `source` read-only, without devices or set-id, at `target`, which is made."""
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        _write(target, b"")
    syscalls.mount(source, target, None, syscalls.MS_BIND | (syscalls.MS_REC if recursive else 0))
    attributes = syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV
    syscalls.set_mount_attributes(syscalls.AT_FDCWD, target, attributes, recursive)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
