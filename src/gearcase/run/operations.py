"""What the gear door offers inside: the table of operations, each a handler over the parts of one agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gearcase.agent.loop import Agent
from gearcase.box import Box
from gearcase.doors.gear import Operation
from gearcase.doors.http import HttpDoor
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Route
from gearcase.errors import Refused
from gearcase.ledger import Ledger
from gearcase.run.accounts import Pace, Purse, set_aside
from gearcase.run.driving import Driving
from gearcase.run.handover import Acceptance
from gearcase.run.reach import Reach
from gearcase.run.requests import KINDS, Requests
from gearcase.run.room import PROXY
from gearcase.run.workspace import Workspace
from gearcase.sandbox.manifest import Difference
from gearcase.sandbox.states import State
from gearcase.seams import Sandbox
from gearcase.swarm.asking import ask
from gearcase.swarm.maps import Maps
from gearcase.units import format_bytes, format_duration, format_money

_NAMED, _LATEST = 20, 10
_PROXY = {
    "name": PROXY.name,
    "address": f"http://{PROXY.name}:{PROXY.port}",
    "purpose": "a proxy to the hosts below, for programs that want one; nothing more is reached by it",
}


class Operations:
    """The handlers of one agent. Each takes (agent, arguments) and gives a JSON object, or raises GearcaseError."""

    def __init__(
        self,
        *,
        box: Box,
        sandbox: Sandbox,
        ledger: Ledger,
        purse: Purse,
        pace: Pace,
        door: ModelDoor,
        worker: Route | None,
        maps: Maps,
        workspace: Workspace,
        acceptance: Acceptance,
        driving: Driving,
        http: HttpDoor,
        reach: Reach,
        requests: Requests | None,
        agent: Agent | None,
        handing_in: Callable[[], Awaitable[None]],
    ) -> None:
        """`requests`: to the operator, whom the lead alone asks. `handing_in` raises what stands against it."""
        self._box = box
        self._sandbox = sandbox
        self._ledger = ledger
        self._purse = purse
        self._pace = pace
        self._door = door
        self._worker = worker
        self._maps = maps
        self._workspace = workspace
        self._acceptance = acceptance
        self._driving = driving
        self._http = http
        self._reach = reach
        self._requests = requests
        self._agent = agent
        self._handing_in = handing_in
        self._refused_note = ""  # of the last `gear done` that a check refused

    def table(self) -> dict[str, Operation]:
        """Every operation with its description, as the door serves and documents it."""
        text, number = {"type": "string"}, {"type": "integer"}
        asked = {"prompt": text, "model": text, "system": text, "schema": {"type": "object"}, "max_output": number}
        mapped = {**asked, "split": text, "expected": number, "concurrency": number, "allow_failed": number}
        mapped |= {"max_failure_rate": {"type": "number"}, "run": text, "validator": text, "deadline": {"type": "number"}}
        mapped |= {"repair": {"type": "boolean"}, "repair_model": text, "named": {"type": "array"}}
        mapped |= {"optimizer": {"type": "string", "enum": ["gepa"]}}
        mapped |= {"give": {"type": "array"}, "without": {"type": "array"}, "cwd": text}
        del mapped["system"]
        fed = {"map": text, "items": {"type": "array"}, "end": {"type": "boolean"}, "gate": {"type": "boolean"}}
        context = {"action": {"type": "string", "enum": ["show", "drop", "note"]}, "ids": {"type": "array"}, "text": text}
        done = {"note": text, "as_is": {"type": "boolean"}}
        request = {"kind": {"type": "string", "enum": list(KINDS)}, "what": text, "why": text, "wait": {"type": "boolean"}}
        table = {
            "status": Operation(self.status, "Limits, what is spent, time left, deliverables, checks.", _object({})),
            "doors": Operation(self.doors, "The names that can be reached from inside, and what for.", _object({})),
            "ask": Operation(self.ask, "One model call, paid from the budget.", _object(asked, "prompt")),
            "map": Operation(
                self._maps.begin, "Begin a map: a prompt or a command over many items. `gear map` does it whole.", _object(mapped)
            ),
            "map-items": Operation(
                self._maps.items,
                "Give a map items, as many as it has room for; take what has ended. Who breaks off gives the map up.",
                _object(fed, "map"),
                tied=True,
            ),
            "check": Operation(self.check, "Run acceptance checks now, on a copy of the deliverables.", _object({"name": text})),
            "snapshot": Operation(self.snapshot, "Keep the present state of /workspace.", _object({"note": text})),
            "rewind": Operation(
                self.rewind, "Return /workspace to a snapshot; without a name: list them.", _object({"snapshot": text})
            ),
            "done": Operation(
                self.done, "Hand in. The checks run; with as_is the work is handed in whatever they say.", _object(done)
            ),
        }
        if self._requests is not None:
            table["ask-for"] = Operation(
                self._requests.ask_for,
                "Ask the operator for a host, money, time or more of a limit; waits for the answer unless wait is false.",
                _object(request, "kind", "what", "why"),
            )
            table["requests"] = Operation(self._requests.list, "What was asked for, and the answers.", _object({}))
        if self._agent is not None:
            table["context"] = Operation(
                self._agent.context.operation, "See, drop or note what the agent remembers.", _object(context)
            )
        return table

    async def status(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that is limited: what is used, what is left."""
        limits, usage = self._box.limits, await self._sandbox.usage()
        account = self._purse.work if self._pace.phase == "work" else self._purse.reserve
        budget: dict[str, Any] = {}
        shown: dict[str, Callable[[int], str]] = {"usd": format_money, "tokens": str, "calls": str, "egress": format_bytes}
        for resource, show in shown.items():
            balance = self._ledger.balance(self._purse.work if resource == "egress" else account, resource)
            if balance.limit is not None:
                budget[resource] = {"limit": show(balance.limit), "spent": show(balance.spent), "free": show(balance.free or 0)}
                aside = sum(set_aside(self._ledger, self._purse, resource)) if self._pace.phase == "work" else 0
                budget[resource] |= {"set_aside": show(aside)} if aside else {}
        return {
            "phase": self._pace.phase,
            "budget": budget,
            "time": {"limit": format_duration(self._pace.wall), "used": format_duration(self._pace.used)},
            "answers": {"limit": limits.steps, "used": self._pace.steps},
            "memory": {"limit": format_bytes(limits.memory), "used": format_bytes(usage.memory)},
            "disk": {"limit": format_bytes(limits.disk), "used": format_bytes(usage.disk)},
            "processes": {"limit": limits.processes, "used": usage.processes},
            "deliverables": list(self._box.files.take),
            "checks": self._acceptance.latest(),
        }

    async def doors(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Names, addresses and purposes."""
        return {
            "doors": [
                {
                    "name": "model.box",
                    "address": "http://model.box",
                    "purpose": "language models: Anthropic API, OpenAI API below /v1",
                },
                {"name": "gear.box", "address": "http://gear.box", "purpose": "this API; described in /box/openapi.json"},
                *([_PROXY] if self._box.doors.http.proxy else []),
                *self._reach.describe(self._http),
            ],
            "hosts": self._reach.hosts(self._http),
            "note": "Nothing else can be reached. Port 80 of each door's own address is taken; every other port is yours.",
        }

    async def ask(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One model call on the worker model, or on one that the box allows."""
        named = arguments.get("model")
        route = self._door.routing.inside(str(named)) if named else self._worker
        if route is None:
            raise Refused("no_worker", "the box names no model for `ask`", remedy="name one that the box allows with --model")
        return await ask(self._door, Caller(agent, self._purse.work, label="ask"), route, arguments)

    async def check(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run one check or all; what the agent sees of a verdict is the box's decision."""
        return await self._acceptance.on_request(agent, str(arguments.get("name") or ""))

    async def snapshot(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the present state."""
        kept = await self._workspace.keep(str(arguments.get("note") or ""))
        told: dict[str, Any] = {"snapshot": kept.name, "files": kept.manifest.files, "bytes": kept.manifest.size}
        if (databases := self._workspace.databases) is not None and (missing := databases.missing(kept.name)):
            told["databases_not_kept"] = missing
        return told

    async def rewind(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return to a snapshot, or list them."""
        wanted = str(arguments.get("snapshot") or "")
        if not wanted:
            space = self._workspace
            asked = [{"snapshot": s.name, "files": s.manifest.files, "note": s.note} for s in space.snapshots.values()]
            return {"snapshots": [*asked, *map(_by_itself, space.steps.latest(_LATEST) if space.steps is not None else ())]}
        back = await self._workspace.rewind(wanted)
        return {"snapshot": back.name, "undone": _counts(back.undone), "kept_before": back.left.name}

    async def done(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Hand in, once the checks pass or with `as_is`, which without a note has that of the last refusal."""
        note = str(arguments.get("note") or "")
        await self._handing_in()
        if not arguments.get("as_is") and self._box.checks:
            seen = await self._acceptance.on_request(agent, "")
            if not seen["passed"]:
                self._refused_note = note or self._refused_note
                kept = ", which has the note that you gave" if self._refused_note else ""
                raise Refused(
                    "checks_failed",
                    "the checks do not pass: " + "; ".join(f"{c['name']}: {c['verdict']}" for c in seen["checks"]),
                    remedy=f"mend it, or hand in as it is with `gear done --as-is`{kept}",
                    checks=seen["checks"],
                )
        if arguments.get("as_is") and arguments.get("note") is None:
            note = self._refused_note
        self._driving.note = note
        return {"done": True, "note": note}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _by_itself(state: State) -> dict[str, Any]:
    when = f"{'during' if state.running else 'after'} command {state.command}"
    return {"snapshot": state.name, "files": state.files, "note": f"kept by itself {when}"}


def _counts(undone: Difference) -> dict[str, Any]:
    paths = [path.decode("utf-8", "replace") for path in undone.paths(_NAMED)]
    return {"added": len(undone.added), "changed": len(undone.changed), "removed": len(undone.removed), "paths": paths}
