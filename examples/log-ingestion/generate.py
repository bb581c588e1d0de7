"""Invented lines of three invented formats, and what is right about them: `python3 generate.py OUT --seed 7`.

They need no data of others, so that a recorded run over them can be kept. OUT/truth.jsonl is for `score.py` alone, never for the box.
"""

import argparse
import json
import random
from pathlib import Path

DAYS, MONTHS = ("Mon", "Tue", "Wed", "Thu", "Fri"), ("Feb", "Mar", "Apr", "Sep")
NAMES = ("ada", "bruno", "chloe", "dmitri", "esra", "root")


def address(chance: random.Random) -> str:
    """An address that is nobody's."""
    return ".".join(["10", *(str(chance.randint(1, 254)) for _ in range(3))])


def clock(chance: random.Random) -> str:
    """A time of day."""
    return f"{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}"


def fill(chance: random.Random, template: str) -> str:
    """A message: {n} is a number, {a} an address, {u} a name, {p} a path."""
    for mark, make in {
        "{n}": lambda: str(chance.randint(2, 99999)),
        "{a}": lambda: address(chance),
        "{u}": lambda: chance.choice(NAMES),
        "{p}": lambda: f"/srv/{chance.choice(('site', 'shop', 'blog'))}/{chance.randint(1, 9)}.conf",
    }.items():
        while mark in template:
            template = template.replace(mark, make(), 1)
    return template


def server(chance: random.Random) -> dict[str, str]:
    """`[Tue Mar 02 08:15:00 2031] [warn] message`: no component."""
    template = chance.choice(
        [
            "pool closed worker {n} in queue {n}",
            "config read ok {p}",
            "proxy lost backend {a} after {n} tries",
            "cache holds {n} pages",
        ]
    )
    time = f"{chance.choice(DAYS)} {chance.choice(MONTHS)} {chance.randint(1, 28):02} {clock(chance)} 2031"
    level, message = chance.choice(("notice", "warn", "error")), fill(chance, template)
    return told(f"[{time}] [{level}] {message}", time, level, "", message, template)


def storage(chance: random.Random) -> dict[str, str]:
    """`310302 081500 44 INFO store.Part: message`: a process between time and level."""
    component, template = chance.choice(
        [
            ("store.Node$Writer", "Wrote chunk {n} of size {n} to /{a}"),
            ("store.Node$Reader", "Served chunk {n} to /{a}"),
            ("store.Index", "Dropping entry {n} from table {n}"),
        ]
    )
    time = f"31{chance.randint(1, 12):02}{chance.randint(1, 28):02} {clock(chance).replace(':', '')}"
    level, message = chance.choice(("INFO", "INFO", "WARN")), fill(chance, template)
    return told(f"{time} {chance.randint(10, 9999)} {level} {component}: {message}", time, level, component, message, template)


def logins(chance: random.Random) -> dict[str, str]:
    """`Mar 02 08:15:00 gate1 logind[771]: message`: no level."""
    template = chance.choice(
        [
            "Rejected user {u} from {a}",
            "Accepted key for {u} from {a} port {n}",
            "Session closed for {u}",
            "Timeout before login of {a}",
        ]
    )
    time = f"{chance.choice(MONTHS)} {chance.randint(1, 28):02} {clock(chance)}"
    message = fill(chance, template)
    return told(f"{time} gate1 logind[{chance.randint(100, 9999)}]: {message}", time, "", "logind", message, template)


def told(line: str, time: str, level: str, component: str, message: str, template: str) -> dict[str, str]:
    """A line and its fields."""
    for mark in ("{n}", "{a}", "{u}", "{p}"):
        template = template.replace(mark, "<*>")
    return {
        "line": line,
        "time": time,
        "level": level,
        "component": component,
        "message": message,
        "template": template.replace("/<*>", "<*>"),
    }


def main() -> None:
    """Write OUT/lines.log, OUT/held-out.log and OUT/truth.jsonl."""
    options = argparse.ArgumentParser()
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--lines", type=int, default=14, help="of each format, to map")
    options.add_argument("--held-out", type=int, default=3, help="of each format")
    given = options.parse_args()
    chance = random.Random(given.seed)
    files: dict[str, list[dict[str, str]]] = {"lines.log": [], "held-out.log": []}
    for make in (server, storage, logins):
        files["lines.log"] += [make(chance) for _ in range(given.lines)]
        files["held-out.log"] += [make(chance) for _ in range(given.held_out)]
    given.out.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        chance.shuffle(lines)
        (given.out / name).write_text("".join(f"{one['line']}\n" for one in lines))
    whole = [one for lines in files.values() for one in lines]
    (given.out / "truth.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in whole))


if __name__ == "__main__":
    main()
