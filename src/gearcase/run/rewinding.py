"""The operator returns a run to a snapshot, its files and its databases: what would be undone is told first, then it is done, and the
agents are told.

The run is frozen before anything is looked at, and stays so. What runs in its box is ended: a program that had the undone files in mind
would go on with what is no longer there, and one that was removing files would remove them again. Servers with what the databases held
stand ready before anything is undone, so that what cannot be returned undoes nothing. What was done behind other doors is not undone, and
that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gearcase.brake import Brake, Level
from gearcase.errors import Refused, RunError
from gearcase.run.databases import Databases, Prepared
from gearcase.run.doors import Doors
from gearcase.run.handover import unless_killed
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
had before is kept as snapshot {left}.{databases}{beside}]"""
_DATABASES = " Returned to it as well: {names}; every session with it was ended, connect again."
_SHARED = (
    "[from the operator: {names}, which your parent has too, was returned to an earlier state; every session with it was ended.]"
)
_BESIDE = " Not undone: {names}."
_KEPT_BEFORE = "databases/{name}-before.dump"


class Rewinding:
    """Of one run; `lead` and what follows it are set while it works."""

    def __init__(self, folder: RunFolder, brake: Brake) -> None:
        self.lead: Member | None = None
        self.children: Spawning | None = None
        self.doors = Doors(())
        self.databases: Databases | None = None
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
        """Freeze, and tell what a return would mean. Raises Refused `database_not_kept`, and nothing is frozen then."""
        effects, to = self._watched(), str(request.get("to"))
        databases = self._meant(request)
        if databases is not None:
            databases.require(to)
        await self._brake.pull(Level.FROZEN, OPERATOR, f"to return to {to}")
        now = await effects.now()
        assert self.lead is not None
        async with self.lead.workspace.turn:
            found = await databases.plan(to) if databases is not None else []
        told = [await one.told() for one in found]
        return {
            "now": now,
            "agents": self._agents(),
            "databases": told,
            "doors": self._behind_doors({one["door"] for one in told}),
        }

    async def _rewind(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do it. Raises Refused `no_snapshot`, `not_kept`, `database_not_kept`, `agents_not_ended`, and what a database says."""
        async with self._turn:
            effects, lead, databases = self._watched(), self.lead, self._meant(request)
            assert lead is not None
            if databases is not None:
                databases.require(str(request.get("to")))
            await self._brake.pull(Level.FROZEN, OPERATOR, f"to return to {request.get('to')}")
            await effects.now()  # on record before it is undone
            stopped = self._agents() if request.get("children") == "stop" else []
            if stopped and self.children is not None and self.children.made is not None:
                left = await self.children.made.discard("stopped by the operator, who returned the lead's files", _PATIENCE)
                if left:
                    remedy = f"gearcase resume {self._folder.name}, and try again in a moment"
                    raise Refused("agents_not_ended", f"{', '.join(left)} did not end, nothing was returned", remedy=remedy)
            ended, returned = 0, list[str]()

            async def tell_and_end(back: Return) -> None:
                nonlocal ended, returned
                ready, left = Prepared(), back.left.name
                try:
                    if databases is not None:
                        await unless_killed(self._brake, databases.prepare(back.name, left, ready))
                    if self._brake.level is Level.KILLED:
                        raise RunError("not_running", "the run was killed, nothing was returned", remedy="gearcase report")
                    returned = ready.doors
                    if lead.agent is not None:  # before its command ends: what it asks its model next must hold it
                        lead.agent.tell(self._told(back, returned))
                    if returned and self.children is not None and self.children.made is not None:
                        self.children.made.tell_of(returned, _SHARED.format(names=", ".join(returned)))
                    ended = await lead.sandbox.end_programs()
                    if databases is not None:
                        await databases.put(back.name, left, ready)
                finally:
                    await ready.leave()

            back = await lead.workspace.rewind(str(request.get("to")), OPERATOR, tell_and_end)
            effects.stir()
            missing = [printable(path) for path in back.missing[:_NAMED]]
            done = {"snapshot": back.name, "kept": back.left.name, "ended": ended, "stopped": stopped, "missing": missing}
            return {**done, "databases": returned}

    def _meant(self, request: Mapping[str, Any]) -> Databases | None:
        return None if request.get("files_only") else self.databases

    def _told(self, back: Return, returned: Sequence[str]) -> str:
        beside = ", ".join(str(one["door"]) for one in self._behind_doors(returned))
        databases = _DATABASES.format(names=", ".join(returned)) if returned else ""
        told = _BESIDE.format(names=beside) if beside else ""
        return _TOLD.format(name=back.name, undone=_said(back.undone), left=back.left.name, databases=databases, beside=told)

    def _watched(self) -> Effects:
        if self.effects is None:
            remedy = "ask again when its first command has run; a run that has ended can be forked: gearcase fork"
            raise Refused("not_at_work", "the run has not begun its work, or is ending", remedy=remedy)
        return self.effects

    def _agents(self) -> list[dict[str, Any]]:
        made = self.children.made if self.children is not None else None
        return [{"agent": kin.id, "name": kin.name, "goal": kin.goal[:200]} for kin in made.living()] if made is not None else []

    def _behind_doors(self, told: Collection[str]) -> list[dict[str, Any]]:
        """What a return does not touch, but for what is told of; with the dump that was made before a first destructive statement."""
        found: list[dict[str, Any]] = []
        for door in self.doors.doors:
            if door.id in told:
                continue
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
