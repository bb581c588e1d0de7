"""`gear reduce` inside a run: level by level to one result, with an account of each level, and nothing left out silently."""

import json

from tests.run.test_shards import OVER, codes, ran, said

SUM = "--run \"awk '{s += \\$1} END {print s}'\""
NUMBERS = "seq 1 100 > n.txt"


def account(played, folder="r"):
    return json.loads((played.out / "out" / folder / "account.json").read_text())


def test_numbers_are_added_level_by_level_and_found_again(stage):
    command = f"gear reduce --over n.txt {SUM} --fan-in 5 --out out/r"
    played = ran(stage, f"{NUMBERS}; {command}", command)
    assert codes(played) == [0, 0], said(played)
    assert (played.out / "out/r/result.txt").read_text() == "5050\n"
    told = account(played)
    assert [level["inputs"] for level in told["levels"]] == [100, 20, 4]
    assert [level["account"]["items"] for level in told["levels"]] == [20, 4, 1]
    for level in told["levels"]:
        assert sum(level["account"].values()) == 2 * level["account"]["items"]
    assert told["found"] == told["calls"] + 25 == 25
    assert [r.event.split for r in played.records("map_started")][:3] == [f"reduce level {n}" for n in (1, 2, 3)]
    assert "100 inputs in 3 levels" in said(played) and played.record.residue == []


def test_the_answers_of_a_map_are_reduced_by_a_prompt(stage):
    steps = [{"text": "merged"}, {"text": "one", "when": "Say ok"}]
    mapped = "gear map --over words.txt --split lines:1 --prompt /tmp/p --out out/m"
    command = (
        f"{mapped}; echo 'Merge these:' > /tmp/q; gear reduce --over out/m/results.jsonl --prompt /tmp/q --fan-in 3 --out out/r"
    )
    played = ran(stage, command, worker=steps)
    assert codes(played) == [0], said(played)
    assert (played.out / "out/r/result.txt").read_text() == "merged\n"
    first = json.loads((played.out / "out/r/levels/1/results.jsonl").read_text().splitlines()[0])
    assert first["shard"].endswith("results.jsonl:1 to out/m/results.jsonl:3") and first["answer"] == "merged"
    assert account(played)["nano_usd"] > 0 and [level["account"]["items"] for level in account(played)["levels"]] == [2, 1]


def test_values_that_fit_a_schema_are_lines_of_json_on_every_level(stage):
    program = "import sys, json\nprint(json.dumps({'n': sum(json.loads(line)['n'] for line in sys.stdin)}))\n"
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    numbers = 'for n in 1 2 3 4 5 6 7; do echo {\\"n\\": $n}; done > n.jsonl'
    command = f"{numbers}; gear reduce --over n.jsonl --run 'python3 add.py' --schema '{schema}' --fan-in 2 --out out/r"
    played = ran(stage, command, files={"add.py": program})
    assert codes(played) == [0] and json.loads((played.out / "out/r/result.json").read_text()) == {"n": 28}


def test_a_group_that_fails_is_no_silent_drop_but_an_end(stage):
    program = "import sys\nrows = [int(line) for line in sys.stdin]\nassert 50 not in rows, 'fifty'\nprint(sum(rows))\n"
    command = f"{NUMBERS}; gear reduce --over n.txt --run 'python3 add.py' --fan-in 10 --out out/r"
    played = ran(stage, command, f"{command} --allow-failed 1", files={"add.py": program}, take=("out/**",))
    assert codes(played) == [1, 0], said(played)
    assert "no result: level 1 has groups without an answer" in said(played) and "AssertionError" in said(played)
    assert (played.out / "out/r/result.txt").read_text() == f"{5050 - sum(range(41, 51))}\n"
    assert account(played)["levels"][0]["account"]["quarantined"] == 1


def test_one_input_is_asked_once_and_none_is_an_error(stage):
    played = ran(
        stage,
        f"echo 7 > n.txt; gear reduce --over n.txt {SUM} --out out/r",
        f": > e.txt; gear reduce --over e.txt {SUM} --out out/e",
        f"gear reduce --over n.txt {SUM} --fan-in 1 --out out/e",
    )
    assert codes(played) == [0, 2, 2] and (played.out / "out/r/result.txt").read_text() == "7\n"
    assert "there is nothing to reduce" in said(played) and "--fan-in 1: give 2" in said(played)


def test_answers_that_do_not_get_smaller_end_it_with_the_reason(stage):
    long = "import random, sys\nrandom.seed(sys.stdin.read())\nprint(random.randbytes(125000).hex())\n"
    command = "seq 1 30 > n.txt; gear reduce --over n.txt --run 'python3 long.py' --fan-in 4 --out out/r"
    played = ran(stage, command, files={"long.py": long})
    told = account(played)
    assert [level["account"]["items"] for level in told["levels"]] == [8, 4, 2, 1]
    assert (played.out / "out/r/result.txt").exists()
    command = f"{OVER} --run 'python3 long.py'; gear reduce --over out/m/results.jsonl --prompt /tmp/p --out out/r"
    played = ran(stage, command, files={"long.py": long.replace("125000", "100000")}, worker=[{"text": "x"}], out="again")
    told = account(played)
    assert codes(played) == [1] and not told["passed"] and "no two of the 6 inputs of level 1 fit into" in told["why"]
    assert not (played.out / "out/r/result.txt").exists()


def test_bad_input_stops_it_at_the_first_level(stage):
    command = f"printf '1\\n\\377\\n3\\n' > n.txt; gear reduce --over n.txt {SUM} --out out/r"
    played = ran(stage, command)
    assert codes(played) == [1] and account(played)["levels"][0]["account"]["quarantined"] == 1
    assert "not UTF-8" in (played.out / "out/r/levels/1/quarantine/failed.jsonl").read_text()
