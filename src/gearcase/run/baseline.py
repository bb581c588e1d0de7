"""What accepted runs of the same box took, so that a run which takes far more is seen."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, cast

from gearcase.events import Baseline
from gearcase.journal.lines import segments
from gearcase.runs import RunFolder, all_runs

MOST_RUNS = 200
"""Of the newest runs on this machine, so many are looked at."""
SHARE = 0.95
_TAIL = 512 * 1024
_TURN = b'"type":"agent_turn"'
_LARGEST = 8 * 1024 * 1024
"""Bytes of a journal whose steps are counted; a larger one counts by its money alone."""


def baseline(folder: RunFolder) -> Baseline | None:
    """Of the accepted runs with this run's very box, goal included; None where there is none."""
    mine, money, steps = folder.box_digest, list[int](), list[int]()
    for one in all_runs()[:MOST_RUNS]:
        if one.id == folder.id or not one.box_file.is_file() or one.box_digest != mine:
            continue
        record = _ending(one)
        if record is not None and record.get("status") == "accepted":
            money.append(int(record.get("spent", {}).get("usd", 0)))
            steps.append(_steps(one))
    if not money:
        return None
    return Baseline(len(money), _percentile(money), _percentile(steps))


def _percentile(values: list[int]) -> int:
    """The value that so large a share of them does not pass (nearest rank)."""
    ordered = sorted(values)
    return ordered[math.ceil(SHARE * len(ordered)) - 1]


def _ending(folder: RunFolder) -> dict[str, Any] | None:
    """The record of a run that ended, from the last line of its journal."""
    paths = segments(folder.journal)
    if not paths:
        return None
    last = _tail(paths[-1]).rstrip(b"\n").rpartition(b"\n")[2]
    try:
        found = json.loads(last)
    except ValueError:
        return None
    is_end = isinstance(found, dict) and cast(dict[str, Any], found).get("type") == "run_ended"
    return cast(dict[str, Any], found)["record"] if is_end else None


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return file.read()


def _steps(folder: RunFolder) -> int:
    paths = segments(folder.journal)
    return sum(path.read_bytes().count(_TURN) for path in paths) if sum(path.stat().st_size for path in paths) <= _LARGEST else 0
