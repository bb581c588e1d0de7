"""Choose lines by a seed: N of each format to map, and as many that are held out. `python3 sample.py LOGS OUT --seed 7 --lines 40`."""

import argparse
import random
from pathlib import Path

FORMATS = ("Apache", "HDFS", "OpenSSH")


def main() -> None:
    """Write OUT/lines.log and OUT/held-out.log, each line once."""
    options = argparse.ArgumentParser()
    options.add_argument("logs", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--lines", type=int, default=40)
    options.add_argument("--held-out", type=int, default=10)
    given = options.parse_args()
    chance = random.Random(given.seed)
    chosen, held = [], []
    for name in FORMATS:
        lines = sorted({line for line in (given.logs / name / f"{name}_2k.log").read_text().splitlines() if line.strip()})
        some = chance.sample(lines, given.lines + given.held_out)
        chosen += some[: given.lines]
        held += some[given.lines :]
    given.out.mkdir(parents=True, exist_ok=True)
    for file, lines in (("lines.log", chosen), ("held-out.log", held)):
        chance.shuffle(lines)
        (given.out / file).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
