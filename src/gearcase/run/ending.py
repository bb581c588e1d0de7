"""How a run ends: what is handed over, and the one record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearcase.box import Box
from gearcase.brake import BoxClock, Brake, Level
from gearcase.checks import CheckVerdict
from gearcase.doors.files import Delivery
from gearcase.doors.repositories import OUTPUTS
from gearcase.errors import GearcaseError, RunError
from gearcase.journal import Journal
from gearcase.ledger import Ledger
from gearcase.run.accounts import RUN, Pace
from gearcase.run.change import note_delivery
from gearcase.run.handover import Acceptance, hand_over
from gearcase.run.record import EndRecord, Kind, Status
from gearcase.runs import RunFolder
from gearcase.sandbox.beneath import explaining
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.threads import in_thread

LIMITS = frozenset({"budget", "wall", "steps", "cpu_time", "operator"})
"""Reasons of an end that are limits."""


@dataclass(frozen=True, slots=True)
class End:
    """Why the work ended: done | budget | wall | steps | cpu_time | stopped | failed | lost | killed."""

    reason: str
    detail: str = ""
    note: str = ""
    exit: int | None = None
    error: GearcaseError | None = None


@dataclass(slots=True)
class Ending:
    """Gathers what the record says, as the run comes to its end."""

    out: Path | None
    force: bool
    box: Box
    folder: RunFolder
    clock: BoxClock
    ledger: Ledger
    pace: Pace
    journal: Journal
    kind: Kind = "agent"
    end: End = field(default_factory=lambda: End("failed", "it did not begin"))
    delivery: Delivery = field(default_factory=Delivery)
    verdicts: list[CheckVerdict] = field(default_factory=list[CheckVerdict])
    delivered_to: str = ""
    earlier: Delivery | None = None  # what the run that this one goes on for had delivered
    residue: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    error: dict[str, Any] | None = None
    alarms: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def failed(self, error: GearcaseError) -> None:
        """The run could not go on."""
        self.error = error.envelope()
        if self.end.reason != "killed":
            self.end = End("failed", error.message, self.end.note, self.end.exit)

    async def hand_over(self, brake: Brake, store: BlobStore, acceptance: Acceptance, held: Mapping[str, Sequence[str]]) -> None:
        """Copy the deliverables, check the copy, and deliver it unless a check stands against it or the run is killed.

        Values that are `held` outside, by whom, are looked for in them.
        """
        if self.end.reason == "lost":
            return  # a box that is gone has no files
        self.delivery = await acceptance.stage(self.folder.delivered)
        self.delivery, warned = await acceptance.look_for_secrets(self.folder.delivered, self.delivery, held)
        self.warnings += warned
        note_delivery(self.folder, self.delivery)
        self.verdicts = await acceptance.final(self.folder.delivered, self.delivery)
        if self.delivery.files and self.status(brake.level) in ("accepted", "unverified", "exhausted"):
            out = self.out or _default_out(self.folder)
            delivered = await in_thread(hand_over, self.box, self.folder, store, self.delivery, out, self.force, self.earlier)
            self.journal.append(delivered)
            self.delivered_to = delivered.to

    def status(self, level: Level) -> Status:
        """The status that the facts amount to."""
        if level is Level.KILLED or self.end.reason in ("killed", "stopped"):
            return "stopped"
        if self.error is not None or self.end.reason in ("failed", "lost"):
            return "failed"
        if any(verdict.verdict != "passed" for verdict in self.verdicts):
            return "exhausted" if self.end.reason in LIMITS else "rejected"
        if self.verdicts:
            return "accepted"
        return "exhausted" if self.end.reason in LIMITS else "unverified"

    def failure(self, level: Level) -> str:
        """What happened to a run that failed, or that a monitor stopped, without a word of anybody's but ours; else empty."""
        if self.end.reason == "stopped":
            return f"was stopped by monitor {self.end.detail.partition(':')[0]}, and nobody answered."
        if self.status(level) != "failed":
            return ""
        code = (self.error or {}).get("code") or (self.end.error.code if self.end.error else f"agent_{self.end.reason}")
        return f"failed: {code}."

    def record(self, level: Level) -> EndRecord:
        """The record, with everything that is known now."""
        status = self.status(level)
        facts = self.delivery.record()
        spent = self.ledger.subtree_spent(RUN)
        remaining = {name: balance.free for name in spent if (balance := self.ledger.balance(RUN, name)).free is not None}
        error = self.error or (self.end.error.envelope() if self.end.error else None)
        if error is None and status == "failed":
            remedy = f"see what happened: gearcase logs {self.folder.name}"
            error = RunError(f"agent_{self.end.reason}", self.end.detail, remedy=remedy).envelope()
        return EndRecord(
            run=self.folder.id,
            name=self.folder.name,
            status=status,
            limit=self.pace.limit,
            spent=spent,
            remaining=remaining,
            delivered=facts["files"],
            refused=facts["refused"],
            out=self.delivered_to or (str(self.folder.delivered) if self.delivery.files else ""),
            unchecked=not self.box.checks,
            checks=[_check(verdict) for verdict in self.verdicts],
            alarms=self.alarms,
            warnings=self.warnings,
            note=self.end.note,
            seconds=round(self.clock.now(), 3),
            residue=self.residue,
            error=error,
            kind=self.kind,
            exit=self.end.exit if self.end.reason == "done" else None,
        )


def _default_out(folder: RunFolder) -> Path:
    """Below the folder that the operator works in; git is told to leave it alone there."""
    top = Path(OUTPUTS)
    with explaining(os.fsencode(top), "making"):
        top.mkdir(exist_ok=True)
        with suppress(FileExistsError), (top / ".gitignore").open("x") as file:
            file.write("*\n")
    return top / folder.name


def _check(verdict: CheckVerdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "verdict": verdict.verdict,
        "score": verdict.score,
        "seconds": round(verdict.seconds, 3),
        "reason": verdict.reason,
        "output": verdict.output[-2000:],
    }
