"""What the lives of one run add up to, against the provider's log: money, answers, sub-agents, the conversation."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
from books import Books
from played import CONCURRENCY, ITEMS

from gearcase.agent.conversation import answers, read_lines
from gearcase.doors.model import pricing
from gearcase.doors.model.price import TokenUsage
from gearcase.journal import read, verify
from gearcase.journal.crosschecks import crosscheck
from gearcase.run.again import last_state
from gearcase.runs import RunFolder
from gearcase.sandbox.states import States


@dataclass
class Life:
    """One process of the run: its folder and its ending's record."""

    folder: RunFolder
    record: dict[str, Any]
    went_by_itself: bool = False

    def records(self) -> list[dict[str, Any]]:
        """Its journal, what its recovery added included."""
        files = sorted(self.folder.journal.glob("*.jsonl"))
        return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


def audit(lives: Sequence[Life], witness: Sequence[dict[str, Any]], usd: int) -> list[str]:
    """What is wrong with them, oldest first; the last one ended by itself where it could. Empty is the promise."""
    return [*_money(lives, witness, usd), *_answers(lives, witness), *_went_on(lives), *_journals(lives)]


def _money(lives: Sequence[Life], witness: Sequence[dict[str, Any]], usd: int) -> list[str]:
    """billed <= charged <= limit, over all lives."""
    billed = 0
    for one in witness:
        if one["billed"]:
            billed += pricing.find("anthropic", one["model"]).cost(TokenUsage(**one["billed"]))
    charged = sum(life.record["spent"].get("usd", 0) for life in lives)
    wrong = [f"billed {billed} nano-dollars, charged {charged}"] * (billed > charged)
    wrong += [f"charged {charged} of {usd}"] * (charged > usd)
    left = lives[-1].record["remaining"].get("usd")
    if left is not None and charged + left != usd:
        wrong.append(f"charged {charged} and {left} left are not {usd}")
    for life in lives:
        books = Books(life.folder.journal).read_on()
        wrong += [f"{account}: {amount} {name} over its limit" for (account, name), amount in books.over.items()]
        wrong += [f"{len(books.holds)} holds were never ended"] * bool(books.holds)
        told = sum(books.charged.values())
        wrong += [f"its journal says {told}, its ending {life.record['spent']}"] * (told != life.record["spent"].get("usd", 0))
    return wrong


def _answers(lives: Sequence[Life], witness: Sequence[dict[str, Any]]) -> list[str]:
    """An item whose answer was kept is not asked about again; what was under way at a kill may be, once for each kill."""
    asked = Counter(
        found[0] for one in witness if one["status"] == 200 and (found := re.search(r"part-\d+(?=$|\s)", one["asked"]))
    )
    wrong = [f"{item} was asked about {count} times" for item, count in asked.items() if count > len(lives)]
    most = ITEMS + CONCURRENCY * (len(lives) - 1)
    wrong += [f"{asked.total()} questions for {ITEMS} items"] * (asked.total() > most)
    for before, after in pairwise(lives):
        kept, found = _kept(before.folder), _found(after)
        wrong += [f"{kept} answers were kept, {found} found"] * (found is not None and found < kept)
    return wrong


def _kept(folder: RunFolder) -> int:
    if not folder.results.exists():
        return 0
    with closing(sqlite3.connect(f"file:{folder.results}?mode=ro", uri=True)) as store:
        if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchone():
            return 0
        return int(store.execute("SELECT count(*) FROM results").fetchone()[0])


def _found(life: Life) -> int | None:
    """How many answers it says that it took over."""
    return next((one["answers"] for one in life.records() if one["type"] == "run_continues"), None)


def _went_on(lives: Sequence[Life]) -> list[str]:
    """Whoever goes on has all answers of the lead that were on record, and the files of every sub-agent that had come back."""
    wrong: list[str] = []
    for before, after in pairwise(lives):
        records = _until_death(before)
        turns = sum(one["type"] == "agent_turn" and one["agent"] == "lead" for one in records)
        earlier = next((one["turns"] for one in records if one["type"] == "run_continues"), 0)
        goes_on = next((one for one in after.records() if one["type"] == "run_continues"), None)
        if goes_on is None:
            continue  # it died before it had it on record
        if goes_on["turns"] < turns + earlier:
            wrong.append(f"{turns + earlier} answers were on record, {goes_on['turns']} go on")
        state = last_state(before.folder)
        if (state.name if state is not None else "") != goes_on["snapshot"]:
            wrong.append(f"the last snapshot is {state}, it goes on from {goes_on['snapshot']!r}")
        files = {entry.path for entry in States(before.folder.states).manifest(state.name).entries} if state else set[bytes]()
        copied = {
            path for one in records if one["type"] == "results_copied" and _returned(one, records) for path in one["copied"]
        }
        wrong += [f"{path} had come back and is not in {state}" for path in copied if path.encode() not in files]
    for life in lives:
        wrong += _conversation(life)
    return wrong


def _until_death(life: Life) -> list[dict[str, Any]]:
    records = life.records()
    ends = next((at for at, one in enumerate(records) if one["type"] == "run_resumed"), len(records))
    return records[:ends]


def _returned(copied: dict[str, Any], records: list[dict[str, Any]]) -> bool:
    return any(one["type"] == "agent_returned" and one["agent"] == copied["agent"] for one in records)


def _conversation(life: Life) -> list[str]:
    """Every call has its result before anything else is asked, as providers demand it, but for those of the last answer."""
    wrong: list[str] = []
    waiting: list[str] = []
    for line in read_lines(life.folder.conversation):
        if line["kind"] == "output":
            wrong += [f"a result of {line['call']}, which nobody waits for"] * (line["call"] != next(iter(waiting), ""))
            waiting = waiting[1:]
        elif line["kind"] in ("answer", "asked"):
            wrong += [f"{waiting} have no result"] * bool(waiting)
            waiting = [call["id"] for call in line.get("calls", ())]
    lines = read_lines(life.folder.conversation)
    said = sum(one["type"] == "agent_turn" and one["agent"] == "lead" for one in life.records())
    return wrong + [f"{said} answers are on record, {answers(lines)} in the conversation"] * (said > answers(lines))


def _journals(lives: Sequence[Life]) -> list[str]:
    wrong: list[str] = []
    for life in lives:
        proof = verify(life.folder.journal)
        wrong += [f"its journal does not verify: record {proof.first_bad}: {proof.reason}"] * (not proof.ok)
        wrong += [f"its journal disagrees with itself: {one}" for one in crosscheck(read(life.folder.journal)).findings]
    return wrong
