"""One more certificate authority for the programs of a box, beside those of the host.

Most programs read one file of authorities in /etc; others are led to one by a variable; Java has a store of its own. All of them are
written anew, with what the host has in them and the box's own, and laid over the host's inside. The host's files are read, never changed.
Standard library only: this runs in pid 1 of a box, in its own root, before anything of an agent's does.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import os
import re
import struct
from collections.abc import Iterable, Iterator

from gearcase.sandbox import syscalls

FOLDER = "/etc/gearcase"
"""Where a box has them: `certificates.pem`, `certificates.jks`, and the box's own alone, `authority.pem`."""
MOST_BYTES = 2 << 20
"""Of the host's authorities."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
)
_STORES = ("/etc/ssl/certs/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts", "/usr/lib/jvm/*/lib/security/cacerts")
_PEM = re.compile(rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END (?:TRUSTED )?CERTIFICATE-----")
_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_PASSWORD = "changeit".encode("utf-16-be")  # now: in a box that is set up the interpreter finds no codec that it has not loaded
"""Java's own, known to all: it guards nothing, and no program gives another one."""


def add(authority: bytes) -> list[str]:
    """Write the files into the root that this process is in, and lay them over the host's; returns the paths that are mounts."""
    bundles, stores = list(_files(_BUNDLES)), list(_files(_STORES))
    known = _read(bundles[0]) if bundles else b""
    together = known.rstrip() + b"\n" * bool(known) + authority
    os.mkdir(FOLDER)
    _write(f"{FOLDER}/authority.pem", authority)
    _write(f"{FOLDER}/certificates.pem", together)
    _write(f"{FOLDER}/certificates.jks", java_store(certificates(together)))
    for path in bundles:
        _cover(f"{FOLDER}/certificates.pem", path)
    for path in stores:
        _cover(f"{FOLDER}/certificates.jks", path)
    return [*bundles, *stores]


def certificates(bundle: bytes) -> list[bytes]:
    """The certificates of a PEM text, as DER."""
    return [base64.b64decode(found) for found in _PEM.findall(bundle)]


def java_store(trusted: Iterable[bytes]) -> bytes:
    """A key store (JKS) that holds certificates to be trusted."""
    entries = list(dict.fromkeys(trusted))
    made = struct.pack(">III", _MAGIC, _VERSION, len(entries))
    for number, one in enumerate(entries):
        made += struct.pack(">I", _TRUSTED) + _text(f"ca{number}") + struct.pack(">Q", 0)
        made += _text("X.509") + struct.pack(">I", len(one)) + one
    return made + hashlib.sha1(_PASSWORD + b"Mighty Aphrodite" + made).digest()  # the format's own seal


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def _files(patterns: Iterable[str]) -> Iterator[str]:
    """Plain files, each once, by the path that links lead to."""
    found: dict[str, None] = {}
    for pattern in patterns:
        for path in map(os.path.realpath, glob.glob(pattern)):
            if path.startswith(("/etc/", "/usr/")) and os.path.isfile(path):
                found[path] = None
    return iter(found)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MOST_BYTES)


def _cover(source: str, target: str) -> None:
    syscalls.mount(source, target, None, syscalls.MS_BIND)
    attributes = syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV
    syscalls.set_mount_attributes(syscalls.AT_FDCWD, target, attributes)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
