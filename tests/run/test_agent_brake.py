"""One sub-agent is frozen, with those below it, and the rest of the run goes on; a latch shuts doors alone."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from gearcase.control import command
from gearcase.errors import RunError
from gearcase.journal import read

SPAWN = "gear spawn --usd 0.30 --background"


def by(agent, *commands):
    return {"agent": agent, "commands": list(commands)}


def beats(name):
    return f"while :; do date > beats-{name}; done"


def ticks(name):
    """Processor ticks of who `beats`, with the children that it waited for."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"date > beats-{name};" in Path(f"/proc/{pid}/cmdline").read_text():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(int(fields[place]) for place in (11, 12, 13, 14))
    return total


async def moves(*names):
    """Whether each of these moves."""
    before = [ticks(name) for name in names]
    await asyncio.sleep(1.0)
    return [ticks(name) > was for name, was in zip(names, before, strict=True)]


async def says(folder, verb, **more):
    return await asyncio.to_thread(command, folder, verb, **more)


def seen(folder, kind, agent=None):
    return [one for one in read(folder.journal) if one.type == kind and agent in (None, one.agent)]


async def until(found):
    async with asyncio.timeout(60):
        while not found():
            await asyncio.sleep(0.05)


def ends_it(operator):
    """The run ends with what its operator does, also where that fails."""

    async def acts(folder):
        try:
            await operator(folder)
        finally:
            await says(folder, "kill")

    return acts


def test_a_frozen_sub_agent_stands_with_those_below_it_and_goes_on_by_itself(stage):
    told = {}

    async def operator(folder):
        await until(lambda: all(ticks(name) for name in ("lead", "a1", "a2", "a3")))
        assert await moves("lead", "a1", "a2", "a3") == [True] * 4
        assert (await says(folder, "freeze", agent="a1", reason="looks odd"))["level"] == "frozen"
        assert await moves("lead", "a1", "a2", "a3") == [True, False, False, True], "a2 is below a1, a3 is not"
        await says(folder, "freeze", agent="a2")
        await says(folder, "resume", agent="a1")
        assert await moves("lead", "a1", "a2") == [True, True, False]
        await says(folder, "freeze")
        assert await moves("lead", "a1", "a2", "a3") == [False] * 4
        await says(folder, "resume")
        assert await moves("lead", "a1", "a2") == [True, True, False], "who was frozen for itself stays so"
        await says(folder, "resume", agent="a2")
        assert await moves("a2") == [True]
        with pytest.raises(RunError) as caught:
            await says(folder, "freeze", agent="a9")
        told.update(code=caught.value.code, remedy=caught.value.remedy)
        await says(folder, "freeze", agent="a1")  # also what stands frozen is killed

    played = stage.play(
        {"commands": [f"{SPAWN} one; until gear agents | grep -q a2; do sleep 0.1; done; {SPAWN} three; {beats('lead')}"]},
        by("a1", f"gear spawn --usd 0.10 --background two; {beats('a1')}"),
        by("a3", beats("a3")),
        by("a2", beats("a2")),
        swarm={"depth": 2, "live": 8},
        beside=ends_it(operator),
    )
    assert told["code"] == "no_agent" and "a1" in told["remedy"]
    assert played.record.status == "stopped" and played.record.residue == []
    changed = [(one.agent, one.event.level, one.event.reason) for one in played.records("agent_braked")]
    assert changed[:3] == [("a1", "frozen", "looks odd"), ("a2", "frozen", ""), ("a1", "running", "")]


def test_a_frozen_sub_agent_asks_its_model_nothing_and_ends_well_later(stage):
    calls = []

    async def operator(folder):
        await until(lambda: seen(folder, "command_started", "a1"))
        await says(folder, "freeze", agent="a1")
        for _ in range(2):
            calls.append(len(seen(folder, "model_called", "a1")))
            await asyncio.sleep(1.5)
        await says(folder, "resume", agent="a1")

    played = stage.play(
        {"commands": [f"mkdir out; {SPAWN} --take made one; gear wait > out/said; cp made out"]},
        {"commands": ["gear done"]},
        by("a1", "sleep 0.7; echo well > made", "gear done"),
        take=("out/**",),
        beside=operator,
    )
    assert calls[0] == calls[1] and (played.out / "out/made").read_text() == "well\n"
    assert played.record.residue == []


def test_a_latch_takes_no_new_call_and_lets_what_runs_go_on(stage):
    async def operator(folder):
        await until(lambda: ticks("lead"))
        assert (await says(folder, "freeze", latch=True))["level"] == "latched"
        assert await moves("lead") == [True]
        Path(stage.work / "go").touch()
        await until(lambda: not ticks("lead"))
        calls = len(seen(folder, "model_called"))
        await asyncio.sleep(1.5)
        assert len(seen(folder, "model_called")) == calls
        await says(folder, "resume")

    played = stage.play(
        {"commands": [beats("lead").replace("while :;", "until [ -e /given/work/go ];")]},
        {"commands": ["mkdir out; echo well > out/made; gear done"]},
        see=[stage.work],
        take=("out/**",),
        beside=operator,
    )
    assert (played.out / "out/made").read_text() == "well\n"
    assert [one.event.level for one in played.records("brake_changed")] == ["latched", "running"]
