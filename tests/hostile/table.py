"""The table of attempts: `scripts/hostile` makes every one of them as root and as an ordinary user, and prints it.

python tests/hostile/table.py --rows FILE        make every attempt as this user, write what came of it
python tests/hostile/table.py --show FILE...     print the table of such files; exit 1 on any breach or control that failed
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PROVEN_ELSEWHERE = {
    46: "tests/doors/postgres/test_cluster.py (superuser), tests/journeys/test_postgres.py, test_postgres_branch.py (a dump), "
    "tests/doors/redis/test_server.py (Lua, modules, replication; taken over), tests/journeys/test_aws.py (a subscription that leads out)",
    36: "tests/doors/test_server.py (smuggling, endless headers, slowloris, limits), tests/journeys/test_door.py (the token of another "
    "door, that of a door that was killed)",
    37: "tests/doors/test_files.py (flags), tests/journeys/test_examples.py (checks on a copy)",
    44: "tests/sandbox/test_snapshots.py (shared mappings)",
    45: "tests/journeys/test_model_egress.py (a provider that would fetch all of it), tests/doors/model/test_door.py",
    47: "tests/test_checks.py (verdicts), tests/run/test_handover.py (checks on request), tests/journeys/test_repository.py (a hook)",
    49: "tests/hostile/test_endurance.py",
}
"""Attempts of the list that need a door or a whole run: where they are shown."""


def _load(name):
    if f"hostile_{name}" in sys.modules:
        return sys.modules[f"hostile_{name}"]
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def here(root):
    """The attempts that make sense for a user: those that only root could make outside are root's."""
    every = [
        *_load("attempts").ATTEMPTS,
        *_load("scenarios").SCENARIOS,
        *_load("egress").EGRESS,
        *_load("credentials").CREDENTIALS,
    ]
    return [one for one in sorted(every, key=lambda one: one.number) if root or not getattr(one, "root_only", False)]


def make(file):
    """Make every attempt as this user and write the rows."""
    arena, rows = _load("arena"), []
    user = "root" if os.getuid() == 0 else "user"
    for attempt in here(user == "root"):
        print(f"{user}: {attempt.number} {attempt.name}", file=sys.stderr, flush=True)
        refused, control = arena.refused(attempt), arena.control(attempt)
        rows.append(
            {
                "number": attempt.number,
                "name": attempt.name,
                "user": user,
                "refused": not refused.got,
                "canary": refused.untouched,
                "control": control.got,
                "guard": attempt.control,
                "said": refused.output[-200:],
            }
        )
    Path(file).write_text(json.dumps(rows))


def show(files):
    """Print the table; returns the exit code."""
    rows = [row for file in files for row in json.loads(Path(file).read_text())]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("no", "attempt", "user", "refused", "canary untouched", "control got through", "control: the same"):
        table.add_column(heading, overflow="fold")
    for row in sorted(rows, key=lambda row: (row["number"], row["name"], row["user"])):
        marks = ["yes" if row[name] else "NO" for name in ("refused", "canary", "control")]
        table.add_row(str(row["number"]), row["name"], row["user"], *marks, row["guard"])
    console = Console(width=150, highlight=False)
    console.print(table)
    failed = [row for row in rows if not (row["refused"] and row["canary"] and row["control"])]
    for row in failed:
        console.print(f"FAILED {row['number']} {row['name']} ({row['user']}): {row['said']}", markup=False)
    for number, place in PROVEN_ELSEWHERE.items():
        console.print(f"{number}: needs a door or a whole run, shown by {place}", markup=False)
    users = ", ".join(f"{sum(row['user'] == user for row in rows)} as {user}" for user in sorted({row["user"] for row in rows}))
    console.print(f"{len(rows)} attempts ({users}), {len(failed)} failed, 0 skipped")
    return int(bool(failed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows")
    parser.add_argument("--show", nargs="+")
    options = parser.parse_args()
    if options.rows:
        make(options.rows)
    sys.exit(show(options.show) if options.show else 0)
