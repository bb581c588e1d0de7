"""The hand brake: a process of its own that freezes a run's boxes where the process that drives the run does not answer.

`host` is the side of the run's process and of whoever pulls it, `process` is the program.
"""

from gearcase.handbrake.host import HAND, HandBrake, pull

__all__ = ["HAND", "HandBrake", "pull"]
