"""What the commands of maps see of an agent's files: each agent its own view, as long as a map of it goes on."""

import asyncio
import os
from types import SimpleNamespace

from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.snapshots import scan
from gearcase.seams import Limits
from gearcase.swarm.sandboxes import Sandboxes

LIMITS = Limits(memory=256 << 20, cpus=1.0, disk=64 << 20, processes=64)


def test_two_agents_with_the_same_files_do_not_take_each_others_away(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("one")
    store = BlobStore(tmp_path / "blobs")
    descriptor = os.open(tmp_path / "files", os.O_RDONLY | os.O_DIRECTORY)
    manifest = scan(descriptor, store)
    os.close(descriptor)
    housing = SimpleNamespace(folder=tmp_path / "run")
    housing.folder.mkdir()

    async def state():
        return manifest

    async def scenario():
        first, second = (Sandboxes(housing, LIMITS, state, store, lambda seconds: None, ()) for _ in range(2))
        one = await first.view(["."], ".", [])
        other = await second.view(["."], ".", [])
        assert one.digest == other.digest
        await second.leave(other)
        assert (one.folder / "a").read_text() == "one"
        await first.leave(one)
        await first.forget()
        await second.forget()
        assert list(housing.folder.iterdir()) == []

    asyncio.run(scenario())
