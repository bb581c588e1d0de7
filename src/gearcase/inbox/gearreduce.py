"""`gear reduce` inside the box: groups of inputs to one, level by level, until one is left.

Each level is a map over groups, so all that is true of a map is true of it: its account adds up, a group that was answered is never asked
again, and what fails is told. A level that fails ends the reduce: nothing is left out without being allowed.

A line of a map's results.jsonl stands for its answer. Texts of a group follow each other, as `cat` would have it (with an empty line
between them for a prompt); values are a line of JSON each. A group is bounded by its bytes too, and its inputs keep their order.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

mapping: Any = importlib.import_module("gearmap")  # it lies beside this file
Call = Callable[[str, dict[str, Any]], dict[str, Any]]
_SUMMED = ("calls", "found", "retries", "nano_usd")


@dataclass(frozen=True)
class Input:
    """One input of a level: where it is from, its text; or why it cannot be read."""

    shard: str
    text: str
    unreadable: str = ""


@dataclass(frozen=True)
class Level:
    """How inputs are grouped: at most `fan_in` together, and no more than `most` bytes as JSON."""

    fan_in: int
    most: int
    between: str

    def groups(self, inputs: Iterator[Input], count: int) -> Iterator[dict[str, Any]]:
        """The items of a map over them. Of so many inputs, groups are as even as can be, where bytes allow it."""
        wanted = -(-count // self.fan_in)
        group: list[Input] = []
        size = even = number = 0
        for seen, one in enumerate(inputs):
            more = len(json.dumps(one.text)) + len(self.between)
            before, even = even, seen * wanted // max(1, count)
            if group and (even != before or size + more > self.most or one.unreadable or group[-1].unreadable):
                yield self._item(number, group)
                number += 1
                group, size = [], 0
            group.append(one)
            size += more
        if group:
            yield self._item(number, group)

    def _item(self, number: int, group: list[Input]) -> dict[str, Any]:
        shard = group[0].shard if len(group) == 1 else f"{group[0].shard} to {group[-1].shard}"
        text = self.between.join(one.text for one in group)
        why = group[0].unreadable
        if not why and len(json.dumps(text)) > self.most:
            why = f"it is over {self.most} bytes as JSON"
        return {"item": number, "shard": shard, "unreadable": why} if why else {"item": number, "shard": shard, "text": text}


def run(options: Any, schema: Any, call: Call) -> tuple[dict[str, Any], int]:
    """The whole reduce; returns its account and the exit status. Raises Unusable, and what `call` raises."""
    asked = mapping.work_of(options, schema)
    if not 2 <= options.fan_in <= 10_000:
        raise mapping.Unusable(f"--fan-in {options.fan_in}: give 2 to 10,000")
    most = mapping.MOST_SHARD if options.run else mapping.MOST_ITEM
    reader = mapping.Reader(options.over, options.split, most)
    level = Level(options.fan_in, most, "\n" if options.run else "\n\n")
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    levels: list[dict[str, Any]] = []
    place: Path | None = None

    def inputs() -> Iterator[Input]:
        return first(reader) if place is None else answers(place / "results.jsonl")

    count = before = sum(1 for _ in inputs())
    if not count:
        raise mapping.Unusable(f"--over {' '.join(options.over)}: there is nothing to reduce")
    allowed, why = options.allow_failed or 0, ""
    while True:
        readable = [not group.get("unreadable") for group in level.groups(inputs(), before)]
        expected = len(readable)
        if expected == before > 1 and all(readable):
            why = f"no two of the {before} inputs of level {len(levels) + 1} fit into {most} bytes: let the answers be shorter"
            break
        output = mapping.Output(str(folder / "levels" / str(len(levels) + 1)))
        bounds = {
            "expected": expected,
            "split": f"reduce level {len(levels) + 1}",
            "max_failure_rate": 1,
            "allow_failed": allowed,
        }
        begun = call("map", {**asked, **bounds})
        answer = mapping.feed(level.groups(inputs(), before), begun, output, call)
        account = mapping.account_of(begun, answer, expected)
        output.finish(account)
        levels.append({"level": len(levels) + 1, "inputs": before, **account})
        allowed -= answer["account"]["failed"] + answer["account"]["quarantined"]
        before = answer["account"]["ok"]
        if not answer["passed"] or "changed" in account or not before:
            stopped = answer["stopped"]["why"] if answer["stopped"] else ""
            why = stopped or account.get("changed") or f"level {len(levels)} has groups without an answer"
            break
        place = output.folder
        if before == 1:
            break
    return finish(folder, options, count, levels, why)


def finish(folder: Path, options: Any, count: int, levels: list[dict[str, Any]], why: str) -> tuple[dict[str, Any], int]:
    """Write the result, if there is one, and the account."""
    name = "result.json" if options.schema else "result.txt"
    for old in ("result.json", "result.txt", "account.json"):
        (folder / old).unlink(missing_ok=True)
    if not why:
        (folder / name).write_text(
            next(answers(folder / "levels" / str(len(levels)) / "results.jsonl")).text + "\n", encoding="utf-8"
        )
    total = {key: sum(level[key] for level in levels) for key in _SUMMED}
    account = {"inputs": count, "levels": levels, **total, "passed": not why, "why": why, "out": options.out}
    account["result"] = "" if why else f"{options.out}/{name}"
    new = folder / "account.json.new"
    new.write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / "account.json")
    return account, 1 if why else 0


def first(reader: Any) -> Iterator[Input]:
    """The inputs of the first level."""
    for item in reader.items():
        text = item.get("text", "")
        yield Input(item["shard"], _answer_in(text), item.get("unreadable", ""))


def answers(results: Path) -> Iterator[Input]:
    """What a level came to."""
    with results.open("rb") as file:
        for line in file:
            told = json.loads(line)
            yield Input(f"group {told['item'] + 1}", _text(told["answer"]))


def _answer_in(text: str) -> str:
    """The answer, where the text is a line of a map's results."""
    if not text.startswith('{"item":'):
        return text
    try:
        told = cast("dict[str, Any]", json.loads(text))
        return _text(told["answer"]) if {"shard", "attempts", "prompt"} <= told.keys() else text
    except (ValueError, KeyError, RecursionError):
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show(account: dict[str, Any]) -> str:
    """The account for a reader."""
    text = [f"{account['inputs']:,} inputs in {len(account['levels'])} levels, ${account['nano_usd'] / 1e9:.6f}"]
    for level in account["levels"]:
        counts = level["account"]
        parts = " + ".join(f"{counts[key]:,} {key}" for key in ("ok", "failed", "quarantined", "skipped", "pending"))
        text.append(f"level {level['level']} ({level['map']}): {level['inputs']:,} inputs, {counts['items']:,} groups = {parts}")
        for cluster in level["clusters"][:5]:
            place = " ".join(str(cluster[key]) for key in ("stage", "code", "path", "keyword", "message") if key in cluster)
            text.append(f"  {cluster['count']:,} of {place}, the first {cluster['first']}")
    if account["why"]:
        text.append(f"no result: {account['why']}; what failed: {account['out']}/levels/{len(account['levels'])}/quarantine/")
    else:
        text.append(account["result"])
    return "\n".join(text)
