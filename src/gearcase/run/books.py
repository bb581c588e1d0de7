"""The books of a run: journal, clock, brake, ledger and control socket, from its first record to its last.

Whatever a run is (an agent in a box, a program in one, a model door alone), it begins, obeys the brake, is charged and ends in this
one way, so that every command that looks at a run finds the same things in its folder.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gearcase import __version__
from gearcase.allowance import DailyAllowance
from gearcase.box import Box, effective_toml
from gearcase.box.notify import Notify
from gearcase.brake import BoxClock, Brake
from gearcase.control import Control
from gearcase.events import Event, RunEnded, RunStarted
from gearcase.journal import Journal
from gearcase.ledger import Ledger
from gearcase.notify.shapes import Destination
from gearcase.run.accounts import RUN, Pace, charge_time, close_agent_accounts, open_accounts
from gearcase.run.doors import Copies
from gearcase.run.ending import Ending
from gearcase.run.operating import Operating
from gearcase.run.paging import Paging
from gearcase.run.questions import Questions
from gearcase.run.record import EndRecord, Kind
from gearcase.run.requests import Requests
from gearcase.run.rewinding import Rewinding
from gearcase.run.watching import Watcher
from gearcase.runs import RunFolder, boot_id, write_atomically

FLUSH_EVERY = 0.05
"""Seconds after which what was appended is handed to the kernel, so that watchers see it."""


@dataclass(frozen=True, slots=True)
class Books:
    """The books of one run, open."""

    folder: RunFolder
    journal: Journal
    clock: BoxClock
    brake: Brake
    ledger: Ledger
    pace: Pace
    ending: Ending
    allowance: DailyAllowance
    questions: Questions
    requests: Requests
    copies: Copies
    watcher: Watcher
    paging: Paging
    rewinding: Rewinding
    operating: Operating
    control: Control

    async def close(self) -> EndRecord:
        """Close the accounts and write the ending; returns it. Raises RunError when the disk refuses."""
        await self.control.close()  # nobody is told "frozen" by a run that has ended
        self.requests.close()
        self.watcher.close()
        self.allowance.close()
        if self.allowance.trouble:
            self.ending.warnings.append(
                f"money of the day could not be given back, it counts as spent ({self.allowance.trouble})"
            )
        close_agent_accounts(self.ledger)
        charge_time(self.ledger, self.clock.now())
        record = self.ending.record(self.brake.level)
        record = replace(record, warnings=[*record.warnings, *await self.paging.end(self.ending.failure(self.brake.level))])
        self.ledger.close(RUN)
        self.journal.append(RunEnded(record.status, record.as_json()))
        await self.journal.durable()
        return record


async def open_books(
    folder: RunFolder,
    box: Box,
    stack: AsyncExitStack,
    kind: Kind,
    out: Path | None = None,
    force: bool = False,
    *,
    notify: Notify | None = None,
    to: Sequence[Destination] = (),
) -> Books:
    """Begin the books in a new run's folder; the stack ends what keeps them. From here on the brake works, and who is told (`to`) is."""
    write_atomically(folder.box_file, effective_toml(box).encode())
    journal = Journal.create(folder.journal)
    begun: list[tuple[int, float, str, Event]] = []  # before there is a watcher
    journal.listener = lambda seq, boot, agent, event: begun.append((seq, boot, agent, event))
    stack.callback(journal.close)
    host = {"kernel": platform.release(), "python": platform.python_version(), "uid": os.getuid()}
    journal.append(RunStarted(folder.id, folder.name, folder.goal, folder.box_digest, __version__, boot_id(), host, kind=kind))
    flusher = asyncio.create_task(_flush(journal))
    stack.callback(flusher.cancel)
    clock = BoxClock()
    brake = Brake(folder, journal, clock)
    ledger = Ledger(journal)
    open_accounts(ledger, box)
    pace = Pace(box, clock, journal)
    ending = Ending(out, force, box, folder, clock, ledger, pace, journal, kind)
    allowance = DailyAllowance(folder.id, box.limits.usd_per_day)
    paging = await stack.enter_async_context(Paging(folder, notify or box.notify, to, journal))
    questions = Questions(folder.name, brake, ledger, pace, paging)
    requests = Requests(questions, journal)
    watcher = Watcher(folder, box, kind, journal, brake, questions, ending)
    journal.listener = watcher.hear if kind != "door" else None  # of one alone nothing is known but its calls, and it has no pace
    for record in begun:
        watcher.hear(*record)
    copies, rewinding = Copies(folder), Rewinding(folder, brake)
    stack.push_async_callback(brake.close)
    operating = Operating(brake, pace, questions)
    control = Control(folder, {**operating.verbs(), **requests.verbs(), "copy_database": copies.copy, **rewinding.verbs()})
    await control.start()
    stack.push_async_callback(control.close)
    journal.flush()
    return Books(
        folder,
        journal,
        clock,
        brake,
        ledger,
        pace,
        ending,
        allowance,
        questions,
        requests,
        copies,
        watcher,
        paging,
        rewinding,
        operating,
        control,
    )


async def _flush(journal: Journal) -> None:
    while True:
        await asyncio.sleep(FLUSH_EVERY)
        journal.flush()
