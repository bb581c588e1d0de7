"""A map in ten minutes: the page's own commands, typed in a box, with a provider's log as the witness."""

import json
import re
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
    assert [told[name]["ended"] for name in ("m2", "m3")] == ["done", "done"]
    assert all(sum(one["items"].values()) == 2 * one["items"]["items"] for one in told.values())
    assert told["m2"]["classes"] == {"not_json": 1}
    shown = user.types("report", code=0).out
    assert "Maps" in shown and "400 items = 400 ok" in shown
    logged = user.types("logs", code=0).out
    assert "m2 done" in logged and "app.log:394 quarantined" in logged


def test_a_run_that_is_frozen_in_the_middle_of_a_map_goes_on_and_loses_nothing(user):
    (user.folder / "app.log").write_text("".join(f"line {n}.\n" for n in range(200)))
    command = "echo p > p; gear map --over app.log --split lines:1 --prompt p --out mapped"
    with user.provides({"text": "x", "fault": "slow", "delay": 0.1}) as provider:
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
