"""What a program gets from `gearcase.api`, beside what its page shows."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

import gearcase
from gearcase import api
from gearcase.runs import all_runs
from tests.api.conftest import CAPITALS

SMALL = {"memory": "256MiB", "disk": "64MiB", "processes": 64}


# --- the package -----------------------------------------------------------------------------------------------------------


def test_importing_gearcase_loads_nothing_and_its_names_are_the_apis():
    script = (
        "import sys, gearcase; print(*[m for m in sys.modules if m.startswith(('gearcase.', 'pydantic', 'aiohttp', 'uvicorn'))])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""
    assert gearcase.Box is api.Box and gearcase.open_door is api.open_door and gearcase.run_async is api.run_async
    with pytest.raises(AttributeError):
        _ = gearcase.nothing


def test_the_public_names_are_what_the_api_says_they_are():
    assert sorted(api.__all__) == api.__all__
    assert all(getattr(api, name) is not None for name in api.__all__)
    assert set(gearcase.__all__) - {"__version__"} <= set(api.__all__)


# --- boxes -----------------------------------------------------------------------------------------------------------------


def test_every_mistake_in_keywords_is_named_at_once(desk):
    with pytest.raises(api.UsageError) as wrong:
        api.Box.of("goal", usd=-1, memory="much", give=["nothing-here"], need=["everything"])
    told = f"{wrong.value.message} {wrong.value.cause}"
    assert all(key in told for key in ("usd", "memory", "give", "need"))


def test_a_word_where_a_list_belongs_and_an_unknown_keyword_are_mistakes(desk):
    with pytest.raises(api.UsageError) as wrong:
        api.Box.of(give="words.txt")
    assert wrong.value.code == "not_a_list" and "['words.txt']" in wrong.value.remedy
    with pytest.raises(api.UsageError) as wrong:
        api.Box.of(dollars=2)
    assert wrong.value.code == "unknown_keyword"
    with pytest.raises(api.UsageError) as wrong:
        api.open_sandbox(api.Box.of(), usd=2)
    assert wrong.value.code == "box_is_made"


# --- runs ------------------------------------------------------------------------------------------------------------------


def test_what_a_run_lacks_is_said_before_it_begins(desk):
    for code, keywords in {"no_model": {}, "no_checks": {"model": desk.script(*CAPITALS), "require_checks": True}}.items():
        with pytest.raises(api.UsageError) as refused:
            api.run("goal", **keywords)
        assert refused.value.code == code
    with pytest.raises(api.GearcaseError) as refused:
        api.run("goal", model="anthropic/no-such-model")
    assert refused.value.code in ("unknown_model", "no_price") and refused.value.remedy
    assert all_runs() == []


def test_a_run_in_a_running_loop_beside_threads_ends_with_its_record(desk):
    stop = threading.Event()
    beside = threading.Thread(target=stop.wait)
    beside.start()

    async def notebook():
        return api.run("Write", model=desk.script(*CAPITALS), give=["words.txt"], take=["out/**"], out="result", **SMALL)

    try:
        ended = asyncio.run(notebook())
    finally:
        stop.set()
        beside.join()
    assert ended.status == "unverified" and ended.residue == []
    assert (desk.folder / "result/out/words.txt").read_text() == "HELLO\n"


def test_modules_that_lie_in_the_working_folder_are_not_loaded(desk):
    for name in ("json", "uvloop", "typing"):
        (desk.folder / f"{name}.py").write_text("raise SystemExit('planted')")
    assert api.run("Write", model=desk.script(*CAPITALS), give=["words.txt"], **SMALL).status == "unverified"


def test_a_recorded_run_is_played_again_without_a_key(desk, monkeypatch):
    with desk.provides(*CAPITALS) as base:
        box = desk.folder / "box.toml"
        box.write_text(
            f'goal = "Write"\n[model]\nlead = "openai/gpt-5-mini"\n[model.providers.openai]\nbase = "{base}"\n'
            '[files]\ngive = ["words.txt"]\ntake = ["out/**"]\n[[check]]\nname = "same"\nrun = "test -s $DELIVERED/out/words.txt"\n'
        )
        first = api.run(api.Box.from_toml(box, **SMALL), record="run.cassette", out="a")
    monkeypatch.delenv("OPENAI_API_KEY")
    again = api.run(api.Box.from_toml(box, **SMALL), cassette="run.cassette", out="b")
    assert first.status == again.status == "accepted"
    assert again.spent["usd"] == first.spent["usd"] > 0


def test_a_cancelled_run_is_killed_and_gone_before_the_caller_goes_on(desk):
    model = desk.script({"text": "I wait.", "commands": ["sleep 300"]})

    async def scenario():
        running = asyncio.create_task(api.run_async("Wait", model=model, **SMALL))
        while not (runs := all_runs()) or b'"command_started"' not in b"".join(
            file.read_bytes() for file in runs[0].journal.glob("*.jsonl")
        ):
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    (folder,) = all_runs()
    assert folder.owner_pid() == 0
    last = json.loads(sorted(folder.journal.glob("*.jsonl"))[-1].read_text().splitlines()[-1])
    assert last["type"] == "run_ended" and last["status"] == "stopped" and last["record"]["residue"] == []


# --- sandboxes -------------------------------------------------------------------------------------------------------------


def test_a_program_inside_reaches_no_network_and_no_file_outside(desk):
    with api.open_sandbox(**SMALL) as sandbox:
        reach = "import socket; socket.create_connection(('1.1.1.1', 53), 2)"
        assert sandbox.exec(["/usr/bin/python3", "-c", reach]).exit_code != 0
        assert sandbox.exec(f"cat {desk.folder}/words.txt").exit_code != 0
        assert sandbox.exec("env").stdout.text().find("sk-canary") == -1


def test_links_planted_inside_lead_neither_read_nor_write_out(desk):
    outside = desk.folder / "secret.txt"
    outside.write_text("secret")
    with api.open_sandbox(**SMALL) as sandbox:
        assert sandbox.exec(f"ln -s {outside} link; ln -s {desk.folder} folder; ln -s / root").exit_code == 0
        for path in ("link", "folder/secret.txt", f"root{outside}"):
            with pytest.raises(api.GearcaseError):
                sandbox.read(path)
        for path in ("folder/secret.txt", "folder/new.txt", f"root{outside}"):
            with pytest.raises(api.GearcaseError):
                sandbox.write(path, "changed")
        for path in ("../x", "/etc/passwd", "a/../../x", ""):
            with pytest.raises(api.Refused) as refused:
                sandbox.read(path)
            assert refused.value.code == "bad_path"
        sandbox.write("link", "mine")  # the link itself is replaced
        assert sandbox.read("link") == b"mine"
    assert outside.read_text() == "secret" and not (desk.folder / "new.txt").exists()


def test_what_is_written_belongs_to_the_programs_inside(desk):
    with api.open_sandbox(**SMALL) as sandbox:
        sandbox.write("bin/tool", "#!/bin/sh\necho $WORD\ncat\n", mode=0o755)
        ended = sandbox.exec(["bin/tool"], environment={"WORD": "hi"}, stdin="there\n")
        assert ended.stdout.text() == "hi\nthere\n"
        assert sandbox.exec("echo more >> bin/tool && rm bin/tool").exit_code == 0


def test_output_limits_deadlines_and_exit_codes_are_told(desk):
    with api.open_sandbox(**SMALL) as sandbox:
        ended = sandbox.exec("echo out; echo err >&2; exit 7")
        assert (ended.exit_code, ended.stdout.text(), ended.stderr.text()) == (7, "out\n", "err\n")
        assert sandbox.exec("sleep 60", deadline=0.3).ended == "deadline"
        large = sandbox.exec("head -c 100000 /dev/zero | tr '\\0' x", output_cap=1000)
        assert large.stdout.total == 100_000 and "98000 bytes left out" in large.stdout.text()
        with pytest.raises(api.Refused) as refused:
            sandbox.exec("head -c 5000 /dev/zero > zeros")
            sandbox.read("zeros", limit=4999)
        assert refused.value.code == "too_large"


def test_nothing_runs_while_it_is_frozen_and_a_snapshot_keeps_it_frozen(desk):
    with api.open_sandbox(**SMALL) as sandbox:
        sandbox.exec("(while :; do echo >> ticks; sleep 0.01; done) >/dev/null 2>&1 &")
        time.sleep(0.3)
        sandbox.freeze()
        sandbox.snapshot()
        before = sandbox.read("ticks")
        time.sleep(0.3)
        assert sandbox.read("ticks") == before != b""
        sandbox.thaw()
        time.sleep(0.3)
        assert len(sandbox.read("ticks")) > len(before)


def test_a_restore_brings_back_what_was_given_and_an_unknown_name_is_refused(desk):
    with api.open_sandbox(give=["words.txt"], **SMALL) as sandbox:
        sandbox.exec("echo changed > words.txt; mkdir -p a/b; ln -s / a/b/c")
        assert sandbox.snapshot() == "s1"
        sandbox.restore("s0")
        assert sandbox.exec("ls; cat words.txt").stdout.text() == "words.txt\nhello\n"
        sandbox.restore("s1")
        assert sandbox.exec("cat words.txt; readlink a/b/c").stdout.text() == "changed\n/\n"
        with pytest.raises(api.Refused) as refused:
            sandbox.restore("s7")
        assert "s0, s1" in refused.value.remedy
    assert (desk.folder / "words.txt").read_text() == "hello\n"


def test_an_exception_in_the_block_tears_the_sandbox_down_and_comes_through(desk):
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), api.open_sandbox(**SMALL) as sandbox:
        sandbox.exec("sleep 300 &")
        _ = 1 / 0
    assert sandbox.residue == () and threading.active_count() == threads
    with pytest.raises(api.GearcaseError) as gone:
        asyncio.run(sandbox._inner.exec("true"))
    assert gone.value.code == "sandbox_lost"


def test_ctrl_c_in_a_command_kills_it_and_tears_the_sandbox_down(desk):
    script = (
        "from gearcase.api import open_sandbox\n"
        "with open_sandbox(memory='256MiB', disk='64MiB') as sandbox:\n"
        "    print('open', flush=True)\n"
        "    try:\n"
        "        sandbox.exec('sleep 300')\n"
        "    except KeyboardInterrupt:\n"
        "        gone = 'timeout 10 sh -c \"while pgrep -x sleep >/dev/null; do :; done\" && echo none'\n"
        "        print(sandbox.exec(gone).stdout.text(), flush=True)\n"
        "        raise\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "open\n"
        time.sleep(0.7)
        program.send_signal(signal.SIGINT)
        out, told = program.communicate(timeout=30)
    assert "none" in out and "KeyboardInterrupt" in told and program.returncode in (1, 130, -signal.SIGINT)


def test_a_need_that_is_not_enforced_refuses_to_open(desk):
    if os.geteuid() == 0 and os.access("/sys/fs/cgroup", os.W_OK):
        with api.open_sandbox(need=["memory", "network"], **SMALL) as sandbox:
            assert sandbox.profile.guarantees["memory"].strength == "enforced"
    else:
        with pytest.raises(api.UnsafeError) as unsafe, api.open_sandbox(need=["memory", "cpu", "freeze"], **SMALL):
            pass
        assert "Delegate" in unsafe.value.remedy


# --- doors -----------------------------------------------------------------------------------------------------------------


def ask(door, token=None, model="scripted"):
    body = json.dumps({"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{door.url}/v1/messages", body, {"x-api-key": token or door.token})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_door_is_metered_from_any_thread_and_its_ending_is_on_record(desk):
    with api.open_door(model=desk.script({"text": "hello"}), calls=2, name="mine") as door:
        assert ask(door, "wrong-token-of-some-length") == 401
        assert [ask(door) for _ in range(3)] == [200, 200, 402]
        assert door.spent["calls"] == 2 and door.spent["usd"] > 0
        assert door.folder.owner_pid() == os.getpid()
    assert door.record.status == "unverified" and door.record.limit == "budget"
    assert door.spent == door.record.spent and door.token not in repr(door.record)
    (folder,) = all_runs()
    assert folder.name == "mine"


def test_a_door_of_the_callers_own_loop_is_closed_when_its_block_fails(desk):
    async def scenario():
        with pytest.raises(ZeroDivisionError):
            async with api.open_door(model=desk.script({"text": "hello"})) as door:
                assert await asyncio.to_thread(ask, door) == 200
                _ = 1 / 0
        return door

    door = asyncio.run(scenario())
    assert door.record.spent["calls"] == 1
    with pytest.raises(urllib.error.URLError):
        ask(door)


def test_a_door_without_a_model_or_a_key_does_not_open_and_leaves_no_thread(desk, monkeypatch):
    threads = threading.active_count()
    with pytest.raises(api.UsageError) as refused, api.open_door():
        pass
    assert refused.value.code == "no_model"
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(api.UsageError) as refused, api.open_door(model="anthropic/claude-haiku-4-5"):
        pass
    assert refused.value.code == "missing_key"
    assert threading.active_count() == threads and all_runs() == []
