"""Hands on the journal of a run that is over, and whether `gearcase journal verify` names the first record that they touched.

A journal of a few hundred records in several segments, as the one writer makes it; then each kind of tampering at places that are drawn
from a seed: bits, records, whole segment files. Most of the time a head is held, of the last record or of one before: what happens up to
there must be found, and the first bad record be the one that was touched. What is cut off after it cannot be found, which verify says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random

from gearcase import events as e
from gearcase.journal import Journal, verify

PROGRAM = Path(sys.executable).with_name("gearcase")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "journal.md"
BEGIN, END = "<!-- tampered -->\n", "<!-- end -->"
SEED, EACH, COMMANDS = 1, 150, 3
TURNS, SEGMENT_BYTES = 60, 24_000

Segments = list[list[bytes]]
"""Lines of each segment file; an empty list is a file that is not there."""


@dataclass(frozen=True)
class Original:
    """The lines of a journal by segment; `held` is the sequence of the head that one holds, 0 for none."""

    segments: Segments
    held: int = 0

    @property
    def lines(self) -> list[bytes]:
        return [line for segment in self.segments for line in segment]

    @property
    def last(self) -> int:
        return len(self.lines)

    @property
    def head(self) -> str:
        return sha256(self.lines[self.held - 1][:-1]).hexdigest() if self.held else ""

    @property
    def covered(self) -> int:
        """Up to here every record is vouched for, by the head or by a record after it."""
        return self.held or self.last - 1

    def shared_out(self, lines: list[bytes]) -> Segments:
        """As many lines in each file as before; what is over goes into the last one that has any."""
        ends = [0, *accumulate(len(segment) for segment in self.segments)]
        segments = [lines[begin:end] for begin, end in pairwise(ends)]
        segments[-1] += lines[ends[-1] :]
        return segments

    def of(self, seq: int) -> int:
        """The segment that a record is in."""
        ends = accumulate(len(segment) for segment in self.segments)
        return next(number for number, end in enumerate(ends) if seq <= end)

    def first_of(self, segment: int) -> int:
        return 1 + sum(len(one) for one in self.segments[:segment])


def write_journal(folder: Path, turns: int = TURNS) -> None:
    """A run of an agent that calls a model and executes a command in each turn; its accounts and commands add up."""
    journal, price = Journal.create(folder, segment_bytes=SEGMENT_BYTES), 1_234_567
    journal.append(e.RunStarted("ab12cd34", "amber-fox", "find the rows that are damaged", "ab", "0.1.0", "boot", {}))
    journal.append(e.AccountOpened("run", "", {"usd": 2_000_000_000}))
    for turn in range(1, turns + 1):
        journal.append(e.Held(turn, "run", {"usd": 9_000_000, "calls": 1}, "call", billed_by="anthropic"), "lead")
        journal.append(e.Sent(turn), "lead")
        journal.append(e.Settled(turn, "run", {"usd": price, "calls": 1}), "lead")
        tokens = {"input": 900 + turn, "output": 40}
        journal.append(e.ModelCalled(turn, turn, "anthropic", "m", "m", 200, "complete", tokens, 0.5, 0.1), "lead")
        journal.append(e.AgentTurn(turn, f"row {turn} lööks \"damaged\": {{'seq': {turn}}}\n", 1), "lead")
        journal.append(e.CommandStarted(turn, f"sed -n {turn}p rows.csv | python3 check.py"), "lead")
        journal.append(e.CommandEnded(turn, "exited", turn % 2, 0.5, 0.1, 12, "", "not a number\n" * (turn % 5)), "lead")
    journal.append(e.RunEnded("accepted", {"spent": {"usd": turns * price, "calls": turns}}))
    journal.close()


# --- what is done to it: each gives the files as they are then, and the first record that is not what or where it was -------


def flip(random: Random, original: Original) -> tuple[Segments, int]:
    """One bit of one record, or of the newline after it."""
    seq, lines = random.randint(1, original.covered), original.lines
    line = bytearray(lines[seq - 1])
    line[random.randrange(len(line))] ^= 1 << random.randrange(8)
    lines[seq - 1] = bytes(line)
    return original.shared_out(lines), seq


def delete(random: Random, original: Original) -> tuple[Segments, int]:
    """One record, a few, or a whole file of them; where nothing is held, not those at the end."""
    seq = random.randint(1, original.covered)
    segments = [list(segment) for segment in original.segments]
    number = original.of(seq)
    if random.random() < 0.2 and (original.held or number < len(segments) - 1):
        segments[number] = []
        return segments, original.first_of(number)
    at = seq - original.first_of(number)
    most = len(segments[number]) - (0 if original.held or number < len(segments) - 1 else 1)
    del segments[number][at : min(at + random.choice((1, 1, 1, 5)), max(most, at + 1))]
    return segments, seq


def swap(random: Random, original: Original) -> tuple[Segments, int]:
    """Two records anywhere, two neighbours, or two whole files."""
    one = random.randint(1, min(original.covered, original.last - 1))
    two = random.choice((one + 1, random.randint(one + 1, original.last)))
    files = original.of(one), original.of(two)
    if random.random() < 0.2 and files[0] != files[1]:
        segments = list(original.segments)
        segments[files[0]], segments[files[1]] = segments[files[1]], segments[files[0]]
        return segments, original.first_of(files[0])
    lines = original.lines
    lines[one - 1], lines[two - 1] = lines[two - 1], lines[one - 1]
    return original.shared_out(lines), one


def duplicate(random: Random, original: Original) -> tuple[Segments, int]:
    """A record once more, right after itself or anywhere later."""
    seq, lines = random.randint(1, original.covered), original.lines
    after = random.choice((seq, random.randint(seq, original.last)))
    lines.insert(after, lines[seq - 1])
    return original.shared_out(lines), after + 1


def truncate(random: Random, original: Original) -> tuple[Segments, int]:
    """Everything from some byte on, which lies before the end of the record whose head is held."""
    whole = b"".join(original.lines)
    kept = whole[: random.randrange(len(b"".join(original.lines[: original.held])))]
    if random.random() < 0.5:
        kept = kept[: kept.rfind(b"\n") + 1]
    return original.shared_out(kept.splitlines(keepends=True)), kept.count(b"\n") + 1


def tear(random: Random, original: Original) -> tuple[Segments, int]:
    """The end of the last line, as a crash leaves it."""
    *lines, last = original.lines
    return original.shared_out([*lines, last[: random.randrange(1, len(last))]]), original.last


def cut(random: Random, original: Original) -> tuple[Segments, int]:
    """Whole records off the end, after the one whose head is held."""
    return original.shared_out(original.lines[: random.randint(max(original.held, 1), original.last - 1)]), 0


KINDS: dict[str, tuple[Callable[[Random, Original], tuple[Segments, int]], str]] = {
    "flip": (flip, "one bit of a record is flipped"),
    "delete": (delete, "records are removed: one, a few, a file of them"),
    "swap": (swap, "two records, or two files, change places"),
    "duplicate": (duplicate, "a record stands there once more"),
    "truncate": (truncate, "all from some byte on is cut off, with the record whose head is held"),
    "tear": (tear, "the last line is torn, as by a crash"),
    "cut": (cut, "whole records are cut off the end, after the one whose head is held, or with no head held"),
}


# --- whether it is found -----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Of one kind. `exact`: those whose first bad record is the one that was touched first; `commands`: those that were asked of the
    command, and `agreed` of them ended with the right exit code and the same record."""

    injected: int = 0
    found: int = 0
    exact: int = 0
    commands: int = 0
    agreed: int = 0
    wrong: str = ""


class Bench:
    """One journal, to which everything is done in turn, in a folder of its own."""

    def __init__(self, folder: Path, seed: int = SEED) -> None:
        self.journal = folder / "journal"
        self._seed = seed
        write_journal(self.journal)
        self.files = sorted(self.journal.glob("*.jsonl"))
        self.segments = [file.read_bytes().splitlines(keepends=True) for file in self.files]

    def draw(self, kind: str, number: int) -> tuple[Original, int]:
        """Do it: the journal as it was, with the head that is held, and the first bad record."""
        random = Random(f"{self._seed} {kind} {number}")
        last = sum(len(segment) for segment in self.segments)
        nothing_held = kind != "truncate" and random.random() < 0.25
        most = last if kind not in ("tear", "cut") else last - 1
        held = 0 if nothing_held else random.choice((most, random.randint(1, most)))
        original = Original(self.segments, held)
        segments, first_bad = KINDS[kind][0](random, original)
        self.write(segments)
        return original, first_bad

    def write(self, segments: Segments) -> None:
        """Make the files these; the first one stays, empty if need be, so that there is a journal."""
        for file, lines in zip(self.files, segments, strict=True):
            file.write_bytes(b"".join(lines))
            if not lines and file != self.files[0]:
                file.unlink()

    def ask(self, original: Original, *options: str) -> subprocess.CompletedProcess[str]:
        """`gearcase journal verify`, with the head that is held."""
        told = ["--from", original.head, "--at", str(original.held)] if original.held else []
        command = [PROGRAM, "journal", "verify", self.journal, *told, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def attempt(self, kind: str, each: int = EACH, commands: int = 0) -> Outcome:
        """So many of one kind; `commands` of them are asked of the command too."""
        outcome = Outcome()
        for number in range(each):
            original, first_bad = self.draw(kind, number)
            proof = verify(self.journal, original.head, original.held)
            exact = proof.first_bad == first_bad and proof.records == (first_bad or proof.records + 1) - 1
            outcome.injected += 1
            outcome.found += not proof.ok
            outcome.exact += exact and (bool(first_bad) or proof.held == original.held)
            if not exact:
                outcome.wrong = outcome.wrong or f"number {number}: record {first_bad}, head of {original.held}: {proof}"
            if number < commands:
                done = self.ask(original, "--json")
                outcome.commands += 1
                outcome.agreed += (done.returncode, json.loads(done.stdout)["first_bad"]) == (int(first_bad > 0), first_bad)
        return outcome


def table(outcomes: dict[str, Outcome]) -> str:
    """The rows of the page."""
    lines = [
        "| what is done to it | injected | found | first bad record exact | the command, exit code |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, one in outcomes.items():
        exact, code = (str(one.exact), 1) if kind != "cut" else ("none is bad: told as unseen", 0)
        lines.append(f"| {KINDS[kind][1]} | {one.injected} | {one.found} | {exact} | {one.agreed} of {one.commands}: {code} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Tamper with a journal and see whether it is found; writes the table of docs/journal.md."
    )
    parser.add_argument("--each", type=int, default=1000, help="how many of each kind (1000)")
    parser.add_argument("--seed", type=int, default=SEED, help="what the places are drawn from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.seed)
        outcomes = {kind: bench.attempt(kind, options.each, COMMANDS) for kind in KINDS}
        last = sum(len(segment) for segment in bench.segments)
    for kind, one in outcomes.items():
        if one.wrong:
            print(f"{kind}: {one.wrong}", file=sys.stderr)
    said = f"\nOn a journal of {last} records in {len(bench.files)} files; places drawn from seed {options.seed}.\n"
    print(table(outcomes) + said)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(outcomes) + said + END + rest.partition(END)[2])
    return int(any(one.wrong or one.agreed < one.commands for one in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
