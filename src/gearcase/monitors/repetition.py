"""`repetition`: the same commands with the same outcome, over and over. People call 11 % of good runs looping: this never ends one."""

from __future__ import annotations

import re
from collections import deque

from gearcase.events import CommandEnded, CommandStarted
from gearcase.monitors.seam import Alarm, Detector, Fact

CYCLE, TIMES = 5, 5
"""Commands of the longest cycle, and how often it comes in a row."""
SAME, WITHIN = 4, 20
"""Times that one command has the same outcome, among so many."""
POLL = 15.0
"""Seconds from which a command that comes again is a poll: so long did the agent's commands take since, this one or others. How long its
model thought is none of its waiting: a slow model that says the same again and again does not poll."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


class Repetition(Detector):
    """See the module."""

    name = "repetition"
    kinds = (CommandStarted, CommandEnded)
    rule = "a cycle of up to 5 commands 5 times, or the same command with the same outcome 4 times in 20; polls of 15 s are none"

    def __init__(self) -> None:
        self._texts: dict[int, tuple[str, str]] = {}  # that run: agent, text
        self._said: dict[str, deque[tuple[str, str]]] = {}
        self._waited: dict[str, float] = {}  # seconds that an agent's commands have taken
        self._before: dict[tuple[str, str], float] = {}  # ... when this one had ended last

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, CommandStarted):
            self._texts[event.command] = (fact.agent, _NUMBERS.sub("#", " ".join(event.text.split()))[:500])
            return None
        assert isinstance(event, CommandEnded)
        agent, text = self._texts.pop(event.command, (fact.agent, ""))
        now = self._waited[agent] = self._waited.get(agent, 0.0) + event.seconds
        last = self._before.pop((agent, text), None)
        self._before[agent, text] = now
        if len(self._before) > 1000:
            del self._before[next(iter(self._before))]
        if not text or (last is None and event.seconds >= POLL) or (last is not None and now - last >= POLL):
            return None
        outcome = _NUMBERS.sub("#", (event.tail or event.head)[-500:])
        said = self._said.setdefault(agent, deque(maxlen=CYCLE * TIMES))
        said.append((text, f"{event.exit_code} {outcome}"))
        return self._same(said, fact) or self._cycle(said, fact)

    def _same(self, said: deque[tuple[str, str]], fact: Fact) -> Alarm | None:
        count = list(said)[-WITHIN:].count(said[-1])
        return self._alarm(f"one command had the same outcome {count} times", said[-1][0], count, fact) if count >= SAME else None

    def _cycle(self, said: deque[tuple[str, str]], fact: Fact) -> Alarm | None:
        texts = [text for text, _outcome in said]
        for length in range(1, CYCLE + 1):
            end = texts[-length * TIMES :]
            if len(end) == length * TIMES and end == end[:length] * TIMES:
                return self._alarm(f"the same {length} commands came {TIMES} times in a row", texts[-1], TIMES, fact)
        return None

    def _alarm(self, said: str, text: str, count: int, fact: Fact) -> Alarm:
        remedy = "it will not end otherwise by itself: change something, or find out why it ends like this"
        return Alarm(self.name, "note", f"{said}: {text[:120]}", remedy, fact.agent, {"times": count, "command": text[:200]})
