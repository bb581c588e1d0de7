"""Commands of maps inside a run: a fresh sandbox for each item, what is told of one that fails, and validators of answers."""

import asyncio
import json
from pathlib import Path

import duckdb
import pytest

COUNT = "import sys\ntext = open(__import__('os').environ['ITEM']).read()\nassert sys.stdin.read() == text\nprint(len(text))\n"
OVER = "gear map --over words.txt --split lines:1 --out out/m"
MAP = f"{OVER} --prompt /tmp/p"
BEGIN = "mkdir out; seq 1 %d | sed 's/^/word /' > words.txt; echo 'Say ok to: {item}' > /tmp/p"
BOX = {"memory": "512MiB", "disk": "256MiB", "processes": 128, "cpus": 2.0}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ran(stage, *commands, items=6, files=None, worker=(), **box):
    """A run whose lead types commands; the output and the exit status of each is in `said` and `codes`."""
    put = "".join(f"cat > {name} <<'END'\n{text}END\n" for name, text in (files or {}).items())
    each = "; ".join(f"({command}) >> out/said 2>&1; echo $? >> out/codes" for command in commands)
    text = f"{BEGIN % items}\n{put}{each}; gear done --as-is"
    more = {"worker": stage.script(*worker)} if worker else {}
    return stage.play({"commands": [text]}, **{**BOX, **more, **box})


def account(played, folder="m"):
    return json.loads((played.out / "out" / folder / "account.json").read_text())


def codes(played):
    return [int(code) for code in (played.out / "out/codes").read_text().split()]


def said(played):
    return (played.out / "out/said").read_text()


def failed(played, folder="m"):
    return lines(played.out / "out" / folder / "quarantine/failed.jsonl")


def test_a_command_answers_each_item_in_a_sandbox_of_its_own_and_nothing_stays(stage):
    played = ran(stage, f"{OVER} --run 'python3 count.py'", files={"count.py": COUNT})
    assert codes(played) == [0], said(played)
    rows = lines(played.out / "out/m/results.jsonl")
    assert [row["answer"] for row in rows] == ["6"] * 6 and rows[2]["shard"] == "words.txt:3" and rows[0]["nano_usd"] == 0
    assert account(played)["account"]["ok"] == 6 and account(played)["calls"] == 6
    [ended] = [r.event for r in played.records("map_ended")]
    assert ended.sandboxes == 6 and ended.cpu > 0
    assert played.record.residue == [] and not (played.folder.path / "shards").exists()
    paid = [r.event.amounts["cpu"] for r in played.records("settled") if r.event.purpose == "map"]
    assert sum(paid) == pytest.approx(ended.cpu * 1000, abs=5)
    assert played.record.spent["calls"] == 1, "the lead's own"


def test_the_same_command_again_runs_nothing_and_another_file_runs_all(stage):
    command = f"{OVER} --run 'python3 count.py'"
    played = ran(stage, command, f"touch other; {command}", f"echo 'print(1)' > count.py; {command}", files={"count.py": COUNT})
    ended = [r.event for r in played.records("map_ended")]
    assert [(one.sandboxes, one.found) for one in ended] == [(6, 0), (0, 6), (6, 0)]
    assert {row["answer"] for row in lines(played.out / "out/m/results.jsonl")} == {"1"}


def test_an_item_sees_no_trace_of_another_no_door_no_host_and_writes_to_no_file_of_the_agent(stage):
    hostile = """
import os, socket, glob
found = []
for name in ("gear.box", "model.box"):
    try:
        found.append(("door", socket.create_connection((name, 80), 1)))
    except OSError:
        pass
for address in ("198.18.0.1", "198.18.0.2", "1.1.1.1", "169.254.169.254"):
    try:
        found.append(("net", socket.create_connection((address, 80), 1)))
    except OSError:
        pass
for folder in ("/workspace", "/tmp", "/home/agent", "/dev/shm", "/box"):
    found += [one for one in os.listdir(folder) if one.startswith("trace")]
    if folder != "/box":
        open(f"{folder}/trace", "w").write("x")
for path in ("/mnt/workspace/hostile.py", "/box/item", "/workspace/hostile.py"):
    try:
        open(path, "a").write("changed")
        found.append(path)
    except OSError:
        pass
found += [one for one in os.listdir("/proc") if one.isdecimal() and one != "1" and b"gear" in open(f"/proc/{one}/cmdline", "rb").read()]
found += [one for one in ("secret.txt", "words.txt") if os.path.exists(one)]
found += glob.glob("/root/*") + glob.glob("/home/*/.ssh")
found += [one for one in os.environ if one.startswith(("GEARCASE", "OPENAI", "ANTHROPIC"))]
print(found)
"""
    run = f"echo s > secret.txt; {OVER} --run 'python3 hostile.py'; grep changed hostile.py | wc -l >> out/said"
    run += "; cd /tmp; cp /workspace/hostile.py .; touch trace; python3 hostile.py > /workspace/out/control"
    played = ran(stage, run, files={"hostile.py": hostile})
    assert {row["answer"] for row in lines(played.out / "out/m/results.jsonl")} == {"[]"}, said(played)
    assert account(played)["account"]["ok"] == 6 and said(played).strip().endswith("1")
    control = (played.out / "out/control").read_text()
    assert "'door'" in control and "'net'" in control and "trace" in control and "GEARCASE_GEAR" in control, "it looks well"


def test_what_is_given_is_seen_and_what_is_not_there_is_told(stage):
    look = f"{OVER} --run 'cat data/table.txt; ls'"
    begin = "mkdir data; echo t > data/table.txt; echo x > other.txt"
    played = ran(
        stage,
        f"{begin}; {look}",
        f"{look} --give other.txt",
        f"{look} --give nowhere",
        f"{look} --give /etc",
        f"echo 1 > /tmp/c.py; {OVER} --run 'python3 /tmp/c.py'",
        "cd data; gear map --over ../words.txt --split lines:1 --out ../out/n --run 'pwd; cat table.txt'",
        f"{OVER} --run 'ls' --give .",
        items=1,
    )
    assert codes(played) == [0, 0, 2, 2, 2, 0, 0]
    told = said(played)
    assert "--give nowhere: there is no such file" in told and "/tmp/c.py is not in the sandbox of a command" in told
    assert lines(played.out / "out/n/results.jsonl")[0]["answer"] == "/workspace/data\nt"
    assert lines(played.out / "out/m/results.jsonl")[0]["answer"] == "data\nother.txt\nout\nwords.txt"


FAILS = {
    "raises": ("import sys\ndef judge(t):\n    raise ValueError('bad ' + t)\njudge(sys.stdin.read())\n", "exit"),
    "hangs": ("import time\ntime.sleep(60)\n", "time"),
    "eats": ("x = b'x' * (1 << 30)\n", "limit"),
    "dies": ("import os\nos.kill(os.getpid(), 11)\n", "signal"),
    "floods": ("while True: print('x' * 65536)\n", "time"),
    "prose": ("print('hello')\n", "not_json"),
    "wrong": ('print(\'{"n": "x"}\')\n', "schema"),
    "binary": ("import sys\nsys.stdout.buffer.write(b'\\xff')\n", "not_utf8"),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_command_that_fails_is_told_with_its_evidence(stage, name):
    text, code = FAILS[name]
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    played = ran(stage, f"{OVER} --run 'python3 c.py' --deadline 3 --schema '{schema}'", items=2, files={"c.py": text})
    assert codes(played) == [1], said(played)
    rows = failed(played)
    assert [row["class"] for row in rows] == [code] * 2, rows
    assert account(played)["account"]["quarantined"] == 2 and played.record.residue == []
    if name == "raises":
        assert rows[0]["why"] == "exit 1: ValueError: bad word 1" and "Traceback" in rows[0]["trace"]
        assert rows[0]["path"] == "c.py in judge" and rows[0]["keyword"] == "ValueError"
        [cluster] = account(played)["clusters"]
        assert cluster["stage"] == "command" and cluster["count"] == 2 and cluster["path"] == "c.py in judge"
    if name == "eats":
        assert "memory (256 MiB)" in rows[0]["why"]


def test_a_validator_judges_answers_and_its_trace_is_the_evidence(stage):
    check = (
        "import sys, json, os\nn = json.load(sys.stdin)['n']\nassert n == int(open(os.environ['ITEM']).read().split()[1]), n\n"
    )
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    command = f"{MAP} --schema '{schema}' --validator 'python3 check.py'"
    steps = [{"text": '{"n": 9}'}, *({"text": f'{{"n": {n}}}', "when": f"word {n}"} for n in range(1, 6))]
    played = ran(stage, command, command, files={"check.py": check}, worker=steps)
    assert codes(played) == [1, 1], said(played)
    [row] = failed(played)
    assert (row["class"], row["stage"], row["keyword"]) == ("rejected", "validator", "AssertionError")
    assert row["answer"] == '{"n": 9}' and "AssertionError: 9" in row["trace"] and row["nano_usd"] > 0
    ended = [r.event for r in played.records("map_ended")]
    assert [(one.calls, one.found, one.sandboxes) for one in ended] == [(6, 0, 1), (1, 5, 1)]
    assert ended[0].clusters[0]["stage"] == "validator" and ended[0].clusters[0]["path"] == "check.py in <module>"


def test_another_validator_is_another_question(stage):
    played = ran(
        stage,
        f"{MAP} --validator true",
        f"{MAP} --validator 'cat c'",
        f"echo 1 > c; {MAP} --validator 'cat c'",
        worker=[{"text": "x"}],
    )
    ended = [r.event for r in played.records("map_ended")]
    assert [(one.calls, one.found) for one in ended] == [(6, 0), (6, 0), (6, 0)]
    assert [one.account["ok"] for one in ended] == [6, 0, 6]


def test_a_validator_that_hangs_stops_the_map_and_says_so(stage):
    command = f"{MAP} --validator 'sleep 60' --deadline 1 --no-canary"
    played = ran(stage, command, items=100, worker=[{"text": "x"}])
    told = account(played)
    assert codes(played) == [1] and told["stopped"]["class"] == "validator_hangs" and "did not end within 1 s" in said(played)
    assert told["account"]["pending"] == 0 and told["account"]["skipped"] > 50


@pytest.mark.parametrize(
    "command",
    ["head -c 300000000 /dev/zero >&2; exit 1", "kill -11 $$", ":(){ :|:& };:; exit 1", "head -c 300M /dev/zero > full; exit 1"],
)
def test_a_validator_that_misbehaves_costs_its_own_items_alone(stage, command):
    judge = f"if grep -q 'word 3' $ITEM; then {command}; fi\n"
    played = ran(stage, f"{MAP} --validator 'bash v.sh' --concurrency 1", files={"v.sh": judge}, worker=[{"text": "x"}])
    assert account(played)["account"] == {"items": 6, "ok": 5, "failed": 0, "quarantined": 1, "skipped": 0, "pending": 0}
    [row] = failed(played)
    assert row["item"] == 2 and row["stage"] == "validator" and len(row.get("trace", "")) <= 4000
    assert played.record.residue == []


def test_a_run_that_ends_in_the_middle_takes_every_sandbox_with_it(stage):
    played = ran(stage, f"{OVER} --run 'sleep 30' & sleep 1.5", items=20)
    [ended] = [r.event for r in played.records("map_ended")]
    assert ended.ended == "cut" and ended.account["pending"] == 20 and ended.sandboxes >= 1
    assert played.record.residue == [] and not (played.folder.path / "shards").exists()


def test_two_workers_and_none_and_nonsense_are_refused(stage):
    played = ran(
        stage,
        f"{MAP} --run true",
        OVER,
        f"{OVER} --run ' '",
        f"{MAP} --give words.txt",
        f"{OVER} --run true --deadline 0",
        'curl -s http://gear.box/v1/map -d \'{"run": "true", "give": ["../.."]}\'',
        'curl -s http://gear.box/v1/map -d \'{"run": "true", "prompt": "true"}\'',
        worker=[{"text": "x"}],
    )
    assert codes(played) == [2, 2, 1, 2, 1, 0, 0], said(played)
    assert "no_file" in said(played) and "both a prompt and a command" in said(played)


SITE = Path(duckdb.__file__).parents[1]
TABLES = [SITE / "duckdb", *SITE.glob("_duckdb*.so"), *SITE.glob("duckdb-*.dist-info")]


def test_row_groups_of_a_table_are_mapped_to_a_table(stage):
    (stage.folder / "t").mkdir()
    source = stage.folder / "t/t.parquet"
    duckdb.execute(f"COPY (SELECT range AS n FROM range(5000)) TO '{source}' (FORMAT parquet, ROW_GROUP_SIZE 2048)")
    add = "import sys, json\nprint(sum(json.loads(line)['n'] for line in sys.stdin))\n"
    table = "gear map --over t.parquet --run 'python3 add.py' --out out/m"
    played = ran(
        stage,
        f"PYTHONPATH=/given {table} --split rowgroups --format parquet",
        f"PYTHONPATH=/given {table.replace('out/m', 'out/n')} --split records:1000",
        f"{table.replace('out/m', 'out/o')} --split rowgroups",
        f"{table.replace('out/m', 'out/o')} --split lines:1",
        f"{OVER.replace('out/m', 'out/o')} --run cat --format parquet",
        f"{OVER.replace('lines:1', 'rowgroups')} --run cat",
        files={"add.py": add},
        give=[source],
        see=TABLES,
        memory="1GiB",
    )
    assert codes(played) == [0, 0, 2, 2, 2, 2], said(played)
    assert said(played).count("pyarrow or duckdb must be in the box's Python") == 2
    rows = duckdb.execute("SELECT * FROM read_parquet(?)", [str(played.out / "out/m/results.parquet")]).fetchall()
    assert sum(int(json.loads(row[-1])) for row in rows) == sum(range(5000)) and len(rows) == 3
    assert rows[0][1] == "t.parquet:1-2048" and not (played.out / "out/m/results.jsonl").exists()
    assert len(lines(played.out / "out/n/results.jsonl")) == 5


def test_an_answer_beside_one_that_eats_all_memory_is_judged_for_itself(stage):
    judge = "import os, time\nif open(os.environ['ITEM']).read() == 'word 3':\n    x = b'x' * (1 << 30)\ntime.sleep(0.3)\n"
    played = ran(
        stage, f"{MAP} --validator 'python3 v.py' --concurrency 16", items=12, files={"v.py": judge}, worker=[{"text": "x"}]
    )
    assert [row["item"] for row in failed(played)] == [2] and account(played)["account"]["ok"] == 11
    assert failed(played)[0]["class"] == "limit" and "memory" in failed(played)[0]["why"]


def test_a_command_is_judged_by_a_validator_too(stage):
    command = f"{OVER} --run 'wc -c' --validator 'grep -qv 7'"
    played = ran(stage, command, items=12)
    assert account(played)["account"]["ok"] == 9 and [row["answer"] for row in failed(played)] == ['"7"'] * 3
    assert {row["stage"] for row in failed(played)} == {"validator"}


def test_what_a_validator_leaves_running_is_paid(stage):
    judge = "[ -e /tmp/once ] || { touch /tmp/once; (while :; do :; done) & }\nsleep 0.3\n"
    played = ran(stage, f"{MAP} --validator 'bash v.sh' --concurrency 1", files={"v.sh": judge}, worker=[{"text": "x"}])
    assert account(played)["account"]["ok"] == 6
    [ended] = [r.event for r in played.records("map_ended")]
    assert ended.cpu > 0.2, "a quarter of a processor for two seconds"


def test_a_map_that_is_refused_leaves_no_view(stage):
    seen = []

    async def watch(folder):
        while not seen or not seen[-1]:
            await asyncio.sleep(0.02)
            if (folder.path / "journal").exists() and b'"refused"' in b"".join(
                file.read_bytes() for file in folder.journal.iterdir()
            ):
                seen.append([str(one) for one in folder.path.glob("shards/*/*")] or "none")

    command = f"{MAP} --validator 'bash v.sh' --repair-model nobody; sleep 1"
    ran(stage, command, files={"v.sh": "true"}, worker=[{"text": "x"}], beside=watch)
    assert seen[-1] == "none"
