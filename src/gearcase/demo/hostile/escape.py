"""Leave the box: mount, new namespaces, devices, the kernel's settings, other processes, a file of the host (its path is argv[1])."""

import ctypes
import json
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
told = {}


def attempt(name: str, call: object) -> None:
    """Note the error that an attempt met; '' where it got through."""
    try:
        result = call()  # type: ignore[operator]
        error = os.strerror(ctypes.get_errno()) if result == -1 else ""
    except OSError as failed:
        error = failed.strerror
    told[name] = error


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


attempt("mount a filesystem", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
attempt("make namespaces of its own", lambda: libc.unshare(0x10000000))
attempt("be root", lambda: os.setuid(0))
attempt("make a device", lambda: os.mknod("disk", 0o60600, os.makedev(8, 0)))
attempt("change the kernel's settings", lambda: write("/proc/sys/kernel/core_pattern", "|/bin/sh"))
attempt("trace the first process", lambda: libc.ptrace(16, 1, 0, 0))
attempt("open the first process's memory", lambda: os.open("/proc/1/mem", os.O_RDWR))
attempt("load a module", lambda: libc.syscall(313, -1, b"", 0))
attempt("read a file of the host", lambda: os.open(sys.argv[1], os.O_RDONLY))
attempt("replace a program of the host", lambda: write("/usr/bin/true", "#!/bin/sh"))
print(json.dumps(told))
