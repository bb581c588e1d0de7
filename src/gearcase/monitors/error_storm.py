"""`error_storm`: an upstream fails, and is asked again and again.

The calls of a model rest for a while: nobody pays, and nothing hammers it. Of an API behind a door the agent is told: what is made of
answers that did not come is made up, and only the agent knows what it makes.
"""

from __future__ import annotations

from collections import deque

from gearcase.events import ApiCalled, CloudCalled, DoorRefused, HostCalled, ModelCalled
from gearcase.monitors.seam import Alarm, Detector, Fact

WINDOW, ANSWERS, FAILING = 60.0, 20, 0.80
"""Seconds, answers within them, and the share of errors."""
SAME = 5
"""Failures of one request, without another answer to it."""
RUNNING = 10
"""Failures of one API running, whatever was asked."""
REST, LONGEST = 30.0, 600.0
"""Seconds that a model rests; doubled each time."""
CALM = 1800.0
"""Seconds after which a storm is the first one again."""
_REQUESTS = 512
_FAILED = frozenset({401, 403, 408, 429})
"""Answers of an API below 500 that speak of it, or of its key, and not of what was asked. A 404 is an answer."""
_UNREACHED = frozenset({"unreachable", "slow_upstream", "broken_upstream", "bad_certificate"})
"""Why a door had no answer to pass on."""


class ErrorStorm(Detector):
    """See the module."""

    name = "error_storm"
    acts = True
    kinds = (ModelCalled, ApiCalled, HostCalled, CloudCalled, DoorRefused)
    needs = frozenset({"model", "time"})
    rule = (
        "20 answers in 60 s with 80 % errors, or one request failing 5 times: a model's calls rest for 30 s, doubling to 10 minutes; of an "
        "API: note"
    )

    def __init__(self) -> None:
        self._answers: dict[str, deque[tuple[float, bool]]] = {}
        self._failed: dict[str, int] = {}  # request -> times
        self._storms: dict[str, tuple[float, int]] = {}  # model -> when the last rest ends, how many there were

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, DoorRefused):
            return self._unreached(event, fact)
        if not isinstance(event, ModelCalled):
            return self._door(fact)
        failed = event.status >= 400 or event.ended == "failed"
        same = self._same(event.request, failed) if event.request else 0
        errors, answers = self._count(event.model, fact.at, failed)
        if same < SAME and not (failed and answers >= ANSWERS and errors >= FAILING * answers):
            return None
        return self._rest(event, fact, errors, answers, same)

    def _door(self, fact: Fact) -> Alarm | None:
        """An API that its door passed a call to. What the door itself refuses is no answer of it."""
        event = fact.event
        match event:
            case ApiCalled():
                place, asked = event.door, f"{event.method} {event.path}"
            case HostCalled():
                place, asked = event.host, f"{event.method} {event.path}"
            case CloudCalled():
                place, asked = event.door, f"{event.service} {event.operation}"
            case _:
                return None
        failed = event.why in _UNREACHED or (event.why == "done" and (event.status >= 500 or event.status in _FAILED))
        if not failed and event.why != "done":
            return None
        request = f"{place} {asked}"  # without its query: the next page of what fails is the same again
        same, running = self._same(request, failed), self._same(place, failed)
        errors, answers = self._count(place, fact.at, failed)
        if same < SAME and running < RUNNING and not (failed and answers >= ANSWERS and errors >= FAILING * answers):
            return None
        self._failed.pop(request, None)
        self._failed.pop(place, None)
        self._answers[place].clear()
        what = f"{asked} failed {same} times" if same >= SAME else f"{running} calls failed"
        what = f"{what} and none answered in between" if same >= SAME or running >= RUNNING else _of(errors, answers)
        evidence: dict[str, object] = {
            "door": place,
            "request": asked,
            "errors": errors,
            "answers": answers,
            "status": event.status,
        }
        return self._told(place, what, event.status if event.why == "done" else event.why, evidence, fact)

    def _unreached(self, event: DoorRefused, fact: Fact) -> Alarm | None:
        """What stands behind a door of another kind, a database or a host, and is not there: it is counted at powers of ten."""
        count = event.context.get("count", 0)
        if event.code not in _UNREACHED or count < RUNNING or event.door.startswith("api."):
            return None
        place = event.context.get("to") or event.door
        return self._told(place, f"{count} connections to it failed", event.code, {"door": event.door, "count": count}, fact)

    def _told(self, place: str, what: str, last: int | str, evidence: dict[str, object], fact: Fact) -> Alarm:
        said = f"{place}: {what}, the last with {last}"
        remedy = "wait longer, and do without what does not come: say in your note what is missing, for nothing can be put in its place"
        return Alarm(self.name, "note", said, remedy, fact.agent, evidence)

    def _count(self, place: str, at: float, failed: bool) -> tuple[int, int]:
        """Errors and answers of the last minute."""
        answers = self._answers.setdefault(place, deque(maxlen=1000))
        answers.append((at, failed))
        while answers[0][0] <= at - WINDOW:
            answers.popleft()
        return sum(one for _at, one in answers) if failed else 0, len(answers)

    def _same(self, request: str, failed: bool) -> int:
        """Failures of one request running."""
        count = self._failed.pop(request, 0) + 1
        if not failed:
            return 0
        self._failed[request] = count
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
        what = f"one request failed {same} times" if same >= SAME else _of(errors, answers)
        last = f"{event.status} {event.why[:160]}".strip()
        said = f"{event.model}: {what}, the last with {last}; its calls rest for {seconds:.0f} s"
        remedy = "wait, ask another model, or make the request valid; asking again at once gets the same answer"
        evidence = {"model": event.model, "errors": errors, "answers": answers, "same": same, "seconds": seconds}
        return Alarm(self.name, "rest", said, remedy, fact.agent, evidence, key=f"{event.model} {storms}")


def _of(errors: int, answers: int) -> str:
    return f"{errors} of {answers} answers in a minute were errors"
