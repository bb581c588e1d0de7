"""The maps of a run, as operations of the gear door: `map` begins one, `map-items` gives items and takes endings.

A program in the box shards its own files and sends what is in them (`inbox/gearmap.py`): no process of the host opens, splits or
decodes a file that an agent chose. What arrives is length-capped JSON, in batches of as many items as there was room for.

Where a command answers or judges (`run`, `validator`), it sees the files of /workspace that the program names, as they were when the map
began, in sandboxes of its own (`sandboxes.py`, `commands.py`).

A map is abandoned when the program that gives it items breaks off, or does not ask after it for LEASE seconds of box time: it was killed.
Calls in flight end and are kept, so the same command finds them.

Threat: arguments are the agent's. Sizes, counts and the schema are bounded before anything is kept.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from gearcase.box.declaration import Maps as MapsTable
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Route
from gearcase.errors import Refused, UsageError
from gearcase.seams import Recorder
from gearcase.swarm import optimizing
from gearcase.swarm.asking import MAX_OUTPUT
from gearcase.swarm.desk import Desk
from gearcase.swarm.items import Item, Known, MapSpec, Use
from gearcase.swarm.known import KnownAnswers, is_named
from gearcase.swarm.map import Map
from gearcase.swarm.questions import Flights, Judge
from gearcase.swarm.results import Results
from gearcase.swarm.rewriting import MOST_PROMPT, REPLY, REPLY_OUTPUT
from gearcase.swarm.schema import Schema
from gearcase.swarm.shards import Asking
from gearcase.swarm.worker import Worker
from gearcase.swarm.works import Engines, ask_work, run_work
from gearcase.units import NANO

if TYPE_CHECKING:
    from gearcase.swarm.commands import Validator
    from gearcase.swarm.sandboxes import Sandboxes, View

CONCURRENCY = 16
MOST_CONCURRENCY = 512
MAX_FAILURE_RATE = 0.5
"""Of the canary; above it the rest is not asked about."""
MOST_ITEM = 256 * 1024
"""Bytes of one item's text."""
MOST_SHARD = 640 * 1024
"""Bytes of one item's text where a command answers."""
MOST_DEADLINE = 24 * 3600.0
"""Seconds that a command may be given."""
MOST_MAPS = 4
"""Going on at once in a run."""
LEASE = 20.0
"""Seconds of box time after which a map is abandoned that nobody asks after."""
LINGER = 1.0
"""Seconds in which endings are gathered before they are handed out."""
TAKEN_BYTES = 512 * 1024


@dataclass(slots=True)
class _Commands:
    """What the commands of one map need until it ends."""

    view: View
    use: Use
    validator: Validator | None = None


class Maps:
    """The maps of one run.

    `free`: nano-dollars of the account that are left, None where it has no limit; `ready` is waited for before each call; `now` is box
    time in seconds; `shelter` makes what gives commands their sandboxes, when the first map has one; `carve` opens an account, for an
    agent, with so many nano-dollars of the maps' own, and `close` gives back what is left of it;
    `engines`: where their work executes; `numbers` names maps where several agents of the run have some.
    """

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
        shelter: Callable[[], Sandboxes],
        box: MapsTable,
        carve: Callable[[str, str, int], None],
        close: Callable[[str], None],
        engines: Engines,
        numbers: Iterator[int] | None = None,
        flights: Flights | None = None,
    ) -> None:
        self._engines = engines
        self._box = box
        self._carve = carve
        self._close_account = close
        self._shelter = shelter
        self._sandboxes: Sandboxes | None = None
        self._commands: dict[str, _Commands] = {}
        self._beginning = 0
        self._door = door
        self._worker = worker
        self._account = account
        self._free = free
        self._results = results
        self._recorder = recorder
        self._ready = ready
        self._now = now
        self._flights: Flights = {} if flights is None else flights
        self._maps: dict[str, Map] = {}
        self._seen: dict[str, float] = {}
        self._asking: dict[str, int] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._numbers = numbers or itertools.count(1)
        self._watch: asyncio.Task[None] | None = None

    async def begin(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A new map. Raises Refused and UsageError."""
        route = None if arguments.get("run") else self._route(arguments.get("model"))
        spec = _spec(arguments, route)
        if len(self._maps) + self._beginning >= MOST_MAPS:
            live = ", ".join(self._maps)
            raise Refused("too_many_maps", f"{MOST_MAPS} maps are going on: {live}", remedy="wait until one of them has ended")
        name = f"m{next(self._numbers)}"
        self._beginning += 1
        try:
            made = await self._make(name, agent, spec, route, arguments)
        except BaseException:
            await self._end_commands(name)
            raise
        finally:
            self._beginning -= 1
        self._maps[name] = made
        self._seen[name] = self._now()
        if self._watch is None:
            self._watch = asyncio.create_task(self._watching())
        most = MOST_SHARD if spec.run else MOST_ITEM
        return {"map": name, "model": spec.model, "prompt": spec.prompt_hash, "room": made.room, "most_item": most}

    async def _make(self, name: str, agent: str, spec: MapSpec, route: Route | None, arguments: Mapping[str, Any]) -> Map:
        """A map with who answers and who judges."""
        use, judge = Use(), cast("Judge | None", None)
        asking: Asking | None = None
        if route is not None:
            caller = Caller(agent, self._account, label=f"map {name}")
            work = ask_work(name, caller, route, spec.schema, spec.max_output)
            worker = Worker(self._door, caller, route, spec.schema, spec.max_output)
            away = self._door.routing.reached_elsewhere(route, self._engines.same_machine)
            asking = await self._engines.asking(work, worker, spec.concurrency, use, away=away)
        if spec.run or spec.validator:
            from gearcase.swarm.commands import DEADLINE, CommandWorker, Validator

            sandboxes = self._sandboxes = self._sandboxes or self._shelter()
            view = await sandboxes.view(_paths(arguments, "give"), str(arguments.get("cwd") or "."), _paths(arguments, "without"))
            commands = self._commands[name] = _Commands(view, use)
            spec = replace(spec, files=f"{view.digest} {view.cwd}")
            deadline = float(arguments.get("deadline") or DEADLINE)
            if asking is None:
                parts = sandboxes.most(arguments.get("concurrency"))
                spec = replace(spec, concurrency=parts)
                worker = CommandWorker(sandboxes, view, spec.run, spec.schema, deadline, parts, use)
                work = run_work(name, agent, spec.run, spec.schema, deadline, parts, view)
                asking = await self._engines.asking(
                    work, worker, parts, use, away=not sandboxes.sees_more, each=True, pay=sandboxes.took
                )
            if spec.validator:
                commands.validator = Validator(sandboxes, view, spec.validator, deadline, use)
                judge = commands.validator.judge
        assert asking is not None
        desk = self._desk(name, agent, spec, route, arguments.get("repair_model")) if route is not None and spec.repair else None
        shared = (self._results, self._flights, self._recorder, agent)
        return Map(
            name,
            spec,
            asking,
            *shared,
            ready=self._ready,
            judge=judge,
            use=use,
            desk=desk,
            learned=self._results.learned(spec.digest()),
            known=self._known_of(arguments),
            width=asking.width,
            stop_asking=asking.stop,
        )

    def _known_of(self, arguments: Mapping[str, Any]) -> KnownAnswers | None:
        """The answers that are known for a map with these names."""
        named = [str(name) for name in cast("list[Any]", arguments.get("named") or [])][:1000] or [""]
        fits = [one for one in self._box.known if any(is_named(name, one.map) for name in named)]
        if not fits or arguments.get("run"):
            return None
        return KnownAnswers([Known(one.item, one.answer) for one in fits], self._box.known_at_least)

    def _desk(self, name: str, agent: str, spec: MapSpec, route: Route, named: Any) -> Desk:
        """What a repair of the prompt works with. Its money is carved out when the first rewrite is asked for."""
        routing = self._door.routing
        lead = routing.inside(str(named)) if named else routing.lead() or route
        account = f"{self._account} repair {name}"
        caller = Caller(agent, account, label=f"map {name} repair")

        def open_account(projected: int, to_come: int) -> int | None:
            budget = repair_budget(self._free(), projected, to_come)
            self._carve(account, agent, budget)
            return budget

        return Desk(
            model=lead.name,
            rewrite=Worker(self._door, caller, lead, REPLY, REPLY_OUTPUT),
            ask=Worker(self._door, caller, route, spec.schema, spec.max_output),
            open=open_account,
            close=lambda: self._close_account(account),
        )

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
        most = MOST_SHARD if one.spec.run else MOST_ITEM
        items = [_item(given, most) for given in cast("list[Any]", arguments.get("items") or [])]
        if len(items) > one.most_room:
            raise Refused(
                "map_full", f"{name} has room for {one.most_room} items now", remedy="send no more than the last answer allows"
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
        except asyncio.CancelledError:  # who asked was killed
            self._give_up(name, one)
            raise
        finally:
            self._asking[name] -= 1
            self._seen[name] = self._now()
        if one.finished:
            self._maps.pop(name, None)
            one.conclude()
            one.finish("stopped" if one.stopped else "done")
            ending = asyncio.create_task(self._end_commands(name))
            self._leaving.add(ending)
            ending.add_done_callback(self._leaving.discard)
            await asyncio.shield(ending)  # who asked may be killed meanwhile
        return {
            "endings": [ended.as_json() for ended in taken],
            "room": one.room,
            "ended": one.finished,
            "waiting": one.waiting,
            "account": asdict(one.account),
            "passed": one.finished and one.stopped is None and one.account.passes(one.spec.allow_failed),
            "different": one.told.different,
            "found": one.told.found,
            "calls": one.calls,
            "retries": one.retries,
            "nano_usd": one.spent,
            "projected_nano_usd": one.projected,
            "classes": dict(one.told.classes),
            "clusters": [cluster.as_json() for cluster in one.told.clusters.largest()],
            "canary": asdict(one.canary) if one.canary else None,
            "gate": one.canary is not None or one.account.pending == 0,
            "warnings": dict(one.told.warnings),
            "repair": one.repair.as_json() if one.repair is not None and one.repair.tries else None,
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
        await self._engines.close()
        for name in list(self._commands):
            await self._end_commands(name)
        if self._sandboxes is not None:
            await self._sandboxes.forget()
        self._results.close()

    async def _end_commands(self, name: str) -> None:
        """A map has ended: no sandbox of its commands is left."""
        self._engines.forget(name)
        commands = self._commands.pop(name, None)
        if commands is not None and self._sandboxes is not None:
            if commands.validator is not None:
                await commands.validator.close()
            await self._sandboxes.leave(commands.view)

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
                    self._give_up(name, one)

    def _give_up(self, name: str, one: Map) -> None:
        if self._maps.pop(name, None) is not None:
            task = asyncio.create_task(self._abandon(name, one))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _abandon(self, name: str, one: Map) -> None:
        try:
            await one.abandon()
            await self._end_commands(name)
        except asyncio.CancelledError:
            await one.cut()
            raise


def _spec(arguments: Mapping[str, Any], route: Route | None) -> MapSpec:
    prompt, run = str(arguments.get("prompt") or ""), str(arguments.get("run") or "")
    validator = str(arguments.get("validator") or "")
    if prompt and run:
        raise UsageError("bad_prompt", "both a prompt and a command are given", remedy="a map has one of them")
    texts = [run or prompt, *([validator] if arguments.get("validator") is not None else [])]
    if not all(text.strip() and len(text.encode()) <= MOST_PROMPT for text in texts):
        what = "a command" if run else "a prompt"
        raise UsageError(
            "bad_prompt", f"{what} has 1 to {MOST_PROMPT} bytes", remedy="put what differs between items into the items"
        )
    deadline = arguments.get("deadline")
    if deadline is not None and not 0 < deadline <= MOST_DEADLINE:
        raise UsageError("bad_count", f"deadline is {deadline:g}", remedy=f"give seconds, up to {MOST_DEADLINE:g}")
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
    wanted = arguments.get("repair")
    optimizer = str(arguments.get("optimizer") or "")
    if optimizer:
        if run or wanted is False:
            raise UsageError(
                "bad_optimizer",
                f"the optimizer {optimizer} rewrites prompts, and this map has {'none' if run else 'no repair'}",
                remedy="leave it out, or give a prompt that may be repaired",
            )
        optimizing.require()
    judged = schema is not None or bool(validator) or bool(arguments.get("repair_model")) or bool(optimizer)
    return MapSpec(
        prompt=prompt,
        model=route.name if route else "",
        reference=f"{route.provider}/{route.reference}" if route else "",
        split=str(arguments.get("split") or "")[:100],
        expected=int(counts["expected"][0]),
        concurrency=int(counts["concurrency"][0]),
        allow_failed=int(counts["allow_failed"][0]),
        max_output=min(int(counts["max_output"][0]), route.price.max_output) if route else 0,
        schema=Schema.read(schema) if schema is not None else None,
        max_failure_rate=rate,
        run=run,
        validator=validator,
        repair=not run and (judged if wanted is None else bool(wanted)),
        optimizer=optimizer,
    )


def repair_budget(free: int | None, projected: int, to_come: int) -> int:
    """Nano-dollars that a repair may spend: half of what the map costs, or a dollar, for a dear model's few calls on a small map.

    Never more than half of what is left beside what the rest of the map will cost: the repair cannot eat the money of the items.
    """
    wanted = max(projected // 2, NANO)
    return wanted if free is None else max(0, min(wanted, (free - to_come) // 2))


def _paths(arguments: Mapping[str, Any], name: str) -> list[str]:
    """Paths relative to /workspace. Raises UsageError for what is none."""
    given = cast("list[Any]", arguments.get(name) or [])
    if len(given) > 1000 or not all(isinstance(one, str) and 0 < len(one) < 4096 and "\0" not in one for one in given):
        raise UsageError("bad_path", f"{name} is no list of paths", remedy="give at most 1,000 paths relative to /workspace")
    return [str(one) for one in given]


def _item(given: Any, most: int) -> Item:
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
    if len(text.encode()) > most:
        unreadable, text = f"it is over {most} bytes", ""
    return Item(cast("int", number), str(shard)[:1000], text, unreadable[:500])
