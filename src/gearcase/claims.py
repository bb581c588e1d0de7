"""What a test runner inside says of itself, read from the summary that it prints: pytest, unittest, jest, vitest, mocha, node, go, cargo;
and what a program of the agent's own says in such words: so many of so many checks passed.

It is a claim: anybody can print such a line. Detectors compare it with what the check outside says, and its failures with those before.
"""

from __future__ import annotations

import re

from gearcase.events import TestsClaimed

_READ = 8192
"""Characters of the end of an output that are looked at."""
_LINE = 400
"""And of one line of it, where no runner has said anything."""
_PYTEST = re.compile(r"^=* ?((?:\d{1,9} [a-z]{1,12},? ?){1,8})in [\d.]{1,12}s", re.MULTILINE)
_COUNT = re.compile(r"(\d{1,9}) (passed|failed|errors?|passing|failing|pass|fail)\b")
_UNITTEST = re.compile(r"^Ran (\d{1,9}) tests? in [^\n]{1,40}\n\n?(OK|FAILED)([^\n]{0,80})", re.MULTILINE)
_WRONG = re.compile(r"(?:failures|errors)=(\d{1,9})")
_JEST = re.compile(r"^ *Tests:? {1,8}([^\n]{3,80})$", re.MULTILINE)
_MOCHA = re.compile(r"^ {2,4}(\d{1,9}) passing\b[^\n]{0,40}(?:\n[^\n]{0,80}){0,2}?(?:\n {2,4}(\d{1,9}) failing)?", re.MULTILINE)
_NODE = re.compile(r"^(?:#|ℹ) pass (\d{1,9})\n(?:#|ℹ) fail (\d{1,9})", re.MULTILINE)
_GO = re.compile(r"^ *--- (PASS|FAIL):", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^(ok {1,4}|FAIL)\t[^\n]{1,300}$", re.MULTILINE)
_CARGO = re.compile(r"^test result: \w{2,6}\. (\d{1,9}) passed; (\d{1,9}) failed", re.MULTILINE)
_THINGS = r"(?:tests?|checks?|cases?|assertions?|examples?|validations?|verifications?|samples?|rows?|items?|records?)"
_GOOD = r"(?:are |were |have |is |has )?(?:pass(?:ed|es|ing)?|ok|correct|match(?:ed|es|ing)?|valid|verified|succeeded)\b"
_OF = re.compile(rf"\b(\d{{1,9}}) ?(?:/|out of|of) ?(\d{{1,9}}) (?:(?!not )[a-z]{{1,12}} )?(?:{_THINGS} )?{_GOOD}", re.IGNORECASE)
_COUNTED = re.compile(
    r"\b(?:pass(?:ed)?|ok|correct|score): ?(\d{1,9})(?:/(\d{1,9})|[,;| ]{1,3}(?:fail(?:ed|ures)?|errors?|wrong): ?(\d{1,9}))\b",
    re.IGNORECASE,
)
_PAIR = re.compile(
    rf"\b(\d{{1,9}}) (?:{_THINGS} )?pass(?:ed|ing)?(?:, |; | ?/ ?| and )(\d{{1,9}}) (?:{_THINGS} )?fail(?:ed|ing|ures?)?\b",
    re.IGNORECASE,
)
_ALL = re.compile(rf"^\W{{0,4}}all (?:(\d{{1,9}}) )?(?:(?!not )[a-z]{{1,12}} )?{_THINGS} {_GOOD}", re.IGNORECASE)
_RATE = r"(?:pass(?:ed|ing)?(?: rate)?|correct|accuracy|verified|match(?:ed|es|ing)?|success(?: rate)?)"
_PERCENT = r"(\d{1,3}(?:\.\d{1,4})?) ?%"
_SHARE = re.compile(
    rf"\b{_RATE}\b[^\w\n%]{{0,5}}{_PERCENT}|\b{_PERCENT} (?:of (?:the )?)?(?:{_THINGS} )?{_RATE}\b", re.IGNORECASE
)
_NO_TEST = "All checks passed!"
"""Of a linter, ruff: it has looked at no result."""
OWN = "a program of its own"


def claimed(command: int, output: str) -> TestsClaimed | None:
    """The last summary of a test runner in an output; None where there is none."""
    text = output[-_READ:]
    for runner, read in _READERS.items():
        if (found := read(text)) is not None and sum(found):
            return TestsClaimed(command, runner, *found)
    return None


def _counts(text: str) -> tuple[int, int]:
    counts = {word: int(number) for number, word in _COUNT.findall(text)}
    return counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)


def _pytest(text: str) -> tuple[int, int] | None:
    found = _PYTEST.findall(text)
    return _counts(found[-1]) if found else None


def _unittest(text: str) -> tuple[int, int] | None:
    found = _UNITTEST.findall(text)
    if not found:
        return None
    ran, _verdict, rest = found[-1]
    wrong = sum(int(number) for number in _WRONG.findall(rest))
    return max(int(ran) - wrong, 0), wrong


def _jest(text: str) -> tuple[int, int] | None:
    found = _JEST.findall(text)
    return _counts(found[-1]) if found else None


def _mocha(text: str) -> tuple[int, int] | None:
    found = _MOCHA.findall(text)
    return (int(found[-1][0]), int(found[-1][1] or 0)) if found else None


def _node(text: str) -> tuple[int, int] | None:
    found = _NODE.findall(text)
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def _go(text: str) -> tuple[int, int] | None:
    single, packages = _GO.findall(text), _GO_PACKAGE.findall(text)
    if single:
        return single.count("PASS"), single.count("FAIL")
    return (sum(one.startswith("ok") for one in packages), packages.count("FAIL")) if packages else None


def _cargo(text: str) -> tuple[int, int] | None:
    found = _CARGO.findall(text)
    return (sum(int(one) for one, _ in found), sum(int(one) for _, one in found)) if found else None


def _own(text: str) -> tuple[int, int] | None:
    """The last line that says how many of how many, or in percent, are right."""
    for line in reversed(text.splitlines()):
        line = line[:_LINE]
        if line.strip() == _NO_TEST:
            continue
        if (found := _OF.search(line)) is not None:
            return _out_of(int(found[1]), int(found[2]))
        if (found := _COUNTED.search(line)) is not None:
            return (int(found[1]), int(found[3])) if found[3] is not None else _out_of(int(found[1]), int(found[2]))
        if (found := _PAIR.search(line)) is not None:
            return int(found[1]), int(found[2])
        if (found := _ALL.search(line)) is not None:
            return int(found[1] or 1), 0
        if (found := _SHARE.search(line)) is not None:
            return _out_of(int(float(found[1] or found[2])), 100)
    return None


def _out_of(good: int, total: int) -> tuple[int, int] | None:
    return (good, total - good) if 0 <= good <= total else None


_READERS = {
    "cargo": _cargo,
    "pytest": _pytest,
    "unittest": _unittest,
    "jest": _jest,
    "node": _node,
    "mocha": _mocha,
    "go": _go,
    OWN: _own,  # where no runner has said anything
}
