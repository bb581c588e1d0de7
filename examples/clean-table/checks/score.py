"""Compare a repaired table with the truth, cell by cell. Passes at F1 >= 0.90 and precision >= 0.93.

precision: of the cells that were changed, how many are now right.  recall: of the wrong cells, how many are now right.
"""

import csv
import json
import os
import sys
from pathlib import Path

LEAST_F1, LEAST_PRECISION = 0.90, 0.93


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> int:
    before = read(Path("hospital.csv"))
    after = read(Path(os.environ["DELIVERED"], "out/repaired.csv"))
    if len(after) != len(before) or (after and list(after[0]) != list(before[0])):
        print(f"the table has {len(after)} rows and must have {len(before)}, with the same header")
        return 1
    changed = wrong = right = 0
    for cell in read(Path("hospital_clean.csv")):
        row, column, truth = int(cell["tid"]), cell["attribute"], cell["correct_val"]
        was, now = before[row][column], after[row][column]
        changed += now != was
        wrong += was != truth
        right += now == truth and was != truth
    precision, recall = right / max(changed, 1), right / max(wrong, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    print(f"changed {changed} cells, wrong were {wrong}: precision {precision:.4f}, recall {recall:.4f}, F1 {f1:.4f}")
    with open(3, "w", encoding="utf-8") as report:
        json.dump({"score": round(f1, 4)}, report)
    return 0 if f1 >= LEAST_F1 and precision >= LEAST_PRECISION else 1


if __name__ == "__main__":
    sys.exit(main())
