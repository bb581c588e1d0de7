"""What the model has in view: the transcript, its tokens, and how it is kept inside the window.

Every message is kept whole in the box under /box/history (`archive`) before it is first sent; compaction and `gear context drop` only
take it out of view, and say where it is.

Invariants, whatever is dropped in whatever order: a call and its result are both there or both gone, an answer is there as it
came (signed thinking included) or gone, and the first messages and the notes stay. What is told from outside (a note, a nudge, an
alarm) waits for the next request, so it never stands between a call and its result.

Tokens are the provider's where it reported usage: what a request had more than the one before is spread over the new messages by
size. Until then they are bytes / 4.

Whatever changes what is in view is told to `log` first as a line (see `conversation`), and `take_up` does the same again from lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from gearcase.agent.archive import Archive, kind_of, readable
from gearcase.agent.conversation import Line, message_of, row_of
from gearcase.agent.transcript import Call, Message, Ran, Said, Tokens, Told, clip
from gearcase.errors import Refused
from gearcase.events import ContextCompacted
from gearcase.seams import Recorder

SHARE = 0.8
"""Of the window: over this, the context is compacted before the next request."""
TARGET = 0.5
"""Of the window: what compaction aims at, so that it (and the lost prompt cache) is rare."""
RECENT = 6
"""Turns at the end that are only touched when nothing else is left."""
LEAST_BELIEVED = 3
"""A server that reports under a third of bytes / 4 does not count all (some leave cached tokens out)."""
STUB_OVER = 400
"""Characters: a shorter output is no gain to leave out."""


@dataclass(slots=True)
class Entry:
    """One message in view. `file` is where it is kept whole, empty until it is written."""

    id: int
    message: Message
    pinned: bool = False
    stub: bool = False
    file: str = ""
    estimate: int = 0
    tokens: int = 0
    measured: bool = False

    def __post_init__(self) -> None:
        self.change(self.message)

    def change(self, message: Message) -> None:
        """Another message in its place; what it counts is not known any more."""
        self.message = message
        self.estimate = self.tokens = _estimate(message)
        self.measured = False


def _nowhere(line: Line) -> None:
    return None


class Context:
    """The transcript of one agent. Not shared between threads."""

    def __init__(
        self,
        system: str,
        window: int,
        archive: Archive,
        recorder: Recorder,
        agent: str,
        log: Callable[[Line], None] = _nowhere,
    ) -> None:
        self.window = window
        self._log = log
        self._system = Entry(0, Told(system), pinned=True)
        self._entries: list[Entry] = []
        self._waiting: list[Entry] = []
        self._marker: Entry | None = None
        self._gone = 0
        self._less = 0  # tokens that the provider no longer counts (thinking of earlier turns)
        self._next = 1
        self._archive = archive
        self._recorder = recorder
        self._agent = agent

    @property
    def tokens(self) -> int:
        """Tokens of the next request's input, system included."""
        return sum(entry.tokens for entry in (self._system, *self._entries)) - self._less

    def messages(self) -> list[Message]:
        """The transcript as the model is to see it."""
        return [entry.message for entry in self._entries]

    def add(self, message: Said | Ran) -> None:
        """An answer, or the result of one of its calls."""
        self._log(row_of(message))
        self._entries.append(self._entry(message))

    def tell(self, text: str, pinned: bool = False) -> int:
        """Text for the model, from the next request on. Pinned text is never compacted away. Returns its id."""
        self._log({**row_of(Told(text)), "pinned": pinned})
        entry = self._entry(Told(text), pinned)
        self._waiting.append(entry)
        return entry.id

    def begin(self, status: str) -> None:
        """Make ready for a request: what waits joins, the status line ends the last message, files are written, room is made."""
        self._join(status)
        if self.tokens > SHARE * self.window:
            self.compact(TARGET)

    def _join(self, status: str) -> None:
        self._log({"kind": "asked", "status": status})
        self._entries += self._waiting
        self._waiting = []
        last = self._entries[-1]
        if status and not last.file and not isinstance(last.message, Said):
            last.change(replace(last.message, text=f"{last.message.text}\n{status}"))
        self.write()

    def write(self) -> None:
        """Keep every message in the box that is not there yet."""
        new = [entry for entry in self._entries if not entry.file]
        if new:
            file = self._archive.history([(entry.id, entry.message) for entry in new])
            for entry in new:
                entry.file = file

    def report(self, tokens: Tokens) -> None:
        """What the provider counted for the last request, whose answer is the last message. Absurdly little is not believed."""
        *asked, answer = (self._system, *self._entries)
        if tokens.input is not None and tokens.input * LEAST_BELIEVED < sum(entry.estimate for entry in asked):
            tokens = Tokens(None, tokens.output)
        fresh = [entry for entry in asked if not entry.measured]
        known = sum(entry.tokens for entry in asked if entry.measured)
        if tokens.input is not None and fresh and tokens.input > known:
            estimates = sum(entry.tokens for entry in fresh)
            for entry in fresh:
                entry.tokens = max(1, round((tokens.input - known) * entry.tokens / estimates))
                entry.measured = True
        if tokens.input is not None:
            self._less = max(0, sum(entry.tokens for entry in asked) - tokens.input)
        if tokens.output:
            answer.tokens, answer.measured = tokens.output, True

    # --- going on with an earlier one -----------------------------------------------------------------------------------------

    def take_up(self, lines: Iterable[Line]) -> None:
        """Do again what these lines tell of, into a context in which nothing happened yet; what is in view then is what was.

        Its files are written into the box again, whole. The lines are in the log already.
        """
        log, self._log = self._log, _nowhere
        for line in lines:
            match line["kind"]:
                case "told":
                    self.tell(line["text"], line["pinned"])
                case "asked":
                    self._join(line["status"])
                case "left_out":
                    for entry in [entry for entry in self._entries if entry.id == line["id"]]:
                        self._leave_out(entry)
                case "removed":
                    self._remove([entry for entry in self._entries if entry.id in line["ids"]])
                case "window":
                    self.window = min(self.window, line["tokens"])
                case _:
                    self.add(message_of(line))
        self._log = log

    def unanswered(self) -> list[Call]:
        """The calls of the last answer that have no result."""
        calls: list[Call] = []
        for entry in self._entries:
            if isinstance(entry.message, Said):
                calls = list(entry.message.calls)
            elif isinstance(entry.message, Ran):
                calls = calls[1:]
        return calls

    # --- compaction ---------------------------------------------------------------------------------------------------------

    def too_long(self) -> None:
        """The provider said that the request is over its window: believe it, and make room."""
        self.window = min(self.window, self.tokens)
        self._log({"kind": "window", "tokens": self.window})
        self.compact(TARGET)

    def compact(self, target: float) -> None:
        """Take messages out of view, the least missed first, until `target` of the window is left or nothing more can go."""
        before, changed, goal = self.tokens, 0, int(target * self.window)
        turns = self._turns()
        old, recent = turns[:-RECENT], turns[-RECENT:]
        steps: list[Callable[[], int]] = [
            *(lambda entry=entry: self._leave_out(entry) for turn in old for entry in turn),
            *(lambda turn=turn: self._remove(turn) for turn in old),
            *(lambda entry=entry: self._leave_out(entry) for turn in recent for entry in turn),
            *(lambda turn=turn: self._remove(turn) for turn in recent[:-1]),
        ]
        for step in steps:
            if self.tokens <= goal:
                break
            changed += step()
        if changed:
            self._less = 0
            folder = self._entries[0].file.rpartition("/")[0]
            self._recorder.append(ContextCompacted(changed, before, self.tokens, folder), self._agent)

    def _turns(self) -> list[list[Entry]]:
        """Each answer with what follows it, oldest first. The messages before the first answer belong to none."""
        turns: list[list[Entry]] = []
        for entry in self._entries:
            if isinstance(entry.message, Said):
                turns.append([])
            if turns and entry is not self._marker:
                turns[-1].append(entry)
        return turns

    def _leave_out(self, entry: Entry) -> int:
        """Replace a long output by a line that says where it is. Returns how many messages changed."""
        message = entry.message
        if not isinstance(message, Ran) or entry.stub or not entry.file or len(message.text) <= STUB_OVER:
            return 0
        self._log({"kind": "left_out", "id": entry.id})
        text = f"[{len(message.text)} characters left out of view to save room; whole in {entry.file}]"
        entry.change(replace(message, text=text))
        entry.stub = True
        return 1

    def _remove(self, turn: list[Entry]) -> int:
        """Take a whole turn out, its notes excepted. Returns how many messages went."""
        going = {entry.id for entry in turn if not entry.pinned}
        self._log({"kind": "removed", "ids": sorted(going)})
        head = self._entries[: next(i for i, entry in enumerate(self._entries) if isinstance(entry.message, Said))]
        self._entries = [entry for entry in self._entries if entry.id not in going]
        self._gone += len(going)
        if self._marker is None:
            self._marker = self._entry(Told(""), pinned=True)
            self._entries.insert(len(head), self._marker)
        folder = head[0].file.rpartition("/")[0]
        self._marker.change(Told(f"[{self._gone} earlier messages are out of view; whole in {folder}]"))
        self._marker.file = folder
        return len(going)

    # --- gear context -------------------------------------------------------------------------------------------------------

    async def operation(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The gear door's `context`: {"action": "show" | "drop" | "note", "ids": [..], "text": ".."}. Raises Refused."""
        match arguments.get("action", "show"):
            case "show":
                return self.show()
            case "drop":
                return self.drop(_numbers(arguments.get("ids")))
            case "note":
                return self.note(str(arguments.get("text") or ""))
            case other:
                raise Refused("bad_arguments", f"context cannot {other!r}", remedy="use show, drop IDS or note TEXT")

    def show(self) -> dict[str, Any]:
        """What is in view: id, kind, tokens and beginning of each message, and how full the window is."""
        rows = [
            {
                "id": entry.id,
                "kind": kind_of(entry.message),
                "tokens": entry.tokens,
                "stays": entry.pinned,
                "left_out": entry.stub,
                "file": entry.file,
                "start": " ".join(readable(entry.message)[:200].split())[:80],
            }
            for entry in (*self._entries, *self._waiting)
        ]
        return {"window": self.window, "tokens": self.tokens, "messages": rows}

    def drop(self, ids: list[int]) -> dict[str, Any]:
        """Take messages out of view: an output becomes a line, an answer goes with its results. Refused changes nothing."""
        turns = self._turns()
        turn_of = {entry.id: turn for turn in turns[:-1] for entry in turn if not entry.pinned}
        for id in ids:
            if id not in turn_of:
                raise Refused(
                    "context_stays",
                    f"message {id} cannot be dropped",
                    cause="it is the goal, a note, part of the turn that is running, or not there",
                    remedy="choose ids that `gear context show` lists, of finished turns",
                    id=id,
                )
        before, changed = self.tokens, 0
        for id in ids:
            entry = next((entry for entry in self._entries if entry.id == id), None)
            if entry is not None:  # it may have gone with its turn
                changed += self._leave_out(entry) if isinstance(entry.message, Ran) else self._remove(turn_of[id])
        return {"dropped": changed, "tokens_before": before, "tokens": self.tokens}

    def note(self, text: str) -> dict[str, Any]:
        """Keep a text in view for good. Raises Refused when it is empty."""
        if not text.strip():
            raise Refused("bad_arguments", "a note needs a text", remedy='write: gear context note "what to remember"')
        return {"id": self.tell(f"[note] {clip(text, 8000)}", pinned=True)}

    def _entry(self, message: Message, pinned: bool = False) -> Entry:
        entry = Entry(self._next, message, pinned)
        self._next += 1
        return entry


def _estimate(message: Message) -> int:
    size = (
        len(json.dumps(message.native, default=str))
        if isinstance(message, Said)
        else len(message.text.encode("utf-8", "replace"))
    )
    return size // 4 + 4


def _numbers(value: object) -> list[int]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    numbers = [int(item) for item in items if isinstance(item, int | str) and str(item).isdecimal()]
    if not numbers or len(numbers) != len(items):
        raise Refused("bad_arguments", "drop needs the ids of messages", remedy="write: gear context drop 12 13")
    return numbers
