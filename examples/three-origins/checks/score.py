"""Compare an inventory with the truth, cell by cell. Passes at 0.98 of the cells of all machines that are, or are told."""

import csv
import json
import os
import sys
from pathlib import Path

COLUMNS = ["asset", "host", "site", "ram", "cores", "bought", "owner"]
LEAST = 0.98


def read(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The header, and the rows by asset."""
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return list(table.fieldnames or ()), {row["asset"]: row for row in table}


def main() -> int:
    """Say how much is right, and leave the score where the box reads it."""
    _, truth = read(Path("truth.csv"))
    header, told = read(Path(os.environ["DELIVERED"], "out/inventory.csv"))
    if header != COLUMNS:
        print(f"the columns are {header} and must be {COLUMNS}")
        return 1
    right = sum(told.get(asset, {}).get(name) == row[name] for asset, row in truth.items() for name in COLUMNS)
    cells = len(COLUMNS) * (len(truth) + len(told.keys() - truth.keys()))
    print(f"{right} of {cells} cells are right")
    with open(3, "w", encoding="utf-8") as report:
        json.dump({"score": round(right / cells, 4)}, report)
    return 0 if right / cells >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
