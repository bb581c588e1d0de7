"""`never_started`: nobody is at work. No model ever answered, or nothing has moved for a long time."""

from __future__ import annotations

from gearcase.events import AgentEnded, AgentStarted, CommandEnded, CommandStarted, ModelCalled, Tick
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.monitors.totals import LEAD

NO_ANSWER = 120.0
"""Seconds of box time without a first answer. Half of one public leaderboard's logged runs never had one."""
PATIENCE = 600.0
"""Seconds for which a call in flight that somebody bills, or an upstream that says `later`, is waited for."""
IDLE = 600.0
"""Seconds without call, command and processor time, after the work had begun."""
IDLE_CPU = 0.01
"""Share of one processor below which a box does nothing."""
_LATER = frozenset({429, 503, 529})


class NeverStarted(Detector):
    """See the module."""

    name = "never_started"
    acts = True
    kinds = (AgentStarted, ModelCalled, CommandStarted, CommandEnded, Tick, AgentEnded)
    needs = frozenset({"model", "time"})
    rule = "no answer of a model in 120 s, or until the agent ended; later no call, no command and no processor time for 600 s"

    def __init__(self) -> None:
        self._began: float | None = None
        self._answered = False
        self._life = 0.0
        self._failed = 0
        self._status = 0
        self._why = ""
        self._cpu: dict[str, tuple[float, float]] = {}

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        match event:
            case AgentStarted():
                self._began = fact.at if self._began is None else self._began
                self._life = fact.at
            case ModelCalled():
                self._call(event)
                self._life = fact.at
            case Tick():
                self._tick(event, fact)
                return self._verdict(fact)
            case AgentEnded():  # not the run's: after that record there is no other
                return self._at_the_end() if fact.agent == LEAD else None
            case _:
                self._life = fact.at
        return None

    def _call(self, event: ModelCalled) -> None:
        if event.status < 400 and event.ended in ("complete", "clamped"):
            self._answered = True
        else:
            self._failed += 1
            self._status, self._why = event.status, event.why[:200]

    def _tick(self, event: Tick, fact: Fact) -> None:
        at, cpu = self._cpu.get(fact.agent, (fact.at, event.cpu))
        if event.cpu - cpu >= IDLE_CPU * max(fact.at - at, 1.0):
            self._life = fact.at if self._answered else self._life
        self._cpu[fact.agent] = (fact.at, event.cpu)

    def _verdict(self, fact: Fact) -> Alarm | None:
        if self._began is None or fact.run.ended:
            return None
        if fact.run.waiting(fact.at, PATIENCE):
            self._life = fact.at
            return None
        if not self._answered:
            waited = fact.at - self._began
            return self._no_answer(waited) if waited >= (PATIENCE if self._status in _LATER else NO_ANSWER) else None
        idle = fact.at - self._life
        if idle < IDLE:
            return None
        said = f"for {idle:.0f} s there was no call of a model, no command, and no processor time"
        return Alarm(self.name, "latch", said, "go on, or hand in with `gear done`", evidence={"idle": round(idle)})

    def _no_answer(self, waited: float) -> Alarm:
        last = f"; the last of {self._failed} failed calls: {self._status} {self._why}".rstrip() if self._failed else ""
        said = f"no model has answered in the first {waited:.0f} s{last}"
        remedy = "see that the upstream can be reached and that its key is right: gearcase doctor"
        return Alarm(
            self.name, "end", said, remedy, evidence={"waited": round(waited), "failed": self._failed, "status": self._status}
        )

    def _at_the_end(self) -> Alarm | None:
        if self._answered:
            return None
        remedy = "see that the upstream can be reached and that its key is right: gearcase doctor"
        evidence = {"failed": self._failed, "status": self._status}
        return Alarm(self.name, "end", "the agent ended and no model had ever answered", remedy, evidence=evidence)
