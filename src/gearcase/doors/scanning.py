"""Credentials in what is about to leave: each finding marks its file by kind and line, never by its value.

Two looks. A library that knows credentials by their form (`detect_secrets`) reads the staged files in a sandbox of its own: read-only,
without network, with limits and a deadline, since an agent chose the bytes, and patterns can be made to take for ever. And the values that
the doors of this very run hold are looked for here, as plain bytes, in the ways that `masks` knows.

Invariant: what was not looked at is said (`Scan.unscanned`), never passed over in silence. Best effort, like any such list: what is
compressed, encrypted or cut in pieces is not seen through, and a file with very many findings is told by its first.

Threat: the scanner is taken over by a file. It then knows what it was given to read, and can leave findings out; it reaches nothing.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from gearcase.doors.files import DeliveredFile, Delivery
from gearcase.doors.masks import forms
from gearcase.errors import GearcaseError
from gearcase.sandbox.copying import Refusal
from gearcase.sandbox.databases import DUCKDB, SQLITE
from gearcase.sandbox.threads import in_thread
from gearcase.sandbox.trees import write_file
from gearcase.seams import Command, CommandResult, Driver, Limits, Mount, Sandbox, SandboxSpec

DEADLINE = 60.0
"""Seconds that the library may take for a delivery."""
LIMITS = Limits(memory=512 << 20, cpus=1.0, disk=16 << 20, processes=16)
SHORTEST = 8
"""Characters of a value that is looked for."""

_PACKAGES = "/opt/packages"
_DELIVERED = "/given/delivered"
_TOO_MANY = 3  # its exit code
_SHOWN = 3
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What looks like a credential. `line` counts from 1."""

    path: bytes
    line: int
    kind: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found. `seen` are the paths that were looked at whole; `unscanned` is why the others were not, empty when all were."""

    found: tuple[Finding, ...] = ()
    seen: frozenset[bytes] = frozenset()
    unscanned: str = ""
    seconds: float = 0.0


Braked = Callable[[Sandbox], AbstractAsyncContextManager[None]]
"""While this lasts, a sandbox obeys the brake of its run."""


async def scan(
    driver: Driver, delivery: Delivery, staging: Path, identity: str, braked: Braked, held: Mapping[str, Sequence[str]]
) -> Scan:
    """Look at every staged file. `held`: the values that doors hold, by door. Never raises for what the files do."""
    began = time.monotonic()
    own = await in_thread(_held_in, delivery, staging, held)
    try:
        by_form = await _by_form(driver, delivery, staging, identity, braked)
    except GearcaseError as error:
        by_form = Scan(unscanned=f"the sandbox of the scan failed: {error.message}")
    found = sorted({*own, *by_form.found}, key=lambda one: (one.path, one.line, one.kind))
    return replace(by_form, found=tuple(found), seconds=round(time.monotonic() - began, 3))


def marked(delivery: Delivery, scanned: Scan) -> Delivery:
    """The delivery with its files flagged."""
    by_path: dict[bytes, list[str]] = {}
    for one in scanned.found:
        by_path.setdefault(one.path, []).append(f"{one.kind}, line {one.line}")
    return replace(delivery, files=tuple(_flagged(file, by_path.get(file.path, [])) for file in delivery.files))


def _flagged(file: DeliveredFile, marks: list[str]) -> DeliveredFile:
    more = [f"and {len(marks) - _SHOWN} more credentials"] if len(marks) > _SHOWN else []
    return replace(file, flags=(*file.flags, *marks[:_SHOWN], *more))


def without(delivery: Delivery, scanned: Scan, staging: Path) -> Delivery:
    """The delivery less the files that hold a credential or were not looked at, which are removed from the staging folder.

    A database leaves whole or not at all.
    """
    why = {file.path: "it was not scanned for credentials" for file in delivery.files if file.path not in scanned.seen}
    why |= {one.path: f"holds a credential ({one.kind}, line {one.line})" for one in reversed(scanned.found)}
    endings = SQLITE.beside + DUCKDB.beside
    groups = [(file.path, {file.path + ending for ending in endings}) for file in delivery.files]
    for path, beside in groups:
        parts = {path, *(beside & {file.path for file in delivery.files})}
        if parts & why.keys():
            for part in parts - why.keys():
                why[part] = "it belongs to a database that holds a credential"
    for path in why:
        (staging / Path(_text(path))).unlink()
    refused = tuple(Refusal(path, reason) for path, reason in sorted(why.items()))
    return replace(
        delivery,
        files=tuple(file for file in delivery.files if file.path not in why),
        refused=(*delivery.refused, *refused),
    )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


# --- by form, in a sandbox ---------------------------------------------------------------------------------------------------


async def _by_form(driver: Driver, delivery: Delivery, staging: Path, identity: str, braked: Braked) -> Scan:
    library = importlib.util.find_spec("detect_secrets")
    if library is None or library.origin is None:
        return Scan(unscanned="detect_secrets, which is part of gearcase, is not installed")
    mounts = (
        Mount(Path(library.origin).parent, f"{_PACKAGES}/detect_secrets", executable=False),
        Mount(staging, _DELIVERED, executable=False),
    )
    sandbox = await driver.open(SandboxSpec(identity, LIMITS, mounts))
    try:
        async with braked(sandbox):
            program = resources.files("gearcase.inbox").joinpath("secretscan.py").read_bytes()
            write_file(sandbox.box, b"secretscan.py", program)
            paths = b"".join(file.path + b"\0" for file in delivery.files)
            arguments = ("/usr/bin/python3", "-I", "-S", "-B", "/box/secretscan.py", _PACKAGES, _DELIVERED)
            command = Command(arguments, environment={"LANG": "C.UTF-8"}, stdin=paths, deadline=DEADLINE, report=True)
            return _told(delivery, await sandbox.run(command))
    finally:
        await sandbox.close()


def _told(delivery: Delivery, result: CommandResult) -> Scan:
    found: list[Finding] = []
    done = 0
    for line in result.report.splitlines():
        try:
            told: Any = json.loads(line)
            if isinstance(told, dict):
                done = max(done, *(int(number) for number in told.values()))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            else:
                found.append(_finding(delivery, *told))
                done = max(done, int(told[0]))
        except (ValueError, TypeError, IndexError, RecursionError):
            break  # cut off, or not its own words: what follows is not believed
    done = min(done, len(delivery.files))
    ended = result.ended == "exited" and result.exit_code == 0 and done == len(delivery.files)
    seen = frozenset(file.path for file in delivery.files[:done])
    if ended:
        return Scan(tuple(found), seen)
    left = len(delivery.files) - done
    return Scan(tuple(found), seen, f"{left} of {len(delivery.files)} files were not scanned: {_why(result)}")


def _finding(delivery: Delivery, index: int, line: int, kind: str) -> Finding:
    if not isinstance(kind, str) or len(kind) > 64 or not kind.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("no kind")
    return Finding(delivery.files[range(len(delivery.files))[index]].path, int(line), kind)


def _why(result: CommandResult) -> str:
    if result.ended == "deadline":
        return f"it took longer than {DEADLINE:g} s"
    if result.exit_code == _TOO_MANY:
        return "more was found than is told"
    struck = f" ({', '.join(result.limits)})" if result.limits else ""
    last = (result.stdout.text() + result.stderr.text()).strip().rpartition("\n")[2][-200:]
    return f"the scan ended with {result.exit_code}{struck}" + (f": {last}" if last else "")


# --- the values of this run's doors --------------------------------------------------------------------------------------------


def _held_in(delivery: Delivery, staging: Path, held: Mapping[str, Sequence[str]]) -> list[Finding]:
    wanted = [
        (f"credential of {door}", form)
        for door, values in held.items()
        for form in {form for value in values if len(value) >= SHORTEST for form in forms(value)}
    ]
    if not wanted:
        return []
    keep = max(len(form) for _, form in wanted) - 1
    return [found for file in delivery.files for found in _held_in_one(staging, file, wanted, keep)]


def _held_in_one(staging: Path, file: DeliveredFile, wanted: list[tuple[str, bytes]], keep: int) -> set[Finding]:
    """The first of each kind."""
    found: dict[str, Finding] = {}
    lines, kept = 1, b""
    with (staging / _text(file.path)).open("rb") as opened:
        while data := opened.read(_CHUNK):
            text = kept + data
            for kind, form in wanted:
                at = text.find(form)
                if at >= 0:
                    line = lines + text.count(b"\n", 0, at)
                    if kind not in found or line < found[kind].line:
                        found[kind] = Finding(file.path, line, kind)
            kept = text[-keep:] if keep else b""
            lines += text.count(b"\n", 0, len(text) - len(kept))
    return set(found.values())
