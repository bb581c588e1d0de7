"""What an operator can do to a run that lives, with the brake and with money: verbs of the control socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gearcase.brake import Brake, Level
from gearcase.errors import RunError
from gearcase.run.accounts import Pace
from gearcase.run.questions import BUDGET, OPERATOR, UPSTREAM, Questions
from gearcase.run.spawning import Spawning
from gearcase.run.watching import MONITOR

Answer = dict[str, Any]


class Operating:
    """The verbs. `children`: the sub-agents, once there is somebody who can have some."""

    def __init__(self, brake: Brake, pace: Pace, questions: Questions) -> None:
        self._brake = brake
        self._pace = pace
        self._questions = questions
        self.children: Spawning | None = None

    def verbs(self) -> Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]]:
        """For the control socket."""
        return {
            "freeze": self._freeze,
            "resume": self._resume,
            "grant": self._grant,
            "wind_down": self._wind_down,
            "kill": self._kill,
            "status": self._status,
        }

    async def _freeze(self, request: Mapping[str, Any]) -> Answer:
        by, reason = str(request.get("by") or OPERATOR), str(request.get("reason") or "")
        if request.get("agent"):
            agent = self._agent(str(request["agent"]))
            took = await self._brake.pull(Level.FROZEN, by, reason, agent=agent)
            return {"agent": agent, "level": "frozen", "milliseconds": round(took, 1)}
        took = await self._brake.pull(Level.LATCHED if request.get("latch") else Level.FROZEN, by, reason)
        self._questions.left_frozen()
        return {"level": self._level, "milliseconds": round(took, 1)}

    async def _resume(self, request: Mapping[str, Any]) -> Answer:
        if request.get("agent"):
            agent = self._agent(str(request["agent"]))
            await self._brake.pull(Level.RUNNING, OPERATOR, agent=agent)
            return {"agent": agent, "level": "running"}
        added = await self._grant({"usd": request["add_usd"]}) if request.get("add_usd") else {}
        self._questions.paging.answered(OPERATOR)
        await self._brake.pull(Level.RUNNING, OPERATOR, also=(BUDGET, UPSTREAM, MONITOR))
        return {**added, "level": self._level}

    async def _grant(self, request: Mapping[str, Any]) -> Answer:
        return {"usd": self._questions.grant(int(request.get("usd") or 0)), "level": self._level}

    async def _wind_down(self, request: Mapping[str, Any]) -> Answer:
        self._pace.wind_down(OPERATOR, "asked to hand in")
        return await self._resume(request)

    async def _kill(self, request: Mapping[str, Any]) -> Answer:
        took = await self._brake.pull(Level.KILLED, OPERATOR, str(request.get("reason") or ""))
        self._questions.paging.answered(OPERATOR)
        return {"level": "killed", "milliseconds": round(took, 1)}

    async def _status(self, request: Mapping[str, Any]) -> Answer:
        return {"level": self._level, "phase": self._pace.phase}

    @property
    def _level(self) -> str:
        return self._brake.level.name.lower()

    def _agent(self, text: str) -> str:
        """A sub-agent that lives, by id or name. Raises RunError `no_agent`."""
        made = self.children.made if self.children is not None else None
        living = made.living() if made is not None else []
        for kin in living:
            if text in (kin.id, kin.name):
                return kin.id
        known = ", ".join(kin.id if kin.name == kin.id else f"{kin.id} ({kin.name})" for kin in living) or "none"
        raise RunError("no_agent", f"no sub-agent {text[:60]!r} lives in this run", remedy=f"those that live: {known}")
