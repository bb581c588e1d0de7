"""`kill -9` of the model door at random moments, under load. The provider's own log is the witness.

The provider is a process of its own that is never killed and writes what it bills before it answers. The door is another, killed and
restarted from its journal. The callers never stop. At the end nothing may have been billed that was not charged, for any account,
and no account of the tree may ever have exceeded a limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from books import Books
from callers import MODELS, PATHS, Caller, text

from gearcase.doors.model import pricing
from gearcase.doors.model.price import TokenUsage
from gearcase.journal import verify

HERE = Path(__file__).parent
NANO = 10**9
TEAMS, AGENTS = 4, 4
START = 60.0  # seconds in which a process must be there


@dataclass
class Outcome:
    """What a run of the harness found."""

    kills: int = 0
    with_hold: int = 0  # kills while a call lay between its hold and its settlement
    with_sent: int = 0  # of these, kills while it was at the provider
    while_starting: int = 0
    open_at_kills: int = 0
    torn: int = 0
    seconds: float = 0.0
    billed: Counter[str] = field(default_factory=Counter)
    answered: int = 0  # calls that reached the provider
    told: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    books: Books = field(default_factory=lambda: Books(Path()))
    verified: bool = False
    breaches: list[str] = field(default_factory=list)


def plan_accounts(random: Random, scale: float) -> list[dict[str, Any]]:
    """A run, its teams and their agents. Some agents have so little that they run dry, some are limited in tokens or calls too."""
    agents: list[dict[str, Any]] = []
    for number in range(TEAMS * AGENTS):
        usd = random.choice((1, 1, 4, 40, 40)) if number else 1
        limits = {"usd": int(usd * scale * NANO), "tokens": 10**10, "calls": 10**6}
        if number % 5 == 1:
            limits["tokens"] = int(3_000_000 * scale)
        if number % 5 == 2:
            limits["calls"] = int(600 * scale)
        agents.append({"name": f"agent-{number}", "parent": f"team-{number % TEAMS}", "limits": limits})
    teams = [{"name": f"team-{number}", "parent": "run", "limits": _sum(agents[number::TEAMS])} for number in range(TEAMS)]
    return [{"name": "run", "parent": "", "limits": _sum(teams)}, *teams, *agents]


def _sum(accounts: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(account["limits"][name] for account in accounts) for name in ("usd", "tokens", "calls")}


def script(random: Random, steps: int) -> list[dict[str, Any]]:
    """What the provider answers, faults included; none that a provider may only have by billing above its own limits."""

    def step() -> dict[str, Any]:
        words = text(random, random.choice((5, 60, 600)))
        streamed = {"text": words, "pieces": random.randint(2, 20), "delay": random.choice((0.002, 0.01, 0.04))}
        kind = random.choices(("plain", "streamed", "long", "cached", "fault", "status"), weights=(25, 40, 8, 8, 13, 6))[0]
        match kind:
            case "streamed":
                return streamed
            case "long":  # up to whatever ceiling the door wrote
                return {"text": "word " * 60_000, "pieces": 3, "delay": 0.01}
            case "cached":
                return {"text": words, "cached": random.choice((0.2, 0.9))}
            case "fault":
                fault = random.choice(("drop", "drop", "stall", "garbage", "truncated", "no_usage", "slow", "slow"))
                return {**streamed, "fault": fault, "delay": 0.3 if fault == "slow" else 0.01}
            case "status":
                return {"status": random.choice((400, 401, 429, 500, 503, 529))}
            case _:
                return {"text": words}

    return [step() for _ in range(steps)]


class Run:
    """One run of the harness in a folder of its own."""

    def __init__(self, folder: Path, kills: int, callers: int, seed: int) -> None:
        self._folder = folder
        self._kills = kills
        self._callers = callers
        self._seed = seed
        self._random = Random(seed)
        self._accounts = plan_accounts(self._random, scale=kills / 50)
        self._errors = (folder / "door.log").open("ab")
        self._sockets: dict[str, socket.socket] = {}
        self.outcome = Outcome(books=Books(folder / "journal"))

    async def whole(self) -> Outcome:
        begun = time.monotonic()
        leaves = [account["name"] for account in self._accounts if account["name"].startswith("agent-")]
        self._sockets = {name: socket.create_server(("127.0.0.1", 0), backlog=256) for name in leaves}
        plan = {
            "accounts": self._accounts,
            "listeners": {name: sock.fileno() for name, sock in self._sockets.items()},
            "models": sorted({f"{_provider(PATHS[p])}/{model}" for p, models in MODELS.items() for model in models}),
        }
        (self._folder / "plan.json").write_text(json.dumps(plan))
        (self._folder / "script.json").write_text(json.dumps(script(self._random, 400 * self._kills + 400)))
        stopped = asyncio.Event()
        async with self._provider() as upstream:
            asking = [
                Caller(name, f"http://127.0.0.1:{self._sockets[name].getsockname()[1]}", self._seed * 1000 + at)
                for at in range(self._callers)
                for name in (leaves[at % len(leaves)],)
            ]
            tasks = [asyncio.create_task(caller.ask_on(stopped, self.outcome.told)) for caller in asking]
            try:
                for _ in range(self._kills):
                    await self._until_killed(upstream)
                await self._last(upstream, stopped, tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self.close()
        self.audit()
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    def close(self) -> None:
        """Close what the processes were given."""
        for sock in self._sockets.values():
            sock.close()
        self._errors.close()

    # --- processes ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _provider(self) -> AsyncIterator[str]:
        module = "gearcase.doors.model.upstreams.scripted"
        files = ["--script", self._folder / "script.json", "--log", self._folder / "witness.jsonl"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *files, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )  # fmt: skip
        try:
            yield await _line(process)
        finally:
            process.kill()
            await process.wait()

    async def _door(self, upstream: str) -> asyncio.subprocess.Process:
        options = ["--plan", self._folder / "plan.json", "--journal", self._folder / "journal", "--upstream", upstream]
        durability = self._random.choice(("strict", "grouped"))
        return await asyncio.create_subprocess_exec(
            sys.executable, HERE / "door.py", *options, "--durability", durability,
            pass_fds=[sock.fileno() for sock in self._sockets.values()],
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._errors.fileno(),
        )  # fmt: skip

    async def _until_killed(self, upstream: str) -> None:
        """One life of the door: mostly killed while it serves, sometimes while it still reads its journal."""
        door = await self._door(upstream)
        early = self._random.random() < 0.15
        if not early:
            await _line(door)
        await asyncio.sleep(self._random.uniform(0.02, 0.7))
        door.kill()
        await door.wait()
        _let_go(door)
        books = self.outcome.books.read_on()
        self.outcome.kills += 1
        self.outcome.while_starting += early
        self.outcome.with_hold += bool(books.holds)
        self.outcome.with_sent += books.sent > 0
        self.outcome.open_at_kills += len(books.holds)
        self.outcome.torn += books.torn

    async def _last(self, upstream: str, stopped: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
        """The last life: it goes on for a moment, the callers end their calls, it ends in an orderly way."""
        door = await self._door(upstream)
        try:
            await _line(door)
            await asyncio.sleep(0.5)
            stopped.set()
            await asyncio.gather(*tasks)
            assert door.stdin is not None
            door.stdin.close()
            await asyncio.wait_for(door.wait(), START + 60)
        finally:
            if door.returncode is None:
                door.kill()
                await door.wait()
            _let_go(door)
        if door.returncode:
            self.outcome.breaches.append(f"the door's last life ended with {door.returncode}")

    # --- the audit ---------------------------------------------------------------------------------------------------------

    def audit(self) -> None:
        """Compare the witness with the books, and prove the journal."""
        found, books = self.outcome, self.outcome.books.read_on()
        for line in (self._folder / "witness.jsonl").read_text().splitlines():
            entry = json.loads(line)
            found.answered += 1
            found.faults[entry.get("fault") or ("" if entry["status"] == 200 else str(entry["status"]))] += 1
            if entry["billed"]:
                price = pricing.find(_provider(entry["path"]), entry["model"])
                found.billed[entry["caller"]] += price.cost(TokenUsage(**entry["billed"]))
        found.breaches += [
            f"{account}: billed {billed} nano-dollars, charged {books.charged[account]}"
            for account, billed in found.billed.items()
            if billed > books.charged[account]
        ]
        found.breaches += [f"{account}: {amount} {name} over its limit" for (account, name), amount in books.over.items()]
        if books.holds:
            found.breaches.append(f"{len(books.holds)} holds were never ended")
        if books.kinds["sent"] < found.answered:
            found.breaches.append(f"the provider had {found.answered} calls, the journal tells of {books.kinds['sent']}")
        said = (self._folder / "door.log").read_text()
        if said:
            found.breaches.append(f"the door complained: {said[-2000:]}")
        proof = verify(self._folder / "journal")
        found.verified = proof.ok
        if not proof.ok:
            found.breaches.append(f"the journal does not verify: record {proof.first_bad}: {proof.reason}")


def _provider(path: str) -> str:
    return "anthropic" if path == PATHS["anthropic"] else "openai"


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START)
    if not line:
        raise RuntimeError(f"a process ended with {await process.wait()} before it was ready")
    return line.decode().strip()


def _let_go(process: asyncio.subprocess.Process) -> None:
    """Close the pipes of a process that has ended: their transports would complain when they are collected."""
    transport: Any = getattr(process, "_transport")  # noqa: B009
    transport.close()


def table(found: Outcome, kills: int, callers: int, seed: int) -> str:
    """The figures as Markdown."""
    books = found.books
    billed, charged = found.billed.total(), books.charged.total()
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    over = Counter(dict.fromkeys(("usd", "tokens", "calls"), 0))
    for (_, name), amount in books.over.items():
        over[name] += amount
    dry = [
        account
        for account, limits in books.limits.items()
        if account in found.billed and books.used[account, "usd"] > 0.9 * limits["usd"]
    ]
    rows = [
        ("kills with `kill -9`", found.kills),
        ("... while a call lay between its hold and its settlement", found.with_hold),
        ("... while such a call was at the provider", found.with_sent),
        ("... while the door read its journal", found.while_starting),
        ("calls open at the kills, in all", found.open_at_kills),
        ("incomplete last lines", found.torn),
        ("accounts (run, teams, agents)", len(books.limits)),
        ("accounts that used more than 90 % of their money", len(dry)),
        ("calls that reached the provider", found.answered),
        ("... with a fault or an error status", found.answered - found.faults[""]),
        ("holds settled / cut / released", f"{books.kinds['settled']} / {books.kinds['cut']} / {books.kinds['released']}"),
        ("what the callers saw", ", ".join(f"{name}: {count}" for name, count in sorted(found.told.items()))),
        ("billed by the provider", f"${billed / NANO:.6f}"),
        ("charged in the journal", f"${charged / NANO:.6f}"),
        ("accounts billed above their charge", sum(found.billed[a] > books.charged[a] for a in found.billed)),
        (
            "over any limit of the tree, at any record",
            f"{over['usd']} nano-dollars, {over['tokens']} tokens, {over['calls']} calls",
        ),
        ("journal", f"{sum(books.kinds.values())} records, {'verified' if found.verified else 'DAMAGED'}"),
        ("seconds", f"{found.seconds:.1f}"),
    ]
    head = (
        f"`scripts/crash-door --kills {kills} --callers {callers} --seed {seed}`, commit {commit.stdout.strip() or 'unknown'}, "
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
    return "\n".join([head, "", "| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/crash-door", description="Kill the model door under load; add up who paid.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for journal, script and witness; else they are removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gearcase-crash-") as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=options.keep is None)
        found = asyncio.run(Run(folder, options.kills, options.callers, options.seed).whole())
    print(table(found, options.kills, options.callers, options.seed))
    least = min(10, options.kills // 2)
    if found.with_hold < least:
        found.breaches.append(f"only {found.with_hold} of {found.kills} kills met an open hold; at least {least} are needed")
    for breach in found.breaches:
        print(f"BREACH {breach}", file=sys.stderr)
    return 1 if found.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
