"""`thrash`: a file goes back and forth, or is patched again and again while the same error stays: the patch of the patch."""

from __future__ import annotations

import re
from collections import deque
from hashlib import sha256

from gearcase.claims import claimed
from gearcase.events import CheckRan, CommandEnded, CommandStarted, FilesSeen
from gearcase.monitors.seam import Alarm, Detector, Fact

RETURNS = 2
"""Times that a file comes back to a content that it had and lost."""
WRITES, WITHIN = 8, 20
"""Writes to one file, within so many steps."""
ERRORS = 3
"""Equal error signatures among the commands of these steps."""
MOST_FILES = 2000
"""Files of which a history is kept; what was written longest ago is forgotten."""
_HISTORY = 64
_EMPTY = sha256().hexdigest()[:16]  # as `FilesSeen` tells it
_SOURCE = re.compile(
    r"\.(py|pyi|js|jsx|ts|tsx|mjs|go|rs|java|kt|c|h|cc|cpp|hpp|cs|rb|php|swift|scala|sh|sql|html|css|scss|vue|ya?ml|toml|json|md|tex|r|jl|lua|pl)$",
    re.IGNORECASE,
)
_LAST = 3
"""Lines at the end of an output in which a command that ended well may say what went wrong: behind a pipe its exit code is another's."""
_WRONG = re.compile(
    r"(?:[A-Za-z_][\w.$]*(?:Error|Exception|error)(?=[:\s(]|$)|Exception in |Uncaught |Caused by|Traceback |not ok \d|FAIL(?:ED|URE)?\b|"
    r"(?:[\w./+-]+(?::\d+){0,2}: )?(?:line \d+: )?(?:fatal|internal|syntax )? ?(?:[Ee]rror|ERROR|fatal|FATAL|panic)(?:\[\w+\])?: |"
    r"[\w./+-]+: .{0,200}(?:not found|No such file or directory|Permission denied|cannot )|thread '.{1,80}' panicked)"
)
"""How such a line begins. A line of a log that is shown begins with its time."""
_COUNTS = re.compile(r"\d+ (?:failed|failures?|errors?)\b|(?:failures|errors)=\d")
"""Of a summary: its numbers are what it says."""
_NOISE = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?|'[^']{0,200}'|\"[^\"]{0,200}\"|/[^\s:,)]{1,300}")
_SECONDS = re.compile(r"\d+\.\d+")


class Thrash(Detector):
    """See the module."""

    name = "thrash"
    acts = True
    kinds = (FilesSeen, CommandStarted, CommandEnded, CheckRan)
    needs = frozenset({"files"})
    rule = "a source file returns to an earlier content twice; or 8 writes to one in 20 steps, the same error 3 times, no better score"

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], _File] = {}
        self._errors: dict[str, deque[tuple[int, str, str]]] = {}  # agent -> step, what ran, what it said
        self._texts: dict[int, str] = {}  # of commands that run
        self._best: dict[str, float] = {}
        self._improved: dict[str, int] = {}  # agent -> step

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        match event:
            case CommandStarted():
                self._texts[event.command] = last_part(event.text)
            case CommandEnded():
                self._command(event, fact)
            case CheckRan():
                self._check(event, fact)
            case FilesSeen():
                for path, digest in event.written:
                    if digest == _EMPTY:
                        continue  # a look beside the work met it between being opened and being written: it went back to nothing
                    if _SOURCE.search(path) and (alarm := self._written(path, digest, fact)) is not None:
                        return alarm
            case _:
                pass
        return None

    def _command(self, event: CommandEnded, fact: Fact) -> None:
        ran = self._texts.pop(event.command, "")
        errors = self._errors.setdefault(fact.agent, deque(maxlen=WITHIN))
        said = signature(event.tail or event.head, failed=event.exit_code != 0 or event.ended != "exited")
        if said:
            errors.append((fact.step, ran, said))
        elif ran:  # the very same says nothing of it any more: it is mended
            self._errors[fact.agent] = deque((one for one in errors if one[1] != ran), WITHIN)

    def _check(self, event: CheckRan, fact: Fact) -> None:
        score = event.score if event.score is not None else float(event.verdict == "passed")
        key = f"{fact.agent}\0{event.name}"
        if score > self._best.get(key, 0.0):
            self._best[key] = score
            self._improved[fact.agent] = fact.step

    def _written(self, path: str, digest: str, fact: Fact) -> Alarm | None:
        key = (fact.agent, path)
        file = self._files.pop(key, None) or _File()
        self._files[key] = file  # the latest is the last
        if len(self._files) > MOST_FILES:
            del self._files[next(iter(self._files))]
        file.write(digest, fact.step)
        if file.returns >= RETURNS:
            said = f"{path} came back to a content that it had before, {file.returns} times"
            return self._alarm(path, said, fact, {"path": path, "returns": file.returns})
        writes = file.since(fact.step - WITHIN)
        if writes < WRITES or self._improved.get(fact.agent, -WITHIN) > fact.step - WITHIN:
            return None
        error, count = self._most_common(fact)
        if count < ERRORS:
            return None
        said = f"{path} was written {writes} times in {WITHIN} steps, and the same error came {count} times: {error[:160]}"
        return self._alarm(path, said, fact, {"path": path, "writes": writes, "errors": count})

    def _most_common(self, fact: Fact) -> tuple[str, int]:
        counts: dict[str, int] = {}
        for step, _ran, error in self._errors.get(fact.agent, ()):
            if step > fact.step - WITHIN:
                counts[error] = counts.get(error, 0) + 1
        return max(counts.items(), key=lambda pair: pair[1], default=("", 0))

    def _alarm(self, path: str, said: str, fact: Fact, evidence: dict[str, object]) -> Alarm:
        remedy = (
            f"stop patching {path}: find out with one small experiment what really happens, or start that part anew another way"
        )
        return Alarm(self.name, "note", said, remedy, fact.agent, evidence)


class _File:
    """The history of one file: contents in their order, each once, and when it was written."""

    def __init__(self) -> None:
        self._contents: dict[str, None] = {}
        self._current = ""
        self._steps: deque[int] = deque(maxlen=_HISTORY)
        self.returns = 0

    def write(self, digest: str, step: int) -> None:
        if digest == self._current:
            return
        if digest in self._contents:
            self.returns += 1
        self._contents[digest] = None
        if len(self._contents) > _HISTORY:
            del self._contents[next(iter(self._contents))]
        self._current = digest
        self._steps.append(step)

    def since(self, step: int) -> int:
        return sum(one > step for one in self._steps)


def signature(output: str, failed: bool = True) -> str:
    """What went wrong, without what differs from time to time: numbers, addresses, paths, quoted words. Empty where nothing did.

    A test runner's summary is what it counts: fewer failures are another error. Else it is the last line that begins like an error, or
    the last one of a command that failed. One that ended well is asked of its last lines alone.
    """
    text = output[-4096:]
    if (claim := claimed(0, text)) is not None and claim.failed:
        return f"{claim.passed} passed, {claim.failed} failed"
    lines = [line.strip()[:400] for line in text.splitlines() if line.strip()]
    wrong = next((line for line in reversed(lines if failed else lines[-_LAST:]) if _WRONG.match(line)), "")
    line = wrong or (lines[-1] if failed and lines else "")
    return _SECONDS.sub("#", line) if _COUNTS.search(line) else _NOISE.sub("#", line)


def last_part(text: str) -> str:
    """The last command of a text: what ran, where all before it wrote what runs."""
    return re.split(r"\n|;|&&", text.strip())[-1].strip()[:300]
