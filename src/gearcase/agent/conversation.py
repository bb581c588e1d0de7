"""An agent's conversation on disk as it goes, so that another process can go on with it.

A line for each thing that changed what the model has in view (`Context`): what it said, what its commands came to, what it was told,
what was taken out of view. It is handed to the kernel before it has an effect: an answer before its commands run, a result before the
next request. So the kill of this process loses at most what was not known yet.

Invariants: lines are only added. A torn last one is as if it had never been written; where one cannot be written none follows it, so
that what is there is always a beginning. Threat: the texts are a model's and its programs'. They are read back as data of fixed kinds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from gearcase.agent.archive import kind_of
from gearcase.agent.transcript import Call, Message, Ran, Said
from gearcase.errors import RunError
from gearcase.events import Failure
from gearcase.seams import Recorder

FORMAT = "gearcase-conversation/1"

Line = Mapping[str, Any]
_FIELDS = {
    "told": {"text", "pinned"},
    "asked": {"status"},
    "left_out": {"id"},
    "removed": {"ids"},
    "window": {"tokens"},
}
"""Of the lines that are no answer and no output."""


class Conversation:
    """The file of one agent, which is made with its first line. `earlier`: what stood in it, of a run that this one goes on for."""

    def __init__(self, path: Path, recorder: Recorder, agent: str) -> None:
        """Raises RunError `conversation_unreadable`."""
        self._path = path
        self._recorder = recorder
        self._agent = agent
        self._file = -1
        self._failed = False
        self.earlier = read_lines(path)

    def keep(self, line: Line) -> None:
        """Add a line. What the disk refuses is on record once, and ends what is kept; the agent goes on."""
        if self._failed:
            return
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                if not os.fstat(self._file).st_size:
                    self._write({"format": FORMAT})
            self._write(line)
        except OSError as error:
            self._failed = True
            self._recorder.append(Failure(_unwritable(self._path, error).envelope()), self._agent)

    def _write(self, line: Line) -> None:
        data = memoryview(_encoded(line))
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._failed = True


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file but its first, none where there is none. Raises RunError `conversation_unreadable`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        lines = [cast("dict[str, Any]", json.loads(line)) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        if lines and lines[0]["format"] != FORMAT:
            raise ValueError(f"its format is {lines[0]['format']!r}, not {FORMAT!r}")
        for line in lines[1:]:
            _require(line)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            "conversation_unreadable",
            f"the conversation in {path} cannot be read: {error}",
            cause=str(error),
            remedy="the file is damaged, altered or of another version of gearcase; without it the run begins at its goal",
        ) from error
    return lines[1:]


def copy_lines(source: Path, target: Path) -> None:
    """Copy the whole lines of a file that nobody writes any more, durably. Raises RunError `conversation_unreadable`, OSError."""
    lines = read_lines(source)
    if not lines:
        return
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(map(_encoded, ({"format": FORMAT}, *lines)))
        file.flush()
        os.fdatasync(descriptor)


def answers(lines: Iterable[Line]) -> int:
    """How many answers of the model a conversation holds."""
    return sum(line.get("kind") == "answer" for line in lines)


def row_of(message: Message) -> dict[str, Any]:
    """A message as a line holds it."""
    return {"kind": kind_of(message), **asdict(message)}


def message_of(row: Line) -> Said | Ran:
    """The answer or the output of which `row_of` made a line. Raises KeyError or TypeError for anything else."""
    if row["kind"] == "output":
        return Ran(row["call"], row["text"], row["failed"])
    return Said(row["text"], tuple(Call(**call) for call in row["calls"]), tuple(row["native"]), row["stop"])


def _require(line: Line) -> None:
    """Raises KeyError or TypeError for a line that `Context.take_up` cannot read."""
    kind = str(line["kind"])
    if kind not in _FIELDS:
        message_of(line)
    elif missing := _FIELDS[kind] - line.keys():
        raise KeyError(*missing)


def _encoded(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"  # escapes what is no Unicode


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        "conversation_unwritten",
        f"the agent's conversation cannot be kept any longer: {error.strerror or error}",
        cause=f"{path}: {error}",
        remedy="make room on that disk; if the run's process dies, another one goes on with the conversation up to here",
    )
