"""A goal is reached in a box, judged outside, delivered, and nothing stays."""

import json
import os
import signal
import subprocess
import time

BUILD = "mkdir -p out; tr a-z A-Z < words.txt > out/words.txt"
CHECK = 'test "$(cat $DELIVERED/out/words.txt)" = HELLO'


def test_a_goal_is_accepted_delivered_and_torn_down(user):
    (user.folder / "words.txt").write_text("hello\n")
    model = user.script({"text": "I begin.", "commands": [BUILD]}, {"commands": ["gear check", "gear done --note 'in capitals'"]})
    ended = user.types(
        *("run", "capitals", "--give", "words.txt", "--take", "out/**", "--check", CHECK, "--usd", "1"),
        *("--model", model, "--out", "result", "--json"),
        code=0,
    )
    record = ended.record
    assert record["status"] == "accepted"
    assert record["note"] == "in capitals"
    assert record["residue"] == []
    assert [check["verdict"] for check in record["checks"]] == ["passed"]
    assert (user.folder / "result/out/words.txt").read_text() == "HELLO\n"
    assert (user.folder / "words.txt").read_text() == "hello\n"
    records = user.journal()
    assert record["spent"]["usd"] == sum(r["amounts"]["usd"] for r in records if r["type"] == "settled" and "usd" in r["amounts"])
    assert user.types("journal", "verify", code=0).out


def test_work_that_fails_its_check_is_rejected_and_not_delivered(user):
    model = user.script({"commands": ["mkdir out; echo wrong > out/words.txt", "gear done --as-is"]})
    ended = user.types("run", "g", "--take", "out/**", "--check", CHECK, "--model", model, "--out", "result", "--json", code=10)
    assert ended.record["status"] == "rejected"
    assert not (user.folder / "result").exists()


def test_done_is_refused_while_a_check_fails_and_the_agent_goes_on(user):
    model = user.script(
        {"commands": ["mkdir out; echo wrong > out/words.txt", "gear done"]},
        {"commands": ["echo HELLO > out/words.txt", "gear done"]},
    )
    ended = user.types("run", "g", "--take", "out/**", "--check", CHECK, "--model", model, "--json", code=0)
    assert ended.record["status"] == "accepted"
    assert any(r["type"] == "gear_used" and r["detail"].get("code") == "checks_failed" for r in user.journal())


def test_work_without_a_check_is_unverified(user):
    model = user.script({"commands": ["mkdir out; echo x > out/x", "gear done"]})
    ended = user.types("run", "g", "--take", "out/**", "--model", model, "--json", code=0)
    assert ended.record["status"] == "unverified" and ended.record["unchecked"]


def test_money_ends_a_run_and_what_was_made_is_handed_over(user):
    model = user.script({"commands": ["mkdir -p out; date > out/x"], "usage": {"input": 1000, "output": 4000}})
    ended = user.types("run", "g", "--take", "out/**", "--model", model, "--usd", "0.20", "--json", code=11)
    record = ended.record
    assert record["status"] == "exhausted" and record["limit"] == "budget"
    assert 0 < record["spent"]["usd"] <= 200_000_000
    assert record["delivered"]


def test_the_wall_clock_ends_a_run_in_the_middle_of_a_command(user):
    model = user.script({"commands": ["sleep 60"]})
    began = time.monotonic()
    ended = user.types("run", "g", "--model", model, "--wall", "2s", "--json", code=11)
    assert ended.record["limit"] == "wall"
    assert time.monotonic() - began < 30


def test_an_upstream_that_refuses_the_key_fails_the_run_and_says_what_to_do(user):
    model = user.script({"status": 401})
    ended = user.types("run", "g", "--model", model, "--json", code=13)
    assert "key" in ended.record["error"]["message"]


def test_a_missing_key_is_found_before_anything_starts(user):
    ended = user.types("run", "g", "--model", "anthropic/claude-opus-5-5", code=2)
    assert "ANTHROPIC_API_KEY" in ended.err
    assert not list((user.home / "state").glob("gearcase/runs/*"))


def test_names_that_a_program_may_not_reach_are_told_at_the_end_each_once(user):
    asks = "for i in 1 2 3; do getent hosts api.statsig.com; done; getent hosts model.box; true"
    ended = user.types("exec", "--", "sh", "-c", asks, code=0)
    assert "denied: api.statsig.com (3 times)\n" in ended.err
    assert user.types("report", "--json", code=0).record["denied"] == {"api.statsig.com": 3}


def test_exec_gives_back_the_programs_own_code_and_output(user):
    ended = user.types("exec", "--quiet", "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert ended.out == "out\n" and "err" in ended.err


def test_a_program_inside_calls_a_model_with_a_key_that_is_only_a_token(user):
    model = user.script({"text": "I am the model."})
    script = (
        'curl -s $ANTHROPIC_BASE_URL/v1/messages -d "{\\"model\\":\\"scripted\\",\\"max_tokens\\":50,\\"messages\\":[]}"; env'
    )
    ended = user.types("exec", "--quiet", "--model", model, "--", "sh", "-c", script, code=0, SECRET_KEY="sk-canary-1234")
    assert "I am the model." in ended.out
    assert "sk-canary-1234" not in ended.out


def test_gear_asks_the_worker_and_is_paid_from_the_budget(user):
    model = user.script({"commands": ["gear ask 'what is it?' > out.txt; gear done"]}, {"text": "forty-two"})
    ended = user.types("run", "g", "--take", "out.txt", "--model", model, "--out", "result", "--json", code=0)
    assert (user.folder / "result/out.txt").read_text() == "forty-two\n"
    assert ended.record["spent"]["calls"] == 2


def test_freeze_resume_and_kill_from_another_terminal(user):
    model = user.script({"commands": ["while :; do date +%s%N >> beat; sleep 0.05; done"]})
    run = user.starts("run", "g", "--model", model, "--name", "busy-bee", "--json")
    user.waits_for("command_started")
    user.types("freeze", "busy-bee", code=0)
    assert "frozen" in user.types("ps", code=0).out
    user.types("resume", "busy-bee", code=0)
    user.types("kill", "busy-bee", "--yes", code=0)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 12, err
    assert json.loads(out)["status"] == "stopped" and json.loads(out)["residue"] == []


def test_time_in_which_a_run_stood_frozen_is_no_time_of_its_commands(user):
    running = user.starts(
        "run", "wait", "--model", user.script({"commands": ["sleep 2; gear done"]}), "--take", "out/**", "--json"
    )
    user.waits_for("command_started")
    user.types("freeze", code=0)
    time.sleep(6)
    user.types("resume", code=0)
    running.communicate(timeout=60)
    ended = next(one for one in user.journal() if one["type"] == "command_ended")
    assert 0 < ended["seconds"] < 5, "six seconds of it were frozen"
    logs = user.types("logs", code=0).out
    assert "frozen, by the operator" in logs and "goes on, by the operator" in logs
    assert logs.count("goes on") == 1 and " by budget" not in logs


def test_the_watcher_may_die_and_the_run_goes_on(user):
    (user.folder / "words.txt").write_text("hello\n")
    model = user.script({"commands": ["sleep 2", BUILD]}, {"commands": ["gear done"]})
    run = user.starts(
        *(
            "run",
            "g",
            "--give",
            "words.txt",
            "--take",
            "out/**",
            "--check",
            CHECK,
            "--model",
            model,
            "--name",
            "left-alone",
            "--json",
        )
    )
    user.waits_for("command_started")
    run.kill()
    run.communicate()
    user.waits_for("run_ended")
    assert user.types("report", "left-alone", "--json", code=0).record["status"] == "accepted"


def test_a_killed_supervisor_takes_its_box_along_and_its_run_says_so(user):
    model = user.script({"commands": ["touch /tmp/here; sleep 987"]})
    run = user.starts("run", "g", "--model", model, "--name", "doomed", "--json")
    user.waits_for("command_started")
    owner = json.loads(next((user.home / "state").glob("gearcase/runs/*/owner")).read_text())
    time.sleep(0.3)
    os.kill(owner["pid"], signal.SIGKILL)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 13, err
    assert json.loads(out)["error"]["code"] == "supervisor_died"
    deadline = time.monotonic() + 5
    while "sleep 987" in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < deadline, "the box outlived its supervisor"
        time.sleep(0.05)


def test_a_run_replays_from_its_own_cassette_with_the_same_verdict(user):
    (user.folder / "words.txt").write_text("hello\n")
    model = user.script({"commands": [BUILD]}, {"commands": ["gear done"]})
    box = ["--give", "words.txt", "--take", "out/**", "--check", CHECK]
    user.types("run", "g", *box, "--model", model, "--name", "first-one", "--out", "a", "--json", code=0)
    again = user.types("replay", "first-one", "--out", "b", code=0)
    assert "same verdict" in again.err
    assert (user.folder / "b/out/words.txt").read_text() == "HELLO\n"


def test_two_runs_at_once_do_not_meet(user):
    model = user.script({"commands": ["mkdir out; ls / > out/ls; sleep 1", "gear done"]})
    one = user.starts("run", "one", "--take", "out/**", "--model", model, "--out", "one", "--json")
    two = user.starts("run", "two", "--take", "out/**", "--model", model, "--out", "two", "--json")
    for run in (one, two):
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, out + err
    assert (user.folder / "one/out/ls").exists() and (user.folder / "two/out/ls").exists()


def test_every_byte_that_a_program_prints_arrives_on_both_streams(user):
    script = "import sys\nfor n in range(60000): print('out', n); print('err', n, file=sys.stderr)"
    ended = user.types("exec", "--quiet", "--", "python3", "-c", script, code=0)
    assert ended.out == "".join(f"out {n}\n" for n in range(60000))
    assert ended.err == "".join(f"err {n}\n" for n in range(60000))


def test_output_that_nobody_takes_holds_up_neither_the_clock_nor_the_brake(user):
    run = user.starts("exec", "--name", "talks", "--wall", "2s", "--", "yes")
    waits = user.starts("exec", "--name", "waits", "--", "yes")
    assert run.wait(timeout=30) != 0  # its wall clock ended it, though nobody reads what it prints
    user.types("freeze", "waits", code=0)
    user.types("kill", "waits", "--yes", code=0)
    waits.wait(timeout=30)
    for process in (run, waits):
        process.communicate()


def test_freeze_without_a_name_stops_whatever_lives(user):
    model = user.script({"commands": ["while :; do sleep 0.05; done"]})
    started = [user.starts("run", "g", "--model", model, "--name", name, "--json") for name in ("first-one", "second-one")]
    deadline = time.monotonic() + 30
    while user.types("ps").out.count("running") < 2 or len(list((user.home / "state").glob("gearcase/runs/*/journal/*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    told = user.types("freeze", code=0).out
    assert "first-one is frozen" in told and "second-one is frozen" in told
    user.types("kill", "--all", "--yes", code=0)
    for run in started:
        run.communicate(timeout=30)


def catches(pid, number):
    """Whether a process handles a signal."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


def test_what_watches_a_run_and_is_told_to_end_leaves_it_frozen(user):
    model = user.script({"commands": ["while :; do sleep 0.05; done"]})
    run = user.starts("run", "g", "--model", model, "--name", "left-frozen")
    user.waits_for("command_started")
    deadline = time.monotonic() + 20
    while not catches(run.pid, signal.SIGTERM):  # on a busy machine the run is at work before its watcher watches
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.terminate()
    _, err = run.communicate(timeout=30)
    assert "left-frozen is left frozen" in err and "go on   gearcase resume left-frozen" in err
    assert run.returncode == 14
    assert "frozen" in user.types("ps", code=0).out
    user.types("kill", "left-frozen", "--yes", code=0)


def test_the_report_counts_every_file_that_left_however_many_a_line_of_the_journal_holds(user):
    model = user.script({"commands": ["mkdir out; for n in $(seq 1500); do echo $n > out/$n; done; gear done"]})
    user.types("run", "g", "--take", "out/**", "--model", model, "--name", "many", code=0)
    assert len(list((user.folder / "gearcase-out/many/out").iterdir())) == 1500
    assert "and 1,480 files more" in user.types("report", "many", code=0).out


def test_a_virtual_environment_that_is_given_finds_its_python_inside(user):
    (user.folder / "mine").mkdir()
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", "mine/.venv"], cwd=user.folder, check=True)
    show = "import sys; print(sys.prefix)"
    ended = user.types("exec", "--give", "mine", "--", "mine/.venv/bin/python", "-c", show, code=0)
    assert ended.out.strip() == "/workspace/mine/.venv"


def test_exec_uses_the_box_of_the_folder(user):
    (user.folder / "box.toml").write_text('[files]\ngive = ["words.txt"]\ntake = ["out/**"]\n')
    (user.folder / "words.txt").write_text("hello\n")
    user.types("exec", "--out", "result", "--", "sh", "-c", "mkdir out; tr a-z A-Z < words.txt > out/loud.txt", code=0)
    assert (user.folder / "result/out/loud.txt").read_text() == "HELLO\n"


def test_an_upstream_that_is_not_there_is_named_with_the_reason(user):
    model = "http://127.0.0.1:9/v1#qwen3"
    run = user.starts("run", "g", "--model", model, "--usd", "1", "--name", "nobody-there")
    told = user.waits_for("model_called")
    assert "refused" in told["why"].lower() or "cannot connect" in told["why"].lower()
    user.types("kill", "nobody-there", "--yes", code=0)
    _, err = run.communicate(timeout=30)
    assert told["why"][:40] in err
