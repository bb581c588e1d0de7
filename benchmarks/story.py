"""The events of a busy run, turn by turn, as the journal takes them and the monitors are told them."""

from __future__ import annotations

from gearcase import events as e
from gearcase.events import Event

PRICE = 1_234_567
"""Nano-dollars of a call."""
PAUSE = 2.0
"""Seconds of a turn."""
_TAIL = "test_rows.py .........F..\nE   AssertionError: assert 1 == 2\n1 failed, 11 passed in 0.10s\n"


def begin() -> list[tuple[str, Event]]:
    """What a run with a budget begins with, each event with its agent."""
    limits = {"usd": 200_000 * 10**9, "wall": 10**12}
    started = e.RunStarted("r1", "one", "find the rows that are damaged", "b", "0", "boot", {})
    return [("", started), ("", e.AccountOpened("run", "", limits)), ("lead", e.AgentStarted("m", "find the rows"))]


def turn(number: int) -> list[tuple[str, Event]]:
    """A model call, a command, and what the host saw of them: 9 events, in every fifth turn 16."""
    money = {"usd": PRICE, "tokens": 4000, "calls": 1}
    tokens = {"input": 3000 + number % 900, "output": 200}
    tail = _TAIL if number % 3 else f"{number} rows\n"
    paths = [[f"src/part{number % 40}.py", f"{number:016x}"], ["notes.txt", f"{number * 7:016x}"]]
    told: list[Event] = [
        e.Held(number, "run", money, "call", billed_by="anthropic"),
        e.Sent(number),
        e.Settled(number, "run", money),
        e.ModelCalled(number, number, "anthropic", "m", "m", 200, "complete", tokens, 1.0, 2.0, request=f"{number:016x}"),
        e.AgentTurn(number, "I look at the file and find what is wrong with it.", 1),
        e.CommandStarted(number, f"python3 -m pytest -q tests/test_rows.py -k part{number % 40}"),
        e.CommandEnded(number, "exited", int(number % 3 > 0), 1.5, 0.2, len(tail), "", tail),
        e.FilesSeen(400, 2_000_000, 0, 2, 0, 300, 0, 0, 400, 2_000_000, paths, seconds=0.002),
        e.Tick(number * PAUSE, number * 0.5, 80 << 20, 6, 300 << 20, 1 << 30),
    ]
    if number % 5 == 0:
        told += [
            e.CheckRan("tests", "failed", 0.4 + (number % 50) / 100, 2.0, "d", False),
            e.TestsClaimed(number, "pytest", 10, 2),
            e.NameAsked(f"host{number % 7}.example.org", "A", True, 1),
            e.ConnectionClosed("http", number, f"host{number % 7}.example.org", 900, 40_000, 0.3, "ended"),
            e.GearUsed("wait", True, {}),
        ]
    pairs = [("lead", event) for event in told]
    if number % 5 == 0:
        name = f"sub{number}"
        spawned = e.AgentSpawned("lead", name, f"count the rows of part {number}", "m", 1, {"usd": PRICE}, 3, 900)
        pairs += [(name, spawned), (name, e.AgentReturned("lead", "accepted", "", "", "", {"usd": PRICE}, 3, 9.0))]
    return pairs
