"""The journal: events appended a second while their callers wait until the disk has them, beside SQLite with the same rows and the same
waits; and records verified a second.

python benchmarks/journal.py
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import orjson
import uvloop
from figures import Figure, show
from story import turn

from gearcase.events import Event
from gearcase.journal import Journal, verify

CALLERS, TURNS = 64, 12_800
ROUNDS = 5


async def append(folder: Path, turns: list[list[tuple[str, Event]]]) -> tuple[float, float]:
    """Seconds for all of them, and processor seconds: each caller appends what belongs together and waits until the disk has it."""
    journal = Journal.create(folder)
    waiting = iter(turns)

    async def caller() -> None:
        for told in waiting:
            for agent, event in told:
                journal.append(event, agent)
            await journal.durable()

    began, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    spent = time.perf_counter() - began, time.process_time() - worked
    journal.close()
    return spent


def insert(file: Path, turns: list[list[tuple[str, Event]]]) -> float:
    """Seconds of SQLite for the same events as JSON: a commit for as many callers as share a sync with us, in a write-ahead log."""
    database = sqlite3.connect(file)
    database.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE event (seq INTEGER PRIMARY KEY, line TEXT)"
    )
    seq, began = 0, time.perf_counter()
    for first in range(0, len(turns), CALLERS):
        rows: list[tuple[int, str]] = []
        for agent, event in (one for told in turns[first : first + CALLERS] for one in told):
            seq += 1
            fields = {name: getattr(event, name) for name in event.fields}
            line = {"seq": seq, "time": time.time(), "agent": agent, "type": event.type, **fields}
            rows.append((seq, orjson.dumps(line).decode()))
        database.executemany("INSERT INTO event VALUES (?, ?)", rows)
        database.commit()
    seconds = time.perf_counter() - began
    database.close()
    return seconds


def checked(folder: Path) -> float:
    """Processor seconds of a verification."""
    began = time.process_time()
    if not verify(folder).ok:
        raise RuntimeError("what was written does not verify")
    return time.process_time() - began


def measure() -> list[Figure]:
    """Every figure of the journal: the best of some rounds, ours and theirs in turn."""
    turns = [turn(number) for number in range(1, TURNS + 1)]
    events = sum(len(told) for told in turns)
    ours, theirs, checks = list[tuple[float, float]](), list[float](), list[float]()
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, which /tmp need not be
            ours.append(uvloop.run(append(Path(folder, "journal"), turns)))
            theirs.append(insert(Path(folder, "sqlite"), turns))
            checks.append(checked(Path(folder, "journal")))
            os.sync()
    rate, beside, verified = events / min(ours)[0], events / min(theirs), events / min(checks)
    what = f"events appended a second, durable, {CALLERS} callers that wait"
    told = f"{rate:,.0f}/s; {events / min(worked for _, worked in ours):,.0f} a second of processor time"
    sqlite = f"SQLite {beside:,.0f}/s"
    return [
        Figure(what, told, sqlite, rate, at_least=50_000, unit="/s"),
        Figure("the same", told, sqlite, rate / beside),
        Figure("records verified a second of one core", f"{verified:,.0f}/s", "", verified, at_least=300_000, unit="/s"),
    ]


if __name__ == "__main__":
    sys.exit(show(measure()))
