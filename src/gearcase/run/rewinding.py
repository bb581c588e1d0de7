"""The operator returns a run's files to a snapshot: what would be undone is told first, then it is done, and the agent is told.

The run is frozen before anything is looked at, and stays so. What runs in its box is ended: a program that had the undone files in mind
would go on with what is no longer there, and one that was removing files would remove them again. What was done behind doors is not
undone: databases and accounts stay as they are, and that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from gearcase.brake import Brake, Level
from gearcase.errors import Refused
from gearcase.run.doors import Doors
from gearcase.runs import RunFolder
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.manifest import Difference

if TYPE_CHECKING:
    from gearcase.run.effects import Effects
    from gearcase.run.member import Member
    from gearcase.run.spawning import Spawning
    from gearcase.run.workspace import Return

OPERATOR = "operator"
_PATIENCE = 10.0
"""Seconds in which sub-agents that are stopped may end."""
_NAMED = 20
_TOLD = """[from the operator: your files were returned to snapshot {name}. Undone: {undone}. Whatever ran in the box was ended. What you \
had before is kept as snapshot {left}.{beside}]"""
_BESIDE = " Not undone, because it is not files: {names}."
_KEPT_BEFORE = "databases/{name}-before.dump"


class Rewinding:
    """Of one run; `lead` and what follows it are set while it works."""

    def __init__(self, folder: RunFolder, brake: Brake) -> None:
        self.lead: Member | None = None
        self.children: Spawning | None = None
        self.doors = Doors(())
        self.effects: Effects | None = None
        self._folder = folder
        self._brake = brake
        self._turn = asyncio.Lock()

    def verbs(self) -> Mapping[str, Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]]:
        """For the control socket."""
        return {"snapshot": self._snapshot, "rewind_plan": self._plan, "rewind": self._rewind}

    async def _snapshot(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The files of this moment, under the name that the answer gives."""
        return {"snapshot": await self._watched().now()}

    async def _plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Freeze, and tell what a return would mean."""
        effects = self._watched()
        await self._brake.pull(Level.FROZEN, OPERATOR, f"to return to {request.get('to')}")
        return {"now": await effects.now(), "agents": self._agents(), "doors": self._behind_doors()}

    async def _rewind(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do it. Raises Refused `agents_live`, `no_snapshot`, `not_kept`, `agents_not_ended`."""
        async with self._turn:
            effects, lead = self._watched(), self.lead
            assert lead is not None
            await self._brake.pull(Level.FROZEN, OPERATOR, f"to return to {request.get('to')}")
            await effects.now()  # on record before it is undone
            stopped = self._agents() if request.get("children") == "stop" else []
            if stopped and self.children is not None and self.children.made is not None:
                left = await self.children.made.discard("stopped by the operator, who returned the lead's files", _PATIENCE)
                if left:
                    remedy = f"gearcase resume {self._folder.name}, and try again in a moment"
                    raise Refused("agents_not_ended", f"{', '.join(left)} did not end, nothing was returned", remedy=remedy)
            ended = 0

            async def tell_and_end(back: Return) -> None:
                nonlocal ended
                if lead.agent is not None:  # before its command ends: what it asks its model next must hold it
                    lead.agent.tell(self._told(back))
                ended = await lead.sandbox.end_programs()

            back = await lead.workspace.rewind(str(request.get("to")), OPERATOR, tell_and_end)
            effects.stir()
            missing = [printable(path) for path in back.missing[:_NAMED]]
            return {"snapshot": back.name, "kept": back.left.name, "ended": ended, "stopped": stopped, "missing": missing}

    def _told(self, back: Return) -> str:
        beside = ", ".join(str(one["door"]) for one in self._behind_doors())
        told = _BESIDE.format(names=beside) if beside else ""
        return _TOLD.format(name=back.name, undone=_said(back.undone), left=back.left.name, beside=told)

    def _watched(self) -> Effects:
        if self.effects is None:
            remedy = "ask again when its first command has run; a run that has ended can be forked: gearcase fork"
            raise Refused("not_at_work", "the run has not begun its work, or is ending", remedy=remedy)
        return self.effects

    def _agents(self) -> list[dict[str, Any]]:
        made = self.children.made if self.children is not None else None
        return [{"agent": kin.id, "name": kin.name, "goal": kin.goal[:200]} for kin in made.living()] if made is not None else []

    def _behind_doors(self) -> list[dict[str, Any]]:
        """What a return does not touch, with the dump of what a database held before its first destructive statement."""
        found: list[dict[str, Any]] = []
        for door in self.doors.doors:
            dump = self._folder.path / _KEPT_BEFORE.format(name=door.id.partition(".")[2])
            is_kept = door.id.startswith("postgres.") and dump.exists()
            found.append({"door": door.id, "kept": str(dump) if is_kept else ""})
        return found


def _said(undone: Difference) -> str:
    counts = [
        (len(undone.added), "made since are gone"),
        (len(undone.changed) + len(undone.moved), "changed since are as they were"),
        (len(undone.removed), "removed since are back"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    paths = [printable(path) for path in undone.paths(_NAMED)]
    return f"{told} ({', '.join(paths)})" if told else "nothing: they were the same"
