"""Forks: a fresh sandbox that holds what an agent's files were at one moment, or what was chosen of them."""

import asyncio
import os

import pytest

from gearcase.brake import BoxClock, Brake, Level
from gearcase.errors import UsageError
from gearcase.run.forks import Forks, chosen
from gearcase.run.workspace import Workspace
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.snapshots import scan
from gearcase.seams import Command, Limits, SandboxSpec

SMALL = Limits(128 << 20, 1.0, 64 << 20, 64)
SHELL = ("/bin/sh", "-c")


class Nowhere:
    """A record that nobody reads."""

    def append(self, event, agent=""):
        return 0

    def flush(self):
        pass

    async def durable(self):
        pass


@pytest.fixture
def tree(tmp_path):
    """A state of these files."""
    folder = tmp_path / "tree"
    for path in ("a/one.csv", "a/two.txt", "b/three.csv", "top.csv"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "empty").mkdir()
    os.symlink("/etc/passwd", folder / "link")
    with_fd = os.open(folder, os.O_RDONLY)
    try:
        return scan(with_fd, BlobStore(tmp_path / "blobs"))
    finally:
        os.close(with_fd)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["a"], ["a", "a/one.csv", "a/two.txt"]),
        (["*.csv"], ["top.csv"]),
        (["**/three.csv", "empty"], ["b", "b/three.csv", "empty"]),
        (["link"], ["link"]),
        (["**"], ["a", "a/one.csv", "a/two.txt", "b", "b/three.csv", "empty", "link", "top.csv"]),
    ],
)
def test_what_is_chosen_comes_with_the_folders_it_lies_in(tree, patterns, found):
    assert sorted(entry.path.decode() for entry in chosen(tree, patterns).entries) == found


@pytest.mark.parametrize("pattern", ["nothing", "../x", "/etc/passwd", "a/none.csv"])
def test_a_pattern_that_names_nothing_is_told(tree, pattern):
    with pytest.raises(UsageError):
        chosen(tree, [pattern])


def test_a_fork_holds_the_moment_and_is_its_own(tmp_path, journal_of):
    async def scenario():
        driver, store = NamespacesDriver(), BlobStore(tmp_path / "blobs")
        brake = Brake(journal_of(), Nowhere(), BoxClock())
        name = f"fork-{os.getpid()}"
        agent = await driver.open(SandboxSpec(name, SMALL))
        try:
            workspace, forks = Workspace(agent, store, Nowhere(), brake), Forks(driver, store, brake, name)
            await agent.run(Command((*SHELL, "mkdir d; echo first > d/x; ln -s /etc/hostname link; mkfifo pipe; chmod 700 d/x")))
            moment = await workspace.state()
            await agent.run(Command((*SHELL, "echo second > d/x")))
            async with forks.open("one", SMALL, moment) as fork:
                said = await fork.run(Command((*SHELL, "cat d/x; readlink link; stat -c '%a %U' d/x; echo mine > d/x; id -u")))
                assert said.stdout.text() == "first\n/etc/hostname\n700 agent\n1000\n"
                await brake.pull(Level.FROZEN, "test")
                assert fork.frozen
                await brake.pull(Level.RUNNING, "test")
            assert (await agent.run(Command((*SHELL, "cat d/x")))).stdout.text() == "second\n"
            assert (await workspace.state()).digest != moment.digest
            assert forks.residue == []
        finally:
            await agent.close()
            await driver.close()

    asyncio.run(scenario())
