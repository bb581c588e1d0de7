"""Disks of a fixed size for workspaces, as root: a sparse ext4 image behind a loop device, held by one descriptor.

The image has no name (O_TMPFILE), the loop device clears itself, the mount is detached: when the last descriptor of it closes,
by whatever end, nothing of it is left. Runs in a child of the launcher. Threat: an agent that fills the host's disk.
Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Mapping
from typing import Any

from gearcase.sandbox import syscalls
from gearcase.sandbox.channel import Wire

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LOOP_CLR_FD = 0x4C82, 0x4C0A, 0x4C01
_AUTOCLEAR = 4
_ATTEMPTS = 32
_INODE_EVERY = 8192
MKFS_PATHS = "/usr/sbin:/sbin:/usr/bin:/bin"


class _LoopConfig(ctypes.Structure):
    """struct loop_config: the backing descriptor, a block size, and a loop_info64 of which we set the flags."""

    _fields_ = [
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("before_flags", ctypes.c_uint8 * 52),
        ("flags", ctypes.c_uint32),
        ("after_flags", ctypes.c_uint8 * 176),
        ("reserved", ctypes.c_uint64 * 8),
    ]


def run(request: Mapping[str, Any], wire: Wire) -> None:
    """Make a disk of `bytes` with its image in folder `scratch`; send the detached mount."""
    image = os.open(request["scratch"], os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.truncate(image, request["bytes"])
    _format(image)
    device, name = _attach(image)
    options = {"source": name, "nobarrier": ""}
    mount = syscalls.new_mount("ext4", options, syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV | syscalls.ATTR_NOATIME)
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    for left in os.listdir(root):  # lost+found: the agent did not make it
        os.rmdir(left, dir_fd=root)
    os.close(root)
    os.close(device)
    wire.send({"kind": "disk", "device": name, "identity": identity(name)}, [mount])
    os._exit(0)


def identity(device: str) -> str:
    """What tells this use of a loop device from the next: its sequence number, where the kernel has one, and its image."""
    found: list[str] = []
    for name in ("diskseq", "loop/backing_file"):
        try:
            with open(f"/sys/block/{os.path.basename(device)}/{name}", encoding="utf-8", errors="replace") as file:
                found.append(file.read().strip())
        except OSError:
            found.append("")
    return " ".join(found)


def _format(image: int) -> None:
    places = [f"{folder}/mkfs.ext4" for folder in MKFS_PATHS.split(":")]
    program = next((place for place in places if os.access(place, os.X_OK)), None)
    if program is None:
        raise OSError(2, "mkfs.ext4 is not installed")
    path = f"/proc/self/fd/{image}"
    told = os.memfd_create("told", os.MFD_CLOEXEC)
    os.set_inheritable(image, True)
    features = "^has_journal,^resize_inode,^metadata_csum,^64bit,extent"
    options = ["-q", "-F", "-b", "4096", "-m", "0", "-i", str(_INODE_EVERY), "-O", features, "-E", "lazy_itable_init=1"]
    streams = [(os.POSIX_SPAWN_DUP2, told, 1), (os.POSIX_SPAWN_DUP2, told, 2)]
    child = os.posix_spawn(program, [program, *options, path], {"PATH": MKFS_PATHS}, file_actions=streams)
    _, status = os.waitpid(child, 0)
    os.set_inheritable(image, False)
    if status != 0:
        raise OSError(5, f"mkfs.ext4 failed: {os.pread(told, 500, 0).decode(errors='replace')}")
    os.close(told)


def _attach(image: int) -> tuple[int, str]:
    """A free loop device that is ours; another process may take it before us, then we try the next."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _LoopConfig(fd=image, flags=_AUTOCLEAR))
            except OSError as error:
                os.close(device)
                if error.errno == 16:  # somebody was faster
                    continue
                raise
            return device, name
    finally:
        os.close(control)
    raise OSError(16, "no free loop device")
