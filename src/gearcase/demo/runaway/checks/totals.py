"""Compare out/totals.csv with the truth: the share of months and regions that are right is the score."""

import csv
import json
import os
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path


def table(path: str) -> dict[tuple[str, str], Decimal]:
    """The totals by month and region."""
    with Path(path).open(newline="") as file:
        return {(row["month"], row["region"]): Decimal(row["total"]) for row in csv.DictReader(file)}


truth = table("truth.csv")
try:
    made = table("out/totals.csv")
except (OSError, KeyError, TypeError, ValueError, InvalidOperation, csv.Error) as error:
    print(f"out/totals.csv cannot be read: {type(error).__name__}: {error}")
    os.write(3, json.dumps({"score": 0.0}).encode())
    sys.exit(1)
right = sum(made.get(key) == total for key, total in truth.items())
print(f"{right} of {len(truth)} totals are right, {len(set(made) - set(truth))} rows should not be there")
os.write(3, json.dumps({"score": right / len(truth)}).encode())
sys.exit(0 if right == len(truth) == len(made) else 1)
