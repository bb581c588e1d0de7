"""Attempts in which the host takes part: it reads what a box made, runs commands beside it, ends it, freezes it, gives it a tree.

Each is a pair of functions over a canary: the guarded one does what Gearcase does, the control what a plain program would do instead.
Both return what came of it, beginning with `GOT` where the attempt got through.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gearcase.doors.files import take
from gearcase.errors import GearcaseError
from gearcase.sandbox import probe
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import copy_in
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.snapshots import restore, scan
from gearcase.seams import Command, Limits, SandboxSpec

LIMITS = Limits(memory=128 << 20, cpus=1.0, disk=64 << 20, processes=64)
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Scenario:
    """See the module."""

    number: int
    name: str
    control: str
    guarded: Callable
    unguarded: Callable


def in_box(work, without=(), limits=LIMITS, **more):
    """Run `work(box)` in a fresh box; what stays of it is an error."""

    async def run():
        driver = NamespacesDriver(frozenset(without))
        try:
            box = await driver.open(SandboxSpec(f"hostile-{secrets.token_hex(4)}", limits, **more))
            try:
                return await work(box)
            finally:
                assert await box.close() == ()
        finally:
            await driver.close()

    return asyncio.run(run())


def shell(text, **more):
    return Command(("/bin/bash", "-c", text), **more)


def python(text, **more):
    return Command((PYTHON, "-c", text), **more)


def alive(mark):
    """Processes of this machine whose command line holds the mark."""
    lines = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if mark in line and "bash" not in line]


# --- 4, 5, 6, 7: files made to mislead who reads them ----------------------------------------------------------------------


def link_taken(canary):
    async def work(box):
        await box.run(
            shell(f"mkdir out; ln -s {canary.file} out/file; ln -s / out/root; mkfifo out/fifo; echo plain > out/plain")
        )
        return take(box.workspace, ["out/**"], canary.folder / "staged", most_bytes=1 << 20)

    delivery = in_box(work)
    taken = b"".join((canary.folder / "staged" / os.fsdecode(file.path)).read_bytes() for file in delivery.files)
    shutil.rmtree(canary.folder / "staged")
    refused = {refusal.path for refusal in delivery.refused}
    return "GOT the canary" if canary.secret.encode() in taken or len(refused) != 3 else f"refused {sorted(refused)}"


def link_followed(canary):
    link = canary.folder / "link"
    link.symlink_to(canary.file)
    try:
        return f"GOT {link.read_text()}"
    finally:
        link.unlink()


async def _plant(box):
    store_folder = Path("/var/tmp") / f"gearcase-blobs-{secrets.token_hex(4)}"
    await box.run(shell("mkdir data; echo mine > data/planted"))
    store = BlobStore(store_folder)
    return store_folder, store, scan(box.workspace, store)


def link_restored(canary):
    async def work(box):
        folder, store, manifest = await _plant(box)
        try:
            await box.run(shell(f"rm -r data; ln -s {canary.folder} data"))
            with contextlib.suppress(GearcaseError):
                restore(box.workspace, manifest, store, box.owner)
        finally:
            shutil.rmtree(folder)

    in_box(work)
    return "GOT a file through the link" if (canary.folder / "planted").exists() else "nothing outside was written"


def link_written(canary):
    async def work(box):
        await box.run(shell(f"ln -s {canary.folder} data"))
        Path(f"/proc/self/fd/{box.workspace}/data/planted").write_text("mine")

    in_box(work)
    planted = canary.folder / "planted"
    try:
        return "GOT a file through the link" if planted.exists() else "nothing"
    finally:
        planted.unlink(missing_ok=True)


_SWAP = """
import ctypes, os
libc = ctypes.CDLL(None)
os.mkdir("a"); open("a/file", "w").write("mine"); os.symlink({target!r}, "b")
print("going", flush=True)
while True:
    libc.syscall(316, -100, b"a", -100, b"b", 2)  # renameat2, exchange
"""


def _swapping(canary, read, rounds):
    async def work(box):
        swapping = asyncio.ensure_future(box.run(python(_SWAP.format(target=str(canary.folder)), deadline=60)))
        got = 0
        for number in range(rounds):
            got += await asyncio.to_thread(read, box, number)
            if got:
                break
        swapping.cancel()
        with contextlib.suppress(asyncio.CancelledError, GearcaseError):
            await swapping
        return got

    return "GOT the canary in a race" if in_box(work) else f"{rounds} rounds, the canary was never read"


def race_taken(canary):
    def read(box, number):
        staged = Path("/var/tmp") / f"gearcase-staged-{secrets.token_hex(6)}"
        with contextlib.suppress(GearcaseError):
            take(box.workspace, ["a/**", "b/**"], staged, most_bytes=1 << 20)
        found = [path for path in staged.rglob("*") if path.is_file() and canary.secret in path.read_text(errors="replace")]
        shutil.rmtree(staged, ignore_errors=True)
        return len(found)

    return _swapping(canary, read, 150)


def race_read(canary):
    def read(box, number):
        base = f"/proc/self/fd/{box.workspace}"
        with contextlib.suppress(OSError):
            if not os.path.islink(f"{base}/a"):  # checked, and then used: as a program does that follows paths
                return int(canary.secret in Path(f"{base}/a/file").read_text())
        return 0

    return _swapping(canary, read, 200_000)


_NAMES = r"""
import os
os.mkdir(b"out")
for name in (b"new\nline", b"\xff\xfe", b"-rf", b" ", b"a" * 255, b"\x1b[2J"):
    open(b"out/" + name, "w").write("x")
for _ in range(2000):
    os.mkdir("d"); os.chdir("d")
"""


def names_read(canary):
    async def work(box):
        made = await box.run(python(_NAMES))
        assert made.exit_code == 0, made.stdout.text()
        manifest = scan(box.workspace, BlobStore(canary.folder / "blobs"))
        delivery = take(box.workspace, ["out/**"], canary.folder / "staged", most_bytes=1 << 20)
        return manifest, delivery

    manifest, delivery = in_box(work)
    for name in ("blobs", "staged"):
        shutil.rmtree(canary.folder / name)
    whole = manifest.files == 6 and len(manifest.entries) >= 2000 and len(delivery.files) + len(delivery.refused) == 6
    return "all read, none misread" if whole else f"GOT {manifest.files} of 6 files, {len(manifest.entries)} entries"


def names_misread(canary):
    async def work(box):
        await box.run(python(_NAMES))
        try:
            for path in Path(f"/proc/self/fd/{box.workspace}").rglob("*"):
                path.name.encode()
        except (OSError, UnicodeError, RecursionError) as error:
            return f"GOT a reader of paths to break: {type(error).__name__}"
        return "read"

    return in_box(work)


# --- 16, 18, 20, 25, 26, 27: processes and terminals -------------------------------------------------------------------------

_TERMINAL = "import os\nos.write(os.open('/dev/tty', os.O_WRONLY), b'canary')\nprint('GOT the terminal')"


def _at_a_terminal(program):
    """Run a Python program of this interpreter whose controlling terminal is a new one; returns what stood on that terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    seen = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            seen += data
    os.waitpid(pid, 0)
    os.close(terminal)
    return seen.decode(errors="replace")


def terminal_inside(canary):
    here = str(Path(__file__).parent)
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("hostile_scenarios", {here!r} + "/scenarios.py")
module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module; spec.loader.exec_module(module)
async def work(box):
    return (await box.run(module.python(module._TERMINAL))).stdout.text()
told = module.in_box(work)
print("it said", told.strip().splitlines()[-1].replace("canary", "CANARY"))
"""
    seen = _at_a_terminal(program)
    assert "it said" in seen, seen
    return "GOT the operator's terminal" if "canary" in seen else seen.strip()[-100:]


def terminal_outside(canary):
    seen = _at_a_terminal(_TERMINAL)
    return "GOT the terminal" if "canary" in seen else seen


def killed_inside(canary):
    async def work(box):
        await box.run(shell(f"kill -9 1; kill -9 {canary.process.pid}; kill -9 -1; true"))
        return (await box.run(shell("echo alive"))).stdout.text()

    told = in_box(work)
    return "the box lives, the host too" if told == "alive\n" and canary.process.poll() is None else f"GOT the host: {told}"


def killed_outside(canary):
    with subprocess.Popen(["sleep", "300"]) as other:
        subprocess.run(["bash", "-c", f"kill -9 {other.pid}"], check=True)
        return f"GOT it killed: {other.wait()}"


def deadline_kept(canary):
    mark = f"3{secrets.randbelow(10**6):06d}"

    async def work(box):
        text = f"for i in 1 2 3; do (setsid sh -c '(sleep {mark} &) ; sleep {mark}' &) ; done; trap '' TERM; sleep {mark}"
        return await box.run(shell(text, deadline=1.0)), alive(mark)

    result, left = in_box(work)
    return f"GOT {len(left)} survivors" if left or result.ended != "deadline" else "none survived the deadline"


def deadline_fled(canary):
    mark = f"3{secrets.randbelow(10**6):06d}"
    control = subprocess.Popen(["bash", "-c", f"(setsid sleep {mark} &); echo; sleep {mark}"], start_new_session=True, stdout=-1)
    control.stdout.readline()
    until = time.monotonic() + 10
    while len(alive(mark)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(control.pid, signal.SIGKILL)
    left = alive(mark)
    for line in left:
        os.kill(int(line.split()[0]), signal.SIGKILL)
    control.communicate()
    return f"GOT {len(left)} survivors" if left else "none"


_FLOOD = 200_000_000


def flood_capped(canary):
    async def work(box):
        return await box.run(shell(f"head -c {_FLOOD} /dev/zero", deadline=60))

    result = in_box(work)
    kept = len(result.stdout.head) + len(result.stdout.tail)
    return f"{kept} bytes kept of {result.stdout.total}" if kept <= 128 << 10 and result.stdout.total == _FLOOD else f"GOT {kept}"


def flood_kept(canary):
    kept = len(subprocess.run(["head", "-c", str(_FLOOD), "/dev/zero"], capture_output=True, check=True).stdout)
    return f"GOT {kept} bytes of the host's memory" if kept == _FLOOD else "nothing"


_STUBBORN = """
import signal
for number in range(1, 65):
    number in (9, 19, 32, 33) or signal.signal(number, signal.SIG_IGN)
print("going", flush=True)
while True:
    signal.pause()
"""


def stubborn_ended(canary):
    async def work(box):
        return await box.run(python(_STUBBORN, deadline=1.0))

    result = in_box(work)
    return "dead at its deadline" if result.ended == "deadline" else f"GOT {result.ended}"


def stubborn_lives(canary):
    with subprocess.Popen([PYTHON, "-c", _STUBBORN], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.terminate()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            return "GOT on after SIGTERM"
        finally:
            process.kill()
    return "ended"


def pipe_let_go(canary):
    async def work(box):
        return await box.run(shell("sleep 300 & echo started", deadline=20))

    result = in_box(work)
    return "the command ended" if result.ended == "exited" and "started" in result.stdout.text() else f"GOT {result.ended}"


def pipe_held(canary):
    try:
        subprocess.run(["bash", "-c", "sleep 2 & echo started"], capture_output=True, timeout=0.5)
    except subprocess.TimeoutExpired:
        return "GOT its reader to wait for the daemon"
    return "ended"


# --- 23: more than its share of the processors ---------------------------------------------------------------------------------

BUSY = "for _ in $(seq 16); do setsid sh -c 'while :; do :; done' & done; wait"
"""So many that they get most of a machine on which others are busy too; each a session of its own, between which kernels share alike."""


def _share(without=()):
    """Processor seconds a second of busy loops in a box, at their best.

    A cgroup limits to any part of a core: then a quarter is asked for, which the control exceeds on a machine that is busy too.
    """
    limit = 0.25 if probe.probe().groups.means("cpu") else LIMITS.cpus

    async def work(box):
        running = asyncio.create_task(box.run(Command(("sh", "-c", BUSY))))
        await asyncio.sleep(0.5)
        share = 0.0
        for _ in range(3 if not without else 20):
            began, before = time.monotonic(), (await box.usage()).cpu
            await asyncio.sleep(1)
            share = max(share, ((await box.usage()).cpu - before) / (time.monotonic() - began))
            if share > 1.2 * limit:
                break
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return f"{'GOT ' if share > 1.2 * limit else ''}{share:.2f} cores of {limit:g}"

    return in_box(work, without, replace(LIMITS, cpus=limit))


# --- 39, 40, 41, 43: the brake, the host's death, joiners, given trees --------------------------------------------------------


def _processor_used(freeze):
    async def work(box):
        busy = asyncio.ensure_future(box.run(shell("echo; while :; do :; done", deadline=60)))
        while (await box.usage()).cpu < 0.1:
            await asyncio.sleep(0.02)
        if freeze:
            await box.freeze()
        before = (await box.usage()).cpu
        await asyncio.sleep(1)
        used = (await box.usage()).cpu - before
        if freeze:
            await box.thaw()
        busy.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await busy
        return used

    used = in_box(work)
    return f"GOT {used:.3f} s of processor" if used > 0.02 else f"{used:.3f} s of processor in a second"


_HOST = """
import asyncio, os, secrets
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, SandboxSpec
async def main():
    driver = NamespacesDriver()
    box = await driver.open(SandboxSpec("hostile-" + secrets.token_hex(4), Limits(128 << 20, 1.0, 32 << 20, 32)))
    await box.run(Command(("/bin/bash", "-c", "(setsid sleep MARK &) ; true")))
    print("open", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def host_killed(canary):
    mark = f"4{secrets.randbelow(10**6):06d}"
    with subprocess.Popen([sys.executable, "-c", _HOST.replace("MARK", mark)], stdout=subprocess.PIPE) as host:
        host.stdout.readline()
        assert alive(f"sleep {mark}")
        host.kill()
    until = time.monotonic() + 10
    while (left := alive(f"sleep {mark}")) and time.monotonic() < until:
        time.sleep(0.02)
    return f"GOT {len(left)} orphans" if left else "its processes died with the host"


def parent_killed(canary):
    mark = f"4{secrets.randbelow(10**6):06d}"
    with subprocess.Popen(["bash", "-c", f"(setsid sleep {mark} &) ; echo; sleep 60"], stdout=subprocess.PIPE) as host:
        host.stdout.readline()
        until = time.monotonic() + 10
        while not alive(f"sleep {mark}") and time.monotonic() < until:
            time.sleep(0.02)
        host.kill()
        left = alive(f"sleep {mark}")
    for line in left:
        os.kill(int(line.split()[0]), signal.SIGKILL)
    return f"GOT {len(left)} orphans" if left else "none"


_HUNT = """
import os, time
mine, seen = os.getpid(), set()
until = time.monotonic() + 80
print("hunting", flush=True)
while time.monotonic() < until and not os.path.exists("stop"):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, mine):
            try:
                target = os.readlink(f"/proc/{name}/exe")
                if "python" in target:
                    print("GOT the executable of a joiner", target, flush=True)
                    open("stop", "w")
                for what in ("mem", "environ"):
                    if "python" in target:
                        os.close(os.open(f"/proc/{name}/{what}", os.O_RDONLY))
            except OSError:
                continue
"""


def _hunted(without, commands):
    async def work(box):
        hunter = asyncio.ensure_future(box.run(python(_HUNT, deadline=90)))
        done = 0
        while done < commands and not hunter.done():
            await box.run(Command(("/usr/bin/true",)))
            done += 1
        await box.run(shell("touch stop"))
        return (await hunter).stdout.text(), done

    told, done = in_box(work, without, replace(LIMITS, cpus=2.0))  # the hunter has a core of its own
    return told[told.index("GOT") :].strip() if "GOT" in told else f"{done} commands, nothing of a joiner was seen"


def joiners_hidden(canary):
    return _hunted((), int(os.environ.get("GEARCASE_HUNTED_COMMANDS", "60")))


def joiners_seen(canary):
    return _hunted(("dumpable", "landlock"), 5000)


def given_refused(canary):
    tree = canary.folder / "given"
    tree.mkdir()
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(str(tree / "door"))
        os.mkfifo(tree / "fifo")

        async def copied(box):
            copy_in(tree, box.workspace, b"tree", box.owner)

        try:
            in_box(copied)
            told = "GOT a socket of the host copied"
        except GearcaseError as error:
            told = f"refused: {error.code}"
    shutil.rmtree(tree)
    return told


def given_reached(canary):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(canary.folder / "socket"))
        return "GOT a connection to the host's socket"


SCENARIOS = (
    Scenario(4, "a link out of the box among the deliverables", "a reader that follows links", link_taken, link_followed),
    Scenario(5, "a link where the host is about to write", "a writer that follows links", link_restored, link_written),
    Scenario(6, "swap a folder for a link while it is read", "a reader that checks, then opens", race_taken, race_read),
    Scenario(7, "names and depths that break readers", "a reader of paths", names_read, names_misread),
    Scenario(16, "write to the operator's terminal", "a child of the terminal", terminal_inside, terminal_outside),
    Scenario(18, "kill pid 1, a process of the host, everything", "outside any box", killed_inside, killed_outside),
    Scenario(20, "fork away from a deadline", "a kill of the process group", deadline_kept, deadline_fled),
    Scenario(23, "use every processor", "without cpu", lambda _: _share(), lambda _: _share(("cpu",))),
    Scenario(25, "flood the host with output", "a reader without a cap", flood_capped, flood_kept),
    Scenario(26, "ignore every signal", "SIGTERM alone", stubborn_ended, stubborn_lives),
    Scenario(27, "hold the output's pipe open", "a reader that waits for its end", pipe_let_go, pipe_held),
    Scenario(
        39, "use the processor while frozen", "not frozen", lambda _: _processor_used(True), lambda _: _processor_used(False)
    ),
    Scenario(40, "outlive the host process", "a child without a box", host_killed, parent_killed),
    Scenario(41, "catch a joiner between joining and execve", "without dumpable, landlock", joiners_hidden, joiners_seen),
    Scenario(43, "a socket of the host in a given tree", "outside any box", given_refused, given_reached),
)
