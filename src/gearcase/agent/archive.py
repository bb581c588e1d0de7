"""What an agent's conversation leaves in the box as files: the whole history, and outputs that were too long to show.

/box is small (memory of the host, a few thousand files), so a turn is one text file and one file of JSON lines, and outputs take turns:
when `MOST_OUTPUTS` is reached the oldest are emptied and say so. A file that cannot be written is put on record once and never ends
the agent: what it was told stays in its context.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict

from gearcase.agent.transcript import Message, Ran, Said, Told
from gearcase.errors import GearcaseError
from gearcase.events import Failure
from gearcase.seams import Recorder

Keep = Callable[[str, bytes], str]
"""Puts a file into the box, over one of the same name: (name below /box, content) -> its path inside. Raises GearcaseError."""

MOST_OUTPUTS = 24 * 1024 * 1024
"""Bytes of outputs that are kept at once."""
NOT_KEPT = "no file: /box takes no more"
_EMPTIED = b"[this output made room for newer ones]\n"


class Archive:
    """The files of one agent's conversation."""

    def __init__(self, keep: Keep, recorder: Recorder, agent: str) -> None:
        self._keep = keep
        self._recorder = recorder
        self._agent = agent
        self._failed = False
        self._outputs: deque[tuple[str, int]] = deque()
        self._numbers = 0

    def history(self, messages: Sequence[tuple[int, Message]]) -> str:
        """Keep messages, with their ids, that belong together. Returns the path of the text."""
        name = f"history/{messages[0][0]:05d}"
        lines = [json.dumps({"id": id, "kind": kind_of(message), **asdict(message)}, default=str) for id, message in messages]
        self._put(f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        return self._put(
            f"{name}.txt", "\n".join(f"--- {kind_of(message)} {id} ---\n{readable(message)}\n" for id, message in messages)
        )

    def skip_outputs(self, count: int) -> None:
        """So many were kept in an earlier box, and are told of by their names: these are not given again."""
        self._numbers += count

    def output(self, content: bytes) -> str:
        """Keep a long output. Returns its path."""
        self._numbers += 1
        name = f"outputs/{self._numbers:04d}.txt"
        self._outputs.append((name, len(content)))
        while len(self._outputs) > 1 and sum(size for _, size in self._outputs) > MOST_OUTPUTS:
            oldest, _ = self._outputs.popleft()
            self._put(oldest, _EMPTIED)
        return self._put(name, content)

    def _put(self, name: str, content: str | bytes) -> str:
        try:
            return self._keep(name, content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
        except GearcaseError as error:
            if not self._failed:
                self._failed = True
                self._recorder.append(Failure(error.envelope()), self._agent)
            return NOT_KEPT


def readable(message: Message) -> str:
    """A message as a person reads it."""
    if not isinstance(message, Said):
        return message.text
    commands = [str((call.arguments or {}).get("command", call.fault)) for call in message.calls]
    return "\n".join([message.text, *(f"$ {command}" for command in commands)]).strip()


def kind_of(message: Message) -> str:
    """told | answer | output."""
    return {Told: "told", Said: "answer", Ran: "output"}[type(message)]
