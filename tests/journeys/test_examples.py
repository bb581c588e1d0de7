"""The boxes below examples/ work as they are."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CLEAN_TABLE = EXAMPLES / "clean-table"

real_data = pytest.mark.skipif(
    not Path(os.environ.get("GEARCASE_DATA", ""), "hospital").is_dir(),
    reason="real data is not here: GEARCASE_DATA names a folder that holds hospital/ (see examples/clean-table/README.md)",
)


@real_data
def test_the_recorded_repair_of_a_table_is_accepted_again_with_every_command_executed(user):
    ended = user.types("replay", CLEAN_TABLE / "cassette.jsonl", "--out", "out", "--json", code=0)
    record = ended.record
    assert record["status"] == "accepted" and record["warnings"] == [] and record["residue"] == []
    (check,) = record["checks"]
    assert check["verdict"] == "passed" and check["score"] >= 0.9
    assert len((user.folder / "out/out/repaired.csv").read_text().splitlines()) == 1001
    commands = [one for one in user.journal() if one["type"] == "command_ended"]
    assert len(commands) == 4 and sum(one["output_bytes"] for one in commands) > 1000


@real_data
def test_the_table_repaired_by_three_sub_agents_is_at_least_as_good(user):
    replayed = user.types("replay", CLEAN_TABLE / "sub-agents.jsonl", "--out", "out", "--json", code=0).record
    assert replayed["status"] == "accepted" and replayed["residue"] == []
    assert replayed["checks"][0]["score"] == 0.9901
    started = [one for one in user.journal() if one["type"] == "agent_started"]
    assert len(started) == 4 and len(user.journal()) > 100


@real_data
def test_a_table_that_was_not_repaired_is_rejected(user):
    model = user.script({"commands": ["mkdir out; cp hospital.csv out/repaired.csv", "gear done --as-is"]})
    record = user.types("run", "-f", CLEAN_TABLE / "box.toml", "--model", model, "--out", "out", "--json", code=10).record
    assert record["status"] == "rejected"
    assert not (user.folder / "out").exists()


@real_data
def test_a_table_with_guessed_cells_is_rejected(user):
    guess = (
        "import csv; r=list(csv.reader(open('hospital.csv'))); w=csv.writer(open('out/repaired.csv','w'),lineterminator='\\n'); "
    )
    guess += "w.writerow(r[0]); [w.writerow([c.replace('x','a') for c in row]) for row in r[1:]]"
    model = user.script({"commands": [f'mkdir out; python3 -c "{guess}"', "gear done --as-is"]})
    record = user.types("run", "-f", CLEAN_TABLE / "box.toml", "--model", model, "--json", code=10).record
    assert record["status"] == "rejected" and 0 < record["checks"][0]["score"] < 0.9


def test_a_table_is_loaded_into_a_database_of_the_boxs_own(user):
    command = (
        'psql -qc "CREATE TABLE sales (shop text, amount int)" -c "\\copy sales FROM sales.csv CSV HEADER" && mkdir out && '
        'psql -qc "\\copy (SELECT shop, sum(amount) FROM sales GROUP BY 1 ORDER BY 1) TO out/totals.csv CSV"'
    )
    model = user.script({"commands": [command, "gear done"]})
    box = EXAMPLES / "doors/postgres/box.toml"
    record = user.types("run", "-f", box, "--model", model, "--out", "out", "--json", code=0).record
    assert (user.folder / "out/out/totals.csv").read_text() == "north,15\nsouth,20\n"
    assert record["residue"] == []
    contact = [one for one in user.journal() if one["type"] == "contact"][-1]
    assert contact["relations"]["public.sales"]["written"] == 3 and contact["missing"] == []


def test_a_table_is_loaded_into_a_simulated_cloud_account(user):
    """The packages that a machine would have for all are given here from the environment of the tests."""
    packages = Path(sys.executable).parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    folder = user.folder / "aws"
    shutil.copytree(EXAMPLES / "doors/aws", folder)
    text = (folder / "box.toml").read_text()
    (folder / "box.toml").write_text(text.replace("take =", f'see = ["{packages}"]\ntake ='))
    command = "PYTHONPATH=/given/site-packages PYTHONDONTWRITEBYTECODE=1 python3 work.py"
    model = user.script({"commands": [command, "gear done"]})
    record = user.types("run", "-f", folder / "box.toml", "--model", model, "--out", "out", "--json", code=0).record
    assert (user.folder / "out/out/totals.csv").read_text() == "north,15\nsouth,20\n"
    assert record["residue"] == []


def test_counts_in_a_cache_go_on_in_the_next_run(user):
    """redis-py, which a machine would have for all, is given here from the environment of the tests."""
    packages = Path(sys.executable).parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    folder = user.folder / "redis"
    shutil.copytree(EXAMPLES / "doors/redis", folder)
    text = (folder / "box.toml").read_text()
    (folder / "box.toml").write_text(text.replace("take =", f'see = ["{packages}"]\ntake ='))
    command = "PYTHONPATH=/given/site-packages PYTHONDONTWRITEBYTECODE=1 python3 work.py"
    for out, counts in (("first", "/prices,2\n/docs,1\n"), ("second", "/prices,4\n/docs,2\n")):
        model = user.script({"commands": [command, "gear done"]})
        record = user.types("run", "-f", folder / "box.toml", "--model", model, "--out", out, "--json", code=0).record
        assert (user.folder / out / "out/pages.csv").read_text() == counts
        assert record["residue"] == []


def test_one_inventory_is_made_of_three_origins_by_sub_agents_and_an_api_whose_token_stays_outside(user):
    folder = user.folder / "three-origins"
    shutil.copytree(EXAMPLES / "three-origins", folder)
    made = subprocess.run([sys.executable, "generate.py", "work", "--seed", "7"], cwd=folder, check=False)
    assert made.returncode == 0
    environment = {**os.environ, "OWNERS_TOKEN": user.key}
    serve = [sys.executable, "serve.py", "work/owners.json"]
    with subprocess.Popen(serve, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            box = folder / "box.toml"
            box.write_text(box.read_text().replace("http://127.0.0.1:8765", server.stdout.readline().strip()))
            record = user.types(
                "replay", folder / "cassette.jsonl", "--out", "out", "--json", code=0, OWNERS_TOKEN=user.key
            ).record
        finally:
            server.kill()
    assert record["status"] == "accepted" and record["residue"] == []
    assert record["checks"][0]["score"] == 1.0
    assert len((user.folder / "out/out/inventory.csv").read_text().splitlines()) == 121
    journal = user.journal()
    assert sum(one["type"] == "api_called" and one["status"] in (200, 404) for one in journal) >= 120
    report = user.types("report", code=0).out
    assert "built 6 sandboxes, torn down 6; left behind: nothing" in report
    assert user.key not in report + json.dumps(journal) + (user.folder / "out/out/inventory.csv").read_text()


def accuracy(folder, results, truth, lines):
    """What the example's own score says of one file of results: the share of right fields."""
    told = subprocess.run(
        [sys.executable, folder / "score.py", truth, lines, results], capture_output=True, text=True, check=True
    ).stdout
    return float(re.search(r"all (\d+\.\d)%", told)[1])


def test_the_recorded_repair_of_a_prompt_comes_to_the_same_again_and_is_worth_it(user):
    """Invented lines; the workers' answers are a real small model's, the lead's and the repairs a person's."""
    folder = user.folder / "log-ingestion"
    shutil.copytree(EXAMPLES / "log-ingestion", folder)
    subprocess.run([sys.executable, "generate.py", "work", "--seed", "7"], cwd=folder, check=True)
    ended = user.types("replay", folder / "cassette.jsonl", "--out", "out", "--json", code=0, timeout=90)
    assert ended.record["residue"] == []
    journal = user.journal()
    asked = sum(one["type"] == "model_called" and one["model"] == "small" for one in journal)
    played = [json.loads(line) for line in (folder / "cassette.jsonl").read_text().splitlines()[1:]]
    assert asked == sum(one["model"] == "small" for one in played), "every recorded answer was asked for once"
    account = json.loads((user.folder / "out/out/mapped/account.json").read_text())
    assert account["canary"]["first_failed"] >= 0.2 * account["canary"]["items"]
    assert account["repair"]["accepted"] >= 1 and account["account"]["ok"] == 35
    tried = [one for one in journal if one["type"] == "prompt_tried"]
    accepted = [one for one in tried if one["decision"] != "refused"]
    assert accepted and all(2 * passed > seen for one in accepted for passed, seen in one["looks"])
    held = folder / "work/held-out.log"
    before, after = [
        accuracy(folder, user.folder / f"out/out/{name}/results.jsonl", folder / "work/truth.jsonl", held)
        for name in ("before", "after")
    ]
    assert after > before
