"""One agent: ask the model, run its commands, tell it what came of them, until it hands in or cannot go on.

The loop knows no workflow: one tool, `bash`, and everything else is a command inside the box. It ends in exactly one `AgentEnd`:
`done` (`gear done` was called), a limit (`budget`, `wall`, `steps`), `stopped`, or `failed` with its cause. Before a limit ends
it, the agent is told once to hand in and gets a few last turns, paid from the reserve. What it needs from outside comes as the
functions of `Surroundings`: money, time and permission are decided there, never here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from gearcase.agent.archive import Archive, Keep
from gearcase.agent.asking import Ask, Sleep, ask_model
from gearcase.agent.commands import SHOWN, read_call, show_result
from gearcase.agent.context import Context
from gearcase.agent.conversation import Conversation
from gearcase.agent.dialects import DIALECTS
from gearcase.agent.prompt import CALL_CUT_OFF, CUT_OFF, HAND_IN, NO_COMMAND, NOT_BEGUN, UNKNOWN
from gearcase.agent.transcript import Answer, Call, Model, Ran, Said, clip
from gearcase.errors import GearcaseError, RunError
from gearcase.events import AgentEnded, AgentStarted, AgentTurn, AttemptFailed
from gearcase.seams import CommandResult, Recorder

Phase = Literal["work", "wind_down", "stop"]

NUDGES = 3
"""Answers in a row without a command that are answered with a nudge; the next one ends the agent."""
LAST_TURNS = 5
"""Turns after the agent was told to hand in."""
LAST_OUTPUT = 4096
"""Most tokens of an answer in those turns."""
LEAST_OUTPUT = 1024
"""Tokens that are asked for however full the window is."""
_REASONS = {"wall": "wall", "steps": "steps", "stopped": "stopped", "operator": "stopped"}


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """How an agent ended. `reason`: done | budget | wall | steps | stopped | failed; `note` is the one of `gear done`, `error` what
    the box could not do for it."""

    reason: str
    detail: str = ""
    note: str = ""
    error: GearcaseError | None = None


async def _at_once() -> None:
    """Nobody holds it."""


async def _ends(why: str) -> bool:
    return False


def _down(model: str, detail: str) -> RunError:
    told, _, remedy = detail.partition(". Remedy: ")
    again = "then start it again; with --unanswered it stands still instead and waits for you"
    return RunError("model_unanswered", f"{model} does not answer: {told}", remedy=f"{remedy}; {again}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loop is given. All are called from the loop's task; `ask` and `shell` may wait as long as the run is frozen."""

    ask: Ask
    shell: Callable[[str, float], Awaitable[CommandResult]]  # (command, seconds)
    keep: Keep
    status: Callable[[], str]  # one line: what is left of each limit
    phase: Callable[[], Phase]
    limit: Callable[[], str]  # which limit ended the phase "work": usd, tokens, cpu_time, wall, steps, operator, stopped
    done: Callable[[], str | None]  # the note of `gear done`; None until it is called
    sleep: Sleep = asyncio.sleep
    goes_on: Callable[[], Awaitable[None]] = _at_once  # waits while it is held; what it is told meanwhile is in its request
    waits_for_upstream: Callable[[str], Awaitable[bool]] = _ends  # stands still until somebody answers; true: ask again


@dataclass(frozen=True, slots=True)
class Past:
    """Where an agent's conversation is kept; where it begins with what an earlier run kept, `told` says what happened since."""

    conversation: Conversation
    told: str = ""


class Agent:
    """One agent. `run` may be called once."""

    def __init__(
        self,
        name: str,
        model: Model,
        system: str,
        goal: str,
        surroundings: Surroundings,
        recorder: Recorder,
        past: Past | None = None,
    ) -> None:
        self._archive = Archive(surroundings.keep, recorder, name)
        log = {"log": past.conversation.keep} if past is not None else {}
        self.context = Context(system, model.context_window, self._archive, recorder, name, **log)
        earlier = past.conversation.earlier if past is not None else []
        self._archive.skip_outputs(sum(line["kind"] == "output" for line in earlier))
        self.context.take_up(earlier)
        self.step = 0
        self._name = name
        self._model = model
        self._system = system
        self._goal = goal
        self._around = surroundings
        self._recorder = recorder
        self._past = past
        self._plain = 0
        self._last_turns: int | None = None
        self._unpaid = 0

    def tell(self, text: str) -> None:
        """A message to the agent from outside (a monitor's note, an operator), with its next turn."""
        self.context.tell(text)

    async def run(self) -> AgentEnd:
        """Work until the end. Errors of the box become `failed`; cancelling records `stopped` and goes on up."""
        self._recorder.append(AgentStarted(self._model.name, self._goal), self._name)
        try:
            self._begin()
            end = None
            while end is None:
                end = self._limits() or await self._turn()
            self.context.write()
        except GearcaseError as error:
            end = AgentEnd("failed", f"{error.code}: {error.message}. Remedy: {error.remedy}", error=error)
        except asyncio.CancelledError:
            self._recorder.append(AgentEnded("stopped", "stopped from outside"), self._name)
            raise
        finally:
            if self._past is not None:
                self._past.conversation.close()
        self._recorder.append(AgentEnded(end.reason, end.detail), self._name)
        return end

    def _begin(self) -> None:
        """With the goal, or where an earlier run's agent was cut off. Every call gets a result: the providers demand it."""
        if self._past is None or not self._past.conversation.earlier:
            self.context.tell(self._goal, pinned=True)
        for at, call in enumerate(self.context.unanswered()):
            self.context.add(Ran(call.id, NOT_BEGUN if at else UNKNOWN, failed=True))
        if self._past is not None and self._past.told:
            self.context.tell(self._past.told)

    def _limits(self) -> AgentEnd | None:
        """The end, if it is reached; else count down the last turns, or tell the agent that they begin."""
        if end := self._ended():
            return end
        phase = self._around.phase()
        if phase == "wind_down":
            limit = self._around.limit()
            self._wind_down("the operator asks for it" if limit == "operator" else f"the limit of {limit} is nearly reached")
        elif not self._unpaid:
            self._last_turns = None  # a limit was raised
        if self._last_turns == 0:
            return self._end_by_limit(f"{LAST_TURNS} last turns passed without `gear done`")
        if self._last_turns is not None:
            self._last_turns -= 1
        return None

    def _ended(self) -> AgentEnd | None:
        if (note := self._around.done()) is not None:
            return AgentEnd("done", note=note)
        return self._end_by_limit("it is reached") if self._around.phase() == "stop" else None

    def _end_by_limit(self, detail: str) -> AgentEnd:
        limit = self._around.limit() or "usd"
        return AgentEnd(_REASONS.get(limit, "budget"), f"{limit}: {detail}")

    def _wind_down(self, why: str) -> None:
        if self._last_turns is None:
            self._last_turns = LAST_TURNS
            self.context.tell(HAND_IN.format(why=why, turns=LAST_TURNS))

    async def _turn(self) -> AgentEnd | None:
        answer = await self._answer()
        if isinstance(answer, AgentEnd):
            return answer
        said = answer.said
        self.step += 1
        self.context.add(said)
        self.context.report(answer.tokens)
        self._recorder.append(AgentTurn(self.step, clip(said.text, 8000), len(said.calls)), self._name)
        if said.calls:
            self._plain = 0
            return await self._run_calls(said)
        self._plain += 1
        if self._plain > NUDGES:
            return AgentEnd(
                "failed", f"{self._plain} answers in a row without a command, although told how; last: {said.text[:300]!r}"
            )
        self.context.tell(CUT_OFF if said.stop == "length" else NO_COMMAND)
        return None

    async def _answer(self) -> Answer | AgentEnd:
        """Ask; where the request is too long or cannot be paid, do what can help, once each."""
        dialect = DIALECTS[self._model.protocol]
        shortened = False
        while True:
            await self._around.goes_on()
            self.context.begin(self._around.status())
            body = dialect.request(self._model, self._system, self.context.messages(), self._most_output())
            outcome = await ask_model(self._around.ask, dialect, body, self._around.sleep, self._tell, self.step > 0)
            if isinstance(outcome, Answer):
                return outcome
            if outcome.kind == "too_long" and not shortened:
                shortened = True
                self.context.too_long()
            elif outcome.kind == "budget" and self._unpaid < 2 and self._around.phase() != "stop":
                self._cannot_pay()
            elif outcome.kind == "down":
                if not await self._around.waits_for_upstream(outcome.detail):
                    return AgentEnd("failed", outcome.detail, error=_down(self._model.name, outcome.detail))
            elif outcome.kind == "budget" and self._around.limit() in ("wall", "steps"):
                return self._end_by_limit(f"the hand-over cannot be paid: {outcome.detail}")
            else:
                return AgentEnd("budget" if outcome.kind == "budget" else "failed", outcome.detail)

    def _tell(self, missed: AttemptFailed) -> None:
        self._recorder.append(missed, self._name)
        self._recorder.flush()  # whoever watches sees at once why nothing happens

    def _cannot_pay(self) -> None:
        """First the hand-over, which the reserve may pay; where that has begun or is refused too, a request half as long."""
        self._unpaid += 1
        if self._last_turns is not None:
            self._unpaid = 2
            self.context.compact(self.context.tokens / self.context.window / 2)
        self._wind_down("the account cannot pay another call of this size")

    def _most_output(self) -> int:
        most = self._model.max_output if self._last_turns is None else min(LAST_OUTPUT, self._model.max_output)
        room = int(0.98 * self._model.context_window) - self.context.tokens
        return min(most, max(LEAST_OUTPUT, room))

    async def _run_calls(self, said: Said) -> AgentEnd | None:
        """Every call is answered, in order, also those that no longer run: the providers demand it."""
        end: AgentEnd | None = None
        shown = min(SHOWN, 3 * SHOWN // len(said.calls))
        for call in said.calls:
            cut = said.stop == "length" and call is said.calls[-1]
            why_not = "the agent has ended" if end else CALL_CUT_OFF if cut else ""
            self.context.add(Ran(call.id, f"not run: {why_not}", failed=True) if why_not else await self._run(call, shown))
            end = end or self._ended()
        return end

    async def _run(self, call: Call, shown: int) -> Ran:
        wanted = read_call(call)
        if isinstance(wanted, str):
            return Ran(call.id, f"not run: {wanted}", failed=True)
        result = await self._around.shell(wanted.command, wanted.timeout)
        return Ran(call.id, show_result(result, self._archive.output, shown), failed=result.exit_code != 0)
