"""Streams of events for detectors: each is a list of (seconds, agent, event), told to a watch or to one detector alone."""

import pytest

from gearcase import events as e
from gearcase.monitors import Watch

LEAD = "lead"


class Stream:
    """Builds a run's events. Times are seconds of CLOCK_BOOTTIME from 1000 on; money is in dollars."""

    def __init__(self, usd=2.0, wall=2700.0, kind="agent", loop=True):
        self.facts = []
        self.now = 1000.0
        self._holds = self._commands = self._step = 0
        self.add(e.RunStarted("r1", "one", "goal", "b", "0", "boot", {}, kind=kind))
        self.add(e.AccountOpened("run", "", {"usd": round(usd * 1e9), "wall": round(wall * 1000)}))
        if loop:
            self.add(e.AgentStarted("m", "goal"), LEAD)

    def add(self, event, agent="", after=0.0):
        self.now += after
        self.facts.append((self.now, agent, event))
        return self

    def call(self, usd=0.0, after=1.0, status=200, model="m", agent=LEAD, billed="p/m", request="", why="", turn=True):
        self._holds += 1
        self.add(e.Held(self._holds, "lead", {"usd": round(usd * 1e9)}, billed_by=billed), agent, after)
        self.add(e.Sent(self._holds), agent)
        ended = "complete" if status < 400 else "failed"
        self.add(e.Settled(self._holds, "lead", {"usd": round(usd * 1e9)}), agent)
        called = e.ModelCalled(
            self._holds, self._holds, "chat", model, model, status, ended, {}, 1.0, 1.0, request=request, why=why
        )
        self.add(called, agent)
        if turn and status < 400:
            self._step += 1
            self.add(e.AgentTurn(self._step, "", 1), agent)
        return self

    def command(self, text="make", exit=0, tail="", seconds=1.0, limits=(), agent=LEAD, after=0.0):
        self._commands += 1
        self.add(e.CommandStarted(self._commands, text), agent, after)
        self.add(e.CommandEnded(self._commands, "exited", exit, seconds, 0.1, len(tail), "", tail, list(limits)), agent, seconds)
        return self

    def files(self, *written, lost=0, lost_bytes=0, of=100, after=1.0, changed_bytes=0, size=100_000, agent=LEAD, **more):
        paths = [list(one) for one in written]
        event = e.FilesSeen(of, size, 0, len(paths), 0, changed_bytes, lost, lost_bytes, of, size, paths, **more)
        return self.add(event, agent, after)

    def check(self, verdict="failed", score=None, name="check", after=1.0, agent=LEAD):
        return self.add(e.CheckRan(name, verdict, score, 1.0, "d", False), agent, after)

    def tests(self, passed, failed=0, agent=LEAD):
        return self.add(e.TestsClaimed(1, "pytest", passed, failed), agent, 1.0)

    def tick(self, seconds=5.0, cpu=0.0, disk=0, of_disk=0):
        return self.add(e.Tick(self.now, cpu, 0, 1, disk, of_disk), "", seconds)

    def raised(self, detector="", **levels):
        """What a watch raises of it; of one detector where it is named."""
        watch = Watch(levels)
        found = [raised for boot, agent, event in self.facts for raised in watch.hear(event, agent, boot)]
        return [one for one in found if detector in ("", one.alarm.detector)]

    def actions(self, detector, **levels):
        return [one.action for one in self.raised(detector, **levels)]


@pytest.fixture
def stream():
    return Stream
