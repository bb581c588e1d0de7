"""What a box does to survive, to hide, to hold on: commands that never end, floods, and files made to break those who read them."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from gearcase.doors.files import take
from gearcase.errors import GearcaseError, RunError
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.copying import copy_in
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.snapshots import scan
from gearcase.seams import Command, Limits, Mount, SandboxSpec

LIMITS = Limits(memory=128 << 20, cpus=1.0, disk=64 << 20, processes=64)


def in_box(scenario, **more):
    """Run `scenario(box)` in a fresh box; what stays of the box fails the test."""

    async def run():
        driver = NamespacesDriver()
        try:
            box = await driver.open(SandboxSpec(f"endure-{secrets.token_hex(4)}", LIMITS, **more))
            try:
                return await scenario(box)
            finally:
                assert await box.close() == ()
        finally:
            await driver.close()

    return asyncio.run(run())


def shell(text, **more):
    return Command(("/bin/bash", "-c", text), **more)


def alive(mark):
    return [
        line
        for line in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        if mark in line
    ]


def test_18_killing_everything_and_pid_1_ends_the_command_and_the_box_lives():
    async def scenario(box):
        ended = await box.run(shell("kill -9 1; kill -9 -1; echo still here"))
        again = await box.run(shell("echo alive"))
        return ended, again

    ended, again = in_box(scenario)
    assert ended.exit_code != 0 or "still here" in ended.stdout.text()
    assert again.stdout.text() == "alive\n"


def test_20_nothing_survives_a_deadline_however_often_it_forks_away():
    mark = f"3{secrets.randbelow(10**6):06d}"

    async def scenario(box):
        text = f"for i in 1 2 3; do (setsid sh -c '(sleep {mark} &) ; sleep {mark}' &) ; done; trap '' TERM; sleep {mark}"
        return await box.run(shell(text, deadline=1.0)), [line for line in alive(mark) if "bash" not in line]

    result, left = in_box(scenario)
    assert result.ended == "deadline" and "time" in result.limits
    assert left == []
    # the control: killing its process group, as most tools do, leaves them
    control = subprocess.Popen(["bash", "-c", f"(setsid sleep {mark} &); sleep {mark}"], start_new_session=True)
    time.sleep(0.3)
    os.killpg(control.pid, signal.SIGKILL)
    control.wait()
    survivors = alive(mark)
    subprocess.run(["pkill", "-f", f"sleep {mark}"], check=True)
    assert survivors


def test_25_a_flood_of_output_is_counted_and_capped_and_the_host_keeps_its_memory():
    async def scenario(box):
        before = _resident()
        result = await box.run(shell("head -c 300000000 /dev/zero", deadline=60))
        return result, _resident() - before

    result, grown = in_box(scenario)
    assert result.stdout.total == 300_000_000
    assert len(result.stdout.head) + len(result.stdout.tail) <= 2 * 64 * 1024
    assert grown < 32 << 20


def test_26_a_command_that_ignores_every_signal_is_dead_at_its_deadline():
    async def scenario(box):
        text = (
            "import signal\nfor s in range(1, 65):\n  s in (9, 19, 32, 33) or signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
        )
        return await box.run(Command(("/usr/bin/python3", "-c", text), deadline=1.0))

    assert in_box(scenario).ended == "deadline"


def test_27_a_daemon_that_holds_the_pipe_does_not_hold_the_command():
    async def scenario(box):
        result = await box.run(shell("sleep 300 & echo started", deadline=20))
        background = await box.run(shell("ps -eo args | grep -c '[s]leep 300'"))
        return result, background

    result, background = in_box(scenario)
    assert result.ended == "exited" and result.seconds < 10 and "started" in result.stdout.text()
    assert background.stdout.text() == "1\n"
    with pytest.raises(subprocess.TimeoutExpired):  # the control: who waits for the pipe's end waits for the daemon
        subprocess.run(["bash", "-c", "sleep 3 & echo started"], capture_output=True, timeout=1)


def test_7_names_and_depths_made_to_break_readers_are_scanned_taken_and_removed(tmp_path):
    program = r"""
import os
os.mkdir(b"out")
for name in (b"new\nline", b"\xff\xfe", b"-rf", b" ", b"a" * 255, b"\x1b[2J"):
    open(b"out/" + name, "w").write("x")
for _ in range(2000):
    os.mkdir("d"); os.chdir("d")
"""

    async def scenario(box):
        made = await box.run(Command(("/usr/bin/python3", "-c", program)))
        manifest = scan(box.workspace, BlobStore(tmp_path / "blobs"))
        delivery = take(box.workspace, ["out/**"], tmp_path / "staged", most_bytes=1 << 20)
        return made, manifest, delivery

    made, manifest, delivery = in_box(scenario)
    assert made.exit_code == 0, made.stdout.text()
    assert manifest.files == 6 and len(manifest.entries) >= 2000
    assert len(delivery.files) + len(delivery.refused) == 6


def test_4_a_link_out_is_never_followed_on_the_way_out(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary")

    async def scenario(box):
        await box.run(shell(f"mkdir out; ln -s {secret} out/file; ln -s / out/root; mkfifo out/fifo; echo plain > out/plain"))
        return take(box.workspace, ["out/**"], tmp_path / "staged", most_bytes=1 << 20)

    delivery = in_box(scenario)
    assert [file.path for file in delivery.files] == [b"out/plain"]
    assert {refusal.path for refusal in delivery.refused} == {b"out/file", b"out/root", b"out/fifo"}
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert "canary" in subprocess.run(["cp", "-L", link, "/dev/stdout"], capture_output=True, text=True, check=True).stdout


def test_43_a_given_tree_with_a_socket_or_fifo_is_refused_with_its_path(tmp_path):
    for kind in ("socket", "fifo"):
        tree = tmp_path / kind
        tree.mkdir()
        if kind == "fifo":
            os.mkfifo(tree / "bad")
        else:
            holder = socket.socket(socket.AF_UNIX)
            holder.bind(str(tree / "bad"))

        async def copied(box, tree=tree):
            copy_in(tree, box.workspace, b"tree", box.owner)

        with pytest.raises(GearcaseError, match="bad"):
            in_box(copied)
        with pytest.raises(GearcaseError):
            in_box(copied, mounts=(Mount(tree, "/given/tree"),))
    holder.close()


def test_39_a_frozen_box_uses_no_processor_and_starts_no_command_and_goes_on_after():
    async def scenario(box):
        running = asyncio.ensure_future(
            box.run(shell("for i in 1 2 3 4; do (while :; do :; done) & done; sleep 2; echo over", deadline=30))
        )
        await asyncio.sleep(0.5)
        await box.freeze()
        before = (await box.usage()).cpu
        with pytest.raises(RunError, match="frozen"):
            await box.run(shell("echo"))
        await asyncio.sleep(1)
        used = (await box.usage()).cpu - before
        await box.thaw()
        return used, await running

    used, result = in_box(scenario)
    assert used < 0.02
    assert "over" in result.stdout.text()


def test_49_commands_at_the_process_limit_end_in_an_error_and_never_hang():
    async def scenario(box):
        filled = await box.run(shell("for i in $(seq 100); do sleep 100 & done 2>/dev/null; true", deadline=10))
        squeezed = None
        try:
            squeezed = await box.run(shell("echo squeezed", deadline=5))
        except RunError as error:
            squeezed = error
        return filled, squeezed

    filled, squeezed = in_box(scenario)
    assert "processes" in filled.limits
    assert squeezed is not None


def test_two_boxes_do_not_see_each_other():
    async def run():
        driver = NamespacesDriver()
        try:
            one = await driver.open(SandboxSpec(f"one-{secrets.token_hex(4)}", LIMITS))
            two = await driver.open(SandboxSpec(f"two-{secrets.token_hex(4)}", LIMITS))
            await one.run(shell("echo mine > /tmp/mine; echo mine > mine; (sleep 321 &)"))
            seen = await two.run(shell("ls /tmp /workspace; ps -eo args"))
            assert await one.close() == () and await two.close() == ()
            return seen.stdout.text()
        finally:
            await driver.close()

    seen = asyncio.run(run())
    assert "mine" not in seen and "321" not in seen


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
