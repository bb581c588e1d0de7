"""Acceptance: what "done" means, decided outside the agent's reach.

A check runs in a sandbox of its own, without doors, on the very copy that will be delivered. Its verdict is its exit code; a score
comes on file descriptor 3 alone. What it prints is evidence for people, never a verdict: a deliverable may be named like a score
line, or be printed by a test runner.

Threat: deliverables that forge a verdict. They are mounted read-only and not executable at /given/delivered, away from the check's own
files, which lie in its working folder; Python runs isolated from its surroundings; git reads no configuration. A check that could
not run is `skipped`, and skipped is not passed. A check is as strong as its parser: parse what the agent made, never import it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gearcase.box import Check
from gearcase.errors import GearcaseError
from gearcase.sandbox.copying import copy_in
from gearcase.sandbox.threads import in_thread
from gearcase.seams import Command, CommandResult, Driver, Limits, Mount, Sandbox, SandboxSpec

Verdict = Literal["passed", "failed", "skipped"]

DELIVERED = "/given/delivered"
ENVIRONMENT = {
    "DELIVERED": DELIVERED,
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}
NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """What a check said. `reason` is ours, `output` its own; seconds of wall time."""

    name: str
    verdict: Verdict
    score: float | None = None
    output: str = ""
    seconds: float = 0.0
    cpu: float = 0.0
    reason: str = ""


Braked = Callable[[Sandbox], AbstractAsyncContextManager[None]]
"""While this lasts, a sandbox obeys the brake of its run."""


PutFiles = Callable[[Check, Sandbox], None]
"""Puts what a check needs into its working folder, in a thread."""


def put_files(check: Check, sandbox: Sandbox) -> None:
    """The files that the box names for it, under their own names."""
    for path in check.files:
        copy_in(path, sandbox.workspace, path.name.encode(), sandbox.owner)


async def run_check(
    driver: Driver,
    check: Check,
    deliverables: Path,
    limits: Limits,
    identity: str,
    braked: Braked,
    put: PutFiles = put_files,
) -> CheckVerdict:
    """Run one check on a folder of deliverables. Never raises for what the check or the deliverables do: that is a verdict.

    `identity` must be unique on the machine.
    """
    spec = SandboxSpec(
        id=identity,
        limits=limits,
        mounts=(Mount(deliverables, DELIVERED, executable=False),),
        environment=ENVIRONMENT,
    )
    try:
        sandbox = await driver.open(spec)
    except GearcaseError as error:
        return CheckVerdict(check.name, "skipped", reason=f"its sandbox did not start: {error.message}; {error.remedy}")
    try:
        async with braked(sandbox):
            await in_thread(put, check, sandbox)
            command = Command(("/bin/bash", "-c", check.run), deadline=check.deadline, report=True)
            return _judge(check, await sandbox.run(command))
    except GearcaseError as error:
        return CheckVerdict(check.name, "skipped", reason=f"{error.message}; {error.remedy}")
    finally:
        await sandbox.close()


def view(check: Check, verdict: CheckVerdict) -> dict[str, Any]:
    """What the agent may see of a verdict, by the box's `show`."""
    seen: dict[str, Any] = {"name": check.name, "verdict": verdict.verdict}
    if check.show in ("score", "output"):
        seen["score"] = verdict.score
    if check.show == "output":
        seen |= {"output": verdict.output, "reason": verdict.reason}
    return seen


def _judge(check: Check, result: CommandResult) -> CheckVerdict:
    output = result.stdout.text()

    def verdict(kind: Verdict, reason: str = "", score: float | None = None) -> CheckVerdict:
        return CheckVerdict(check.name, kind, score, output, result.seconds, result.cpu, reason)

    if result.ended == "deadline":
        return verdict("failed", f"it did not end within {check.deadline:g} s")
    if result.ended == "lost":
        return verdict("skipped", "its sandbox died")
    if result.ended == "exited" and result.exit_code == NOT_FOUND:
        return verdict("skipped", f"a program that it needs is not inside (exit {NOT_FOUND})")
    try:
        score = _score(result.report)
    except ValueError as error:
        return verdict("failed", f"its report on descriptor 3 is not a score: {error}")
    if result.exit_code != 0:
        struck = f", limits: {', '.join(result.limits)}" if result.limits else ""
        return verdict("failed", f"exit {result.exit_code}{struck}", score)
    if check.min_score is not None and (score is None or score < check.min_score):
        return verdict("failed", f"the score is below {check.min_score:g}", score)
    return verdict("passed", "", score)


def _score(report: bytes) -> float | None:
    """The score of a report, None without one. Raises ValueError for anything but one JSON object with a finite number."""
    if not report.strip():
        return None
    try:
        told = json.loads(report)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")
    score: object = told.get("score")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError("`score` is not a number")
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("`score` is not finite")
    return number
