"""The engine over a Ray cluster that the operator has started: one process of ours on each of its nodes.

Ray carries bytes and starts and ends processes; it decides nothing. Its own retries are off, and its usage statistics too; where the
cluster is on this machine, this process listens on loopback alone. What crosses is JSON and the contents of files, never an object of
a box.

The money of a task is leased before the task is sent (`doors/model/leases.py`), and drawn call by call as the node tells of it. A node that
dies, or is silent for longer than its own patience, is lost: what was on it and had no answer comes back, and its leases count as spent,
for good where it is dead, else until it is heard again. It is not used again by this run.

The brake reaches a node as a word that revokes its lease: its doors are shut and its sandboxes frozen until the word that gives it back. A
node that cannot be reached stands still by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from gearcase import __version__
from gearcase.box import Box, effective_toml
from gearcase.doors.model.carrying import Caller
from gearcase.doors.model.door import ModelDoor
from gearcase.doors.model.leases import Lease
from gearcase.engines.cluster import INSTALL, Remote, Sent, connect, first_line, load, said
from gearcase.engines.node import LEASE
from gearcase.errors import GearcaseError, RunError
from gearcase.events import Event, Failure, NodeJoined, NodeLeft
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Capacity, Done, EngineEvent, Lost, Recorder, Started, Task
from gearcase.swarm.asking import request_body

ADDRESS = "127.0.0.1:6379"
"""Where Ray listens unless it is told otherwise."""
SHARD = 200
"""Items of a task, at most."""
AT_ONCE = 2
"""Tasks of a node: while one ends, the other keeps it busy."""
_POLL = 1.0
_GRACE = 2.0  # seconds beyond a node's own patience
_ENDING = 6.0
_LOOK = 3.0
_PART = 4 * 1024 * 1024
_log = logging.getLogger(__name__)
_REMEDY = f"every node needs this version of Gearcase ({INSTALL}) and what `gearcase doctor` asks for"
_LOST = "what was on it is asked again elsewhere; what it had leased counts as spent, see gearcase report"


class RayEngine:
    """See `Engine`. `used` hears what commands took: the name of their work, sandboxes, seconds of processor time."""

    def __init__(
        self,
        address: str,
        plan: Mapping[str, Any],
        door: ModelDoor,
        store: BlobStore,
        recorder: Recorder,
        used: Callable[[str, int, float], None],
    ) -> None:
        self._address = address
        self._plan = plan
        self._door = door
        self._store = store
        self._recorder = recorder
        self._used = used
        self._ray: Any = None
        self._nodes: list[Remote] = []
        self._seen: set[str] = set()
        self._names = itertools.count(1)
        self._events: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._level, self._level_number = "running", 0
        self._mean: dict[str, tuple[int, int]] = {}  # by work: answers, nano-dollars
        self._residue: list[str] = []
        self._helpers: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self.calls = 0
        """Model calls that nodes told of."""

    async def open(self) -> None:
        """Reach the cluster and begin on each of its nodes. Raises UsageError `no_ray`, RunError `no_cluster`, `no_node`."""
        self._ray = load(self._address)
        try:
            await in_thread(connect, self._ray, self._address, str(self._plan["run"]))
            await self._look()
        except BaseException:
            await in_thread(self._ray.shutdown)
            raise
        self._looking = asyncio.create_task(self._keep_looking())

    # --- nodes ------------------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[tuple[str, int, str]]:
        """Name, pid and machine of those that are there."""
        return [(node.name, node.pid, node.host) for node in self._nodes if not node.lost]

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self._look()
            except GearcaseError as error:
                _log.warning("%s", error.message)

    async def _look(self) -> None:
        """Begin on nodes that are new. Raises RunError `no_node` where there is none at all."""
        told = await in_thread(self._ray.nodes)
        fresh = [one["NodeID"] for one in told if one["Alive"] and one["NodeID"] not in self._seen]
        self._seen.update(fresh)
        begun = await asyncio.gather(*(self._begin_on(ray_id) for ray_id in fresh), return_exceptions=True)
        whys = [str(one) for one in begun if isinstance(one, Exception)]
        for why in whys:
            self._fail("node_refused", f"a node of the Ray cluster cannot be used: {why[:500]}", _REMEDY)
        if not self._nodes:
            raise RunError("no_node", "no node of the Ray cluster can be used", cause="; ".join(whys)[:1000], remedy=_REMEDY)

    async def _begin_on(self, ray_id: str) -> None:
        from gearcase.engines.actor import NodeActor

        place = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray_id, soft=False)
        options = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": place}
        actor = self._ray.remote(NodeActor).options(**options).remote(json.dumps(self._plan))
        try:
            told = await said(actor.open.remote(), 60.0)
        except TimeoutError:
            self._ray.kill(actor, no_restart=True)
            raise RunError("no_node", "it does not begin within 60 s", remedy=_REMEDY) from None
        if told["version"] != __version__:
            self._ray.kill(actor, no_restart=True)
            raise RunError("no_node", f"{told['host']} has Gearcase {told['version']}, this is {__version__}", remedy=_REMEDY)
        node = Remote(f"n{next(self._names)}", ray_id, actor, told["pid"], told["host"])
        if self._level != "running":
            await said(actor.brake.remote(self._level, self._level_number), LEASE)
        self._nodes.append(node)
        self._recorder.append(NodeJoined(node.name, node.host, node.pid))
        node.reader = asyncio.create_task(self._read(node))

    async def _read(self, node: Remote) -> None:
        """Hear of a node until it is gone. Who asks renews its patience."""
        errors = self._ray.exceptions
        while True:
            asked = asyncio.ensure_future(said(node.actor.poll.remote(node.heard, _POLL)))
            try:
                done, _ = await asyncio.wait({asked}, timeout=LEASE + _GRACE)
                if not done:
                    await asyncio.sleep(0.5)  # where it was this process that stood still, the answer is there
                    if not asked.done():
                        self._lose(node, f"it has not answered for {LEASE + _GRACE:g} s", dead=False)
                self._hear(node, await asked)
                if node.lost:
                    for name in list(node.tasks):
                        await said(node.actor.cancel.remote(name, True))
            except asyncio.CancelledError:
                asked.cancel()
                raise
            except errors.ActorUnavailableError:
                await asyncio.sleep(_POLL)
            except errors.RayError as error:
                await in_thread(self._ray.kill, node.actor, no_restart=True)
                return self._lose(node, first_line(error), dead=True)

    def _lose(self, node: Remote, why: str, *, dead: bool) -> None:
        """Nothing more is expected of a node. What it had leased counts as spent: for good where it is dead."""
        lost, node.lost, whole = node.lost, True, 0
        for name, sent in list(node.tasks.items()):
            spent = 0
            if sent.lease is not None:
                left = self._door.leases.left(sent.lease)
                whole += left
                spent = left + sent.lease.spent - sent.cost  # and what calls cost whose answer did not come
                if dead:
                    self._door.leases.lose(sent.lease, f"node {node.name} is lost")
            if not sent.told:
                sent.told = True
                self._events.put_nowait(Lost(name, node.name, why, spent))
            if dead:
                sent.closed.set()
                del node.tasks[name]
        if not lost:
            self._recorder.append(NodeLeft(node.name, node.items, why, whole))

    # --- what a node says -------------------------------------------------------------------------------------------------------

    def _hear(self, node: Remote, reports: list[Any]) -> None:
        for number, report in reports:
            if number > node.heard:
                node.heard = int(number)
                self._heard(node, report)

    def _heard(self, node: Remote, report: Mapping[str, Any]) -> None:
        if "event" in report:
            event = Event.catalogue[str(report["event"])](**report["fields"])
            self._recorder.append(event, str(report["agent"]))
            return
        if used := report.get("used"):
            self._used(str(used["work"]), int(used["sandboxes"]), float(used["cpu"]))
        sent = node.tasks.get(str(report["task"]))
        if sent is None:
            return
        if "called" in report and sent.lease is not None:
            self.calls += 1
            self._door.leases.book(sent.lease, dict(report["amounts"]), report["called"])
        if "answers" in report:
            node.items += len(report["answers"])
            self._answered(sent, report["answers"])
        if "over" in report and not sent.told:
            sent.told = True
            name = sent.task.id
            over = report["over"]
            self._events.put_nowait(Done(name, (), over=True) if over else Lost(name, node.name, "it was broken off"))
        if "closed" in report:
            if sent.lease is not None:
                self._door.leases.end(sent.lease)
            sent.closed.set()
            del node.tasks[sent.task.id]

    def _answered(self, sent: Sent, answers: list[Any]) -> None:
        work = str(sent.task.work["name"])
        paid = sum(int(told.get("cost", 0)) for _, told in answers)
        sent.cost += paid
        count, cost = self._mean.get(work, (0, 0))
        self._mean[work] = count + len(answers), cost + paid
        if not sent.told:
            self._events.put_nowait(Done(sent.task.id, tuple((int(place), told) for place, told in answers)))

    # --- the engine -------------------------------------------------------------------------------------------------------------

    async def submit(self, task: Task) -> str:
        """See `Engine`. Its money is leased first."""
        alive = [node for node in self._nodes if not node.lost]
        if not alive:
            raise RunError("no_node", "all nodes of the Ray cluster are lost", remedy=_REMEDY)
        node = min(alive, key=lambda one: one.busy)
        sent = node.tasks[task.id] = Sent(task)
        errors = self._ray.exceptions
        try:
            await self._teach(node, task.work)
            sent.lease = await self._lease(node, task)
            lease = sent.lease
            if sent.told or sent.cancelled:  # the node was lost meanwhile, or nobody wants it any more: it has never heard of it
                if lease is not None:
                    self._door.leases.end(lease)
                node.tasks.pop(task.id, None)
                sent.closed.set()
                if not sent.told:
                    self._events.put_nowait(Done(task.id, (), over=True))
                return task.id
            sent.begun = True
            told = {"task": task.id, "work": task.work["name"], "items": task.items, "at_once": task.at_once}
            told |= {"lease": lease.admitted.amounts if lease else {}, "one": lease.one if lease else {}}
            told |= {"agent": task.work["agent"], "max_output": lease.admitted.output if lease else 0}
            self._events.put_nowait(Started(task.id, node.name))
            await said(node.actor.begin.remote(json.dumps(told)))
        except errors.RayError as error:
            self._lose(node, first_line(error), dead=isinstance(error, errors.RayActorError))
        except BaseException:
            node.tasks.pop(task.id, None)
            if sent.lease is not None:
                self._door.leases.end(sent.lease)  # it was not sent
            if sent.told:
                return task.id
            raise
        return task.id

    async def _lease(self, node: Remote, task: Task) -> Lease | None:
        """Of what the task may cost: each call in flight at its worst, and the rest as they have cost so far."""
        work = task.work
        if work["kind"] != "ask":
            return None
        name, count = str(work["name"]), len(task.items)
        hands = min(task.at_once, count)
        answers, cost = self._mean.get(name, (0, 0))
        route = self._door.routing.inside(str(work["model"]))
        longest = max(task.items, key=lambda text: len(text.encode()))
        body = request_body(route, longest, "", work["schema"], int(work["max_output"]))
        caller = Caller(str(work["agent"]), str(work["account"]), label=str(work["label"]))
        worst = self._door.leases.worst(route, body)
        rest = count - hands
        if answers and worst:
            rest = min(rest, -(-rest * cost * 3 // (2 * answers * worst)))
        return await self._door.leases.take(caller, route, body, hands + rest, node.name)

    async def _teach(self, node: Remote, work: Mapping[str, Any]) -> None:
        """Send a node how a work is done, and the files that it lacks, once."""
        name = str(work["name"])
        async with node.learning:
            if name in node.knows:
                return
            if work["kind"] == "run":
                manifest = Manifest.from_json(str(work["manifest"]).encode())
                digests = sorted(set(manifest.digests()))
                for digest in await said(node.actor.missing.remote(json.dumps(digests))):
                    await self._send_file(node, digest)
            told = dict(work)
            if work["kind"] == "ask":
                model = self._door.routing.alone(self._door.routing.inside(str(work["model"])))
                told["box"] = effective_toml(Box().model_copy(update={"model": model}))
            await said(node.actor.learn.remote(json.dumps(told)))
            node.knows.add(name)

    async def _send_file(self, node: Remote, digest: str) -> None:
        with tempfile.TemporaryFile() as file:
            await in_thread(self._store.copy_to, digest, file.fileno())
            size, offset = file.seek(0, os.SEEK_END), 0
            file.seek(0)
            while True:
                data = file.read(_PART)
                last = offset + len(data) >= size
                await said(node.actor.keep.remote(digest, offset, data, last))
                offset += len(data)
                if last:
                    return

    async def events(self) -> AsyncIterator[EngineEvent]:
        """See `Engine`."""
        while (event := await self._events.get()) is not None:
            yield event

    async def cancel(self, handle: str, hard: bool) -> None:
        """See `Engine`. Returns once the node has settled all of it, when `hard`; one that does not answer is lost sooner or later."""
        for node in self._nodes:
            if (sent := node.tasks.get(handle)) is not None and not node.lost:
                sent.cancelled = True
                try:
                    if sent.begun:
                        await said(node.actor.cancel.remote(handle, hard), LEASE)
                    if hard:
                        async with asyncio.timeout(_ENDING):
                            await sent.closed.wait()
                except (TimeoutError, self._ray.exceptions.RayError):
                    continue  # its reader finds out

    def capacity(self) -> Capacity:
        """See `Engine`. Without a node there is room, too: what is submitted then is refused."""
        alive = [node for node in self._nodes if not node.lost]
        free = sum(max(0, AT_ONCE - node.busy) for node in alive)
        if self._closed:
            return Capacity(0, 0, SHARD)
        return Capacity(free, AT_ONCE * len(alive), SHARD) if alive else Capacity(1, 1, SHARD)

    # --- the brake --------------------------------------------------------------------------------------------------------------

    def latch(self) -> None:
        """See `Door`: the nodes begin nothing further."""
        if self._level == "running":
            self._help(self._brake("latched"))

    def unlatch(self) -> None:
        """See `Door`."""
        self._help(self._brake("running"))

    def grip(self) -> None:
        """Its sandboxes are on other machines."""
        return

    async def freeze(self) -> None:
        """The leases are revoked: doors are shut, sandboxes stand still."""
        await self._brake("frozen")

    async def thaw(self) -> None:
        """Sandboxes go on; the doors open with `unlatch`."""
        await self._brake("latched")

    def _brake(self, level: str) -> Awaitable[Any]:
        """The words are numbered in the order in which they are said: one that comes late changes nothing."""
        self._level = level
        self._level_number += 1
        return asyncio.gather(*(self._tell_level(node, level, self._level_number) for node in self._nodes if not node.lost))

    async def _tell_level(self, node: Remote, level: str, number: int) -> None:
        try:
            await said(node.actor.brake.remote(level, number), 2.0)
        except (TimeoutError, self._ray.exceptions.RayError):
            self._fail("node_silent", f"node {node.name} does not answer: it stands still by itself within {LEASE:g} s", _LOST)

    # --- the end ----------------------------------------------------------------------------------------------------------------

    async def close(self) -> tuple[str, ...]:
        """See `Engine`."""
        if self._closed:
            return ()
        self._closed = True
        await asyncio.gather(*(self._close_node(node) for node in self._nodes))
        helpers = [*self._helpers, *([self._looking] if self._looking else [])]
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        self._events.put_nowait(None)
        if self._ray is not None:
            await in_thread(self._ray.shutdown)
        return tuple(self._residue)

    async def _close_node(self, node: Remote) -> None:
        if node.reader is not None:
            node.reader.cancel()
            await asyncio.gather(node.reader, return_exceptions=True)
        try:
            told = await said(node.actor.close.remote(), _ENDING)
            self._hear(node, told["reports"])
            self._residue += told["residue"]
        except (TimeoutError, GearcaseError, self._ray.exceptions.RayError):
            pass  # it is dead, or is ended now
        if node.tasks:
            self._lose(node, "it was ended before it had settled its calls", dead=True)
        if not node.lost:
            self._recorder.append(NodeLeft(node.name, node.items))
        await in_thread(self._ray.kill, node.actor, no_restart=True)

    def _fail(self, code: str, message: str, remedy: str) -> None:
        self._recorder.append(Failure(RunError(code, message, remedy=remedy).envelope()))

    def _help(self, work: Any) -> None:
        helper = asyncio.ensure_future(work)
        self._helpers.add(helper)
        helper.add_done_callback(self._helpers.discard)
