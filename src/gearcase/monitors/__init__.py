"""Watching a run: detectors that see when an agent has lost touch with reality, and the ladder of what is done about it.

Each detector is a file of its own and a pure fold over the events of a run (`seam`); `Watch` runs them all. Nothing here acts: what an
alarm comes to is carried out in `run.watching`, through the brake.
"""

from gearcase.monitors.ladder import LEVELS, Level, Raised
from gearcase.monitors.seam import Action, Alarm, Detector, Fact, Need
from gearcase.monitors.watch import DETECTORS, Watch

__all__ = ["DETECTORS", "LEVELS", "Action", "Alarm", "Detector", "Fact", "Level", "Need", "Raised", "Watch"]
