"""An agent in its surroundings: which account pays its calls, and how it waits while the brake is pulled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gearcase.agent.asking import Sleep
from gearcase.agent.commands import MAX_TIMEOUT
from gearcase.agent.loop import Agent, Past, Surroundings
from gearcase.agent.prompt import DoorLine, instructions
from gearcase.agent.transcript import Model
from gearcase.box import Box
from gearcase.brake import Level, Part
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.headers import RESOURCE, is_out_of_budget
from gearcase.doors.model.routing import Route
from gearcase.doors.server import HttpRequest, Reply
from gearcase.ledger import Ledger
from gearcase.run.accounts import LEAD, Pace, Purse, set_aside
from gearcase.run.questions import Questions
from gearcase.sandbox.beneath import explaining, make_directory
from gearcase.sandbox.trees import write_file
from gearcase.seams import Command, CommandResult, Recorder, Sandbox
from gearcase.units import format_duration, format_money

SHELL = ("/bin/bash", "-c")
_HEADERS = ((b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"), (b"user-agent", b"gearcase"))


@dataclass(slots=True)
class Driving:
    """What the loop is given, for one agent of a run. `box` is the agent's own; `questions` are asked for the lead alone."""

    box: Box
    sandbox: Sandbox
    door: ModelDoor
    ledger: Ledger
    brake: Part
    pace: Pace
    purse: Purse
    run_command: Callable[[Command, str], Awaitable[CommandResult]]
    questions: Questions | None
    sleep: Sleep = asyncio.sleep  # between attempts to reach the model
    note: str | None = None  # of `gear done`
    short_of: str = ""  # which resource could not pay the next call
    _agent: Agent | None = field(default=None, repr=False)

    def agent(
        self, route: Route, recorder: Recorder, about: str = "", doors: Sequence[DoorLine] = (), past: Past | None = None
    ) -> Agent:
        """The agent, ready to run. `about` is added to its instructions, which name its `doors`; `past` keeps what is said."""
        price = route.price
        name = route.name if self.purse.agent == LEAD else route.reference  # a bare name may mean the lead's
        model = Model(name, route.protocol, price.context_window, price.max_output)
        around = Surroundings(
            ask=self._ask,
            shell=self._shell,
            keep=self._keep,
            status=self._status,
            phase=self._phase,
            limit=lambda: self.pace.limit or "stopped",
            done=lambda: self.note,
            sleep=self.sleep,
            goes_on=self._goes_on,
            waits_for_upstream=self._waits_for_upstream,
        )
        told = instructions(self.box, doors) + about
        with explaining(b"outputs", "making"):
            make_directory(self.sandbox.box, b"outputs", 0o755, None)  # that the instructions name
        self._agent = Agent(self.purse.agent, model, told, self.box.goal.strip(), around, recorder, past)
        return self._agent

    def _phase(self):
        self.pace.steps = self._agent.step if self._agent else 0
        return self.pace.now()

    async def _ask(self, path: str, body: bytes) -> Reply:
        """One call of the agent. When its account cannot pay, the reserve does, once the agent has been told to hand in."""
        await self._goes_on()
        while True:
            winding_down = self.pace.phase != "work"
            account = self.purse.reserve if winding_down else self.purse.work
            caller = Caller(self.purse.agent, account, lead=True)
            reply = await self.door.exchange(caller, HttpRequest("POST", path, b"", _HEADERS, body))
            if not is_out_of_budget(reply.headers) or winding_down:
                break
            self.short_of = reply.headers.get(RESOURCE, "")
            if self.questions is None or not await self.questions.more_money(self.short_of):
                self.pace.wind_down("budget")
                break
        if self.questions is not None and reply.status == 200:
            self.questions.asked_once_more = False
        await self.brake.wait_for(lambda level: level < Level.FROZEN)
        return reply

    async def _goes_on(self) -> None:
        await self.brake.wait_for(lambda level: level is Level.RUNNING)

    async def _waits_for_upstream(self, why: str) -> bool:
        return self.questions is not None and await self.questions.upstream_answers(why)

    async def _shell(self, text: str, seconds: float) -> CommandResult:
        await self.brake.wait_for(lambda level: level < Level.FROZEN)
        left = max(self.pace.wall - self.pace.used, 1.0)
        return await self.run_command(
            Command((*SHELL, text), deadline=min(seconds, left, MAX_TIMEOUT), output_cap=512 * 1024), text
        )

    def _keep(self, name: str, data: bytes) -> str:
        write_file(self.sandbox.box, name.encode(), data)
        return f"/box/{name}"

    def _status(self) -> str:
        limits = self.box.limits
        account = self.purse.reserve if self.pace.phase != "work" else self.purse.work
        left = [f"{format_duration(max(self.pace.wall - self.pace.used, 0))} of {format_duration(self.pace.wall)}"]
        money = self.ledger.balance(account, "usd")
        if money.limit is not None:
            whole = self.ledger.balance(self.purse.whole, "usd").limit or 0
            aside = self._set_aside() if self.pace.phase == "work" else ""
            left.insert(0, f"{format_money(money.free or 0)} of {format_money(whole)}{aside}")
        steps = self._agent.step if self._agent else 0
        left.append(f"{limits.steps - steps} answers")
        return f"[left: {', '.join(left)}]"

    def _set_aside(self) -> str:
        """What is neither free nor spent, and for whom; empty where nothing is."""
        agents, calls = set_aside(self.ledger, self.purse, "usd")
        whom = " and ".join(["agents and repairs"] * bool(agents) + ["calls under way"] * bool(calls))
        return f" ({format_money(agents + calls)} set aside for {whom})" if whom else ""
