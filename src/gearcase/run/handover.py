"""Handing over: copy the deliverables once, check that copy, deliver that copy.

`Acceptance` runs the checks, for `gear check` on a copy of the moment (billed to the agent, one at a time, counted) and at the end
on the copy that leaves. What the agent sees of a verdict is what the box lets it see.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gearcase.box import Box, Check
from gearcase.brake import Brake, Level, Part
from gearcase.checks import CheckVerdict, PutFiles, put_files, run_check, view
from gearcase.doors.delivery import DELIVERING, deliver, verify
from gearcase.doors.files import DeliveredFile, Delivery, Refusal, discard, take, unasked_git
from gearcase.doors.patches import as_patch
from gearcase.doors.patterns import Patterns
from gearcase.doors.repositories import recall
from gearcase.doors.scanning import marked, scan, without
from gearcase.errors import GearcaseError, Refused, RunError
from gearcase.events import CheckRan, DeliverablesScanned, Delivered
from gearcase.ledger import Ledger
from gearcase.run.accounts import LEAD, LEAD_PURSE, Purse
from gearcase.run.change import selected
from gearcase.run.doors import Doors
from gearcase.run.workspace import Workspace
from gearcase.runs import RunFolder, write_atomically
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Driver, Limits, Recorder, Sandbox
from gearcase.units import format_bytes

T = TypeVar("T")

MOST_REQUESTS = 20
"""How often an agent may have checks run."""
DATABASE = "postgres:"
"""What begins a pattern of `take` that means a database: it leaves as NAME.dump, in PostgreSQL's custom format."""
_TOLD = 5
FINAL = "final"
"""The request that nobody makes: the checks on what is handed over."""


class Acceptance:
    """The checks of one agent's deliverables. `driver` makes a sandbox of its own for each of them, `put` its files into it."""

    def __init__(
        self,
        box: Box,
        driver: Driver,
        limits: Limits,
        workspace: Workspace,
        folder: RunFolder,
        ledger: Ledger,
        recorder: Recorder,
        brake: Part,
        doors: Doors,
        purse: Purse = LEAD_PURSE,
        put: PutFiles = put_files,
    ) -> None:
        self._purse = purse
        self._put = put
        self._box = box
        self._driver = driver
        self._limits = limits
        self._workspace = workspace
        self._folder = folder
        self._ledger = ledger
        self._recorder = recorder
        self._brake = brake
        self._doors = doors
        self._turn = asyncio.Lock()
        self._requests = 0
        self._latest: dict[str, dict[str, Any]] = {}

    def latest(self) -> list[dict[str, Any]]:
        """What the agent last saw of each check."""
        return [self._latest.get(check.name, {"name": check.name, "verdict": "not run yet"}) for check in self._box.checks]

    async def on_request(self, agent: str, name: str) -> dict[str, Any]:
        """`gear check`: on a copy of this moment, billed to the agent, one at a time, at most MOST_REQUESTS times."""
        wanted = self._wanted(name)
        if self._requests >= MOST_REQUESTS:
            remedy = "hand in with `gear done --as-is`; the checks run once more on what you hand in"
            raise Refused("too_many_checks", f"checks were run {MOST_REQUESTS} times, which is all", remedy=remedy)
        self._requests += 1
        number = str(self._requests)
        async with self._turn:
            staging = self._folder.path / "asked" / f"{self._mine}{number}"
            delivery = await self.stage(staging)
            try:
                verdicts = [await self._run(check, staging, delivery, number) for check in wanted]
            finally:
                await in_thread(discard, staging)
        shown = [view(check, verdict) for check, verdict in zip(wanted, verdicts, strict=True)]
        self._latest |= {str(seen["name"]): seen for seen in shown}
        passed = all(verdict.verdict == "passed" for verdict in verdicts)
        left = MOST_REQUESTS - self._requests
        return {
            "passed": passed,
            "checks": shown,
            "files": len(delivery.files),
            "refused": self._refusals(delivery),
            "checks_left": left,
        }

    async def final(self, staging: Path, delivery: Delivery) -> list[CheckVerdict]:
        """Every check, on the copy that will be delivered."""
        return [await self._run(check, staging, delivery, FINAL) for check in self._box.checks]

    async def look_for_secrets(
        self, staging: Path, delivery: Delivery, held: Mapping[str, Sequence[str]]
    ) -> tuple[Delivery, list[str]]:
        """The delivery with what looks like a credential marked, or without it, as the box says; and what to warn of.

        `held`: values of the model and http doors, by whom; those of the others are added. It is on record.
        """
        wanted = self._box.files.secrets
        if wanted == "off" or not delivery.files:
            return delivery, []
        every = {**held, **self._doors.secrets}
        scanning = scan(self._driver, delivery, staging, f"{self._folder.id}-scan", self._braked, every)
        scanned = await unless_killed(self._brake, scanning)
        if scanned is None:
            return delivery, []  # killed: nothing leaves
        found = [{"path": printable(one.path), "line": one.line, "kind": one.kind} for one in scanned.found]
        refuses = wanted == "refuse"
        self._recorder.append(
            DeliverablesScanned(len(delivery.files), found[:1000], scanned.unscanned, refuses, scanned.seconds), LEAD
        )
        told = [f"{one['path']}:{one['line']} ({one['kind']})" for one in found]
        more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        what = "what looks like a credential stayed inside" if refuses else "what leaves holds what looks like a credential"
        warnings = [f"{what}: {', '.join(told[:_TOLD])}{more}"] if told else []
        if scanned.unscanned:
            warnings.append(f"not all of it was looked at for credentials: {scanned.unscanned}")
        if refuses:
            return await in_thread(without, delivery, scanned, staging), warnings
        return marked(delivery, scanned), warnings

    async def stage(self, staging: Path) -> Delivery:
        """Copy the deliverables of this moment into a new folder, with the box frozen."""
        files = self._box.files
        databases = [one.removeprefix(DATABASE) for one in files.take if one.startswith(DATABASE)]
        patterns = [one for one in files.take if not one.startswith(DATABASE)]
        unasked = unasked_git(files.give, patterns)
        async with self._workspace.still() as workspace:
            delivery = await in_thread(take, workspace, patterns, staging, most_bytes=files.take_max, unasked=unasked)
        for name in databases:
            delivery = await self._stage_database(name, delivery, staging)
        return delivery

    async def _stage_database(self, name: str, delivery: Delivery, staging: Path) -> Delivery:
        """Add a dump of a database to what is staged. Whatever stands against it is a refusal, as for any file."""
        path = f"{name}.dump"
        try:
            if os.path.lexists(staging / path):
                raise Refused("exists", "a file of the box has its name", remedy="let the agent name it otherwise")
            size = await self._doors.dump(name, staging / path)
            if delivery.total + size > self._box.files.take_max:
                (staging / path).unlink()
                raise Refused("too_large", f"{format_bytes(size)} more is too much", remedy="raise take_max in [files]")
        except GearcaseError as error:
            return replace(delivery, refused=(*delivery.refused, Refusal(path.encode(), error.message)))
        (staging / path).chmod(0o644)
        digest = await in_thread(_digest, staging / path)
        files = sorted((*delivery.files, DeliveredFile(path.encode(), digest, size, 0o644)), key=lambda file: file.path)
        return replace(delivery, files=tuple(files))

    @property
    def _mine(self) -> str:
        """What tells an agent's checks from those of others, in names; empty for the lead."""
        return "" if self._purse == LEAD_PURSE else f"{self._purse.agent}-"

    async def _run(self, check: Check, staging: Path, delivery: Delivery, request: str) -> CheckVerdict:
        """One check, on record and paid by the agent. Where what it read changed meanwhile, its verdict is void."""
        identity = f"{self._folder.id}-{self._mine}{request}-{check.name}"
        running = run_check(self._driver, check, staging, self._limits, identity, self._braked, self._put)
        verdict = await unless_killed(self._brake, running)
        verdict = verdict or CheckVerdict(check.name, "skipped", reason="the run was killed")
        if verdict.verdict == "passed":
            try:
                await in_thread(verify, delivery, staging)
            except RunError as error:
                verdict = replace(verdict, verdict="skipped", score=None, reason=f"void: {error.message}; {error.remedy}")
        milliseconds = {"cpu": round(verdict.cpu * 1000)}
        if self._purse == LEAD_PURSE:  # the time of sub-agents passes beside the lead's, and is counted there
            milliseconds["wall"] = round(verdict.seconds * 1000)
        self._ledger.charge(self._purse.work, milliseconds, f"check {check.name}")
        self._recorder.append(
            CheckRan(
                name=check.name,
                verdict=verdict.verdict,
                score=verdict.score,
                seconds=round(verdict.seconds, 3),
                inputs=delivery.manifest_digest,
                final=request == FINAL,
                output=verdict.output[-4096:] or verdict.reason,
                reason=verdict.reason,
            ),
            self._purse.agent,
        )
        return verdict

    @asynccontextmanager
    async def _braked(self, sandbox: Sandbox) -> AsyncGenerator[None]:
        await self._brake.add_sandbox(sandbox)
        try:
            yield
        finally:
            self._brake.remove_sandbox(sandbox)

    def _wanted(self, name: str) -> list[Check]:
        wanted = [check for check in self._box.checks if name in ("", check.name)]
        if not wanted:
            known = ", ".join(check.name for check in self._box.checks) or "none: the box declares no check"
            raise Refused("no_check", f"there is no check {name!r}" if name else "there is no check", remedy=f"declared: {known}")
        return wanted

    @staticmethod
    def _refusals(delivery: Delivery) -> list[dict[str, str]]:
        return [{"path": refusal.path.decode("utf-8", "replace"), "reason": refusal.reason} for refusal in delivery.refused[:20]]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


async def unless_killed(brake: Brake | Part, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work comes to; None, and the work is cancelled, where the run is killed first."""
    task = asyncio.create_task(work)
    killed = asyncio.create_task(brake.wait_for(lambda level: level is Level.KILLED))
    try:
        await asyncio.wait({task, killed}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, killed):
            one.cancel()
        await asyncio.gather(task, killed, return_exceptions=True)


def hand_over(
    box: Box, folder: RunFolder, store: BlobStore, delivery: Delivery, out: Path, force: bool, earlier: Delivery | None = None
) -> Delivered:
    """Copy the checked deliverables to the operator's folder; where one given tree is a git repository, also as a patch.

    `earlier`: what the run that this one goes on for had delivered. Returns the fact, for the record.
    """
    patch, staging = b"", folder.delivered
    repositories = recall(folder.path)
    if len(repositories) == 1:
        files, _ignored = selected(repositories[0], delivery, staging, Patterns(box.files.take), store, folder.path)
        patch = as_patch(files, store, staging).data
    write_atomically(folder.path / DELIVERING, os.fsencode(out.absolute()))
    handed = deliver(delivery, staging, out, force=force, patch=patch, earlier=earlier, run=folder.id)
    facts = delivery.record()
    return Delivered(str(handed.out), facts["files"], facts["refused"], delivery.manifest_digest)
