"""What a test runner inside says of itself, read from the summary that it prints: pytest, unittest, jest, vitest, mocha, node, go, cargo.

It is a claim: anybody can print such a line. Detectors compare it with what the check outside says, and nothing else.
"""

from __future__ import annotations

import re

from gearcase.events import TestsClaimed

_READ = 8192
"""Characters of the end of an output that are looked at."""
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


_READERS = {
    "cargo": _cargo,
    "pytest": _pytest,
    "unittest": _unittest,
    "jest": _jest,
    "node": _node,
    "mocha": _mocha,
    "go": _go,
}
