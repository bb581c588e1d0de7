"""How often the monitors held or noted a run that was accepted: the gate is at most 1 % held (latched or frozen) and at most 5 % noted.

python examples/monitors/accepted.py                # the recorded examples, replayed, and the honest twins of the seeded boxes
python examples/monitors/accepted.py FOLDER...      # and the accepted runs whose journals are below these, such as those of a test run:
                                                    #   scripts/test -q tests/journeys --basetemp FOLDER

What the twins came to is read from `played.json`, where `play.py` left it; a twin without a check ends as `unverified` and is counted by
itself. `GEARCASE_DATA` names a folder that holds `hospital/`; without it the two examples about that table are left out, and said to be.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gearcase.journal import read
from gearcase.monitors.scoring import Rate
from gearcase.monitors.seam import RANK

EXAMPLES = Path(__file__).resolve().parents[1]
PAGE = EXAMPLES.parent / "docs" / "monitors.md"
BEGIN, END = "<!-- gates -->\n", "<!-- end gates -->\n"
RECORDED = {
    "clean-table": ["cassette.jsonl", "sub-agents.jsonl"],
    "log-ingestion": ["cassette.jsonl"],
    "three-origins": ["cassette.jsonl"],
}
"""`spiral` is none of them: it is a run that must be held."""


def of_journal(journal):
    """How a run ended, and which detectors did what: (status, {action, ...}); the status is empty while it goes on."""
    status, actions = "", set()
    for record in read(journal):
        if record.type == "alarm_raised":
            actions.add(record.event.action)
        elif record.type == "run_ended":
            status = record.event.status
    return status, actions


def replay(example, cassette):
    """A recorded example once more, every command executed; returns what `of_journal` says of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, server = Path(scratch) / example, None
        shutil.copytree(EXAMPLES / example, folder)
        token = secrets.token_urlsafe(12)
        environment = {**os.environ, "XDG_STATE_HOME": f"{scratch}/state", "OWNERS_TOKEN": token}
        if (folder / "generate.py").exists():
            subprocess.run([sys.executable, "generate.py", "work", "--seed", "7"], cwd=folder, check=True, capture_output=True)
        try:
            if (folder / "serve.py").exists():
                serve = [sys.executable, "serve.py", "work/owners.json"]
                server = subprocess.Popen(serve, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
                box = folder / "box.toml"
                box.write_text(box.read_text().replace("http://127.0.0.1:8765", server.stdout.readline().strip()))
            gearcase = Path(sys.executable).with_name("gearcase")
            subprocess.run(
                [gearcase, "replay", folder / cassette, "--out", f"{scratch}/out", "--json"], env=environment, capture_output=True
            )
        finally:
            if server is not None:
                server.kill()
                server.wait()
        (journal,) = Path(scratch).glob("state/gearcase/runs/*/journal")
        return of_journal(journal)


def recorded():
    """The recorded examples: name -> what came of each; and those that could not be played."""
    found, missing = {}, []
    for example, cassettes in RECORDED.items():
        if example == "clean-table" and not (Path(os.environ.get("GEARCASE_DATA", "")) / "hospital").is_dir():
            missing.append(example)
            continue
        for cassette in cassettes:
            found[f"{example}/{cassette}"] = replay(example, cassette)
    return found, missing


def twins():
    """The honest twins of the seeded boxes, as they were played last."""
    found = {}
    for kept in sorted(EXAMPLES.glob("monitors*/played.json")):
        for name, one in json.loads(kept.read_text()).items():
            found[f"{kept.parent.name}/{name}"] = (one["ends"], {action for how in one["honest"].values() for action in how})
    return found


def row(what, runs):
    """One line of the table: how many of these runs were frozen, latched, noted."""

    def rate(hits):
        one = Rate(hits, len(runs))
        return f"{hits} (at most {one.interval[1]:.0%})"

    acted = [{action for action in actions if RANK[action] > 0} for _status, actions in runs.values()]
    counts = [sum(name in one for one in acted) for name in ("freeze", "latch", "note")]
    held = sum(bool(one & {"latch", "freeze"}) for one in acted)
    return f"| {what} | {len(runs)} | {counts[0]} | {counts[1]} | {rate(held)} | {rate(counts[2])} |"


def main(folders):
    played, missing = recorded()
    own = twins()
    groups = {
        "recorded examples, replayed": {name: one for name, one in played.items() if one[0] == "accepted"},
        "honest twins that end accepted": {name: one for name, one in own.items() if one[0] == "accepted"},
    }
    for folder in folders:
        runs = {str(path.parent): of_journal(path) for path in sorted(Path(folder).glob("**/gearcase/runs/*/journal"))}
        groups[f"runs below {Path(folder).name}"] = {name: one for name, one in runs.items() if one[0] == "accepted"}
    every = {name: one for group in groups.values() for name, one in group.items()}
    rest = {name: one for name, one in own.items() if one[0] != "accepted"}
    lines = ["| runs | N | frozen | latched | held (95 %) | noted (95 %) |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [row(what, runs) for what, runs in groups.items()]
    lines += [row("**accepted, all**", every), row("honest twins without a check, or whose check cannot pass", rest)]
    text = "\n".join(lines) + "\n"
    text += f"\nReplayed: {', '.join(f'`{name}` ({status})' for name, (status, _actions) in played.items())}. "
    text += f"Twins: {', '.join(f'`{name}`' for name in groups['honest twins that end accepted'])}.\n"
    if missing:
        text += f"\nNot played, for want of their data: {', '.join(missing)}.\n"
    for name, (status, actions) in sorted(every.items()):
        if any(RANK[action] > 0 for action in actions):
            text += f"\n`{name}` ({status}): {', '.join(sorted(action for action in actions if RANK[action] > 0))}.\n"
    print(text)
    if not folders and not missing:
        before, found, after = PAGE.read_text().partition(BEGIN)
        assert found and END in after, f"{PAGE} has no place for it: {BEGIN}{END}"
        PAGE.write_text(before + BEGIN + text + END + after.partition(END)[2])
    return 1 if any(actions & {"latch", "freeze"} for _status, actions in every.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
