"""The run that is killed: a lead that does one stage of a given script after the other, a map, three sub-agents, a database's branch.

What is done is told by files alone, and the model's every answer is the next stage: so whoever goes on, on whatever files, ends with the
same deliverables. The provider answers by what it is told last, and so needs no memory of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL = "claude-haiku-4-5"
ITEMS, AGENTS, CONCURRENCY = 24, 3, 4
USD = 2 * 10**9  # nano-dollars
NOTE = "[from Gearcase"
"""How the message to an agent that goes on begins."""

STAGES = """set -e
cd /workspace
mkdir -p out log
sleep 300 &  # what nobody waits for: it must die with the box
if [ ! -e out/numbers ]; then
    seq 1 500 > log/numbers
    mv log/numbers out/numbers
    echo written
elif [ ! -e log/mapped ]; then
    gear map --over given/lines.txt --split lines:1 --prompt given/prompt.txt --concurrency %(concurrency)d --out out/mapped > log/map 2>&1
    touch log/mapped
    echo mapped
elif [ ! -e out/sub-1 ] || [ ! -e out/sub-2 ] || [ ! -e out/sub-3 ]; then
    for n in 1 2 3; do
        [ -e out/sub-$n ] || gear spawn --background --usd 0.10 --give given --take "out/sub-$n" "@@sub $n" > log/spawn 2>&1
    done
    gear wait > log/wait 2>&1
    echo returned
elif [ %(database)d = 1 ] && [ ! -e out/rows ]; then
    psql -XqAt -v ON_ERROR_STOP=1 -c "CREATE TABLE IF NOT EXISTS ours (x int); INSERT INTO ours SELECT count(*) FROM theirs"
    psql -XqAt -v ON_ERROR_STOP=1 -c "SELECT max(x) FROM ours" > log/rows
    mv log/rows out/rows
    echo counted
else
    gear snapshot > log/snapshot
    gear done > log/done
fi
"""
CHECK = (
    f"cd $DELIVERED/out && test $(wc -l < numbers) = 500 && test $(wc -l < mapped/results.jsonl) = {ITEMS} && "
    f"test $(cat sub-1 sub-2 sub-3 | wc -l) = {AGENTS}"
)


def provider_script() -> list[dict[str, Any]]:
    """What the provider answers. Whoever goes on is told of goals and commands that hold the marks of others: it comes first."""
    stage = "sh given/stages.sh"
    subs = [
        step
        for n in range(1, AGENTS + 1)
        for step in (
            {"when": f"@@sub {n}", "commands": [f"echo begun; sleep 0.2; echo '@@part {n}'"]},
            {"when": f"@@part {n}", "commands": [f"mkdir -p out; echo {n} > out/sub-{n}; gear done"]},
        )
    ]
    items = [{"when": "@@item", "text": "well said", "fault": "slow", "delay": 0.05}]
    return [{"when": NOTE, "text": "I go on.", "commands": [stage]}, *subs, *items, {"text": "Next.", "commands": [stage]}]


def write_box(folder: Path, base: str, dsn: str) -> Path:
    """The box and what it gives, in a new folder. `dsn`: a database to branch; empty: none."""
    given = folder / "given"
    given.mkdir(parents=True)
    (given / "stages.sh").write_text(STAGES % {"concurrency": CONCURRENCY, "database": bool(dsn)})
    (given / "lines.txt").write_text("".join(f"part-{n}\n" for n in range(ITEMS)))
    (given / "prompt.txt").write_text("Say well: @@item {item}")
    database = f'[doors.postgres.shop]\nmode = "branch"\nfrom = "{dsn}"\npassword_env = "SHOP_PASSWORD"\n' if dsn else ""
    check = CHECK + (" && test $(cat rows) = 100" if dsn else "")
    file = folder / "box.toml"
    file.write_text(
        f"""goal = "Do the work, stage by stage."
{database}
[model]
lead = "anthropic/{MODEL}"
worker = "anthropic/{MODEL}"
[model.providers.anthropic]
base = "{base}"
[limits]
usd = {USD / 10**9}
memory = "512MiB"
disk = "128MiB"
processes = 128
wall = "10m"
on_exhausted = "stop"
[files]
give = ["given"]
take = ["out/**"]
[[check]]
name = "whole"
run = {json.dumps(check)}
"""
    )
    return file
