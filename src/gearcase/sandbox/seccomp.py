"""The system call filter of everything that runs in a box.

Purpose: one BPF program, built once in the launcher. Default allow with named refusals, except sockets, which are an allow-list.
Threats answered: sockets that no network namespace contains (AF_VSOCK, AF_ALG, AF_PACKET, netfilter); new namespaces and mounts;
the kernel's own big attack surfaces (bpf, io_uring, userfaultfd, keys, perf); another architecture's numbers (int 0x80, x32);
characters pushed to a terminal; a changed core limit (a piped core handler of the host would run).
Invariants: a foreign architecture kills; a number newer than this list is ENOSYS, never silently allowed.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from gearcase.sandbox import syscalls

NEWEST_KNOWN = 466
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _JEQ, _JGT, _JSET, _AND, _RET = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_REFUSED = """
acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init fanotify_mark finit_module init_module
ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie memfd_secret migrate_pages modify_ldt mount move_pages
name_to_handle_at nfsservctl open_by_handle_at perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot
request_key setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 unshare uselib userfaultfd vhangup
""".split()
_ABSENT = """
clone3 fsconfig fsmount fsopen fspick io_setup io_uring_enter io_uring_register io_uring_setup mount_setattr move_mount open_tree
""".split()

_NEW_NAMESPACES = sum(syscalls.NAMESPACES.values())
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_RLIMIT_CORE, _RLIMIT_MSGQUEUE = 4, 12
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_FILTERS = (26, 50, 51, 52)  # SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF
_TCP_ULP = 31
_FLAG_NEW_LISTENER = 8
_PERSONALITIES = (0, 0xFFFFFFFF, 0x0040000)  # Linux, a question, without address randomisation (debuggers)

_TOGETHER = 8
"""Rules that are looked at together: the kernel walks through the filter for every call there is when it is put in place."""

Instruction = tuple[int, int, int, int]


def _do(code: int, value: int, if_true: int = 0, if_false: int = 0) -> Instruction:
    return (code, if_true, if_false, value)


def _fail(error: int) -> Instruction:
    return _do(_RET, _ERRNO | error)


def _argument(index: int, high: bool = False) -> Instruction:
    """Load 32 bits of an argument (both machines are little-endian)."""
    return _do(_LOAD, 16 + 8 * index + (4 if high else 0))


def _any_of(values: Sequence[int], then: Instruction, otherwise: Instruction) -> list[Instruction]:
    """Return `then` where the accumulator is one of `values`, else `otherwise`."""
    tests = [_do(_JEQ, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [*tests, otherwise, then]


def _socket() -> list[Instruction]:
    """UNIX; INET and INET6 as streams and datagrams with protocol 0, TCP or UDP; NETLINK_ROUTE. Nothing else."""
    refuse = _fail(errno.EAFNOSUPPORT)
    allow = _do(_RET, _ALLOW)
    inet = [
        _argument(1),
        _do(_AND, 0xF),
        _do(_JEQ, 1, 2, 0),
        _do(_JEQ, 2, 1, 0),
        _fail(errno.EPERM),
        _argument(2),
        *_any_of((0, 6, 17), allow, _fail(errno.EPROTONOSUPPORT)),
    ]
    netlink = [_argument(2), *_any_of((0,), allow, _fail(errno.EPROTONOSUPPORT))]
    return [
        _argument(0),
        _do(_JEQ, _UNIX, 0, 1),
        allow,
        _do(_JEQ, _NETLINK, 0, len(netlink)),
        *netlink,
        _do(_JEQ, _INET, 2, 0),
        _do(_JEQ, _INET6, 1, 0),
        refuse,
        *inet,
    ]


def _setsockopt() -> list[Instruction]:
    allow, refuse = _do(_RET, _ALLOW), _fail(errno.EPERM)
    tcp = [_argument(2), *_any_of((_TCP_ULP,), refuse, allow)]
    general = [_argument(2), *_any_of(_FILTERS, refuse, allow)]
    return [_argument(1), _do(_JEQ, 6, 0, len(tcp)), *tcp, _do(_JEQ, 1, 0, len(general)), *general, allow]


def _limits_kept(resources: Sequence[int]) -> list[Instruction]:
    """setrlimit: some resources stay as they are."""
    return [_argument(0), *_any_of(resources, _fail(errno.EPERM), _do(_RET, _ALLOW))]


def _limits_read(resources: Sequence[int]) -> list[Instruction]:
    """prlimit64: the same resources may be read (no new value), never set."""
    is_kept = [_do(_JEQ, value, len(resources) - index, 0) for index, value in enumerate(resources)]
    return [
        _argument(1),
        *is_kept,
        _do(_RET, _ALLOW),
        _argument(2),
        _do(_JEQ, 0, 1, 0),
        _fail(errno.EPERM),
        _argument(2, high=True),
        *_any_of((0,), _do(_RET, _ALLOW), _fail(errno.EPERM)),
    ]


def build(pin_processors: bool) -> bytes:
    """The filter. With `pin_processors` a process cannot change its processor affinity (where no cgroup limits it)."""
    allow = _do(_RET, _ALLOW)
    program: list[Instruction] = [
        _do(_LOAD, 4),
        _do(_JEQ, _AUDIT_ARCH[syscalls.MACHINE], 1, 0),
        _do(_RET, _KILL),
        _do(_LOAD, 0),
        _do(_JGT, NEWEST_KNOWN, 0, 1),  # x32 numbers have bit 30 set: they are above too
        _fail(errno.ENOSYS),
    ]
    numbered = ((syscalls.number(name), body) for name, body in _bodies(pin_processors).items())
    rules = sorted(rule for rule in numbered if rule[0] >= 0)
    for first in range(0, len(rules), _TOGETHER):
        group = rules[first : first + _TOGETHER]
        block = [*(one for number, body in group for one in (_do(_JEQ, number, 0, len(body)), *body)), allow]
        program += [_do(_JGT, group[-1][0], len(block), 0), *block]
    program.append(allow)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _bodies(pin_processors: bool) -> dict[str, list[Instruction]]:
    """What runs for a call alone, and always returns. The accumulator holds the call's number before."""
    allow, refuse = _do(_RET, _ALLOW), _fail(errno.EPERM)
    return {
        **{name: [refuse] for name in (*_REFUSED, *(["sched_setaffinity"] if pin_processors else []))},
        **{name: [_fail(errno.ENOSYS)] for name in _ABSENT},
        "clone": [_argument(0), _do(_JSET, _NEW_NAMESPACES, 0, 1), refuse, allow],
        "socket": _socket(),
        "socketpair": [_argument(0), *_any_of((_UNIX,), allow, _fail(errno.EAFNOSUPPORT))],
        "setsockopt": _setsockopt(),
        "ioctl": [_argument(1), *_any_of((_TIOCSTI, _TIOCLINUX), refuse, allow)],
        "setrlimit": _limits_kept((_RLIMIT_CORE, _RLIMIT_MSGQUEUE)),
        "prlimit64": _limits_read((_RLIMIT_CORE, _RLIMIT_MSGQUEUE)),
        "personality": [_argument(0), *_any_of(_PERSONALITIES, allow, refuse)],
        "seccomp": [_argument(1), _do(_JSET, _FLAG_NEW_LISTENER, 0, 1), refuse, allow],
    }


def apply(program: bytes) -> None:
    """Put this process under the filter, for good. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    syscalls.prctl(syscalls.PR_SET_SECCOMP, syscalls.SECCOMP_MODE_FILTER, head)
