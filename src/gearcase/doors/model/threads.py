"""Which of its own threads a program says that a call belongs to: its main agent, a sub-agent, a sub-agent of that one.

Known are the headers by which agents tell it, as they really send them. It is their word: shown to the operator, never decided on.
Threat: a program writes whatever it likes into a header; a name that is long or holds anything but plain characters is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gearcase.doors.server import HttpRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}\Z")
_HEADERS = (
    (b"x-claude-code-agent-id", (b"x-claude-code-parent-agent-id", b"x-claude-code-session-id")),
    (b"x-claude-code-session-id", ()),
    (b"thread-id", (b"x-codex-parent-thread-id",)),
    (b"x-session-id", (b"x-parent-session-id",)),
)
"""A thread's header, and where its parent stands: Claude Code (a sub-agent, then the main agent), Codex, OpenCode."""


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of a program in the box. `name` is empty where it does not say, `parent` also for a main agent."""

    name: str = ""
    parent: str = ""


UNSAID = Thread()


def thread_of(request: HttpRequest) -> Thread:
    """What the headers of a call say."""
    for own, above in _HEADERS:
        if name := _name(request, own):
            return Thread(name, next(filter(None, (_name(request, header) for header in above)), ""))
    return UNSAID


def _name(request: HttpRequest, header: bytes) -> str:
    text = request.header(header).decode("latin-1")
    return text if _NAME.match(text) else ""
