"""A map in ten minutes: the page's own commands, typed in a box, with a provider's log as the witness."""

import json
import re
import subprocess
import time
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/maps.md"
WELL = '{"level": "info", "message": "started"}'


def shell():
    """The commands that the page shows."""
    block = re.search(r"^    cat > prompt.txt.*?(?=\n\n\| option)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(line[4:] for line in block.group().splitlines())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_page_works_as_it_is_and_each_line_is_asked_about_once_over_a_kill(user):
    (user.folder / "app.log").write_text("".join(f"10:00:{n % 60:02} host app[{n}]: started part-{n}\n" for n in range(400)))
    steps = [
        {"text": WELL, "fault": "slow", "delay": 0.1},
        {"text": "It is an error.", "when": "part-393", "times": 1},
        {"status": 429, "when": "part-5", "times": 3},
    ]
    again = shell().splitlines()[-2]
    killed = f"({again} & sleep 0.7; kill -9 $!; wait) 2>/dev/null"
    program = shell().replace(again, f"{killed}; {again}; echo first $?; {again}; echo second $?")
    with user.provides(*steps) as provider:
        box = ["--model", f"{provider.base}/v1#small", "--give", "app.log", "--take", "mapped/**", "--out", "result"]
        ended = user.types("exec", *box, "--usd", "5", "--", "bash", "-c", program, code=0, OPENAI_API_KEY=user.key)
        asked = [one for one in provider.calls() if one["status"] == 200]
        refused = [one for one in provider.calls() if one["status"] == 429]
    assert "first 1" in ended.out and "second 0" in ended.out, "one answer did not fit, and was asked for again"
    rows = lines(user.folder / "result/mapped/results.jsonl")
    assert [row["item"] for row in rows] == list(range(400)) and rows[9]["shard"] == "app.log:10"
    assert rows[0]["answer"] == json.loads(WELL)
    parts = [re.search(r"part-\d+$", one["asked"].strip()).group() for one in asked]
    assert len(refused) == 3
    assert sorted(parts) == sorted([f"part-{n}" for n in range(400)] + ["part-393"]), (
        "no item is asked about after it was answered"
    )
    account = json.loads((user.folder / "result/mapped/account.json").read_text())
    assert account["account"] == {"items": 400, "ok": 400, "failed": 0, "quarantined": 0, "skipped": 0, "pending": 0}
    assert account["found"] == 399
    told = user.types("report", "--json", code=0).record["maps"]
    first, second = list(told)[-2:]  # a machine under load may kill the very first before it has begun
    assert [told[name]["ended"] for name in (first, second)] == ["done", "done"]
    assert all(sum(one["items"].values()) == 2 * one["items"]["items"] for one in told.values())
    assert told[first]["classes"] == {"not_json": 1}
    shown = user.types("report", code=0).out
    assert "Maps" in shown and "400 items = 400 ok" in shown
    logged = user.types("logs", code=0).out
    assert f"{first} done" in logged and "app.log:394 quarantined" in logged


def test_a_run_that_is_frozen_in_the_middle_of_a_map_goes_on_and_loses_nothing(user):
    (user.folder / "app.log").write_text("".join(f"line {n}.\n" for n in range(200)))
    command = "echo p > p; gear map --over app.log --split lines:1 --prompt p --out mapped"
    with user.provides({"text": "x", "fault": "slow", "delay": 2}) as provider:
        box = [
            "--model",
            f"{provider.base}/v1#small",
            "--give",
            "app.log",
            "--take",
            "mapped/**",
            "--out",
            "result",
            "--usd",
            "5",
        ]
        run = user.starts("exec", "--name", "stands-still", *box, "--", "sh", "-c", command, OPENAI_API_KEY=user.key)
        user.waits_for("map_started")
        user.types("freeze", "stands-still", code=0)
        before = len(provider.calls())
        user.types("resume", "stands-still", code=0)
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, out + err
        assert before < 150 and len(provider.calls()) == 200
    assert json.loads((user.folder / "result/mapped/account.json").read_text())["account"]["ok"] == 200


def blocks():
    """What the page shows of commands: for maps of prompts, for commands and reduce, for a validator."""
    found = re.findall(r"(?:^    .*\n)+(?:\n?(?:^    .*\n)+)*", PAGE.read_text(), re.MULTILINE)
    return ["".join(line[4:] for line in block.splitlines(keepends=True)) for block in found]


def test_commands_validator_and_reduce_work_as_the_page_shows_them(user):
    prompts, commands, validator = blocks()[:3]
    text = "".join(f"10:00:{n % 60:02} host app[{n}]: started part-{n}\n" for n in range(400))
    (user.folder / "app.log").write_text(text)
    files = prompts[: prompts.index("gear map")]
    program = f"{files}{commands}{validator}true"
    steps = [{"text": '{"level": "info", "message": "nothing of it"}', "when": "part-93"}]
    with user.provides({"text": '{"level": "info", "message": "started"}'}, *steps) as provider:
        box = ["--model", f"{provider.base}/v1#small", "--give", "app.log", "--out", "result", "--usd", "5"]
        takes = [part for name in ("parsed", "whole", "checked") for part in ("--take", f"{name}/**")]
        user.types("exec", *box, *takes, "--", "bash", "-c", program, code=0, OPENAI_API_KEY=user.key)
        assert len(provider.calls()) == 400, "commands ask nobody"
    parsed = lines(user.folder / "result/parsed/results.jsonl")
    assert [row["shard"] for row in parsed][:2] == ["app.log:1-50", "app.log:51-100"] and len(parsed) == 8
    whole = [json.loads(line) for line in (user.folder / "result/whole/result.txt").read_text().splitlines()]
    assert whole == [{"program": "app", "message": f"started part-{n}"} for n in range(400)]
    account = json.loads((user.folder / "result/whole/account.json").read_text())
    assert [level["account"]["ok"] for level in account["levels"]] == [1]
    checked = json.loads((user.folder / "result/checked/account.json").read_text())
    assert checked["account"] == {"items": 400, "ok": 399, "failed": 0, "quarantined": 1, "skipped": 0, "pending": 0}
    assert checked["clusters"][0]["stage"] == "validator" and checked["clusters"][0]["keyword"] == "AssertionError"
    [failed] = lines(user.folder / "result/checked/quarantine/failed.jsonl")
    assert failed["item"] == 93 and "the message is not in the line" in failed["trace"]
    told = user.types("report", "--json", code=0).record
    maps = list(told["maps"].values())
    assert maps[0]["sandboxes"] == 8 and maps[0]["cpu"] > 0 and maps[0]["model"] == ""
    assert "sandboxes of their own" in user.types("report", code=0).out


def sleeping():
    told = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in told.splitlines() if line.startswith("sleep 97531")]


def test_a_map_of_commands_that_is_frozen_stands_still_and_one_that_is_killed_leaves_nothing(user):
    (user.folder / "app.log").write_text("".join(f"line {n}.\n" for n in range(60)))
    command = "gear map --over app.log --split lines:1 --run 'sleep 0.2; date +%s.%N' --out mapped"
    box = ["--give", "app.log", "--take", "mapped/**", "--out", "result", "--usd", "5"]
    run = user.starts("exec", "--name", "stands-still", *box, "--", "sh", "-c", command)
    user.waits_for("map_started")
    time.sleep(0.7)
    user.types("freeze", "stands-still", code=0)
    frozen = time.time()
    time.sleep(1.5)
    thawed = time.time()
    user.types("resume", "stands-still", code=0)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, out + err
    ended = sorted(float(row["answer"]) for row in lines(user.folder / "result/mapped/results.jsonl"))
    assert len(ended) == 60 and not [at for at in ended if frozen + 0.1 < at < thawed - 0.1]
    run = user.starts(
        "exec", "--name", "is-killed", *box, "--force", "--", "sh", "-c", command.replace("sleep 0.2", "sleep 97531")
    )
    deadline = time.monotonic() + 30
    while not sleeping() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeping()
    user.types("kill", "is-killed", "--yes", code=0)
    run.communicate(timeout=60)
    assert not sleeping()
    [ended] = [record for record in user.journal("is-killed") if record["type"] == "map_ended"]
    assert ended["ended"] in ("cut", "abandoned")  # whichever of the run and its program ends first
    assert ended["account"]["pending"] == 60


def test_a_prompt_is_repaired_and_only_what_failed_is_asked_again(user):
    """Of 200 items, those with a 7 fit the first prompt; the others fit the rewritten one."""
    (user.folder / "app.log").write_text("".join(f"line {n}.\n" for n in range(200)))
    reply = json.dumps({"diagnosis": "no form is named", "prompt": "Say as JSON: {item}"})
    steps = [
        {"text": "prose"},
        {"text": reply, "when": "Only the text of the prompt changes"},
        {"text": '{"n": 1}', "when": "as JSON"},
        {"text": '{"n": 7}', "when": "7"},
    ]
    shape = '{"type": "object", "required": ["n"]}'
    begin = f"echo 'Say ok to: {{item}}' > p; echo '{shape}' > s"
    program = f"{begin}; gear map --over app.log --split lines:1 --prompt p --schema s --out mapped"
    with user.provides(*steps) as provider:
        box = [
            "--model",
            f"{provider.base}/v1#small",
            "--give",
            "app.log",
            "--take",
            "mapped/**",
            "--out",
            "result",
            "--usd",
            "5",
        ]
        user.types("exec", *box, "--", "sh", "-c", program, code=0, OPENAI_API_KEY=user.key)
        calls = provider.calls()
    asked = [found.groups() for one in calls if (found := re.search(r"(ok to|as JSON): line (\d+)\.$", one["asked"].strip()))]
    assert len(calls) == len(asked) + 1, "and one rewrite"
    assert len(set(asked)) == len(asked), "no question twice"
    first = {n for prompt, n in asked if prompt == "ok to"}
    assert {n for prompt, n in asked if prompt == "as JSON"} >= {n for n in first if "7" not in n}
    told = json.loads((user.folder / "result/mapped/account.json").read_text())
    assert told["account"]["ok"] == 200 and told["canary"]["first_failed"] >= 4 and told["repair"]["accepted"] == 1
    assert told["calls"] + told["repair"]["calls"] == len(calls)
    journal = user.journal()
    assert sum(one["type"] == "model_called" for one in journal) == len(calls)
    [tried] = [one for one in journal if one["type"] == "prompt_tried"]
    rows = lines(user.folder / "result/mapped/results.jsonl")
    assert {row["prompt"] for row in rows} == {tried["prompt"], tried["parent"]}
    assert all("7" in str(row["item"]) for row in rows if row["prompt"] == tried["parent"])
    shown = user.types("prompts", code=0).out
    assert "the prompt of all that came after" in shown and "+Say as JSON: {item}" in shown
    assert "1 of 1 rewrites of the prompt accepted" in " ".join(user.types("report", code=0).out.split())
