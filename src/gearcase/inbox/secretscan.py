"""The program that looks for credentials in files. Standard library and detect_secrets only.

Started as `python3 -I -S secretscan.py PACKAGES DELIVERED` in a sandbox of its own; the paths of the files come on standard input, each
ended by a NUL. Descriptor 3 hears JSON lines: `[file, line, kind]` of what was found, `{"done": N}` now and then, `{"end": N}` at last.
A value that was found is never written anywhere. Where this program dies, what it did not say it has not seen.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Known = list[tuple[str, Callable[[str], bool]]]
"""A kind of credential, and whether a text holds one."""

PLUGINS = (
    "artifactory aws azure_storage_key basic_auth cloudant discord github_token ibm_cloud_iam ibm_cos_hmac jwt mailchimp npm private_key "
    "sendgrid slack softlayer square_oauth stripe twilio"
).split()
"""Those that know a credential by its form. Entropy and names of variables would mark every other file."""
OWN = {
    "Anthropic Key": r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    "OpenAI Key": r"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{16,}T3BlbkFJ[A-Za-z0-9_-]{16,}",
    "Google API Key": r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])",
    "GitHub Token": r"\bgithub_pat_[A-Za-z0-9_]{60,}",
    "GitLab Token": r"\bglpat-[A-Za-z0-9_-]{20,}",
}
"""What the library does not know."""
BLOCK = 1 << 16
LINE = 4096
"""Bytes of a longer line that are looked at together."""
OVERLAP = 512
MOST = 400
"""Findings that are told."""
MOST_OF_A_FILE = 20
EVERY = 0.5
"""Seconds between two words about how far it has come."""
TOO_MANY = 3


def detectors(packages: str) -> Known:
    """What the library knows, and our own."""
    sys.path.insert(0, packages)
    requests: Any = types.ModuleType("requests")  # verifies findings on the network, of which there is none here
    requests.Response = object
    sys.modules["requests"] = requests
    known: Known = []
    for name in PLUGINS:
        module = importlib.import_module("detect_secrets.plugins." + name)
        for one in vars(module).values():
            if isinstance(one, type) and one.__module__ == module.__name__ and getattr(one, "secret_type", None):
                known.append(_finder(one()))
    return known + [(kind, _search(pattern)) for kind, pattern in OWN.items()]


def _finder(detector: Any) -> tuple[str, Callable[[str], bool]]:
    return str(detector.secret_type), lambda text: next(iter(detector.analyze_string(text)), None) is not None


def _search(pattern: str) -> Callable[[str], bool]:
    search = re.compile(pattern).search
    return lambda text: search(text) is not None


def blocks(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of whole lines, each block with the last line of the one before.

    A line that is longer than a block comes in parts that overlap.
    """
    number, kept = 1, b""
    while True:
        data = file.read(BLOCK)
        whole = kept + data
        cut = whole.rfind(b"\n") + 1 if data else len(whole)
        if cut:
            yield number, whole[:cut].decode("latin-1")
            again = whole.rfind(b"\n", 0, cut - 1) + 1
            number += whole.count(b"\n", 0, again)
            kept = whole[again:]
        elif len(whole) > LINE:
            yield number, whole.decode("latin-1")
            kept = whole[-OVERLAP:]
        else:
            kept = whole
        if not data:
            return


def pieces(line: str) -> list[str]:
    """A line, or overlapping parts of a long one."""
    return [line[at : at + LINE] for at in range(0, max(1, len(line) - OVERLAP), LINE - OVERLAP)]


def look(file: BinaryIO, known: Known) -> Iterator[tuple[int, str]]:
    """(line, kind) of everything found. What goes over two lines, such as a key, is told by the first of them."""
    for number, text in blocks(file):
        for kind, finds in known:
            if finds(text):
                lines = text.split("\n")
                for at in places(lines, finds):
                    yield number + at, kind


def places(lines: list[str], finds: Callable[[str], bool]) -> list[int]:
    """Where in a block something is found: in lines, else in two together, else somewhere."""
    found = [at for at, line in enumerate(lines) if any(finds(piece) for piece in pieces(line))]
    found = found or [at for at in range(len(lines) - 1) if finds(lines[at] + "\n" + lines[at + 1])]
    return found or [0]


def main() -> int:
    """Look at each file; returns the exit code."""
    packages, delivered = sys.argv[1:]
    known = detectors(packages)
    paths = sys.stdin.buffer.read().split(b"\0")[:-1]
    told, said = 0, time.monotonic()
    with open(3, "w", buffering=1) as report:
        for index, path in enumerate(paths):
            seen: set[tuple[int, str]] = set()
            with Path(delivered, path.decode("utf-8", "surrogateescape")).open("rb") as file:
                for found in look(file, known):
                    if found not in seen:
                        seen.add(found)
                        report.write(json.dumps([index, *found]) + "\n")
                    if len(seen) >= MOST_OF_A_FILE:
                        break
            told += len(seen)
            if told >= MOST:
                return TOO_MANY
            if time.monotonic() - said >= EVERY:
                said = time.monotonic()
                report.write(json.dumps({"done": index + 1}) + "\n")
        report.write(json.dumps({"end": len(paths)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
