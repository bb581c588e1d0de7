"""Whole runs whose maps execute on a Ray cluster of this machine: nodes that are killed, silent or frozen, and what is left of them."""

import asyncio
import json
import os
import signal
import time
from collections import Counter

import pytest

from gearcase.box import Override, doubts, load_box
from gearcase.control import command
from gearcase.errors import UsageError
from gearcase.journal import read
from tests.engines.bench import KEY, TOKEN, Cluster, opened
from tests.run.conftest import stage

__all__ = ["stage"]

STEP = {"text": "ok", "usage": {"input": 30, "output": 5}, "fault": "slow", "delay": 0.15}
BEGIN = "mkdir out; echo 'Say ok to: {item}' > /tmp/p; seq 1 %d | sed 's/^/word /; s/$/./' > words.txt"
MAP = "gear map --over words.txt --split lines:1 --prompt /tmp/p --out out/m --concurrency 24 --max-output 64"


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture
def own_cluster():
    """One that may be broken."""
    made = Cluster(3)
    yield made
    made.close()


def mapped(stage, address, worker, items=300, then="", beside=None, **box):
    text = f"{BEGIN % items}; {MAP} > out/said 2>&1; echo $? > out/code; {then}gear done --as-is"
    swarm = {"engine": "ray", "address": address}
    return stage.play({"commands": [text]}, worker=worker, swarm=swarm, beside=beside, **box)


def account(played):
    return json.loads((played.out / "out/m/account.json").read_text())


def words(server):
    return Counter(line for asked in server.billed for line in asked.split("\n") if line.startswith("Say ok to: word"))


def facts(played, kind):
    return [record.event for record in played.records(kind)]


async def until(found, seconds=60):
    async with asyncio.timeout(seconds):
        while not (answer := found()):
            await asyncio.sleep(0.02)
    return answer


def of(folder, kind):
    return [record.event for record in read(folder.journal) if record.type == kind]


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def nothing_left(cluster):
    """No folder of a node, no process of ours on the cluster."""
    nodes = cluster.state / "gearcase/nodes"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        running = [name for name in os.listdir("/proc") if name.isdecimal() and b"NodeActor" in _command(name)]
        if not running and not list(nodes.iterdir()):
            return True
        time.sleep(0.1)
    return False


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_a_map_runs_on_the_nodes_and_its_account_is_that_of_the_upstream(stage, cluster, upstream):
    server = upstream({**STEP, "delay": 0.02})
    played = mapped(stage, cluster.address, f"{server.base}/v1#gpt-5-mini")
    told = account(played)
    assert told["account"]["ok"] == 300 and (played.out / "out/code").read_text() == "0\n", (played.out / "out/said").read_text()
    joined, left = facts(played, "node_joined"), facts(played, "node_left")
    assert len(joined) == 3 == len({one.pid for one in joined}) and os.getpid() not in {one.pid for one in joined}
    assert sum(one.items for one in left) == 300 and all(one.items > 30 and not one.why for one in left)
    assert set(words(server).values()) == {1} and len(words(server)) == 300
    called = [one for one in facts(played, "model_called") if one.label == "map m1"]
    assert len(called) == told["calls"] == 300
    settled = {one.hold: one.amounts.get("usd", 0) for one in facts(played, "settled")}
    assert told["nano_usd"] == sum(settled[one.hold] for one in called) > 0
    assert len(played.records("held")) < 100, "leases, not a hold for each call"
    assert played.record.residue == [] and nothing_left(cluster)


@pytest.mark.parametrize("how", ["node", "machine"])
def test_a_node_that_is_killed_loses_no_item_and_overspends_nothing(stage, own_cluster, upstream, how):
    server = upstream(STEP)
    seen = {}

    async def kill(folder):
        joined = await until(lambda: len(of(folder, "node_joined")) == 3 and of(folder, "node_joined"))
        await until(lambda: sum(words(server).values()) > 90)
        called = [one.label for one in of(folder, "model_called")]
        seen["before"] = len(called)
        machine = list(own_cluster.raylets.values())[-1]  # the first one is the host's own
        victim = next(one for one in joined if parent_of(one.pid) == machine)
        doomed = [victim.pid] if how == "node" else [machine, *(one for one in processes() if parent_of(one) == machine)]
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        seen["killed"] = time.monotonic()
        await until(lambda: of(folder, "node_left"))
        seen["noticed"] = time.monotonic() - seen["killed"]

    played = mapped(stage, own_cluster.address, f"{server.base}/v1#gpt-5-mini", beside=kill)
    told, left = account(played), facts(played, "node_left")
    lost = [one for one in left if one.why]
    print(f"\nkilled the {how} after {seen['before']} of 300; noticed in {seen['noticed']:.2f} s")
    for one in left:
        print(
            f"{one.node}: {one.items} items{', lost: ' + one.why[:60] if one.why else ''}, {one.spent} nano-dollars leased and lost"
        )
    assert told["account"]["ok"] == 300 == told["account"]["items"]
    assert len(lost) == 1 and sum(one.items for one in left) == 300
    count = words(server)
    twice = [word for word, times in count.items() if times > 1]
    assert told["calls"] <= 316, "what was not begun there is no call"
    print(f"asked twice: {len(twice)}; upstream {sum(count.values())} calls, account {told['calls']}")
    assert len(count) == 300 and max(count.values()) <= 2
    assert len(twice) <= 16, "four calls of two tasks in flight, and as many answers on their way here"
    prices = [one for one in facts(played, "settled") if one.lease]
    one_call = prices[0].amounts["usd"]
    assert {event.amounts["usd"] for event in prices} == {one_call}
    billed = sum(count.values()) * one_call
    leads = sum(event.amounts.get("usd", 0) for event in facts(played, "settled") if not event.lease)
    assert billed <= played.record.spent["usd"] - leads, "what the upstream bills is never more than what counts as spent"
    assert told["nano_usd"] == played.record.spent["usd"] - leads
    assert lost[0].spent == sum(event.spent for event in left)
    assert played.record.residue == [] and nothing_left(own_cluster)


def test_a_node_that_is_silent_stands_still_and_its_lease_is_settled_when_it_is_heard_again(tmp_path, own_cluster, upstream):
    from gearcase.seams import Lost, Task

    server = upstream({**STEP, "delay": 0.4})

    async def scenario():
        async with opened("ray", tmp_path, f"{server.base}/v1#gpt-5-mini", address=own_cluster.address) as bench:
            await bench.engine.submit(Task("t1", bench.ask(), tuple(f"a {at}." for at in range(60)), 2))
            await bench.until(lambda: len(bench.outcomes("t1")) >= 2)
            started = bench.told["t1"][0].node
            pid = next(pid for name, pid, _ in bench.engine.nodes if name == started)
            stopping = asyncio.create_task(stop(pid))
            await asyncio.sleep(0.5)  # what had left when it was stopped arrives
            stood = len(server.asked)
            events = await bench.ended("t1", 30)
            assert isinstance(events[-1], Lost) and events[-1].spent > 0
            assert 0 < bench.balance().held <= events[-1].spent, "it counts as spent as long as nobody knows"
            assert bench.engine.capacity().most == 4
            stopping.cancel()
            os.kill(pid, signal.SIGCONT)
            await bench.until(lambda: bench.balance().held == 0)
            await asyncio.sleep(1.0)
            assert len(server.asked) == stood, "it began nothing after it had been silent for too long"
            billed = len(server.billed)
            calls = [event for event in bench.facts.events if type(event).__name__ == "ModelCalled"]
            assert len(calls) == billed and bench.balance().spent == sum(
                told["cost"] for told in bench.outcomes("t1").values()
            ) + (billed - len(bench.outcomes("t1"))) * calls_cost(bench)

    async def stop(pid):
        while True:
            os.kill(pid, signal.SIGSTOP)  # again and again: this machine may be one that wakes what is stopped
            await asyncio.sleep(0.02)

    def calls_cost(bench):
        return next(event.amounts["usd"] for event in bench.facts.events if getattr(event, "lease", 0))

    asyncio.run(scenario())


def test_a_run_that_is_frozen_and_killed_stops_its_nodes_and_leaves_nothing(stage, cluster, upstream):
    server = upstream(STEP)
    seen = {}

    async def brake(folder):
        await until(lambda: sum(words(server).values()) > 60)
        began = time.monotonic()
        await asyncio.to_thread(command, folder, "freeze")
        seen["froze"] = time.monotonic() - began
        await asyncio.sleep(0.3)
        seen["stood"] = len(server.asked)
        await asyncio.sleep(2.0)
        seen["later"] = len(server.asked)
        await asyncio.to_thread(command, folder, "kill")

    played = mapped(stage, cluster.address, f"{server.base}/v1#gpt-5-mini", items=2000, beside=brake)
    print(f"\nfrozen in {seen['froze'] * 1000:.0f} ms; calls then, two seconds later, in the end:")
    print(seen["stood"], seen["later"], len(server.asked))
    assert seen["stood"] == seen["later"] == len(server.asked) < 2000
    assert played.record.status == "stopped" and played.record.residue == []
    [ended] = facts(played, "map_ended")
    assert ended.ended in ("cut", "abandoned") and sum(ended.account.values()) == 2 * ended.account["items"]
    assert not [one for one in facts(played, "node_left") if one.why], "all had settled"
    leads = sum(event.amounts.get("usd", 0) for event in facts(played, "settled") if not event.lease)
    called = [one for one in facts(played, "model_called") if one.label == "map m1"]
    assert len(called) == len(server.billed) and played.record.spent["usd"] - leads == len(called) * played_price(played)
    assert nothing_left(cluster)


def played_price(played):
    return next(event.amounts["usd"] for event in facts(played, "settled") if event.lease)


def test_commands_run_on_the_nodes_too(stage, cluster):
    run = "gear map --over words.txt --split lines:1 --run 'python3 count.py' --out out/m --concurrency 2 > out/said 2>&1"
    put = "printf 'import sys\\nprint(len(sys.stdin.read()))\\n' > count.py"
    text = f"{BEGIN % 12}; {put}; {run}; gear done --as-is"
    played = stage.play({"commands": [text]}, swarm={"engine": "ray", "address": cluster.address}, memory="512MiB", processes=128)
    assert account(played)["account"]["ok"] == 12, (played.out / "out/said").read_text()
    [ended] = facts(played, "map_ended")
    assert ended.sandboxes == 12 and ended.cpu > 0
    assert sum(one.items for one in facts(played, "node_left")) == 12
    paid = [one.amounts["cpu"] for one in facts(played, "settled") if one.purpose == "map"]
    assert sum(paid) == pytest.approx(ended.cpu * 1000, abs=8)
    assert played.record.residue == [] and nothing_left(cluster)


def test_what_only_this_machine_has_is_asked_from_here(stage, cluster):
    played = mapped(stage, cluster.address, stage.script({"text": "ok"}), items=20)
    assert account(played)["account"]["ok"] == 20 and facts(played, "node_joined") == []


def test_a_cluster_that_is_not_there_is_told_and_costs_nothing(stage):
    text = f"{BEGIN % 5}; {MAP} > out/said 2>&1; echo $? > out/code; gear done --as-is"
    swarm = {"engine": "ray", "address": "127.0.0.1:9"}
    played = stage.play({"commands": [text]}, worker="http://127.0.0.1:9/v1#none", swarm=swarm)
    assert "no Ray cluster at 127.0.0.1:9" in (played.out / "out/said").read_text()
    assert (played.out / "out/code").read_text() != "0\n" and facts(played, "map_started") == []


def test_a_missing_extra_is_told_with_its_remedy(monkeypatch):
    import sys

    from gearcase.engines.cluster import load

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="not installed") as refused:
        load("127.0.0.1:6379")
    assert "gearcase[ray]" in refused.value.remedy


def test_a_box_whose_engine_is_not_installed_does_not_start_and_is_told_when_it_is_looked_at(stage, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else found(name, *more))
    with pytest.raises(UsageError, match="not installed"):
        mapped(stage, "127.0.0.1:9", stage.script({"text": "ok"}))
    assert stage.run_folder() is None, "no run exists"
    box = stage.box({"text": "ok"}, swarm={"engine": "ray"})
    assert any("gearcase[ray]" in told for told in doubts(box.box, box.folder))


def test_an_address_is_a_host_and_a_port(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text(
        'goal = "g"\n[model]\nlead = "anthropic/claude-sonnet-4-5"\n[swarm]\nengine = "ray"\naddress = "ray://somewhere"\n'
    )
    with pytest.raises(UsageError) as refused:
        load_box(file, [Override(("limits", "usd"), "1.00", "--usd")])
    assert "swarm.address" in str(refused.value.context)
