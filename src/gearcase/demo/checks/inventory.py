"""Compare an inventory with the truth, cell by cell. Passes where at least 98 in 100 cells are right and no package is left out.

What the worker model told is compared as well, and printed; it does not decide, for the inventory is what was asked for.
"""

import csv
import json
import os
import sys
from pathlib import Path

LEAST = 0.98


def read(path: Path) -> dict[str, dict[str, str]]:
    """Rows by name."""
    with path.open(newline="", encoding="utf-8") as file:
        return {str(row.get("name")): row for row in csv.DictReader(file)}


def same(column: str, told: str, truth: str) -> bool:
    """Operands of an SPDX expression may stand in any order."""
    if column != "license":
        return told == truth
    return sorted(told.replace("(", " ").replace(")", " ").split()) == sorted(truth.replace("(", " ").replace(")", " ").split())


def of_worker(file: Path, truth: dict[str, dict[str, str]]) -> str:
    """How often the worker's last word was the truth, and where it was not."""
    told = {name: row.get("second") or row.get("first") or "" for name, row in read(file).items() if name in truth}
    wrong = [f"{name} ({answer[:30]})" for name, answer in told.items() if not same("license", answer, truth[name]["license"])]
    if not told:
        return "the worker was asked for no license"
    return f"the worker told {len(told) - len(wrong)} of {len(told)} licenses rightly{', wrong: ' if wrong else ''}{', '.join(wrong[:5])}"


def main() -> int:
    """Print what is wrong; the score is the share of right cells."""
    truth, told = read(Path("truth.csv")), read(Path(os.environ["DELIVERED"], "out/inventory.csv"))
    worker = Path(os.environ["DELIVERED"], "out/worker.csv")
    strangers, missing = sorted(told.keys() - truth.keys()), sorted(truth.keys() - told.keys())
    cells = [(name, column) for name in truth for column in truth[name]]
    wrong = [
        (name, column)
        for name, column in cells
        if name not in told or not same(column, told[name].get(column) or "", truth[name][column])
    ]
    score = 1 - len(wrong) / len(cells)
    print(f"{len(told)} packages, {len(cells) - len(wrong)} of {len(cells)} cells are right")
    for name, column in wrong[:10]:
        print(f"wrong: {column} of {name}")
    if worker.is_file():
        print(of_worker(worker, truth))
    print(*(f"no such package: {name[:40]}" for name in strangers[:5]), sep="\n")
    with open(3, "w", encoding="utf-8") as report:
        json.dump({"score": round(score, 4)}, report)
    return 0 if score >= LEAST and not missing and not strangers else 1


if __name__ == "__main__":
    sys.exit(main())
