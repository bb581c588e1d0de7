"""The operations on sub-agents, as every agent's gear door offers them. What carries them out is loaded when the first is spawned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gearcase.doors.gear import Operation
from gearcase.errors import Refused
from gearcase.run.member import Member, Shared
from gearcase.seams import Handler

if TYPE_CHECKING:
    from gearcase.run.children import Children

_TEXT, _TEXTS, _COUNT, _FLAG = {"type": "string"}, {"type": "array"}, {"type": "integer"}, {"type": "boolean"}
_QUARTER = "without it a quarter of what you have free"
_SPAWN = {
    "goal": {**_TEXT, "description": "what it shall reach; the first message that it gets"},
    "name": {**_TEXT, "description": "a name beside its id"},
    "model": {**_TEXT, "description": "a model that the box allows, without it yours"},
    "usd": {**_TEXT, "description": f"its money, $0.50; {_QUARTER}"},
    "tokens": {**_COUNT, "description": f"its tokens; {_QUARTER}, where yours are limited"},
    "calls": {**_COUNT, "description": f"its model calls; {_QUARTER}, where yours are limited"},
    "egress": {**_TEXT, "description": f"bytes to the outside, 1MiB; {_QUARTER}, and none where doors is empty"},
    "steps": {**_COUNT, "description": "its answers, at most yours"},
    "wall": {**_TEXT, "description": "its time, 10m, at most yours"},
    "give": {**_TEXTS, "description": "which of your files it gets, paths and patterns; without it all"},
    "take": {**_TEXTS, "description": "patterns of what comes back into your files; without it everything that it changed"},
    "into": {**_TEXT, "description": "a folder of yours below which it comes back"},
    "doors": {
        **_TEXTS,
        "description": "no more than these: ids of `doors`, secrets.NAME, hosts, http for all hosts; [] or none: "
        "model.box and gear.box alone",
    },
    "branch": {**_TEXTS, "description": "databases of which it has a copy of its own"},
    "check": {
        **_TEXT,
        "description": "a command that judges what it hands in: bash in /workspace of a fresh sandbox without doors, on a copy of all "
        "your files of now, given to it or not; what it hands in lies read-only below $DELIVERED (/given/delivered). Exit 0 is passed; "
        "otherwise that goes to rejected/ID",
    },
    "again": {
        **_TEXT,
        "description": "the id of one that ended: its order once more (give, take, limits, check, name), with this goal and whatever "
        "else is said anew, a better check for one; it is given what that one left below rejected/ID, too",
    },
}
_OPERATIONS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "spawn": (
        "Begin a sub-agent in a sandbox of its own, on a copy of your files, paid from your budget. `gear spawn` also waits for it.",
        _SPAWN,
        ("goal",),
    ),
    "wait": ("Wait a while for sub-agents to end; answers with those that have.", {"agents": _TEXTS, "any": _FLAG}, ()),
    "agents": ("The sub-agents below you.", {}, ()),
    "tell": ("Tell a sub-agent of yours, or your `parent`, something.", {"agent": _TEXT, "text": _TEXT}, ("agent", "text")),
    "stop": ("End a sub-agent and those below it.", {"agent": _TEXT}, ("agent",)),
    "result": ("How a sub-agent ended.", {"agent": _TEXT, "trace": _FLAG}, ("agent",)),
}


class Spawning:
    """The sub-agents of one run, made when there are any. `given`: ids that were given in runs which this one goes on for."""

    def __init__(self, shared: Shared, lead: Member, given: int = 0) -> None:
        self._shared = shared
        self._given = given
        self._lead = lead
        self._made: Children | None = None
        self._closed = False
        self.operations = {
            name: Operation(
                self._handler(name),
                summary,
                {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False},
                tied=name == "wait",
            )
            for name, (summary, properties, required) in _OPERATIONS.items()
        }

    @property
    def residue(self) -> list[str]:
        """What stayed of sub-agents' boxes; empty is the promise."""
        return self._made.residue if self._made is not None else []

    @property
    def made(self) -> Children | None:
        """They, where there are any."""
        return self._made

    async def close(self) -> None:
        """The lead has ended, and so do all below it. Idempotent."""
        self._closed = True
        if self._made is not None:
            await self._made.close()

    def _handler(self, name: str) -> Handler:
        async def handle(agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
            if self._closed:
                raise Refused("agent_ended", "the run is ending", remedy="nothing is spawned or told any more")
            if name == "spawn":
                self._shared.watcher.may_spawn(agent)
            operation: Handler = getattr(self._children(), name)
            return await operation(agent, arguments)

        return handle

    def _children(self) -> Children:
        if self._made is None:
            from gearcase.run.children import Children  # only here: most runs have none

            self._made = Children(self._shared, self._lead, self.operations, given=self._given)
        return self._made
