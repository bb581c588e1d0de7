"""What a map is asked for, what it is fed, and how each item ends: the values that pass between the parts of a map."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from gearcase.swarm.account import Ending
from gearcase.swarm.schema import Schema
from gearcase.swarm.worker import Fault, fault_as_json

PLACE = "{item}"
"""Stands in a prompt for the item; a prompt without it is followed by the item."""


def hash_of(prompt: str) -> str:
    """SHA-256 of a prompt's text: its name in results, quarantine and journal."""
    return hashlib.sha256(prompt.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a map is asked for. `expected` items; `max_output` in tokens; `concurrency` calls at a time.

    With `run` a command answers, and there is no prompt and no model. `validator` is a command that judges answers. `files` is the
    digest of what both of them see.
    """

    prompt: str
    model: str
    reference: str
    split: str
    expected: int
    concurrency: int
    allow_failed: int
    max_output: int
    schema: Schema | None = None
    max_failure_rate: float = 1.0  # of the canary
    repair: bool = False  # of the prompt, from its failures
    optimizer: str = ""  # that searches for rewrites, instead of one after the other
    run: str = ""
    validator: str = ""
    files: str = ""

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the prompt's text, or of the command's."""
        return hash_of(self.run or self.prompt)

    def digest(self) -> bytes:
        """All that an answer depends on but the item."""
        schema = self.schema.source if self.schema else None
        whole = [1, self.prompt, self.reference, self.max_output, schema]
        whole += [self.run, self.validator, self.files] if self.run or self.validator else []
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).digest()

    def question(self, text: str) -> str:
        """The prompt for one item; the item itself where a command answers."""
        if self.run:
            return text
        return self.prompt.replace(PLACE, text) if PLACE in self.prompt else f"{self.prompt.rstrip()}\n\n{text}"


@dataclass(slots=True)
class Use:
    """What the commands of one map took: sandboxes, and processor time in seconds."""

    sandboxes: int = 0
    cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Canary:
    """What the first items, spread over the input, say of the rest. Nano-dollars; `why` is empty where the map may go on.

    `first_failed`: how many failed under the first prompt, `failed` how many still do once it was repaired.
    """

    items: int
    failed: int
    rate: float
    projected: int
    why: str = ""
    first_failed: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its position in the input, where it comes from, its text; or why there is none."""

    number: int
    shard: str
    text: str
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Try:
    """A prompt, by its hash, under which an item failed, and why."""

    prompt: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Known:
    """An item whose answer the box's owner knows: `answer` is the part of it, as JSON, that must be there."""

    item: str
    answer: Any


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item in line.

    `spec` has the prompt that it is to be asked with, None for the map's own of that moment; `tries` are those under which it failed,
    `attempts` and `cost` (nano-dollars) what they took. `parked`: it was, while a repair went on. `known`: it is no item of the map, but
    planted.
    """

    item: Item
    spec: MapSpec | None = None
    tries: tuple[Try, ...] = ()
    attempts: int = 0
    cost: int = 0
    parked: bool = False
    known: Known | None = None

    def failed(self, prompt: str, fault: Fault, attempts: int, cost: int) -> Waiting:
        """Once more, under this prompt."""
        tries = (*self.tries, Try(prompt, fault))
        return replace(self, spec=None, tries=tries, attempts=self.attempts + attempts, cost=self.cost + cost)

    def ended(self, state: Ending, fault: Fault | None = None, prompt: str = "") -> Ended:
        """Its ending without an answer; the reason is that of its last try unless another is given."""
        last = self.tries[-1] if self.tries else None
        fault = fault or (last.fault if last else None)
        prompt = prompt or (last.prompt if last else "")
        return Ended(self.item, state, "", fault, self.attempts, self.cost, prompt=prompt, tries=self.tries, parked=self.parked)

    def answered(self, answer: str, prompt: str, attempts: int, cost: int, *, found: bool) -> Ended:
        """Its ending with an answer that fits, under this prompt."""
        attempts, cost = self.attempts + attempts, self.cost + cost
        return Ended(self.item, "ok", answer, None, attempts, cost, found, prompt, self.tries, self.parked)


@dataclass(frozen=True, slots=True)
class Ended:
    """How an item ended. Nano-dollars; `found`: it had been paid for before, and costs nothing now.

    `prompt`: the hash of the last prompt that it was asked with, "" for none; `tries`: all under which it failed. `parked`: it waited for a
    repair.
    """

    item: Item
    state: Ending
    answer: str = ""
    fault: Fault | None = None
    attempts: int = 0
    cost: int = 0
    found: bool = False
    prompt: str = ""
    tries: tuple[Try, ...] = ()
    parked: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the program that asked."""
        told: dict[str, Any] = {"item": self.item.number, "shard": self.item.shard, "state": self.state}
        told |= {"attempts": self.attempts, "nano_usd": self.cost}
        if self.prompt:
            told["prompt"] = self.prompt
        if self.state == "ok":
            return {**told, "found": self.found, "answer": self.answer}
        if len(self.tries) > 1:
            told["tries"] = [{"prompt": one.prompt, **fault_as_json(one.fault)} for one in self.tries]
        text = {"text": self.item.text} if self.state != "skipped" else {}
        return {**told, **text, **(fault_as_json(self.fault) if self.fault else {})}

    @property
    def size(self) -> int:
        """Bytes of what is held for it, about."""
        failed = len(self.item.text) if self.state in ("failed", "quarantined") else 0
        return len(self.answer) + failed + sum(len(one.fault.answer) + 512 for one in self.tries) + 512
