"""What watching costs: events through all detectors a second of one core, and its share of the processor time of a whole run.

python benchmarks/monitors.py

The run is one of a scripted model that answers at once, so that nothing dilutes the share: in each turn a small test is executed and a file
changes. What watching took of it: loading the detectors, folding its own journal through all of them, and the looks at files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from figures import Figure, show
from story import PAUSE, begin, turn

from gearcase.events import CommandEnded, Event, FilesSeen
from gearcase.journal import read
from gearcase.monitors import Watch

TURNS = 20_000
STEPS, FILES = 100, 400
ROUNDS = 5
COMMAND = Path(sys.executable).with_name("gearcase")
TEST = """
cat > test_rows.py <<END
import unittest
class T(unittest.TestCase):
    def test_rows(self):
        self.assertEqual(sum(range(2_000_000 + {number})) - sum(range(2_000_000)), sum(range(2_000_000, 2_000_000 + {number})))
END
python3 -m unittest -q
"""
LOAD = "import time, gearcase.run.supervisor as _; t = time.process_time(); import gearcase.monitors.able; print(time.process_time() - t)"

Told = list[tuple[Event, str, float]]


def best(work: Callable[[], object]) -> float:
    """Processor seconds of the quickest of some rounds."""
    seconds = list[float]()
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def fold(told: Told) -> None:
    """Have all detectors hear it, all of them acting."""
    watch = Watch(act=True)
    for event, agent, boot in told:
        watch.hear(event, agent, boot)


def story() -> Told:
    """A run of many turns."""
    turns = [begin(), *(turn(number) for number in range(1, TURNS + 1))]
    return [(event, agent, 1000.0 + number * PAUSE) for number, pairs in enumerate(turns) for agent, event in pairs]


def run(folder: Path) -> tuple[Path, float]:
    """A run that is watched: its journal, and the processor seconds of its process and all that it started."""
    given = folder / "src"
    given.mkdir()
    for number in range(FILES):
        (given / f"part{number}.py").write_text(f"# part {number}\n" * 100)
    steps = [{"commands": [TEST.format(number=number)]} for number in range(STEPS)]
    (folder / "script.json").write_text(json.dumps([*steps, {"commands": ["gear done"]}]))
    limits = '[limits]\nusd = 9\nwall = "10m"\nsteps = 500\nmemory = "512MiB"\n'
    files = f'[files]\ngive = ["{given}"]\ntake = ["test_rows.py"]\n'
    (folder / "box.toml").write_text(f'goal = "g"\n{limits}{files}')
    environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    command = [
        COMMAND,
        "run",
        "-f",
        folder / "box.toml",
        "--model",
        f"scripted:{folder / 'script.json'}",
        "--out",
        folder / "out",
    ]
    going = subprocess.Popen([*command, "--quiet"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    seconds = 0.0
    while going.poll() is None:
        seconds = max(seconds, _worked(folder))
        time.sleep(0.02)
    (journal,) = folder.glob("state/gearcase/runs/*/journal")
    commands = [record.event for record in read(journal) if isinstance(record.event, CommandEnded)]
    good = sum(one.exit_code == 0 for one in commands)
    if good < STEPS:
        raise RuntimeError(f"{good} commands of {STEPS} ended well")
    return journal, seconds + sum(one.cpu for one in commands)


def _worked(folder: Path) -> float:
    """Processor seconds of the run's own process so far; its commands are none of its children's."""
    try:
        (owner,) = folder.glob("state/gearcase/runs/*/owner")
        words = Path(f"/proc/{json.loads(owner.read_text())['pid']}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure() -> list[Figure]:
    """Both figures."""
    told = story()
    rate = len(told) / best(lambda: fold(told))
    with tempfile.TemporaryDirectory() as folder:
        journal, whole = run(Path(folder))
        records = [(one.event, one.agent, one.boot) for one in read(journal) if one.event is not None]
        looks = [event.seconds for event, _agent, _boot in records if isinstance(event, FilesSeen)]
        folding = best(lambda: fold(records))
    loading = min(float(subprocess.check_output([sys.executable, "-c", LOAD], text=True)) for _ in range(ROUNDS))
    looking = sum(looks)
    share = (loading + folding + looking) / whole
    parts = f"{folding * 1000:.0f} ms folding, {loading * 1000:.0f} loading, {looking * 1000:.0f} in {len(looks)} looks; of {whole:.1f} s"
    return [
        Figure("events through all detectors a second of one core", f"{rate:,.0f}/s", "", rate, at_least=100_000, unit="/s"),
        Figure(f"all detectors' share of a run's processor time, {STEPS} commands", parts, "", share * 100, at_most=3, unit="%"),
    ]


if __name__ == "__main__":
    sys.exit(show(measure()))
