"""The brake: a level that is persisted, independent per source, and obeyed by doors and sandboxes."""

import asyncio
import json
import stat
import subprocess
import sys
import time

import pytest

from gearcase import runs
from gearcase.brake import BoxClock, Brake, Level
from gearcase.control import Control, command
from gearcase.errors import RunError, UsageError
from gearcase.journal import Journal, read


class Door:
    """A door that counts."""

    def __init__(self):
        self.latched = False

    def latch(self):
        self.latched = True

    def unlatch(self):
        self.latched = False


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("long-" * 40)))
    made, owner = runs.create("goal")
    yield made
    owner.release()


@pytest.fixture
def journal(folder):
    made = Journal.create(folder.journal)
    yield made
    made.close()


def test_each_source_has_its_own_level_and_the_highest_holds(folder, journal):
    async def scenario():
        door, brake = Door(), Brake(folder, journal, BoxClock())
        brake.add_door(door)
        await brake.pull(Level.FROZEN, "operator")
        await brake.pull(Level.LATCHED, "budget")
        assert brake.level is Level.FROZEN
        await brake.pull(Level.RUNNING, "operator")
        assert brake.level is Level.LATCHED and door.latched
        await brake.pull(Level.RUNNING, "budget")
        assert brake.level is Level.RUNNING and not door.latched
        assert json.loads((folder.path / "level").read_text()) == {}

    asyncio.run(scenario())
    journal.flush()
    assert [r.event.level for r in read(folder.journal) if r.type == "brake_changed"] == [
        "frozen",
        "frozen",
        "latched",
        "running",
    ]


def test_a_door_that_comes_late_is_latched_at_once(folder, journal):
    async def scenario():
        brake = Brake(folder, journal, BoxClock())
        await brake.pull(Level.LATCHED, "operator")
        door = Door()
        brake.add_door(door)
        assert door.latched

    asyncio.run(scenario())


def test_box_time_stands_still_while_frozen():
    clock = BoxClock()
    clock.stop()
    before = clock.now()
    time.sleep(0.02)
    assert clock.now() == before
    clock.go()
    time.sleep(0.002)
    assert clock.now() > before


def test_the_control_socket_answers_its_user_and_works_below_a_very_long_path(folder):
    async def scenario():
        async def status(request):
            return {"level": "running", "told": request["word"]}

        async def broken(request):
            raise RunError("lost", "it is lost", remedy="find it")

        control = Control(folder, {"status": status, "broken": broken})
        await control.start()
        assert stat.S_IMODE((folder.path / "control.sock").stat().st_mode) == 0o600
        told = await asyncio.to_thread(command, folder, "status", word="hello")
        assert told == {"level": "running", "told": "hello"}
        with pytest.raises(RunError, match="it is lost"):
            await asyncio.to_thread(command, folder, "broken")
        with pytest.raises(UsageError, match="no verb"):
            await asyncio.to_thread(command, folder, "explode")
        await control.close()
        with pytest.raises(RunError) as caught:
            await asyncio.to_thread(command, folder, "status")
        assert caught.value.code == "not_running"

    asyncio.run(scenario())


def test_what_is_asked_for_at_the_end_of_a_run_is_answered_or_told_that_it_has_ended(folder):
    async def scenario():
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def slow(request):
            begun.set()
            await may_end.wait()
            return {"level": "frozen"}

        control = Control(folder, {"slow": slow})
        await control.start()
        asked = asyncio.create_task(asyncio.to_thread(command, folder, "slow"))
        await begun.wait()
        ending = asyncio.create_task(control.close())
        await asyncio.sleep(0)
        with pytest.raises(RunError) as caught:
            await asyncio.to_thread(command, folder, "slow")
        assert caught.value.code == "not_running" and not ending.done()
        may_end.set()
        assert await asked == {"level": "frozen"}
        await ending

    asyncio.run(scenario())


def test_kill_ends_a_supervisor_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    script = (
        "import os, socket, time; from gearcase import runs; f, o = runs.create('g')\n"
        "s = socket.socket(socket.AF_UNIX); os.chdir(f.path); s.bind('control.sock'); s.listen()\n"
        "print(f.id, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as hung:
        folder = runs.find(hung.stdout.readline().strip())
        assert command(folder, "kill") == {"level": "killed", "by": "signal"}
        assert hung.wait(10) == -9


class Slow:
    """A sandbox that takes its time to go on."""

    def __init__(self):
        self.frozen = False
        self.may_go = asyncio.Event()
        self.thawing = asyncio.Event()

    def grip(self):
        return None

    async def freeze(self):
        self.frozen = True
        return 0.0

    async def thaw(self):
        self.thawing.set()
        await self.may_go.wait()
        self.frozen = False


class Resisting:
    def grip(self):
        return None

    async def freeze(self):
        raise RunError("not_frozen", "some processes could not be stopped", remedy="kill the run")


def test_what_cannot_be_stopped_fails_a_freeze_and_not_a_kill(folder, journal):
    async def scenario():
        brake = Brake(folder, journal, BoxClock())
        await brake.add_sandbox(Resisting())
        with pytest.raises(RunError, match="could not be stopped"):
            await brake.pull(Level.FROZEN, "operator")
        await brake.pull(Level.KILLED, "operator")
        assert brake.level is Level.KILLED

    asyncio.run(scenario())


def test_a_freeze_holds_where_its_level_cannot_be_written_and_says_so(folder, journal):
    async def scenario():
        door, sandbox, brake = Door(), Slow(), Brake(folder, journal, BoxClock())
        brake.add_door(door)
        await brake.add_sandbox(sandbox)
        (folder.path / "level").mkdir()  # stands for a disk that takes nothing
        (folder.path / "level/x").touch()
        with pytest.raises(RunError) as error:
            await brake.pull(Level.FROZEN, "operator")
        assert error.value.code == "level_not_written"
        assert brake.level is Level.FROZEN and sandbox.frozen and door.latched

    asyncio.run(scenario())


def test_a_freeze_that_overtakes_a_resume_leaves_the_doors_shut(folder, journal):
    async def scenario():
        door, sandbox, brake = Door(), Slow(), Brake(folder, journal, BoxClock())
        brake.add_door(door)
        await brake.add_sandbox(sandbox)
        await brake.pull(Level.FROZEN, "operator")
        resuming = asyncio.create_task(brake.pull(Level.RUNNING, "operator"))
        await sandbox.thawing.wait()
        freezing = asyncio.create_task(brake.pull(Level.FROZEN, "operator"))
        await asyncio.sleep(0)
        sandbox.may_go.set()
        await asyncio.gather(resuming, freezing)
        assert brake.level is Level.FROZEN and sandbox.frozen and door.latched

    asyncio.run(scenario())
