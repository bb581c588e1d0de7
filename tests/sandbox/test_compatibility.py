"""What agents really do in a box works there: shells, interpreters, processes, terminals, databases in files."""

import asyncio
import hashlib
import os
import secrets

import pytest

from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec

LIMITS = Limits(memory=512 << 20, cpus=2.0, disk=256 << 20, processes=128)
PYTHON = "/usr/bin/python3 -c"


def run(argv, **more):
    async def once():
        driver = NamespacesDriver()
        try:
            box = await driver.open(SandboxSpec(f"compat-{os.getpid()}-{secrets.token_hex(3)}", LIMITS))
            try:
                return await box.run(Command(argv, deadline=60, **more))
            finally:
                assert await box.close() == ()
        finally:
            await driver.close()

    return asyncio.run(once())


WORK = {
    "pipes, redirections and substitutions of a shell": (
        "sort <(printf 'b\\na\\n') | tee two | paste -sd, > three; cat three; wc -l < two",
        "a,b\n2\n",
    ),
    "awk, sed, find and xargs": (
        "mkdir d; for i in 1 2 3; do echo $i > d/$i.txt; done; find d -name '*.txt' | sort | xargs cat | awk '{s+=$1} END {print s}'",
        "6\n",
    ),
    "archives with their modes and times": (
        "echo x > f; chmod 750 f; touch -d @1000000000 f; tar czf a.tgz f; rm f; tar xzf a.tgz; stat -c '%a %Y' f",
        "750 1000000000\n",
    ),
    "links, renames and locks": ("echo x > f; ln f g; ln -s g h; mv f i; flock h cat h; stat -c %h i", "x\n2\n"),
    "jobs in the background": (
        "sleep 30 & a=$!; sleep 30 & jobs -p | wc -l; kill %1 %2; wait; kill -0 $a 2>/dev/null || echo over",
        "2\nover\n",
    ),
    "a user with a name, a home and a place for what is temporary": (
        "cd; pwd; id -un; mktemp -d | cut -c1-5; umask; hostname",
        "/home/agent\nagent\n/tmp/\n0022\nbox\n",
    ),
    "Perl": ("perl -MPOSIX -MData::Dumper -e 'print join(q(,), map { $_ * 2 } 1..3), qq(\\n)'", "2,4,6\n"),
    "processes of Python's multiprocessing, with its locks and shared memory": (
        f"""{PYTHON} 'from multiprocessing import Pool, shared_memory
if __name__ == "__main__":
    memory = shared_memory.SharedMemory(create=True, size=10); memory.buf[0] = 7
    with Pool(3) as pool: print(sum(pool.map(abs, range(-5, 0))), memory.buf[0])
    memory.close(); memory.unlink()'""",
        "15 7\n",
    ),
    "a database in a file, with its journal beside it": (
        f"""{PYTHON} 'import sqlite3
book = sqlite3.connect("x.db"); book.execute("pragma journal_mode=wal"); book.execute("create table t (a)")
book.executemany("insert into t values (?)", [(i,) for i in range(1000)]); book.commit()
print(book.execute("select count(*), sum(a) from t").fetchone())'""",
        "(1000, 499500)\n",
    ),
    "a terminal of its own": (
        f"""{PYTHON} 'import os, pty
pid, terminal = pty.fork()
if pid == 0: os.execlp("sh", "sh", "-c", "test -t 0 && test -t 1 && stty size")
told = b""
try:
    while part := os.read(terminal, 100): told += part
except OSError: pass
os.waitpid(pid, 0); print(told.decode().split())'""",
        "['0', '0']\n",
    ),
    "servers and clients on its own loopback, of both families": (
        f"""{PYTHON} 'import socket, threading
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_UNIX, "/tmp/s")):
    server = socket.socket(family); server.bind(address if family == socket.AF_UNIX else (address, 0)); server.listen()
    threading.Thread(target=lambda: server.accept()[0].sendall(b"hello")).start()
    with socket.socket(family) as client:
        client.connect(server.getsockname()); print(client.recv(5).decode())'""",
        "hello\nhello\nhello\n",
    ),
    "threads, signals and timers": (
        f"""{PYTHON} 'import signal, threading, time
signal.signal(signal.SIGALRM, lambda *_: print("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.05)
many = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(20)]
[one.start() for one in many]; [one.join() for one in many]; print("joined")'""",
        "alarm\njoined\n",
    ),
    "a virtual environment whose programs can be executed": (
        "/usr/bin/python3 -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.prefix)'",
        "/workspace/v\n",
    ),
    "an asynchronous program with children": (
        f"""{PYTHON} 'import asyncio
async def main():
    many = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {{n}}") for n in range(5)]
    print(await asyncio.gather(*(one.wait() for one in many)))
asyncio.run(main())'""",
        "[0, 1, 2, 3, 4]\n",
    ),
    "names of the box, and none of the world": (
        f"""{PYTHON} 'import socket
print(socket.gethostbyname("localhost"), socket.gethostname())
try: socket.getaddrinfo("example.org", 80)
except socket.gaierror: print("unknown")'""",
        "127.0.0.1 box\nunknown\n",
    ),
    "a program that was just written, with a shebang": (
        "printf '#!/usr/bin/env python3\\nimport sys\\nprint(sys.argv[1:])\\n' > p; chmod +x p; ./p a 'b c'",
        "['a', 'b c']\n",
    ),
    "large files, sparse and mapped": (
        f"""{PYTHON} 'import mmap, os
with open("m", "w+b") as file:
    file.truncate(100 << 20); view = mmap.mmap(file.fileno(), 0); view[50 << 20] = 9; view.flush()
print(os.stat("m").st_size, os.stat("m").st_blocks < 1000)'""",
        "104857600 True\n",
    ),
}


@pytest.mark.parametrize("what", WORK)
def test_it_works_in_a_box(what):
    script, wanted = WORK[what]
    result = run(("bash", "-c", script))
    assert (result.stdout.text(), result.exit_code) == (wanted, 0), result
    assert result.limits == ()


def test_what_a_command_reads_is_what_it_was_sent_to_the_last_byte():
    data = os.urandom(300_000)
    result = run(("sha256sum",), stdin=data)
    assert result.stdout.text().split()[0] == hashlib.sha256(data).hexdigest()


def test_a_command_that_does_not_exist_or_cannot_be_executed_ends_as_in_a_shell():
    assert run(("no-such-program",)).exit_code == 127
    assert run(("/etc/passwd",)).exit_code == 126
    assert run(("true",), cwd="/nowhere").exit_code == 126


def test_the_environment_holds_nothing_of_the_hosts_and_what_the_command_brought():
    os.environ["GEARCASE_SECRET_OF_HOST"] = "x"
    try:
        told = run(("env",), environment={"OWN": "a b"}).stdout.text()
    finally:
        del os.environ["GEARCASE_SECRET_OF_HOST"]
    assert "OWN=a b\n" in told and "SECRET_OF_HOST" not in told and "TERM=dumb\n" in told
