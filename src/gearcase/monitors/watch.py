"""All detectors over one stream of events: box time, whose step it is, and what the ladder makes of each alarm.

The same class watches a live run, replays a journal, and scores a foreign trajectory; what it says depends on the events alone, in their
order, however they were cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gearcase import events
from gearcase.events import Event
from gearcase.journal import Record
from gearcase.monitors.burn_rate import BurnRate
from gearcase.monitors.destructive import Destructive
from gearcase.monitors.disk_remedy import DiskRemedy
from gearcase.monitors.error_storm import ErrorStorm
from gearcase.monitors.exfiltration import Exfiltration
from gearcase.monitors.fan_out import FanOut
from gearcase.monitors.ladder import Ladder, Level, Raised
from gearcase.monitors.local_green_host_red import LocalGreenHostRed
from gearcase.monitors.never_started import NeverStarted
from gearcase.monitors.no_contact import NoContact
from gearcase.monitors.no_progress import NoProgress
from gearcase.monitors.out_of_range import OutOfRange
from gearcase.monitors.regression import Regression
from gearcase.monitors.repetition import Repetition
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.monitors.tamper import Tamper
from gearcase.monitors.thrash import Thrash
from gearcase.monitors.totals import LEAD, Totals
from gearcase.monitors.volume_without_score import VolumeWithoutScore

DETECTORS: tuple[type[Detector], ...] = (
    NeverStarted,
    BurnRate,
    OutOfRange,
    NoProgress,
    VolumeWithoutScore,
    NoContact,
    LocalGreenHostRed,
    Tamper,
    Destructive,
    DiskRemedy,
    Regression,
    Thrash,
    Repetition,
    ErrorStorm,
    FanOut,
    Exfiltration,
)
"""In the order of the design's table."""


class BoxTime:
    """Seconds of box time, from the times of events (CLOCK_BOOTTIME): it stands still while the run is frozen."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._frozen_since: float | None = None
        self._last = 0.0

    def at(self, boot: float) -> float:
        """The box time of an event. It never goes back."""
        if self._start is None:
            self._start = boot
        until = boot if self._frozen_since is None else self._frozen_since
        self._last = max(self._last, until - self._start)
        return self._last

    def add(self, event: Event, boot: float) -> None:
        """What moves the clock: the brake, and a run that is taken up again, perhaps after a restart of the machine."""
        if isinstance(event, events.RunResumed):
            self._start, self._frozen_since = boot - self._last, None
        elif isinstance(event, events.BrakeChanged):
            if event.level in ("frozen", "killed"):
                self._frozen_since = boot if self._frozen_since is None else self._frozen_since
            elif self._frozen_since is not None:
                assert self._start is not None
                self._start += boot - self._frozen_since
                self._frozen_since = None


class Watch:
    """Detectors, clock and ladder of one run. `levels` are the box's; a detector that is off is not there."""

    def __init__(
        self, levels: Mapping[str, Level] | None = None, detectors: Sequence[type[Detector]] = DETECTORS, *, act: bool = False
    ) -> None:
        """`act`: those that start in shadow say what they would do, too."""
        levels = levels or {}
        self.detectors = [made() for made in detectors if levels.get(made.name) != "off"]
        self.run = Totals()
        self._clock = BoxTime()
        self._ladder = Ladder(levels, frozenset(one.name for one in detectors if one.acts or act))
        self._loops: set[str] = set()
        self._wanted: dict[type[Event], list[Detector]] = {}
        for detector in self.detectors:
            for kind in detector.kinds:
                self._wanted.setdefault(kind, []).append(detector)
        self._counted = self.run.kinds
        self._moves = frozenset({events.BrakeChanged, events.RunResumed})

    def hear(self, event: Event, agent: str, boot: float) -> list[Raised]:
        """Fold one event in; returns what comes of it. `boot`: seconds of CLOCK_BOOTTIME, as the record says."""
        kind = type(event)
        at = self._clock.at(boot)
        if kind in self._counted:
            self.run.add(event, agent, at)
        if kind in self._moves:
            self._clock.add(event, boot)
        if kind is events.AgentStarted:
            self._loops.add(agent)
        wanted = self._wanted.get(kind)
        if not wanted:
            return []
        fact = Fact(event, agent, at, self.run.steps.get(agent or LEAD, 0), self.run)
        return [
            raised for one in wanted if (alarm := one.update(fact)) is not None and (raised := self._weigh(alarm)) is not None
        ]

    def handing_in(self, agent: str) -> Raised | None:
        """Why an agent that hands in now is refused; None where nothing stands against it."""
        fact = Fact(events.GearUsed("done", ok=True), agent, 0.0, self.run.steps.get(agent, 0), self.run)
        for one in self.detectors:
            alarm = one.handing_in(fact) if agent == LEAD else None
            if alarm is not None and self._ladder.stands(alarm):
                return Raised(alarm, "refuse")
        return None

    def replay(self, records: Iterable[Record]) -> Iterator[tuple[Record, Raised]]:
        """What this watch would have said of a journal, and at which record."""
        for record in records:
            if record.event is not None:
                for raised in self.hear(record.event, record.agent, record.boot):
                    yield record, raised

    def _weigh(self, alarm: Alarm) -> Raised | None:
        about = alarm.agent or LEAD
        return self._ladder.weigh(alarm, self.run.steps.get(about, 0), about in self._loops)
