"""`error_storm`: an upstream fails, and is asked again and again. Its calls rest for a while: nobody pays, and nothing hammers it."""

from __future__ import annotations

from collections import deque

from gearcase.events import ModelCalled
from gearcase.monitors.seam import Alarm, Detector, Fact

WINDOW, ANSWERS, FAILING = 60.0, 20, 0.80
"""Seconds, answers within them, and the share of errors."""
SAME = 5
"""Failures of one request, without another answer to it."""
REST, LONGEST = 30.0, 600.0
"""Seconds that a model rests; doubled each time."""
CALM = 1800.0
"""Seconds after which a storm is the first one again."""
_REQUESTS = 512


class ErrorStorm(Detector):
    """See the module."""

    name = "error_storm"
    acts = True
    kinds = (ModelCalled,)
    needs = frozenset({"model", "time"})
    rule = "20 answers of a model in 60 s with 80 % errors, or one request failing 5 times: its calls rest for 30 s, doubling to 10 minutes"

    def __init__(self) -> None:
        self._answers: dict[str, deque[tuple[float, bool]]] = {}
        self._failed: dict[str, int] = {}  # request -> times
        self._storms: dict[str, tuple[float, int]] = {}  # model -> when the last rest ends, how many there were

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        assert isinstance(event, ModelCalled)
        failed = event.status >= 400 or event.ended == "failed"
        answers = self._answers.setdefault(event.model, deque(maxlen=1000))
        answers.append((fact.at, failed))
        while answers[0][0] <= fact.at - WINDOW:
            answers.popleft()
        same = self._same(event, failed)
        errors = sum(one for _at, one in answers) if failed else 0
        if same < SAME and (len(answers) < ANSWERS or errors < FAILING * len(answers)):
            return None
        return self._rest(event, fact, errors, len(answers), same)

    def _same(self, event: ModelCalled, failed: bool) -> int:
        if not failed or not event.request:
            return 0
        count = self._failed[event.request] = self._failed.pop(event.request, 0) + 1
        if len(self._failed) > _REQUESTS:
            del self._failed[next(iter(self._failed))]
        return count

    def _rest(self, event: ModelCalled, fact: Fact, errors: int, answers: int, same: int) -> Alarm | None:
        until, storms = self._storms.get(event.model, (float("-inf"), 0))
        if fact.at < until:
            return None  # calls that had left before
        if fact.at - until > CALM:
            storms = 0
        seconds = min(REST * 2**storms, LONGEST)
        self._storms[event.model] = (fact.at + seconds, storms + 1)
        self._answers[event.model].clear()
        self._failed.pop(event.request, None)
        what = f"one request failed {same} times" if same >= SAME else f"{errors} of {answers} answers in a minute were errors"
        last = f"{event.status} {event.why[:160]}".strip()
        said = f"{event.model}: {what}, the last with {last}; its calls rest for {seconds:.0f} s"
        remedy = "wait, ask another model, or make the request valid; asking again at once gets the same answer"
        evidence = {"model": event.model, "errors": errors, "answers": answers, "same": same, "seconds": seconds}
        return Alarm(self.name, "rest", said, remedy, fact.agent, evidence, key=f"{event.model} {storms}")
