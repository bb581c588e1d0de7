"""What a box sees of files: a new root, built in an empty tmpfs, checked against the kernel's own table before it is used.

Runs in pid 1 of a box, with the capabilities of the box's user namespace. Threats answered: reading the host's files, writing them
through /proc or a shared mount, set-id programs, devices, mount points planted by an agent. Every target is made by us in a
tmpfs that no agent has touched, and the workspace is mounted last-level: nothing is ever mounted below a writable folder.
Invariant: a mount that is not expected, or an expected one with weaker flags, ends the set-up. The table is read before anybody asks for
the box, and once more only where what is asked for adds mounts: nobody else can mount anything in a namespace that only pid 1 is in.
Standard library only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gearcase.errors import UnsafeError, UsageError
from gearcase.sandbox import etcfiles, syscalls, trust
from gearcase.sandbox.syscalls import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID

UNMASK = (
    "this container masks parts of its own /proc, so the kernel gives no box a new one: unmask it, never --privileged "
    "(Kubernetes: procMount Unmasked; Docker: --security-opt systempaths=unconfined)"
)
_REPORT = "report this with the output of `uname -r`: the box was not started"
STAGE = "/tmp"
"""Where the new root is built; a mount of ours hides whatever the host has there."""

_HIDDEN_FILES = ("kcore", "keys", "key-users", "kmsg", "timer_list", "sched_debug", "latency_stats", "kpagecount", "kpageflags")
_HIDDEN_FOLDERS = ("acpi", "scsi", "driver", "asound", "fs/nfsd")
_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "mtrr")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_TOP_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SEEN_RECURSIVELY = ("/usr", "/proc/sys", "/proc/bus", "/proc/irq")


class Given(NamedTuple):
    """One mount that the box was given: a detached mount and where it goes."""

    descriptor: int
    target: str
    executable: bool
    folder: bool


class Sources(NamedTuple):
    """Filesystems made before the root: each a descriptor of a detached mount."""

    workspace: int
    box: int
    given: tuple[Given, ...]


def open_given(wanted: Sequence[Mapping[str, Any]]) -> tuple[Given, ...]:
    """Take hold of host paths before the root changes. Raises UsageError for a tree with sockets, FIFOs or devices."""
    given: list[Given] = []
    for one in wanted:
        source = os.fsencode(one["source"])
        try:
            descriptor = syscalls.open_tree(one["source"])
        except OSError as error:
            raise UsageError(
                "given_unusable",
                f"{one['source']} cannot be shown in the box",
                cause=error.strerror or "",
                remedy="give an existing path that this user may read, with no mount below it, or copy it into the workspace",
            ) from error
        mode = os.fstat(descriptor).st_mode
        special = _special(descriptor, source) if stat.S_ISDIR(mode) else (b"" if stat.S_ISREG(mode) else source)
        if special:
            raise UsageError(
                "given_special",
                f"{os.fsdecode(special)!r} is a socket, FIFO or device",
                remedy="remove it from the tree or give a copy without it: a host's socket would be a way out of the box",
            )
        given.append(Given(descriptor, one["target"], one["executable"], stat.S_ISDIR(mode)))
    return tuple(given)


def _special(tree: int, shown: bytes) -> bytes:
    """The path of the first file that is neither plain, folder nor link."""
    top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    waiting = [(top, shown)]
    try:
        while waiting:
            folder, path = waiting.pop()
            try:
                found = _scan(folder, path, waiting)
            finally:
                os.close(folder)
            if found:
                return found
        return b""
    finally:
        for folder, _ in waiting:
            os.close(folder)


def _scan(folder: int, path: bytes, waiting: list[tuple[int, bytes]]) -> bytes:
    with os.scandir(folder) as entries:
        for entry in entries:
            here = path + b"/" + os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                try:
                    below = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                except PermissionError:
                    continue  # as little readable inside as it is here
                waiting.append((below, here))
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                return here
    return b""


def begin(plan: Mapping[str, Any], sources: Sources, seen: Sequence[etcfiles.Seen]) -> dict[str, set[str]]:
    """Enter the new root, which lacks only what the box calls its doors, and check it. After this the host's files are gone.

    Returns the mounts that are expected once the root is closed.
    """
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=8m,nr_inodes=2k")
    expected: dict[str, set[str]] = {"/": {"ro", "nosuid", "nodev"}}
    without = set(plan["without"])
    _system(writable="readonly_usr" in without)
    expected["/usr"] = set() if "readonly_usr" in without else {"ro", "nosuid", "nodev"}
    expected |= _proc(plan["user_limits"], masked="proc_masks" not in without)
    for path in etcfiles.lay_out(STAGE, seen):
        expected[path] = {"ro", "nosuid", "nodev"}
    expected |= _devices() | _shared_memory(plan["sizes"]["shm"])
    expected |= _places(plan, sources) | _given(sources.given)
    os.chdir(STAGE)
    syscalls.pivot_here()
    verify({**expected, "/": expected["/"] - {"ro"}})
    return expected


def finish(names: Mapping[str, str], authority: str, expected: Mapping[str, set[str]]) -> None:
    """Write what the box calls its doors and whom it trusts beside the host, close the root, and check what that changed."""
    etcfiles.write_names("", names)
    covered = trust.add(authority.encode()) if authority else []
    syscalls.set_mount_attributes(syscalls.AT_FDCWD, "/", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
    if covered:
        verify({**expected, **{path: {"ro", "nosuid", "nodev"} for path in covered}})
    closed = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
    if os.statvfs("/").f_flag & closed != closed:
        raise UnsafeError("weak_mount", "the root of the box was not closed", remedy=_REPORT)


def _system(writable: bool) -> None:
    if writable:  # a positive control's hole, see NamespacesDriver(without=...)
        os.mkdir(f"{STAGE}/usr")
        syscalls.mount("/usr", f"{STAGE}/usr", None, MS_BIND | syscalls.MS_REC)
    else:
        etcfiles.show("/usr", f"{STAGE}/usr", recursive=True)
    for name in _TOP_LINKS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{STAGE}/{name}")
        elif os.path.isdir(f"/{name}"):
            raise UnsafeError(
                "not_merged_usr",
                f"/{name} is a folder of its own, not a link into /usr",
                remedy="use a distribution with merged /usr (every current one has it; on Debian install usrmerge)",
            )
    for folder in ("run", "var", "sys", "opt", "mnt", "root"):
        os.mkdir(f"{STAGE}/{folder}", 0o755)
    os.symlink("/tmp", f"{STAGE}/var/tmp")


def proc_masked(cause: str) -> UnsafeError:
    """The error where a box gets no /proc of its own."""
    return UnsafeError("proc_masked", "a fresh /proc cannot be mounted, so no box can be isolated", cause=cause, remedy=UNMASK)


def _proc(user_limits: Mapping[str, int], masked: bool) -> dict[str, set[str]]:
    proc = f"{STAGE}/proc"
    os.mkdir(proc)
    try:
        syscalls.mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError as error:
        raise proc_masked(str(error)) from error
    for name, value in user_limits.items():
        with open(f"{proc}/sys/user/{name}", "w", encoding="ascii") as file:
            file.write(str(value))
    expected = {"/proc": {"nosuid", "nodev", "noexec"}}
    if not masked:  # a positive control's hole
        return expected
    read_only = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC
    os.mkdir(f"{STAGE}/run/empty", 0o555)
    for name in _READ_ONLY + _HIDDEN_FILES + _HIDDEN_FOLDERS:
        path = f"{proc}/{name}"
        if not os.path.exists(path):
            continue
        source = path if name in _READ_ONLY else ("/dev/null" if name in _HIDDEN_FILES else f"{STAGE}/run/empty")
        syscalls.mount(source, path, None, MS_BIND)
        syscalls.set_mount_attributes(syscalls.AT_FDCWD, path, read_only & ~(ATTR_NODEV if source == "/dev/null" else 0))
        expected[f"/proc/{name}"] = {"ro", "nosuid", "noexec"}
    return expected


def _devices() -> dict[str, set[str]]:
    dev = f"{STAGE}/dev"
    os.mkdir(dev)
    syscalls.mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=64")
    expected = {"/dev": {"ro", "nosuid", "noexec"}, "/dev/pts": {"nosuid", "noexec"}}
    for name in _DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        syscalls.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
        syscalls.set_mount_attributes(syscalls.AT_FDCWD, f"{dev}/{name}", ATTR_NOSUID | ATTR_NOEXEC)
        expected[f"/dev/{name}"] = {"nosuid", "noexec"}
    os.mkdir(f"{dev}/shm")
    os.mkdir(f"{dev}/pts")
    syscalls.mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,max=64")
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    for index, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{index}", f"{dev}/{name}")
    os.symlink("/proc/self/fd", f"{dev}/fd")
    syscalls.set_mount_attributes(syscalls.AT_FDCWD, dev, ATTR_RDONLY)
    return expected


def _shared_memory(size: int) -> dict[str, set[str]]:
    syscalls.mount("tmpfs", f"{STAGE}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={size},nr_inodes=16k")
    return {"/dev/shm": {"nosuid", "nodev"}}


def _places(plan: Mapping[str, Any], sources: Sources) -> dict[str, set[str]]:
    """/tmp, /home/agent, /workspace, /box."""
    sizes, open_place = plan["sizes"], {"nosuid", "nodev"}
    agent = plan["inner_agent"]
    os.mkdir(f"{STAGE}/tmp")
    syscalls.mount(
        "tmpfs", f"{STAGE}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={sizes['tmp']},nr_inodes={sizes['inodes']}"
    )
    os.makedirs(f"{STAGE}/home/agent")
    syscalls.mount(
        "tmpfs",
        f"{STAGE}/home/agent",
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"mode=750,uid={agent},gid={agent},size={sizes['home']},nr_inodes={sizes['inodes']}",
    )
    os.mkdir(f"{STAGE}/workspace")
    syscalls.move_mount(sources.workspace, f"{STAGE}/workspace")
    os.mkdir(f"{STAGE}/box")
    syscalls.move_mount(sources.box, f"{STAGE}/box")
    # the mount below stays writable, for the host's descriptor of it; what a path inside reaches is the read-only one above
    syscalls.mount(f"{STAGE}/box", f"{STAGE}/box", None, MS_BIND)
    syscalls.set_mount_attributes(syscalls.AT_FDCWD, f"{STAGE}/box", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
    workspace = open_place if plan["workspace_executable"] else {*open_place, "noexec"}
    return {"/tmp": open_place, "/home/agent": open_place, "/workspace": workspace, "/box": {"ro", *open_place}}


def _given(given: Sequence[Given]) -> dict[str, set[str]]:
    expected: dict[str, set[str]] = {}
    for one in given:
        target = f"{STAGE}{one.target}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if one.folder:
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        syscalls.move_mount(one.descriptor, target)
        attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | (0 if one.executable else ATTR_NOEXEC)
        syscalls.set_mount_attributes(syscalls.AT_FDCWD, target, attributes)
        expected[one.target] = {"ro", "nosuid", "nodev"} | (set() if one.executable else {"noexec"})
    return expected


def verify(expected: Mapping[str, set[str]]) -> None:
    """Compare the kernel's mount table with `expected`: {mount point: flags that it must have}. Raises UnsafeError."""
    found: dict[str, set[str]] = {}
    for point, flags in _table():
        found[point] = flags  # of two mounts on one point the later one is on top
        below = next((top for top in _SEEN_RECURSIVELY if point.startswith(top + "/")), "")
        wanted = expected.get(point, expected.get(below, set()) if below else None)
        if wanted is None:
            raise UnsafeError(
                "unexpected_mount", f"the box would see a mount at {point}", remedy="report this: the box was not started"
            )
        if point != "/box" and not wanted <= flags:
            raise UnsafeError(
                "weak_mount",
                f"the mount at {point} lacks {', '.join(sorted(wanted - flags))}",
                remedy=_REPORT,
            )
    missing = set(expected) - set(found)
    if missing or not expected["/box"] <= found["/box"]:
        raise UnsafeError(
            "missing_mount",
            f"the box lacks mounts: {', '.join(sorted(missing)) or '/box read-only'}",
            remedy="report this: the box was not started",
        )


def _table() -> Iterator[tuple[str, set[str]]]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            yield fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"), set(fields[5].split(","))
