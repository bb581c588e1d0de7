"""A run whose process died goes on as another one: `gearcase recover`.

The box died with its process. What outlives it lies in its folder: what it was asked for (`again.json`), what it spent, the last snapshot
of its files, its agent's conversation, and what its maps have paid for. The new run has the same box with its limits less what was spent,
and goes on from there; a program begins again, on those files.

Invariants: one run at most goes on for a dead one; both together spend no more than the box allows, calls that were on their way at the
death counted at their worst case; the dead run's record stays as it is. What the new run begins with is in its own folder before its
journal is, so that it can be gone on for, whenever it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearcase.agent.conversation import answers, copy_lines, read_lines
from gearcase.box import LoadedBox, load_box
from gearcase.doors.files import Delivery
from gearcase.errors import UsageError
from gearcase.events import Amounts, RunContinues
from gearcase.journal import read
from gearcase.run.change import noted_delivery
from gearcase.run.forking import Fork
from gearcase.run.interruption import Interruption, told
from gearcase.run.options import RunOptions
from gearcase.run.process import ending
from gearcase.runs import RunFolder, all_runs, find, write_atomically
from gearcase.sandbox.beneath import explaining
from gearcase.sandbox.blobs import BlobStore
from gearcase.sandbox.states import State, States
from gearcase.swarm.results import take_over

_ASKED = "again.json"
_HEIR = "goes-on"


@dataclass(frozen=True, slots=True)
class Dead:
    """A run whose process died, and what it spent: what another one goes on with.

    `state` is the last of its files that is kept, `answers` are those in its agent's conversation, `agents` the ids of sub-agents that
    were given, `delivered` is what it or one before it delivered; `told` is what the agent that goes on is told.
    """

    folder: RunFolder
    spent: Amounts
    state: State | None = None
    answers: int = 0
    agents: int = 0
    told: str = ""
    delivered: Delivery | None = None

    def take_over(self, to: RunFolder) -> RunContinues:
        """Make `to` the run that goes on, with copies of conversation and answers.

        Raises UsageError `went_on` where another one does already, RunError where the disk refuses.
        """
        descriptor = os.open(self.folder.path / _HEIR, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # two that are typed at once
            if (heir := heir_of(self.folder)) is not None:
                raise went_on(self.folder, heir)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, to.id.encode(), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with explaining(bytes(to.conversation), "copying the conversation"):
            copy_lines(self.folder.conversation, to.conversation)
        found = take_over(self.folder.results, to.results) if self.folder.results.exists() else 0
        snapshot = self.state.name if self.state is not None else ""
        return RunContinues(self.folder.id, self.folder.name, self.spent, found, snapshot, self.answers, self.agents)


def note_asked(folder: RunFolder, options: RunOptions) -> None:
    """Keep what a run was asked for beside its box. Of one with a terminal, or with what its program needs beside it, nothing is kept."""
    if options.terminal is not None or options.program_environment or options.home or options.cassette is not None:
        return
    out = str(options.out.absolute()) if options.out is not None else ""
    fork = [options.forks.folder.id, options.forks.at] if options.forks is not None else []
    asked = {"program": list(options.program), "folder": options.program_folder, "out": out, "force": options.force, "fork": fork}
    write_atomically(folder.path / _ASKED, json.dumps(asked).encode())


def heir_of(folder: RunFolder) -> RunFolder | None:
    """The run that goes on for a dead one. A run that never began is none."""
    try:
        named = (folder.path / _HEIR).read_text()
    except FileNotFoundError:
        return None
    return next((run for run in all_runs() if run.id == named and run.journal.is_dir()), None)


def went_on(folder: RunFolder, heir: RunFolder) -> UsageError:
    """A dead run goes on once."""
    return UsageError(
        "went_on", f"run {folder.name} went on as {heir.name}", remedy=f"look at that one: gearcase report {heir.name}"
    )


def options_of(folder: RunFolder) -> RunOptions:
    """What goes on for a run whose process died.

    Raises UsageError `still_runs`, `not_crashed`, `went_on`, `not_kept`, `nothing_left`, `box` where files that it names are gone;
    RunError `bad_manifest`, `conversation_unreadable`, and where the dead run cannot be put in order.
    """
    if folder.owner_pid():
        raise UsageError(
            "still_runs",
            f"run {folder.name} is alive",
            remedy=f"watch it: gearcase attach {folder.name}; a frozen one goes on with gearcase resume {folder.name}",
        )
    record = ending(folder)  # which puts its books in order
    if (record.error or {}).get("code") != "supervisor_died":
        raise UsageError(
            "not_crashed", f"run {folder.name} ended by itself: {record.status}", remedy="start another one: gearcase run or exec"
        )
    if (heir := heir_of(folder)) is not None:
        raise went_on(folder, heir)
    try:
        asked: dict[str, Any] = json.loads((folder.path / _ASKED).read_bytes())
    except FileNotFoundError:
        raise UsageError(
            "not_kept",
            f"what run {folder.name} was asked for is not kept",
            cause="it had a terminal, was a replay, or is of another version",
            remedy="type its command again",
        ) from None
    cut, state = Interruption.of(read(folder.journal)), last_state(folder)
    forks = Fork(folder, state.name) if state is not None else None
    if forks is None and asked.get("fork"):
        forks = Fork(find(asked["fork"][0]), str(asked["fork"][1]))
    box = _rest(folder, record.spent, cut, forked=forks is not None)
    program, lines = tuple(asked["program"]), read_lines(folder.conversation)
    message = "" if program else told(cut, box.box, folder.name, state, bool(lines))
    return RunOptions(
        box=box,
        out=Path(asked["out"]) if asked["out"] else None,
        force=bool(asked["force"]),
        program=program,
        program_folder=str(asked["folder"]),
        continues=Dead(folder, record.spent, state, answers(lines), cut.agents, message, _delivered(folder, cut)),
        forks=forks,
    )


def _delivered(folder: RunFolder, cut: Interruption) -> Delivery | None:
    """What a dead run was delivering or had delivered, or else the one that it went on for."""
    found = noted_delivery(folder.path)
    earlier = next((run for run in all_runs() if run.id == cut.before), None) if found is None and cut.before else None
    return found if earlier is None else _delivered(earlier, Interruption.of(read(earlier.journal)))


def last_state(folder: RunFolder) -> State | None:
    """The last snapshot of a run's files whose contents are all there. Raises RunError `bad_manifest`."""
    states = States(folder.states)
    names = [name for name in states.states if states.kept(name)]
    store = BlobStore(folder.pool, BlobStore(folder.blobs)) if names else None
    for name in reversed(names):
        entries = states.manifest(name).entries
        if store is not None and all(store.holds(entry.digest, entry.size) for entry in entries if entry.digest):
            return states.find(name)
    return None


def _rest(folder: RunFolder, spent: Amounts, cut: Interruption, forked: bool) -> LoadedBox:
    """Its box with what is left of its limits. The ledger counts as a box does, but for the time: in milliseconds, not seconds."""
    loaded = load_box(folder.box_file, without_gone=forked)
    limits, swarm = loaded.box.limits, loaded.box.swarm
    used = {**spent, "wall": spent.get("wall", 0) / 1000, "cpu_time": cut.cpu(limits.cpus) + spent.get("cpu", 0) / 1000}
    used["steps"] = cut.steps
    left: dict[str, Any] = {}
    for name in ("usd", "tokens", "calls", "egress", "wall", "cpu_time", "steps"):
        if (whole := getattr(limits, name)) is None:
            continue
        left[name] = whole - used.get(name, 0)
        if left[name] <= 0:
            remedy = f"start another one with more of it: [limits] {name}"
            raise UsageError("nothing_left", f"run {folder.name} had used up its {name} when it died", remedy=remedy)
    agents = swarm.agents - spent.get("agents", 0)
    some = swarm.model_copy(update={"agents": agents} if agents > 0 else {"depth": 0})
    box = loaded.box.model_copy(update={"limits": limits.model_copy(update=left), "swarm": some})
    return replace(loaded, box=box)
