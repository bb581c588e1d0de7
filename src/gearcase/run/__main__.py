"""`python -m gearcase.run`: the process of one run, for `gearcase.run.process.spawn`, which writes what shall be run to its stdin."""

from __future__ import annotations

import pickle
import sys

from gearcase.run.process import PIPE, drive

if __name__ == "__main__":
    sys.exit(drive(pickle.load(sys.stdin.buffer), PIPE))
