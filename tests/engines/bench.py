"""A cluster of this machine, an upstream that keeps a log, and both engines over the same ledger."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from gearcase.box import Box, Override, box_from_options, effective_toml
from gearcase.brake import BoxClock, Brake
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.engines.local import LocalEngine
from gearcase.ledger import Ledger
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.sandbox.snapshots import scan
from gearcase.seams import Done, Housing, Limits, Lost
from gearcase.swarm.commands import CommandWorker
from gearcase.swarm.items import Use
from gearcase.swarm.sandboxes import Sandboxes
from gearcase.swarm.shards import Shards
from gearcase.swarm.worker import Worker
from gearcase.swarm.works import ask_work, run_work
from tests.recorder import Facts

KEY = "sk-contract-0123456789"
TOKEN = secrets.token_hex(16)
LIMITS = Limits(memory=256 << 20, cpus=1.0, disk=64 << 20, processes=64)


class Cluster:
    """Nodes on loopback, in processes of their own, with folders of their own."""

    def __init__(self, nodes):
        self.folder = Path("/tmp") / f"gr-{secrets.token_hex(3)}"  # paths of sockets are short
        self.folder.mkdir()
        self.state = self.folder / "state"
        environment = {
            **{name: value for name, value in os.environ.items() if name in ("LANG", "PATH", "HOME")},
            **{"RAY_TMPDIR": str(self.folder), "RAY_AUTH_TOKEN": TOKEN, "XDG_STATE_HOME": str(self.state)},
            **{"OPENAI_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"},
        }
        command = [sys.executable, str(Path(__file__).with_name("cluster.py")), str(nodes)]
        self.errors = (self.folder / "errors").open("wb")
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        line = self.process.stdout.readline()
        assert line, (self.folder / "errors").read_text()[-3000:]
        told = json.loads(line)
        self.address, self.raylets = told["address"], told["raylets"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        self.errors.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray") if sys.version_info < (3, 11) else None
    made = Cluster(3)
    yield made
    made.close()


@pytest.fixture
def on_cluster(cluster, monkeypatch):
    """This process may speak to it."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return cluster


class Witness:
    """The fake provider as a server, and its log."""

    def __init__(self, folder, *steps):
        self.log = folder / f"upstream-{time.monotonic_ns()}.log"
        self.log.touch()
        script = folder / f"script-{time.monotonic_ns()}.json"
        script.write_text(json.dumps(list(steps) or [{"text": "ok", "usage": {"input": 20, "output": 5}}]))
        module = "gearcase.doors.model.upstreams.scripted"
        command = [sys.executable, "-m", module, "--script", str(script), "--log", str(self.log), "--key", KEY]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.base = self.process.stdout.readline().strip()

    @property
    def asked(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def billed(self):
        return [entry["asked"] for entry in self.asked if entry["status"] == 200]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def upstream(tmp_path):
    made = []

    def serve(*steps):
        made.append(Witness(tmp_path, *steps))
        return made[-1]

    yield serve
    for one in made:
        one.close()


class Bench:
    """One engine over a ledger of its own. Events are gathered by task."""

    def __init__(self, kind, tmp_path, box, usd):
        self.kind = kind
        self.facts = Facts()
        self.ledger = Ledger(self.facts)
        self.ledger.open("lead", {"usd": usd, "tokens": 10**9, "calls": 10**6}, agent="lead")
        self.routing = Routing(box.model, environment={"OPENAI_API_KEY": KEY})
        self.door = ModelDoor(self.ledger, self.facts, self.routing)
        self.store = BlobStore(tmp_path / "blobs")
        self.brake = Brake(SimpleNamespace(path=tmp_path), self.facts, BoxClock())
        self.brake.add_door(self.door)
        self.use = Use()
        self.residue = []
        self.workers = {}
        self.told = {}
        self.news = asyncio.Condition()
        self.driver = NamespacesDriver()
        self.folder = tmp_path / "run"
        self.folder.mkdir()
        self.work_folder = tmp_path / "workspace"
        self.work_folder.mkdir()
        release = lambda sandbox, stayed: (self.brake.remove_sandbox(sandbox), self.residue.extend(stayed))  # noqa: E731
        housing = Housing(self.driver, self.facts, self.brake.add_sandbox, release, self.folder)
        self.sandboxes = Sandboxes(housing, LIMITS, self.state, self.store, lambda seconds: None)

    async def state(self):
        descriptor = os.open(self.work_folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return scan(descriptor, self.store)
        finally:
            os.close(descriptor)

    def used(self, work, sandboxes, seconds):
        self.use.sandboxes += sandboxes
        self.use.cpu += seconds

    def ask(self, name="m1", max_output=64, schema=None):
        caller, route = Caller("lead", "lead", label=f"map {name}"), self.routing.worker()
        self.workers[name] = Worker(self.door, caller, route, schema, max_output)
        return ask_work(name, caller, route, schema, max_output)

    async def command(self, command, name="r1", deadline=20.0, parts=2):
        view = await self.sandboxes.view(["."], ".", [])
        self.workers[name] = CommandWorker(self.sandboxes, view, command, None, deadline, parts, self.use)
        return run_work(name, "lead", command, None, deadline, parts, view)

    def shards(self):
        """Reads the events in place of this bench."""
        self.reader.cancel()
        return Shards(self.engine)

    async def read(self):
        async for event in self.engine.events():
            async with self.news:
                self.told.setdefault(event.task, []).append(event)
                self.news.notify_all()

    async def ended(self, name, seconds=60):
        """The events of a task, once it is over or lost."""

        def over():
            last = self.told.get(name, [None])[-1]
            return isinstance(last, Lost) or (isinstance(last, Done) and last.over)

        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(over)
        return self.told[name]

    async def until(self, found, seconds=30):
        async with asyncio.timeout(seconds):
            while not found():
                await asyncio.sleep(0.02)

    def outcomes(self, name):
        return {place: told for event in self.told.get(name, []) if isinstance(event, Done) for place, told in event.answers}

    def balance(self):
        return self.ledger.balance("lead", "usd")


@asynccontextmanager
async def opened(kind, tmp_path, model, usd=10**9, address=""):
    """A bench with its engine open, and everything closed after it."""
    box = box_from_options([Override(("model", "worker"), model, "--worker")], tmp_path).box
    bench = Bench(kind, tmp_path, box, usd)
    if kind == "local":
        bench.engine = LocalEngine(bench.workers)
    else:
        from gearcase.engines.ray import RayEngine

        limits = Box().limits.model_copy(update={"memory": LIMITS.memory, "cpus": 1.0, "disk": LIMITS.disk, "processes": 64})
        plan = {"run": "contract", "box": effective_toml(Box().model_copy(update={"limits": limits}))}
        bench.plan = plan
        bench.engine = RayEngine(address, plan, bench.door, bench.store, bench.facts, bench.used)
        await bench.engine.open()
        bench.brake.add_door(bench.engine)
        await bench.brake.add_sandbox(bench.engine)
    bench.reader = asyncio.create_task(bench.read())
    try:
        yield bench
    finally:
        bench.stayed = await bench.engine.close()
        await asyncio.gather(bench.reader, return_exceptions=True)
        await bench.door.close()
        await bench.sandboxes.forget()
        await bench.driver.close()
        await bench.brake.close()
        await bench.routing.close()
