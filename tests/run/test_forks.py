"""Forks: a fresh sandbox that holds what an agent's files were at one moment, or what was chosen of them."""

import asyncio
import os

import pytest

from gearcase.brake import BoxClock, Brake, Level
from gearcase.errors import UsageError
from gearcase.run.forks import Forks, chosen
from gearcase.run.workspace import Workspace
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.snapshots import restore, scan
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


def test_filling_what_is_known_touches_what_differs_and_nothing_else(tmp_path):
    store, folder = BlobStore(tmp_path / "blobs"), tmp_path / "tree"
    for path in ("a/one", "a/two", "b/three", "same/kept", "file"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    root = os.open(folder, os.O_RDONLY)
    before = scan(root, store)
    (folder / "a/two").write_text("changed")
    (folder / "a/one").unlink()
    (folder / "b/three").rename(folder / "b/four")
    (folder / "file").unlink()
    (folder / "file").mkdir()
    os.utime(folder / "same/kept", ns=(1, 1))
    os.symlink("x", folder / "link")
    after = scan(root, store)
    os.close(root)
    target = tmp_path / "target"
    target.mkdir()
    root = os.open(target, os.O_RDONLY)
    try:
        restore(root, before, store, known=Manifest())
        inode = (target / "same/kept").stat().st_ino
        restore(root, after, store, known=before)
        assert scan(root, store).digest == after.digest
        assert (target / "same/kept").stat().st_mtime_ns == 1 and (target / "same/kept").stat().st_ino == inode
        (target / "a/two").write_text("not known")
        restore(root, after, store, known=after)
        assert (target / "a/two").read_text() == "not known", "what is known to be there is not looked at"
    finally:
        os.close(root)


def test_a_fork_holds_the_moment_and_is_its_own(tmp_path, journal_of):
    async def scenario():
        driver, store = NamespacesDriver(), BlobStore(tmp_path / "blobs")
        brake = Brake(journal_of(), Nowhere(), BoxClock())
        name = f"fork-{os.getpid()}"
        agent = await driver.open(SandboxSpec(name, SMALL))
        try:
            workspace, forks = Workspace(agent, store, Nowhere()), Forks(driver, store, brake, name)
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
            await brake.close()

    asyncio.run(scenario())
