"""What failures have in common: each has a signature, and those with the same one are a cluster.

A signature keeps where and how an item failed (stage, class, place in the schema, keyword) and the message with everything masked that
differs from item to item: quoted text, paths, hexadecimal numbers, digits. Patterns here run over at most MOST characters, each in
time that grows with their length alone. Of a command that failed with a trace of Python's, the place is the top frame of its own code and
the keyword the class of the exception.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gearcase.swarm.worker import Fault

Stage = Literal["input", "call", "answer", "schema", "validator", "command"]

MOST = 400
"""Characters of a message that are looked at."""
MOST_CLUSTERS = 50
_MASKS = (
    (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"'.*|\".*", re.DOTALL), "<text>"),  # a quote that is cut off
    (re.compile(r"/[\w./-]+"), "<path>"),
    (re.compile(r"\b(?:0x[0-9a-f]+|[0-9a-f]{8,})\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+"), "<n>"),
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What failures of one kind share."""

    stage: Stage
    code: str
    path: str = ""
    keyword: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Failures with one signature: how many, and where the first of them came from."""

    signature: Signature
    count: int
    shard: str

    def as_json(self) -> dict[str, Any]:
        """For a program and the journal: without what is empty."""
        told: dict[str, Any] = {"count": self.count, "first": self.shard, **asdict(self.signature)}
        return {key: value for key, value in told.items() if value}


def signature_of(fault: Fault) -> Signature:
    """The signature of a failure."""
    stage: Stage = fault.stage or "answer"
    if fault.code == "unreadable":
        stage = "input"
    elif fault.kind == "transient":
        stage = "call"
    elif fault.code == "schema":
        # Place and keyword say it all, and the message tells of the one value that was wrong.
        return Signature("schema", fault.code, fault.path, fault.keyword)
    return Signature(stage, fault.code, fault.path, fault.keyword, masked(fault.message))


def masked(message: str) -> str:
    """A message without what differs from item to item."""
    text = message[:MOST]
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text


class Clusters:
    """Failures by signature. Of a map whose failures have nothing in common the first MOST_CLUSTERS kinds are kept apart."""

    def __init__(self) -> None:
        self._found: dict[Signature, Cluster] = {}
        self._other = Signature("answer", "other", message="kinds beyond those that are kept apart")

    def add(self, fault: Fault, shard: str) -> None:
        """One more failure."""
        signature = signature_of(fault)
        if signature not in self._found and len(self._found) >= MOST_CLUSTERS:
            signature = self._other
        before = self._found.get(signature) or Cluster(signature, 0, shard)
        self._found[signature] = Cluster(signature, before.count + 1, before.shard)

    def largest(self, most: int = 20) -> Sequence[Cluster]:
        """The clusters, the largest first."""
        return sorted(self._found.values(), key=lambda cluster: -cluster.count)[:most]
