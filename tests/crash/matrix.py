"""`kill -9` of a run's process at every kind of moment, and what another one makes of it: `scripts/crash-run`.

A run is played once to its end, which gives the records of its journal. Then it is played again and again, each time killed at another
record: some at records of each kind, the rest drawn uniformly over all of them. Each time: nothing that it began outlives it, the next
command sweeps, the books of all lives together hold against the provider's own log, nothing is lost that was reported done, and
`gearcase recover` ends as the run would have.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from audit import Life, audit
from played import USD, provider_script, write_box
from survivors import adopt_orphans, cgroups_of, living, reap, residue, wait_until_gone

from gearcase.doors.postgres.binaries import candidates
from gearcase.runs import RunFolder
from tests.postgres_server import PASSWORD, live

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("gearcase")
KEY = "sk-canary-4711-never-inside"
ORPHANS_MAY_LIVE = 1.0
"""Seconds after the kill."""
EACH_KIND = 5
LATEST = 0.06
"""Seconds after a record in which a kill may come that does not come at it."""
TIMEOUT = 300.0
AGAIN = 0.15
"""Part of the kills after which the run that goes on is killed, too."""


@dataclass(frozen=True)
class Kill:
    """When: a record by number or `KIND:NTH`, and how (see `doomed.py`). `again`: of the run that goes on, too."""

    at: str
    how: str
    again: str = ""


@dataclass
class Found:
    """What came of one kill. Seconds. `kind` is that of the record at which it was killed."""

    kill: Kill
    kind: str = ""
    survived: float = 0.0
    outcome: str = ""  # how the run that went on ended, or why there was none
    lives: int = 0
    breaches: list[str] = field(default_factory=list[str])


class Matrix:
    """Plays and kills below `folder`. `database`: whether a Postgres branch is part of it."""

    def __init__(self, folder: Path, seed: int, database: bool, patience: float) -> None:
        self._folder = folder
        self._random = Random(seed)
        self._database = database
        self._patience = patience
        self._apart: set[int] = set()
        self._base = self._dsn = ""
        self._log = folder / "witness.jsonl"
        self.kinds: list[str] = []
        """Of the records of the run that nobody killed."""

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """The provider and the live database, which are never killed, and the run that nobody kills."""
        adopt_orphans()
        with ExitStack() as stack:
            if self._database:
                server = stack.enter_context(live())
                server.sql("CREATE TABLE theirs AS SELECT generate_series(1, 100) x")
                self._dsn = server.dsn
            (self._folder / "script.json").write_text(json.dumps(provider_script()))
            module = "gearcase.doors.model.upstreams.scripted"
            files = ["--script", self._folder / "script.json", "--log", self._log, "--key", KEY]
            provider = subprocess.Popen([sys.executable, "-m", module, *files], stdout=subprocess.PIPE, text=True)
            stack.enter_context(provider)
            stack.callback(provider.kill)
            assert provider.stdout is not None
            self._base = provider.stdout.readline().strip()
            self._apart = set(living(()))
            self._play_whole()
            yield

    def plan(self, kills: int) -> list[Kill]:
        """So many kills: three quarters at most at records of a kind (each kind up to five times, as often as it occurs), the rest
        drawn uniformly over all records."""
        counts = Counter(self.kinds)
        strata = [f"{kind}:{nth}" for kind, count in counts.items() for nth in self._some(count)]
        self._random.shuffle(strata)
        by_kind = strata[: kills * 3 // 4]
        points = [*by_kind, *(str(self._random.randint(1, len(self.kinds))) for _ in range(kills - len(by_kind)))]
        return [Kill(at, self._how(), self._again()) for at in points]

    def _some(self, count: int) -> list[int]:
        return sorted(self._random.sample(range(1, count + 1), min(EACH_KIND, count)))

    def _how(self) -> str:
        return self._random.choice(("after", "before", f"{self._random.uniform(0, LATEST):.4f}"))

    def _again(self) -> str:
        return str(self._random.randint(1, len(self.kinds))) if self._random.random() < AGAIN else ""

    # --- one kill ----------------------------------------------------------------------------------------------------------

    def play(self, kill: Kill) -> Found:
        """Play, kill, look, go on, add up."""
        found = Found(kill)
        place = self._place(f"kill-{kill.at.replace(':', '-')}-{self._random.getrandbits(32):08x}")
        begun, lives = self._size(), list[Life]()
        try:
            found.kind = self._kind(kill.at)
            life = self._doomed(place, found, "--box", "box.toml", "--out", "made", "--at", kill.at, "--how", kill.how)
            if life.went_by_itself:
                found.outcome = "it had ended: " + life.record["status"]
                return found
            lives.append(life)
            if kill.again:
                life = self._doomed(place, found, "--recover", life.folder.name, "--at", kill.again, "--how", self._how())
                lives.append(life)
            found.outcome = life.record["status"]
            if not life.went_by_itself:
                lives += self._recover(place, found, life.folder)
            found.lives = len(lives)
            found.breaches += audit(lives, self._witness(begun), USD)
        finally:
            if not found.breaches:
                shutil.rmtree(place)
        return found

    def _kind(self, at: str) -> str:
        kind, _, nth = at.partition(":")
        return kind if nth else self.kinds[int(kind) - 1]

    def _doomed(self, place: Path, found: Found, *arguments: str) -> Life:
        """One life that is to be killed, and what is looked at after its death."""
        with (place / "doomed.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, HERE / "doomed.py", *arguments], cwd=place, env=self._environment(place), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
            killed = process.wait(TIMEOUT) == -9
        folder = _newest(place)
        if folder is None:
            raise RuntimeError(f"no run began: {(place / 'doomed.log').read_text()[-3000:]}")
        cgroups = cgroups_of(folder.name)
        if killed:
            survived, left = wait_until_gone(self._apart, self._patience)
            found.survived = max(found.survived, survived)
            found.breaches += [f"{pid} ({name}) outlived its run by {survived:.2f} s" for pid, name in left.items()]
        reap(self._apart)
        self._types(place, "ps", "--all", "--json")  # the next command: it sweeps
        if killed:
            found.breaches += [f"left behind: {one}" for one in [*residue(folder.path, cgroups), *place.glob("**/.gearcase-*")]]
        record = json.loads(self._types(place, "report", folder.id, "--json"))
        found.breaches += [f"residue on record: {one}" for one in record["residue"]]
        ended_so = (record.get("error") or {}).get("code")
        if killed and ended_so != "supervisor_died" and record["status"] != "accepted":
            found.breaches.append(f"its ending says {record['status']}, {record.get('error')}")
        return Life(folder, record, went_by_itself=ended_so != "supervisor_died")

    def _recover(self, place: Path, found: Found, folder: RunFolder) -> list[Life]:
        """The life that goes on, to its end."""
        told = self._types(place, "recover", folder.id, "--json")
        heir = _newest(place)
        record = json.loads(told)
        found.outcome = record["status"] if "status" in record else f"refused: {record['error']['code']}"
        if found.outcome != "accepted" or heir is None or heir.id == folder.id:
            found.breaches.append(f"it did not go on to its end: {told[-1500:]}")
            return []
        left = living(self._apart)
        found.breaches += [f"{pid} ({name}) outlived the run that went on" for pid, name in left.items()]
        reap(self._apart)
        return [Life(heir, record, went_by_itself=True)]

    # --- surroundings ------------------------------------------------------------------------------------------------------

    def _play_whole(self) -> None:
        place = self._place("whole")
        life = self._doomed(place, found := Found(Kill("", "")), "--box", "box.toml", "--out", "made")
        if life.record["status"] != "accepted" or found.breaches:
            raise RuntimeError(f"the run that nobody killed: {found.breaches} {json.dumps(life.record)[:3000]}")
        self.kinds = [one["type"] for one in life.records()]
        shutil.rmtree(place)

    def _place(self, name: str) -> Path:
        place = self._folder / name
        write_box(place, self._base, self._dsn)
        (place / "home").mkdir()
        return place

    def _environment(self, place: Path) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if name in ("LANG", "XDG_RUNTIME_DIR")}
        secrets = {"ANTHROPIC_API_KEY": KEY, "SHOP_PASSWORD": PASSWORD}
        own = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(place / "home"), "XDG_STATE_HOME": str(place / "state")}
        return {**keep, **secrets, **own}

    def _types(self, place: Path, *arguments: str) -> str:
        """`gearcase ARGUMENTS` to its end; what it prints."""
        done = subprocess.run(
            [COMMAND, *arguments], cwd=place, env=self._environment(place), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        if not done.stdout.strip():
            raise RuntimeError(f"gearcase {' '.join(arguments)} printed nothing: {done.stderr[-2000:]}")
        return done.stdout

    def _size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _witness(self, begun: int) -> list[dict[str, Any]]:
        with self._log.open("rb") as file:
            file.seek(begun)
            return [json.loads(line) for line in file.read().splitlines()]


def _newest(place: Path) -> RunFolder | None:
    files = (place / "state/gearcase/runs").glob("*/run.json")
    facts = sorted((json.loads(file.read_text()) for file in files), key=lambda one: one["created"])
    if not facts:
        return None
    last = facts[-1]
    return RunFolder(last["id"], last["name"], last["goal"], last["created"], place / "state/gearcase/runs" / last["id"])


def table(matrix: Matrix, found: list[Found], seed: int) -> str:
    """The figures as Markdown."""
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    occurs = Counter(matrix.kinds)
    rows = [
        "| killed at | in a run | kills | went on, accepted | ended otherwise | longest survivor, s | breaches |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in [*occurs, "all"]:
        of = [one for one in found if kind in (one.kind, "all")]
        if of:
            accepted = sum(one.outcome == "accepted" for one in of)
            others = Counter(one.outcome for one in of if one.outcome != "accepted")
            told = ", ".join(f"{count} {outcome or 'not at all'}" for outcome, count in others.items())
            longest, breaches = max(one.survived for one in of), sum(len(one.breaches) for one in of)
            whole = occurs[kind] if kind != "all" else len(matrix.kinds)
            rows.append(f"| {kind} | {whole} | {len(of)} | {accepted} | {told} | {longest:.3f} | {breaches} |")
    twice = sum(one.lives > 2 for one in found)
    ways = Counter("later" if one.kill.how[0].isdigit() else one.kill.how for one in found)
    head = (
        f"`scripts/crash-run --kills {len(found)} --seed {seed}`, commit {commit.stdout.strip() or 'unknown'}, {os.cpu_count()} cores, "
        f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
    load = f"load average {os.getloadavg()[2]:.0f} in the last quarter of an hour"
    how = ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))
    told = f"Killed {how}; {twice} times the run that went on was killed, too; {load}."
    return "\n".join([head, "", told, "", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/crash-run", description="Kill a run's process at every kind of moment.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for everything; else only what breaches is kept, and named")
    patience = "seconds for which a process may outlive its run; more on a machine that is slow"
    parser.add_argument("--patience", type=float, default=ORPHANS_MAY_LIVE, help=patience)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="gearcase-crash-run-"))
    folder.mkdir(parents=True, exist_ok=options.keep is None)
    matrix, found = Matrix(folder, options.seed, can_have_database(), options.patience), list[Found]()
    began = time.monotonic()
    with matrix.surroundings():
        for number, kill in enumerate(matrix.plan(options.kills), 1):
            found.append(one := matrix.play(kill))
            print(f"{number} {one.kind} ({kill.at}, {kill.how}): {one.outcome}", *one.breaches, sep="\n    ", file=sys.stderr)
    print(table(matrix, found, options.seed))
    print(f"\n{time.monotonic() - began:.0f} s")
    if any(one.breaches for one in found):
        print(f"BREACHES; see {folder}", file=sys.stderr)
        return 1
    if options.keep is None:
        shutil.rmtree(folder)
    return 0


def can_have_database() -> bool:
    """Whether PostgreSQL's programs are here: the box's own client and a server's."""
    return bool(candidates()) and shutil.which("psql") is not None


if __name__ == "__main__":
    sys.exit(main())
