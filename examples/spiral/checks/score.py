"""Compare a report with the truth, row by row. The score is the share of right rows among those that are, or are told; all must be."""

import csv
import json
import os
import sys
from pathlib import Path

COLUMNS = ["month", "region", "revenue"]


def read(path: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """The header and the rows."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = [tuple(row) for row in csv.reader(file)] or [()]
        return list(header), rows


def main() -> int:
    """Say how much is right, and leave the score where the box reads it."""
    _, truth = read(Path("truth.csv"))
    delivered = Path(os.environ["DELIVERED"], "out/report.csv")
    header, told = read(delivered) if delivered.is_file() else ([], [])
    right = len(set(truth) & set(told)) if header == COLUMNS else 0
    score = right / len(set(truth) | set(told))
    print(f"{right} of {len(truth)} rows are right" if header == COLUMNS else f"the columns are {header} and must be {COLUMNS}")
    with open(3, "w", encoding="utf-8") as report:
        json.dump({"score": round(score, 4)}, report)
    return 0 if told == truth else 1


if __name__ == "__main__":
    sys.exit(main())
