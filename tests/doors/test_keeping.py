"""States of a database by the names of snapshots: kept once, within a limit that nobody inside can use against a return."""

import asyncio
import os

import pytest

from gearcase.doors import keeping
from gearcase.doors.keeping import Keeping, Look
from gearcase.sandbox.snapshots import restore, scan

MIB = 1 << 20


class Files:
    """What a server would have."""

    def __init__(self, folder, most=8 * MIB):
        self.data, self.kept = folder / "data", folder / "shop.kept"
        self.data.mkdir()
        self.keeping = Keeping(self.kept, folder / "blobs", most, self.look_at)

    async def look_at(self, keeps, previous, unread):
        folder = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return Look(scan(folder, keeps, previous, mapped=unread), "password")
        finally:
            os.close(folder)

    def write(self, name, size):
        (self.data / name).write_bytes(os.urandom(size))

    async def keep(self, name, why="asked"):
        made = await self.keeping.look(why)
        self.keeping.name(name, held=why != "itself")
        return made

    def bytes_kept(self):
        return sum(file.stat().st_size for file in self.kept.rglob("*") if file.is_file())

    def back_to(self, name, folder):
        folder.mkdir()
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            restore(root, self.keeping.find(name).files, self.keeping.store)
        finally:
            os.close(root)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_nothing_is_kept_before_a_program_connects_and_that_is_what_s0_is(tmp_path):
    async def scenario():
        files = Files(tmp_path)
        files.write("a", 1000)
        first = (files.data / "a").read_bytes()
        await files.keep("s1")
        assert not files.kept.exists() and files.keeping.missing("s0") == files.keeping.missing("s1") == ""
        await files.keeping.begin()
        files.write("a", 2000)
        assert await files.keep("s2") and not await files.keep("s3"), "what is the same is the same state"
        assert files.back_to("s1", tmp_path / "one") == files.back_to("s0", tmp_path / "two") == {"a": first}
        assert files.keeping.find("s2") is files.keeping.find("s3")
        await files.keeping.close()
        assert not files.kept.exists()

    asyncio.run(scenario())


def test_what_was_kept_by_itself_makes_room_what_was_asked_for_stays_and_a_return_is_never_in_want_of_room(tmp_path):
    async def scenario():
        files = Files(tmp_path)
        await files.keeping.begin()
        for number in range(1, 11):
            files.write("a", MIB)
            await files.keep(f"k{number}", "itself")
        assert files.bytes_kept() <= 8 * MIB
        assert files.keeping.missing("k1") == "it was pruned" and files.keeping.missing("k10") == ""
        for number in range(1, 8):
            files.write("a", 2 * MIB)
            await files.keep(f"s{number}")
        assert files.keeping.missing("s1") == "" and "finds room" in files.keeping.missing("s7")
        assert await files.keep("s8", "return") and files.keeping.missing("s8") == ""
        assert files.back_to("s8", tmp_path / "back") == {"a": (files.data / "a").read_bytes()}
        await files.keeping.forget({"k99"})
        assert not [name for name in files.keeping.names() if name.startswith("k")]

    asyncio.run(scenario())


def test_more_than_a_moments_worth_is_not_kept_by_itself_and_a_name_keeps_its_meaning(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SMALL", MIB)

    async def scenario():
        files = Files(tmp_path)
        await files.keeping.begin()
        files.write("a", 2 * MIB)
        await files.keep("k1", "itself")
        assert "too much" in files.keeping.missing("k1")
        await files.keep("s1")
        await files.keep("k1", "itself")
        assert "too much" in files.keeping.missing("k1"), "what it is now is not what it was then"
        files.write("a", 10)
        await files.keep("s1")
        assert files.keeping.find("s1").files.size == 2 * MIB

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["k5", "nothing"])
def test_a_name_that_was_never_given_stands_for_nothing(tmp_path, name):
    files = Files(tmp_path)
    assert files.keeping.find(name) is None and files.keeping.missing(name) == "nothing was kept at that moment"
