"""The maps of a run, as operations of the gear door: `map` begins one, `map-items` gives items and takes endings.

A program in the box shards its own files and sends what is in them (`inbox/gearmap.py`): no process of the host opens, splits or
decodes a file that an agent chose. What arrives is length-capped JSON, in batches of as many items as there was room for.

A map that nobody asks after for LEASE seconds of box time is abandoned: the program that began it was killed. Its calls in flight end
and are kept, so the same command finds them.

Threat: arguments are the agent's. Sizes, counts and the schema are bounded before anything is kept.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Route
from gearcase.errors import Refused, UsageError
from gearcase.seams import Recorder
from gearcase.swarm.asking import MAX_OUTPUT
from gearcase.swarm.items import Item, MapSpec
from gearcase.swarm.map import Flights, Map
from gearcase.swarm.results import Results
from gearcase.swarm.schema import Schema
from gearcase.swarm.worker import Worker

CONCURRENCY = 16
MOST_CONCURRENCY = 512
MAX_FAILURE_RATE = 0.5
"""Of the canary; above it the rest is not asked about."""
MOST_PROMPT = 64 * 1024
"""Bytes of a prompt."""
MOST_ITEM = 256 * 1024
"""Bytes of one item's text."""
MOST_MAPS = 4
"""Going on at once in a run."""
LEASE = 20.0
"""Seconds of box time after which a map is abandoned that nobody asks after."""
LINGER = 1.0
"""Seconds in which endings are gathered before they are handed out."""
TAKEN_BYTES = 512 * 1024


class Maps:
    """The maps of one run. `free`: nano-dollars of the account that are left, None where it has no limit; `ready` is waited for before each
    call; `now` is box time in seconds; `numbers` names maps where several agents of the run have some."""

    def __init__(
        self,
        door: ModelDoor,
        worker: Route | None,
        account: str,
        free: Callable[[], int | None],
        results: Results,
        recorder: Recorder,
        ready: Callable[[], Awaitable[Any]],
        now: Callable[[], float],
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._door = door
        self._worker = worker
        self._account = account
        self._free = free
        self._results = results
        self._recorder = recorder
        self._ready = ready
        self._now = now
        self._flights: Flights = {}
        self._maps: dict[str, Map] = {}
        self._seen: dict[str, float] = {}
        self._asking: dict[str, int] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._numbers = numbers or itertools.count(1)
        self._watch: asyncio.Task[None] | None = None

    async def begin(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A new map. Raises Refused and UsageError."""
        route = self._route(arguments.get("model"))
        spec = _spec(arguments, route)
        if len(self._maps) >= MOST_MAPS:
            live = ", ".join(self._maps)
            raise Refused("too_many_maps", f"{MOST_MAPS} maps are going on: {live}", remedy="wait until one of them has ended")
        name = f"m{next(self._numbers)}"
        caller = Caller(agent, self._account, label=f"map {name}")
        worker = Worker(self._door, caller, route, spec.schema, spec.max_output)
        made = Map(name, spec, worker, self._results, self._flights, self._recorder, agent, ready=self._ready)
        self._maps[name] = made
        self._seen[name] = self._now()
        if self._watch is None:
            self._watch = asyncio.create_task(self._watching())
        return {"map": name, "model": route.name, "prompt": spec.prompt_hash, "room": made.room, "most_item": MOST_ITEM}

    async def items(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give items, take endings. Answers at once when more items are wanted, else within LINGER seconds."""
        name = str(arguments["map"])
        one = self._maps.get(name)
        if one is None:
            raise UsageError(
                "no_map",
                f"there is no map {name[:20]!r}: it has ended, or nobody asked after it for {LEASE:g} s",
                remedy="begin it again with the same command; what was answered is not paid for twice",
            )
        items = _items(cast("list[Any]", arguments.get("items") or []))
        if len(items) > one.room:
            raise Refused(
                "map_full", f"{name} has room for {one.room} items now", remedy="send no more than the last answer allows"
            )
        self._asking[name] = self._asking.get(name, 0) + 1
        try:
            one.feed(items)
            if arguments.get("end"):
                one.close_input()
            gate = bool(arguments.get("gate"))
            taken = await one.take(TAKEN_BYTES, LINGER, gate=gate)
            if gate:
                one.judge(self._free())
            one.tell()
        finally:
            self._asking[name] -= 1
            self._seen[name] = self._now()
        if one.finished:
            one.finish("stopped" if one.stopped else "done")
            self._maps.pop(name, None)
        return {
            "endings": [ended.as_json() for ended in taken],
            "room": one.room,
            "ended": one.finished,
            "waiting": one.waiting,
            "account": asdict(one.account),
            "passed": one.finished and one.account.passes(one.spec.allow_failed),
            "found": one.found,
            "calls": one.calls,
            "retries": one.retries,
            "nano_usd": one.spent,
            "projected_nano_usd": one.projected,
            "classes": dict(one.classes),
            "clusters": [cluster.as_json() for cluster in one.clusters.largest()],
            "canary": asdict(one.canary) if one.canary else None,
            "stopped": {"class": one.stopped.code, "why": one.stopped.message} if one.stopped else None,
        }

    async def close(self) -> None:
        """The run ends: so does every map, with what it has. Idempotent."""
        tasks = [task for task in (self._watch, *self._leaving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in list(self._maps.values()):
            await one.cut()
        self._maps.clear()
        self._results.close()

    def _route(self, named: Any) -> Route:
        route = self._door.routing.inside(str(named)) if named else self._worker
        if route is None:
            raise Refused("no_worker", "the box names no model for maps", remedy="name one that the box allows with --model")
        return route

    async def _watching(self) -> None:
        """Tell how far the maps are, and abandon those that nobody asks after."""
        while True:
            await asyncio.sleep(1.0)
            now = self._now()
            for name, one in list(self._maps.items()):
                one.tell()
                if not self._asking.get(name) and now - self._seen[name] > LEASE:
                    del self._maps[name]
                    task = asyncio.create_task(self._abandon(one))
                    self._leaving.add(task)
                    task.add_done_callback(self._leaving.discard)

    async def _abandon(self, one: Map) -> None:
        try:
            await one.abandon()
        except asyncio.CancelledError:
            await one.cut()
            raise


def _spec(arguments: Mapping[str, Any], route: Route) -> MapSpec:
    prompt = str(arguments["prompt"])
    if not prompt.strip() or len(prompt.encode()) > MOST_PROMPT:
        raise UsageError(
            "bad_prompt", f"a prompt has 1 to {MOST_PROMPT} bytes", remedy="put what differs between items into the items"
        )
    counts = {
        "concurrency": (arguments.get("concurrency") or CONCURRENCY, 1, MOST_CONCURRENCY),
        "max_output": (arguments.get("max_output") or MAX_OUTPUT, 1, 1_000_000),
        "allow_failed": (arguments.get("allow_failed") or 0, 0, 2**53),
        "expected": (arguments.get("expected") or 0, 0, 2**53),
    }
    for name, (value, least, most) in counts.items():
        if not least <= value <= most:
            raise UsageError("bad_count", f"{name} is {value}", remedy=f"give {least} to {most}")
    rate = arguments.get("max_failure_rate")
    rate = MAX_FAILURE_RATE if rate is None else float(rate)
    if not 0 <= rate <= 1:
        raise UsageError("bad_count", f"max_failure_rate is {rate:g}", remedy="give 0 to 1")
    schema = arguments.get("schema")
    return MapSpec(
        prompt=prompt,
        model=route.name,
        reference=f"{route.provider}/{route.reference}",
        split=str(arguments.get("split") or "")[:100],
        expected=int(counts["expected"][0]),
        concurrency=int(counts["concurrency"][0]),
        allow_failed=int(counts["allow_failed"][0]),
        max_output=min(int(counts["max_output"][0]), route.price.max_output),
        schema=Schema.read(schema) if schema is not None else None,
        max_failure_rate=rate,
    )


def _items(given: list[Any]) -> list[Item]:
    return [_item(one) for one in given]


def _item(given: Any) -> Item:
    told: dict[str, Any] = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    number, shard, text = told.get("item"), told.get("shard"), told.get("text", "")
    unreadable = told.get("unreadable", "")
    fits = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53
    if not fits or not all(isinstance(one, str) for one in (shard, text, unreadable)):
        raise UsageError(
            "bad_item",
            "an item is {item: number, shard: text, text: text}",
            remedy="or {item, shard, unreadable: why there is no text}",
        )
    if len(text.encode()) > MOST_ITEM:
        unreadable, text = f"it is over {MOST_ITEM} bytes", ""
    return Item(cast("int", number), str(shard)[:1000], text, unreadable[:500])
