"""A run that waits for somebody freezes first and then pages: what is said, to whom, how often, until when, and what is left of it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gearcase.box import Override
from gearcase.brake import Brake, Level
from gearcase.control import command
from gearcase.errors import RunError
from gearcase.journal import read
from gearcase.notify import pager
from gearcase.run.options import RunOptions
from tests.listener import listening

DONE = {"commands": ["gear done"]}
WORK = "mkdir -p out; echo made > out/x"
SECRET = "sesame-routing-key-4711"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("PAGERDUTY_KEY", SECRET)


@pytest.fixture
def given(stage):
    """Thirty originals."""
    folder = stage.work / "data"
    folder.mkdir()
    for number in range(30):
        (folder / f"canary-{number}.csv").write_text(f"canary content {number}\n" * 20)
    return folder


def to(server, kind="webhook", name="own", **keys):
    """Of a box: who is told."""
    target = {"kind": kind, "url": server if isinstance(server, str) else server.url, **keys}
    return [Override(("notify", "to", name), target, "box")]


def duty(server):
    return to(server, "pagerduty", "duty", routing_key="${PAGERDUTY_KEY}")


def repeat(seconds):
    return [Override(("notify", "repeat"), seconds, "box")]


def play(stage, *steps, beside=None, answered=False, after=1800.0, **box):
    options = RunOptions(box=stage.box(*steps, **box), out=stage.work / "result", answered=answered, after=after)
    return stage.execute(options, beside)


async def until(found):
    async with asyncio.timeout(30):
        while not (answer := found()):
            await asyncio.sleep(0.02)
        return answer


async def say(folder, verb, **arguments):
    return await asyncio.to_thread(command, folder, verb, **arguments)


def left_behind(state):
    """Pagers of runs in this state folder that still live: their log is the run's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            log, line = os.readlink(process / "fd/2"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        found += [int(process.name)] if log.startswith(str(state)) and pager.__file__.encode() in line else []
    return found


def pages(server):
    return [one.json for one in server.got if one.json.get("event") == "page" or one.json.get("event_action") == "trigger"]


DESTROY = [{"commands": [f"{WORK}; rm data/canary-1*.csv data/canary-2*.csv"]}, {"commands": ["sleep 1"]}, DONE]


def test_a_freeze_is_in_force_before_anybody_is_paged_and_the_answer_resolves_it(stage, given):
    with listening(202) as server:
        seen = []

        def heard(_got):
            (folder,) = stage.state.glob("gearcase/runs/*")
            seen.append(
                (json.loads((folder / "level").read_text()), b'"frozen"' in (folder / "journal/000001.jsonl").read_bytes())
            )

        server.heard = heard

        async def answer(folder):
            await until(lambda: pages(server))
            assert (await say(folder, "status"))["level"] == "frozen"
            assert left_behind(stage.state)
            await say(folder, "resume")

        played = play(stage, *DESTROY, beside=answer, give=[given], more=duty(server))
        assert seen[0] == ({"monitor": "frozen"}, True), "it stands before anybody is told"
        trigger, resolve = [one.json for one in server.got]
        assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
        assert trigger["dedup_key"] == resolve["dedup_key"] and trigger["routing_key"] == SECRET
        said = trigger["payload"]["summary"]
        assert "is frozen by monitor destructive: what was given is nowhere any more" in said
        details = trigger["payload"]["custom_details"]
        assert "Nothing is spent while it stands" in details["meanwhile"] and "UTC it is stopped" in details["meanwhile"]
        name = played.folder.name
        assert details["answers"] == [f"gearcase rewind {name} --to s0", f"gearcase resume {name}", f"gearcase kill {name}"]
        assert "canary" not in str([one.body for one in server.got]), "no name or content of a file leaves by a page"
    assert played.record.status == "unverified", "a page reaches a person, so the run waited"
    (paged,) = played.records("paged")
    assert (paged.event.about, paged.event.to, paged.event.told) == ("monitor", ["duty"], 1)
    assert [one.event.to for one in played.records("page_taken")] == ["duty"] and played.records("page_answered")
    whole = b"".join(one.read_bytes() for one in played.folder.path.rglob("*") if one.is_file())
    assert SECRET.encode() not in whole and b"${PAGERDUTY_KEY}" in whole
    assert not left_behind(stage.state)


def test_it_is_repeated_until_somebody_answers(stage, given):
    with listening() as server:

        async def answer(folder):
            await until(lambda: len(pages(server)) >= 3)
            await say(folder, "kill")

        played = play(stage, *DESTROY, beside=answer, give=[given], more=[*to(server), *repeat(0.3)])
        told = [one["told"] for one in pages(server)]
        assert told[:3] == [1, 2, 3] and len({one["key"] for one in pages(server)}) == 1
        assert "(told 3 times)" in pages(server)[2]["text"]
        assert server.got[-1].json["event"] == "answered"
        assert pages(server)[-1]["about"] == "monitor", "who killed it is not told that it ended"
    assert played.record.status == "stopped"


def test_nobody_answers_and_the_end_is_told(stage, given):
    with listening() as server:
        played = play(stage, *DESTROY, give=[given], after=0.5, more=to(server))
        waited, ended = pages(server)
        assert (waited["about"], ended["about"]) == ("monitor", "ended")
        assert "was stopped by monitor destructive, and nobody answered" in ended["what"]
        assert ended["answers"] == [f"gearcase report {played.folder.name}"]
    assert played.record.status == "stopped"


def test_money_that_is_used_up_is_told_with_how_to_add_some(stage):
    with listening() as server:

        async def answer(folder):
            await until(lambda: pages(server))
            await say(folder, "resume", add_usd=10**9)

        step = {"commands": [WORK], "usage": {"input": 1000, "output": 4000}}
        played = play(stage, *[step] * 12, DONE, beside=answer, usd="0.20", more=to(server))
        page = pages(server)[0]
        assert page["about"] == "budget" and "may not pay the next call" in page["what"]
        assert page["answers"][0] == f"gearcase resume {played.folder.name} --add-usd 2"
        assert "it hands in what it has" in page["meanwhile"]


def test_a_request_is_told_without_a_word_of_the_agents(stage):
    with listening() as server:

        async def answer(folder):
            await until(lambda: pages(server))
            await until(lambda: len((folder.journal / "000001.jsonl").read_bytes().split(b"request_made")) > 2)
            await say(folder, "deny", number=1)
            await say(folder, "deny", number=2)

        ask = "gear ask-for net canary.example.org --why 'canary one' & gear ask-for usd 2 --why 'canary two'; wait"
        played = play(stage, {"commands": [WORK, ask]}, DONE, beside=answer, more=[*to(server), *repeat(0.5)])
        page = pages(server)[0]
        assert page["about"] == "request" and page["what"].startswith("asks for ")
        assert "a host" in page["what"] or "$2.00" in page["what"]
        assert "its clock runs, and at most $" in page["meanwhile"] and "then goes on without" in page["meanwhile"]
        assert page["answers"][0] == f"gearcase requests {played.folder.name}"
        assert "canary" not in str([one.body for one in server.got])
        assert server.got[-1].json["event"] == "answered" and len({one["key"] for one in pages(server)}) == 1


def test_who_froze_it_is_told_only_when_they_forget(stage):
    with listening() as server:

        async def forget(folder):
            await until(lambda: folder.journal.joinpath("000001.jsonl").read_bytes().count(b"command_started"))
            await say(folder, "freeze")
            frozen = time.time()
            await until(lambda: pages(server))
            assert server.got[0].at - frozen >= 0.7
            await say(folder, "resume")

        play(stage, {"commands": [WORK, "sleep 1"]}, DONE, beside=forget, more=[*to(server), *repeat(0.8)])
        assert pages(server)[0]["what"] == "still stands frozen by its operator."


def test_a_run_that_fails_says_so_once_in_our_words(stage):
    with listening() as server:
        played = play(stage, {"status": 401, "text": "canary"}, more=to(server))
        assert played.record.status == "failed"
        (page,) = [one for one in pages(server) if one["about"] == "ended"]
        assert page["what"] == f"failed: {played.record.error['code']}." and "canary" not in page["text"]


def test_a_run_that_succeeds_pages_nobody_and_leaves_nothing(stage):
    with listening() as server:
        played = play(stage, {"commands": [WORK]}, DONE, more=to(server))
        assert played.record.status == "unverified" and server.got == []
    assert not played.records("paged") and not left_behind(stage.state)


def test_a_dead_target_holds_nothing_up_and_is_told_in_the_report(stage, given, monkeypatch):
    monkeypatch.setattr("gearcase.run.paging.PATIENCE", 0.5)
    with listening(404) as server, listening() as slow:
        slow.delay = 30

        async def answer(folder):
            await until(lambda: len(server.got))
            await until(lambda: b'"page_failed"' in (folder.journal / "000001.jsonl").read_bytes())
            await say(folder, "resume")

        began = time.monotonic()
        targets = [*to(server), *to(slow, name="slow"), *to("http://127.0.0.1:9/", name="dead")]
        played = play(stage, *DESTROY, beside=answer, give=[given], more=targets)
        assert time.monotonic() - began < 20
    assert played.record.status == "unverified"
    assert "1 of the pages to own did not arrive: it answers 404" in played.record.warnings
    assert "1 of the pages to dead did not arrive: Connection refused" in played.record.warnings
    assert any("of the pages to slow" in one for one in played.record.warnings)
    failed = {(one.event.to, bool(one.event.again)) for one in played.records("page_failed")}
    assert ("own", False) in failed and ("dead", True) in failed, "what may come back is tried again"
    assert not left_behind(stage.state)


def test_a_pager_that_dies_takes_nothing_along(stage, given):
    with listening() as server:

        async def kill(folder):
            (pid,) = await until(lambda: left_behind(stage.state))
            os.kill(pid, 9)
            await until(lambda: b'"frozen"' in (folder.journal / "000001.jsonl").read_bytes())
            await say(folder, "resume")

        played = play(stage, *DESTROY, beside=kill, give=[given], more=to(server))
    assert played.record.status == "unverified"
    assert any("the process that pages has ended" in one for one in played.record.warnings)


def test_a_missing_secret_is_told_before_a_run_exists(stage, monkeypatch):
    monkeypatch.delenv("PAGERDUTY_KEY")
    with pytest.raises(Exception, match="PAGERDUTY_KEY"):
        play(stage, DONE, more=duty("http://127.0.0.1:9/"))
    assert not list(stage.state.glob("gearcase/runs/*"))


def test_a_run_whose_process_is_killed_is_told_of_and_then_nothing_is_left(stage):
    with listening() as server:
        file = stage.work / "box.toml"
        model = stage.script({"commands": ["sleep 60"]}, DONE)
        file.write_text(f'[model]\nlead = "{model}"\n[notify.to.own]\nkind = "webhook"\nurl = "{server.url}"\n')
        running = stage.starts("run", "goal", "-f", file, "--take", "out/**", "--quiet")
        stage.until(lambda: stage.has("command_started"))
        assert len(left_behind(stage.state)) == 1
        stage.kill_the_run()
        (got,) = server.until(1)
        running.communicate(timeout=30)
        page = got.json
        assert page["about"] == "gone" and page["urgency"] == "critical"
        assert page["answers"] == [f"gearcase recover {page['name']}", f"gearcase report {page['name']}"]
        stage.until(lambda: not left_behind(stage.state), timeout=10)
        assert len(server.got) == 1


def test_a_freeze_that_is_not_whole_is_told_as_it_is(stage, given, monkeypatch):
    whole = Brake.pull

    async def resisted(brake, level, by, reason="", also=()):
        await whole(brake, level, by, reason, also)
        if level is Level.FROZEN:
            raise RunError("not_frozen", "processes (1) could not be stopped", remedy="kill the run")
        return 1.0

    monkeypatch.setattr(Brake, "pull", resisted)
    with listening() as server:

        async def answer(folder):
            await until(lambda: pages(server))
            await say(folder, "resume")

        play(stage, *DESTROY, beside=answer, give=[given], more=to(server))
        assert "is latched, but could not be frozen whole, by monitor destructive" in pages(server)[0]["what"]
        assert "its programs and its clock go on" in pages(server)[0]["meanwhile"]


def test_a_mistake_of_ours_that_ends_the_run_is_told(stage):
    with listening() as server:
        file = stage.work / "box.toml"
        model = stage.script(DONE)
        file.write_text(f'[model]\nlead = "{model}"\n[notify.to.own]\nkind = "webhook"\nurl = "{server.url}"\n')
        broken = "import sys; from gearcase.run.ending import Ending; Ending.record = None; "
        typed = "from gearcase.cli.app import run_command_line; sys.exit(run_command_line(sys.argv[1:]))"
        command = [sys.executable, "-c", broken + typed, "run", "goal", "-f", file, "--take", "out/**", "--quiet"]
        subprocess.run(command, cwd=stage.work, env=stage.environment, capture_output=True, timeout=60, check=False)
        server.until()
        assert [one["about"] for one in pages(server)] == ["gone"]
    stage.until(lambda: not left_behind(stage.state))


def test_a_replay_pages_nobody(stage, given):
    with listening() as server:
        played = play(stage, *DESTROY, give=[given], after=0.5, more=to(server))
        count = len(server.got)
        options = RunOptions(
            box=stage.box(*DESTROY, give=[given], more=to(server)), out=stage.work / "again", cassette=played.folder.cassette
        )
        stage.execute(options)
        assert len(server.got) == count > 0


def test_a_terminal_that_watches_is_rung_without_anybody_to_page(stage, given):
    async def answer(folder):
        await until(lambda: any(record.type == "paged" for record in read(folder.journal)))
        await say(folder, "resume")

    played = play(stage, *DESTROY, beside=answer, answered=True, give=[given])
    (paged,) = played.records("paged")
    assert paged.event.bell and paged.event.to == [] and not left_behind(stage.state)
