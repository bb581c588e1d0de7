"""System calls that Python has no name for, by ctypes.

Purpose: thin, typed wrappers that raise OSError with the name of the call. Invariant: nothing here decides anything; numbers are
for x86_64 and aarch64 and any other machine is refused on import of `number`. Standard library only: the launcher imports it.
"""

from __future__ import annotations

import ctypes
import os
import struct

with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as _file:
    LAST_CAPABILITY = int(_file.read())
MACHINE = os.uname().machine

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = {
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
}
"""Every namespace of a box, by its name in /proc/PID/ns. The user namespace stands first: it gives the right to the others."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOATIME = 1, 2, 4, 8, 16
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
FSMOUNT_CLOEXEC = FSOPEN_CLOEXEC = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 3, 22
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
SECCOMP_MODE_FILTER = 2
KEYCTL_JOIN_SESSION_KEYRING = 1

# name: (x86_64, aarch64); -1 where the machine has no such call
NUMBERS: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "lookup_dcookie": (212, 18),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, -1),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "seccomp": (317, 277),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setrlimit": (160, 164),
    "setsockopt": (54, 208),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, -1),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def number(name: str) -> int:
    """The number of a system call on this machine, -1 where it has none. Raises OSError on an unknown machine."""
    x86_64, aarch64 = NUMBERS[name]
    if MACHINE == "x86_64":
        return x86_64
    if MACHINE == "aarch64":
        return aarch64
    raise OSError(38, f"no system call numbers for {MACHINE}")


def call(name: str, *arguments: int | bytes | None, where: str = "") -> int:
    """One system call. Raises OSError that says which, and where."""
    converted = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a or 0) for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number(name)), *converted)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} ({name}{' ' + where if where else ''})")
    return result


def prctl(option: int, *arguments: int | bytes) -> int:
    """prctl(2). Raises OSError."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    converted = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_ulong(a) for a in padded]
    result: int = _libc.prctl(ctypes.c_int(option), *converted)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} (prctl {option})")
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`."""
    call("unshare", flags, where=hex(flags))


def setns(descriptor: int, flags: int) -> None:
    """Join namespaces by a namespace descriptor or a pidfd."""
    call("setns", descriptor, flags, where=hex(flags))


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    """mount(2)."""
    encoded = [os.fsencode(part) if part is not None else None for part in (source, target, kind)]
    call("mount", *encoded, flags, os.fsencode(options) if options is not None else None, where=f"{source} on {target}")


def set_mount_attributes(descriptor: int, path: str, attributes: int, recursive: bool = False) -> None:
    """Add mount attributes (ATTR_*), over a whole tree of mounts when `recursive`."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = (AT_RECURSIVE if recursive else 0) | (AT_EMPTY_PATH if not path else 0)
    call("mount_setattr", descriptor, os.fsencode(path), flags, wanted, len(wanted), where=path)


def open_tree(path: str) -> int:
    """A detached copy of one mount at `path`, without those below it; seen in no mount table."""
    return call("open_tree", AT_FDCWD, os.fsencode(path), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, where=path)


def move_mount(descriptor: int, target: str) -> None:
    """Attach a detached mount at `target`."""
    call("move_mount", descriptor, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH, where=target)


def new_mount(kind: str, options: dict[str, str], attributes: int) -> int:
    """A detached mount of a new filesystem; its descriptor is all that keeps it. An empty option value means a flag."""
    context = call("fsopen", kind.encode(), FSOPEN_CLOEXEC, where=kind)
    try:
        for key, value in options.items():
            if value:
                call("fsconfig", context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0, where=f"{key}={value}")
            else:
                call("fsconfig", context, FSCONFIG_SET_FLAG, key.encode(), None, 0, where=key)
        call("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0, where=kind)
        return call("fsmount", context, FSMOUNT_CLOEXEC, attributes, where=kind)
    finally:
        os.close(context)


def pivot_here() -> None:
    """Make the current directory the root and forget the old one."""
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH, where="old root")
    os.chdir("/")


def close_descriptors(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `first` to `last`."""
    call("close_range", first, last, 0)


def drop_bounding_set() -> None:
    """Nothing that is executed from here on can gain a capability. Needs CAP_SETPCAP."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(LAST_CAPABILITY + 1):
        prctl(PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    header = struct.pack("=Ii", 0x20080522, 0)
    if _libc.capset(header, bytes(24)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} (capset)")


def new_session_keyring() -> None:
    """Leave the caller's session keyring for a fresh one. A kernel without keys has none to leave."""
    try:
        call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno != 38:
            raise


def set_hostname(name: str) -> None:
    """The name of the machine as the box sees it."""
    call("sethostname", name.encode(), len(name))
