"""Accuracy against the truth: `python3 score.py TRUTH LINES RESULTS...`. Who repairs a prompt never sees what this reads.

TRUTH is the folder of logs with their `*_structured.csv`, or what `generate.py` wrote.

A field is right where it is the truth's but for spaces. A line without an answer has none right.
"""

import argparse
import csv
import json
from pathlib import Path

FIELDS = ("time", "level", "component", "message", "template")


def truth(logs: Path) -> dict[str, dict[str, str]]:
    """The fields of every line."""
    if logs.is_file():
        return {(row := json.loads(line))["line"]: row for line in logs.read_text().splitlines()}
    found = {}
    for file in sorted(logs.glob("*/*_2k.log")):
        with file.with_name(f"{file.name}_structured.csv").open(newline="", encoding="utf-8") as table:
            for line, row in zip(file.read_text().splitlines(), csv.DictReader(table), strict=True):
                time = [row.get(name) or "" for name in ("Date", "Day", "Time")]
                found[line.strip()] = {
                    "time": " ".join(part for part in time if part),
                    "level": row.get("Level") or "",
                    "component": row.get("Component") or "",
                    "message": row["Content"],
                    "template": row["EventTemplate"],
                }
    return found


def same(left: str, right: str) -> bool:
    """Equal but for spaces."""
    return "".join(left.split()) == "".join(right.split())


def score(lines: list[str], results: Path, known: dict[str, dict[str, str]]) -> dict[str, float]:
    """The share of right fields, whole and by field."""
    answers = {}
    for row in results.read_text().splitlines():
        told = json.loads(row)
        answers[told["item"]] = told["answer"]
    right = dict.fromkeys(FIELDS, 0)
    for number, line in enumerate(lines):
        for name in FIELDS:
            right[name] += number in answers and same(answers[number][name], known[line.strip()][name])
    shares = {name: right[name] / len(lines) for name in FIELDS}
    return {"all": sum(shares.values()) / len(FIELDS), "answered": len(answers) / len(lines), **shares}


def main() -> None:
    """Print a line for each file of results."""
    options = argparse.ArgumentParser()
    options.add_argument("truth", type=Path)
    options.add_argument("lines", type=Path)
    options.add_argument("results", type=Path, nargs="+")
    given = options.parse_args()
    known = truth(given.truth)
    lines = [line for line in given.lines.read_text().splitlines() if line.strip()]
    for file in given.results:
        shares = score(lines, file, known)
        print(file, *(f"{name} {share:.1%}" for name, share in shares.items()), sep="  ")


if __name__ == "__main__":
    main()
