"""Runs of other tools as events of ours, so that the detectors can be tried on what is public: SWE-agent, mini-swe-agent, plain JSONL.

What a format does not tell is left out and never made up: without times box time hardly moves, without a tree there are no effects. So a
detector that lives on those says nothing, and its rates on such runs are those of a blind one.

Plain JSONL: one object a line, `{"command", "output", "exit", "cost", "seconds"}`, all but the first with defaults; lines may also hold
`{"budget": DOLLARS, "wall": SECONDS}` (at the start), `{"check": NAME, "score": 0.5, "passed": false}`, or `{"failed": STATUS}` for a model
call without an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from gearcase import events as e
from gearcase.claims import claimed
from gearcase.errors import UsageError
from gearcase.events import Event
from gearcase.journal import read
from gearcase.journal.lines import decode
from gearcase.units import NANO

Told = tuple[float, str, Event]
"""Seconds of CLOCK_BOOTTIME, agent, event: what `Watch.hear` takes."""

LEAD = "lead"
_SHOWN = 4096
_MOST = 512 * 1024 * 1024
_FENCE = re.compile(r"```(?:bash|sh|mswea_bash_command)?[^\S\n]*\n(.*?)```", re.DOTALL)
_CODE = re.compile(r"<returncode>\s*(-?\d{1,6})\s*</returncode>")


def told_by(path: Path) -> Iterator[Told]:
    """The events of a file: a journal (its folder, or one segment), `.traj`, a mini-swe-agent trajectory, or JSONL.

    Raises UsageError `no_trajectory` for what is none of them, RunError for a damaged journal.
    """
    if path.is_dir():
        folder = path / "journal" if (path / "journal").is_dir() else path
        return ((record.boot, record.agent, record.event) for record in read(folder) if record.event is not None)
    try:
        if path.stat().st_size > _MOST:
            raise ValueError("it is over 512 MiB")
        text = path.read_text("utf-8", "replace")
        head = text[:65536].lstrip().split("\n", 1)[0]
        if head.startswith("{") and head.rstrip().endswith("}") and '"prev"' in head:
            return iter(_journal(text))
        if head.startswith("{") and _is_line(head):
            return iter(list(_plain(text)))
        return iter(list(_document(json.loads(text))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        remedy = "give a run, a journal, a SWE-agent .traj, a mini-swe-agent trajectory, or JSONL as docs/monitors.md tells"
        raise UsageError(
            "no_trajectory", f"{path} holds no run that can be read", cause=str(error)[:300], remedy=remedy
        ) from None


def _is_line(head: str) -> bool:
    try:
        json.loads(head)
    except ValueError:
        return False
    return not head.startswith('{"trajectory"') and not head.startswith('{"messages"') and '"messages":' not in head[:200]


def _journal(text: str) -> list[Told]:
    records = [decode(line.encode()) for line in text.splitlines() if line.strip()]
    return [(record.boot, record.agent, record.event) for record in records if record.event is not None]


class _Telling:
    """Turns steps into events."""

    def __init__(self) -> None:
        self._now = 0.0
        self._number = 0

    def begin(self, usd: float = 0.0, wall: float = 0.0) -> Iterator[Told]:
        yield from self._say(e.RunStarted("", "", "", "", "", "", {}))
        limits = {"usd": round(usd * NANO), "wall": round(wall * 1000)}
        yield from self._say(e.AccountOpened("run", "", {name: amount for name, amount in limits.items() if amount}))
        yield from self._say(e.AgentStarted("", ""), LEAD)

    def step(self, command: str, output: str, exit: int | None, cost: float = 0.0, seconds: float = 0.0) -> Iterator[Told]:
        """An answer of a model and the command in it. Without an exit code, none is said to have failed."""
        yield from self.call(cost)
        yield from self._say(e.AgentTurn(self._number, "", int(bool(command))), LEAD)
        if not command:
            return
        yield from self._say(e.CommandStarted(self._number, command), LEAD)
        self._now += max(seconds, 0.0)
        head, tail = output[:_SHOWN], output[-_SHOWN:] if len(output) > _SHOWN else ""
        size = len(output.encode("utf-8", "replace"))
        limits = ["disk"] if "No space left on device" in output else []
        ended = e.CommandEnded(self._number, "exited", exit or 0, seconds, 0.0, size, head, tail, limits)
        yield from self._say(ended, LEAD)
        if (claim := claimed(self._number, output)) is not None:
            yield from self._say(claim, LEAD)

    def call(self, cost: float = 0.0, status: int = 200) -> Iterator[Told]:
        """A model call that ended."""
        self._number += 1
        number, amount = self._number, {"usd": round(max(cost, 0.0) * NANO)}
        yield from self._say(e.Held(number, LEAD, amount, billed_by="?"), LEAD)
        yield from self._say(e.Settled(number, LEAD, amount), LEAD)
        ended = "complete" if status < 400 else "failed"
        yield from self._say(e.ModelCalled(number, number, "", "", "", status, ended, {}, 0.0, 0.0), LEAD)

    def check(self, name: str, passed: bool, score: float | None) -> Iterator[Told]:
        yield from self._say(e.CheckRan(name, "passed" if passed else "failed", score, 0.0, "", False), LEAD)

    def end(self, status: str) -> Iterator[Told]:
        yield from self._say(e.AgentEnded(status), LEAD)
        yield from self._say(e.RunEnded(status, {}))

    def _say(self, event: Event, agent: str = "") -> Iterator[Told]:
        yield self._now, agent, event


def _plain(text: str) -> Iterator[Told]:
    telling, begun = _Telling(), False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object")
        row = cast(dict[str, Any], row)
        if not begun:
            begun = True
            yield from telling.begin(float(row.get("budget") or 0), float(row.get("wall") or 0))
        if "command" in row:
            exit = row.get("exit")
            yield from telling.step(
                str(row["command"]),
                str(row.get("output") or ""),
                None if exit is None else int(exit),
                float(row.get("cost") or 0),
                float(row.get("seconds") or 0),
            )
        elif "check" in row:
            score = row.get("score")
            yield from telling.check(str(row["check"]), bool(row.get("passed")), None if score is None else float(score))
        elif "failed" in row:
            yield from telling.call(0.0, int(row["failed"]))
        elif "budget" not in row and "wall" not in row:
            raise ValueError(f"line {number} has no command, check, failed or budget")
    yield from telling.end("")


def _document(found: Any) -> Iterator[Told]:
    document = cast(dict[str, Any], found)
    if isinstance(document.get("trajectory"), list):
        return _swe_agent(document)
    if isinstance(document.get("messages"), list):
        return _mini(document)
    raise ValueError("it has neither `trajectory` nor `messages`")


def _swe_agent(document: dict[str, Any]) -> Iterator[Told]:
    """SWE-agent: what each step did and saw; the cost is of the whole and is spread over the steps."""
    steps = cast(list[dict[str, Any]], document["trajectory"])
    info = cast(dict[str, Any], document.get("info") or {})
    each = _cost(info) / len(steps) if steps else 0.0
    telling = _Telling()
    yield from telling.begin()
    for step in steps:
        output = str(step.get("observation") or "")
        seconds = float(step.get("execution_time") or 0)
        yield from telling.step(str(step.get("action") or "").strip(), output, None, each, seconds)
    yield from telling.end(str(info.get("exit_status") or ""))


def _mini(document: dict[str, Any]) -> Iterator[Told]:
    """mini-swe-agent: a conversation; an answer's command is in its fence (or `extra.actions`), what came of it is in the next message."""
    messages = cast(list[dict[str, Any]], document["messages"])
    info = cast(dict[str, Any], document.get("info") or {})
    answers = sum(message.get("role") == "assistant" for message in messages)
    each = _cost(info) / answers if answers else 0.0
    telling, waiting = _Telling(), None
    yield from telling.begin()
    for message in messages:
        if message.get("role") == "assistant":
            if waiting is not None:
                yield from telling.step(waiting, "", None, each)
            waiting = _command_of(message)
        elif waiting is not None:
            text = _text_of(message)
            code = _CODE.search(text[:65536])
            yield from telling.step(waiting, text, int(code.group(1)) if code else None, each)
            waiting = None
    if waiting is not None:
        yield from telling.step(waiting, "", None, each)
    yield from telling.end(str(info.get("exit_status") or ""))


def _command_of(message: dict[str, Any]) -> str:
    extra = message.get("extra")
    actions = cast(dict[str, Any], extra).get("actions") if isinstance(extra, dict) else None
    if isinstance(actions, list) and actions:
        named = [cast(dict[str, Any], one).get("command") if isinstance(one, dict) else one for one in cast(list[Any], actions)]
        return "\n".join(str(one) for one in named if one)
    found = _FENCE.search(_text_of(message))
    return found.group(1).strip() if found else ""


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(
            str(cast(dict[str, Any], one).get("text") or "") for one in cast(list[Any], content) if isinstance(one, dict)
        )
    return str(content or "")


def _cost(info: dict[str, Any]) -> float:
    stats = info.get("model_stats")
    return float(cast(dict[str, Any], stats).get("instance_cost") or 0) if isinstance(stats, dict) else 0.0
