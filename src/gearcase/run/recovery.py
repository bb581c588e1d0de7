"""What a killed run leaves, put in order by the next command that looks at it.

A run whose process died has no ending on record, holds that nobody settles, and perhaps a box that is still dying. `recover` takes
the run's lock, cuts what was torn off the journal, ends the holds (spent whole where the action had left, else given back), sweeps
its boxes and writes the ending: `failed` with `supervisor_died`, or `stopped` where the operator had killed the run already.

Invariants: nothing is written while another process owns the run, or for a run that has an ending; a recovery that is itself killed
is done again by the next; what was spent is never counted lower than before. Only the user whose run it is recovers it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gearcase import events
from gearcase.allowance import forfeit
from gearcase.doors.files import discard
from gearcase.doors.keeping import KEPT
from gearcase.errors import RunError, UsageError
from gearcase.events import AgentReturned, Amounts, Event, Failure, RunEnded, RunResumed, SandboxClosed, SandboxLost
from gearcase.journal import Journal, Record, read
from gearcase.ledger import Ledger, less
from gearcase.run.accounts import RUN, charge_time
from gearcase.run.record import EndRecord
from gearcase.runs import RunFolder, boot_id, own
from gearcase.sandbox import cgroups, owners, processes

_DYING = 5.0
"""Seconds until a process of a dead run's box that has not gone is called residue."""


@dataclass(slots=True)
class Story:
    """What the ending of a dead run says, folded from its journal up to the crash. Seconds of CLOCK_BOOTTIME."""

    records: int = 0
    head: str = ""  # of a journal that nothing can be added to
    ended: bool = False
    crashed: bool = False  # a recovery was begun before: what follows is no longer the run's own time
    killed: bool = False
    closed: bool = False  # the run's own account
    agents: dict[str, events.AgentSpawned] = field(default_factory=dict[str, events.AgentSpawned])  # that have not ended
    steps: dict[str, int] = field(default_factory=dict[str, int])  # of each agent
    limit: str = ""
    sandboxes: dict[str, bool] = field(default_factory=dict[str, bool])  # id -> closed
    residue: list[str] = field(default_factory=list[str])
    checks: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    delivered: events.Delivered | None = None
    began: float = 0.0
    last: float = 0.0
    frozen_since: float = 0.0
    frozen: float = 0.0
    spent: Amounts = field(default_factory=dict[str, int])
    held: dict[int, Amounts] = field(default_factory=dict[int, Amounts])
    sent: set[int] = field(default_factory=set[int])

    @classmethod
    def of(cls, records: Iterable[Record]) -> Story:
        """The story that these records tell."""
        story = cls()
        for record in records:
            story.records += 1
            if record.event is not None:
                story.add(record.event, record.boot, record.agent)
        return story

    def add(self, event: Event, boot: float, agent: str = "") -> None:
        """One more fact. `agent`: whose it is."""
        self.crashed = self.crashed or isinstance(event, RunResumed)
        if not self.crashed:
            self.began = self.began or boot
            self.last = boot
        if self._of_sub_agent(event, agent):
            return
        match event:
            case events.RunEnded():
                self.ended = True
            case events.RunResumed():
                self.ended = False
            case events.AccountClosed() if event.account == RUN:
                self.closed = True
            case events.LimitReached():
                self.limit = self.limit or event.limit
            case events.SandboxOpened():
                self.sandboxes[event.sandbox] = False
            case events.SandboxClosed():
                self.sandboxes[event.sandbox] = True
                self.residue += event.residue
            case events.CheckRan() if event.final:
                self.checks[event.name] = _check(event)
            case events.Delivered():
                self.delivered = event
            case events.BrakeChanged():
                self._brake(event.level, boot)
            case _:
                self._money(event)

    def _of_sub_agent(self, event: Event, agent: str) -> bool:
        """Whether a fact is a sub-agent's own, and so tells nothing of how the run ends."""
        match event:
            case events.AgentSpawned():
                self.agents[agent] = event
            case events.AgentReturned():
                self.agents.pop(agent, None)
            case events.AgentTurn():
                self.steps[agent] = event.step
            case events.LimitReached() | events.CheckRan():
                return agent in self.agents
            case _:
                pass
        return False

    @property
    def seconds(self) -> float:
        """Box time until the last record of the run itself."""
        until = self.frozen_since or self.last
        return max(0.0, until - self.began - self.frozen)

    def counted(self) -> Amounts:
        """What was spent, calls that had left and were not settled included."""
        total = dict(self.spent)
        for hold in self.sent & self.held.keys():
            _add(total, self.held[hold])
        return total

    def _money(self, event: Event) -> None:
        match event:
            case events.Held():
                self.held[event.hold] = event.amounts
            case events.Sent():
                self.sent.add(event.hold)
            case events.Settled():
                if event.lease in self.held:
                    self.held[event.lease] = less(self.held[event.lease], event.amounts)
                self.held.pop(event.hold, None)
                _add(self.spent, event.amounts)
            case events.Cut():
                _add(self.spent, self.held.pop(event.hold, {}))
            case events.Released():
                self.held.pop(event.hold, None)
            case _:
                pass

    def _brake(self, level: str, boot: float) -> None:
        self.killed = self.killed or level == "killed"
        if level in ("frozen", "killed"):
            self.frozen_since = self.frozen_since or boot
        elif self.frozen_since:
            self.frozen, self.frozen_since = self.frozen + boot - self.frozen_since, 0.0


def recover(folder: RunFolder) -> bool:
    """Write the ending of a run whose process is dead; False when there is nothing to do.

    Raises RunError: `journal_damaged`, `journal_failed`, `ledger_unreadable`, `not_recovered`. Then the run stays as it was.
    """
    try:
        if folder.path.stat().st_uid != os.getuid() or not folder.journal.is_dir():
            return False  # another user's, or one that had not begun
        owner = own(folder)
    except UsageError:
        return False  # it lives, or somebody recovers it at this moment
    except OSError as error:
        raise not_recovered(folder, error) from error
    try:
        return _recover(folder)
    except OSError as error:
        raise not_recovered(folder, error) from error
    finally:
        owner.release()


def as_told(folder: RunFolder, why: str) -> EndRecord:
    """The ending of a dead run that cannot be recovered, as far as its journal tells; `why` says why it cannot."""
    story = Story()
    with suppress(RunError):  # up to the damage
        for record in read(folder.journal):
            story.head = record.digest
            if record.event is not None:
                story.add(record.event, record.boot, record.agent)
    died = supervisor_died(folder)
    died.cause = why
    return _ending(folder, story, story.counted(), {}, died)


def not_recovered(folder: RunFolder, error: OSError) -> RunError:
    """The ending of a dead run cannot be written."""
    return RunError(
        "not_recovered",
        f"the ending of run {folder.name} cannot be written: {error.strerror or error}",
        cause=str(error),
        remedy=f"make {folder.path} writable and its disk roomy, then look again: gearcase report {folder.name}",
    )


def supervisor_died(folder: RunFolder) -> RunError:
    """Why a run has no ending of its own."""
    return RunError(
        "supervisor_died",
        "the process that drove this run ended without an ending on record",
        remedy=f"its boxes died with it; see why: gearcase logs {folder.name}; go on in a new one: gearcase recover {folder.name}",
    )


def _recover(folder: RunFolder) -> bool:
    story = Story.of(read(folder.journal))
    if story.ended or not story.records:
        return False
    residue = _sweep(folder)
    forfeit(folder.id)  # before the ending is written: what fails here is tried again
    journal = Journal.reopen(folder.journal)
    try:
        journal.append(RunResumed(boot_id(), journal.repaired))
        ledger = Ledger.recover(_facts(folder), journal)
        for sandbox, closed in story.sandboxes.items():
            if not closed:
                journal.append(SandboxLost(sandbox, "the process that drove the run died"))
                journal.append(SandboxClosed(sandbox, residue))
        if not all(story.sandboxes.values()):
            story.residue += residue
        if (folder.path / "delivering-to").exists():
            from gearcase.doors.delivery import sweep  # only here: few die so late

            story.residue += sweep(folder.path, folder.id)
        _end_agents(story, ledger, journal)
        journal.append(Failure(supervisor_died(folder).envelope()))
        record = _record(folder, story, ledger)
        journal.append(RunEnded(record.status, record.as_json()))
    finally:
        journal.close()
    for left in (folder.path / "asked", folder.path / "shards", *folder.path.glob(f"databases/*{KEPT}")):
        if left.exists():
            discard(left)
    (folder.path / "control.sock").unlink(missing_ok=True)
    return True


def _end_agents(story: Story, ledger: Ledger, journal: Journal) -> None:
    """Sub-agents that died with the process have an ending, too: each before the one that spawned it."""
    open_accounts = {name for name, _parent in ledger.accounts()}
    for agent, spawned in reversed(story.agents.items()):
        spent = ledger.subtree_spent(agent) if agent in open_accounts else {}
        told = {name: amount for name, amount in spent.items() if amount}
        detail = "the process that drove the run died"
        journal.append(
            AgentReturned(
                spawned.parent, "killed" if story.killed else "lost", "", detail, "", told, story.steps.get(agent, 0), 0.0
            ),
            agent,
        )


def _facts(folder: RunFolder) -> Iterator[tuple[int, Event]]:
    """What the ledger is rebuilt from. The run's own account stays open, because the ending asks what it spent."""
    for record in read(folder.journal):
        event = record.event
        if event is not None and not (isinstance(event, events.AccountClosed) and event.account == RUN):
            yield record.seq, event


def _record(folder: RunFolder, story: Story, ledger: Ledger) -> EndRecord:
    """The ending. The accounts are closed on the way: what the lead and the reserve have left goes back to the run."""
    accounts = [name for name, _parent in ledger.accounts()]
    for account in reversed(accounts):
        if account != RUN:
            ledger.close(account)
    spent, remaining = dict[str, int](), dict[str, int]()
    if RUN in accounts:
        if not story.closed:
            charge_time(ledger, story.seconds)
        spent = ledger.subtree_spent(RUN)
        remaining = {name: free for name in spent if (free := ledger.balance(RUN, name).free) is not None}
        if not story.closed:
            ledger.close(RUN)
    return _ending(folder, story, spent, remaining, supervisor_died(folder))


def _ending(folder: RunFolder, story: Story, spent: Amounts, remaining: Amounts, error: RunError) -> EndRecord:
    delivered = story.delivered
    return EndRecord(
        run=folder.id,
        name=folder.name,
        status="stopped" if story.killed else "failed",
        limit=story.limit,
        spent=spent,
        remaining=remaining,
        delivered=delivered.files if delivered else [],
        refused=delivered.refused if delivered else [],
        out=delivered.to if delivered else "",
        checks=list(story.checks.values()),
        journal_head=story.head,
        seconds=round(story.seconds, 3),
        residue=story.residue,
        error=None if story.killed else error.envelope(),
    )


def _add(to: Amounts, amounts: Amounts) -> None:
    for resource, amount in amounts.items():
        to[resource] = to.get(resource, 0) + amount


def _check(event: events.CheckRan) -> dict[str, Any]:
    return {
        "name": event.name,
        "verdict": event.verdict,
        "score": event.score,
        "seconds": event.seconds,
        "reason": event.reason,
        "output": event.output[-2000:],
    }


def _sweep(folder: RunFolder) -> list[str]:
    """End the boxes of this run and wait for it; returns what stayed. Other dead runs' boxes are swept along."""
    begun = dict[int, int]()
    groups = list[str]()
    for file in Path(owners.runtime_folder(), "boxes").glob(f"{folder.id}*.json"):
        found = _owner_record(file)
        begun |= {int(pid): int(started) for pid, started in found.get("processes", {}).items()}
        groups += found.get("cgroups", [])
    owners.sweep()
    deadline = time.monotonic() + _DYING
    while True:
        living = [f"process {pid}" for pid, started in begun.items() if _lives(pid, started)]
        stayed = living + [group for group in groups if Path(group).exists()]
        if not stayed or time.monotonic() > deadline:
            return stayed
        time.sleep(0.01)
        for group in groups:  # one whose last process was still dying could not be removed
            cgroups.remove_tree(group)


def _owner_record(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}  # swept meanwhile, or its owner died while it wrote: nothing was made yet
    known = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return known if known.get("boot") == boot_id() else {}


def _lives(pid: int, started: int) -> bool:
    one = processes.look(pid)
    return one is not None and one.started == started and one.state != "Z"
