"""A run's own process that gets SIGKILL at a record of its journal: `gearcase run`, or `gearcase recover`, without who watches.

`--at` names the record by its number (`137`) or by its kind (`held:3`, the third of them). `--how` says when: `after` it reached the
kernel, `before` (with what was appended with it and is not written yet), or a number: so many seconds after it was appended, from
another thread, wherever the process is by then.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

from gearcase.box import load_box
from gearcase.events import Event
from gearcase.journal import Journal
from gearcase.run.again import options_of
from gearcase.run.options import RunOptions
from gearcase.run.process import drive
from gearcase.runs import find


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def doom(at: str, how: str) -> None:
    """Have this process die when its journal gets to that record."""
    append, kinds = Journal.append, Counter[str]()
    kind, _, nth = at.partition(":")

    def later(seconds: float) -> None:
        time.sleep(seconds)
        die()

    def fatal(self: Journal, event: Event, agent: str = "") -> int:
        seq = append(self, event, agent)
        kinds[event.type] += 1
        if seq != int(kind) if not nth else (event.type, kinds[event.type]) != (kind, int(nth)):
            return seq
        if how == "after":
            self.flush()
        if how in ("after", "before"):
            die()
        threading.Thread(target=later, args=(float(how),), daemon=True).start()
        return seq

    Journal.append = fatal


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", default="")
    parser.add_argument("--how", default="after")
    parser.add_argument("--out", type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--box", type=Path)
    what.add_argument("--recover", default="")
    options = parser.parse_args()
    made = options_of(find(options.recover)) if options.recover else RunOptions(load_box(options.box), options.out)
    if options.at:
        doom(options.at, options.how)
    receive, send = os.pipe()
    code = drive(made, send)
    os.close(receive)
    return code


if __name__ == "__main__":
    sys.exit(main())
