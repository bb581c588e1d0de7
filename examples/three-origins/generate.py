"""An inventory in three undocumented origins, and what is right about it: `python3 generate.py OUT --seed 7`.

OUT/data is what an agent gets: exports of a tool (JSON), a spreadsheet (CSV), and hosts of a configuration system (INI), which overlap
and disagree. OUT/truth.csv and OUT/owners.json are for the check and for `serve.py` alone, never for the box.
"""

import argparse
import csv
import datetime
import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SITES = {"Lisbon": "LIS1", "Berlin": "BER1", "Oslo": "OSL2", "Turin": "TRN1"}
OWNERS = ("ada", "bruno", "chloe", "dmitri", "esra", "farid")
KINDS = ("web", "db", "cache", "build", "mail")


@dataclass(frozen=True)
class Machine:
    """What is right about one machine. `asset` is what all origins know it by; `ram` is GiB."""

    asset: int
    host: str
    site: str
    ram: int
    cores: int
    bought: datetime.date


def machines(chance: random.Random, count: int) -> list[Machine]:
    """So many, no two with one number or name."""
    numbers = sorted(chance.sample(range(3, 999), count))
    found = []
    for at, number in enumerate(numbers):
        site = chance.choice(list(SITES))
        host = f"{chance.choice(KINDS)}{at:02}"
        bought = datetime.date(2017, 1, 1) + datetime.timedelta(days=chance.randrange(2900))
        found.append(Machine(number, host, site, chance.choice((8, 16, 32, 64, 128)), chance.choice((2, 4, 8, 16, 32)), bought))
    return found


def as_json(chance: random.Random, some: list[Machine], out: Path) -> None:
    """Exports of two versions of a tool: one nests and counts in MiB, one is flat, a line each, with a line that was cut."""
    half = len(some) // 2
    old = [
        {
            "AssetTag": f"GC-{one.asset:04}",
            "system": {"fqdn": f"{one.host}.{SITES[one.site].lower()}.example.net".upper(), "memory_mb": one.ram * 1024},
            "cpu": {"sockets": 2, "cores_per_socket": one.cores // 2},
            "location": {"name": one.site, "code": SITES[one.site]},
            "purchased": int(
                datetime.datetime(one.bought.year, one.bought.month, one.bought.day, 12, tzinfo=datetime.UTC).timestamp()
            ),
            "exported": "2025-11-02",
        }
        for one in some[:half]
    ]
    (out / "export-v1.json").write_text("\ufeff" + json.dumps({"count": len(old), "items": old}, indent=1), encoding="utf-8")
    lines = [
        json.dumps(
            {
                "asset": one.asset,
                "name": one.host,
                "dc": SITES[one.site],
                "ram": f"{one.ram} GB",
                "cores": str(one.cores),
                "bought": one.bought.isoformat() + "T00:00:00Z",
                "ts": "2026-02-14",
            }
        )
        for one in some[half:]
    ]
    lines.insert(len(lines) // 2, lines[0][: len(lines[0]) // 2])  # a line that was cut; it comes whole elsewhere
    lines.append(lines[3])
    chance.shuffle(lines)
    (out / "export-v2.json").write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_csv(chance: random.Random, some: list[Machine], out: Path) -> None:
    """A spreadsheet in an old encoding, with lines above its header, notes of two lines, and a sum below."""
    with (out / "Bestand Rechner.csv").open("w", newline="", encoding="cp1252") as file:
        file.write("Übersicht Rechner;;;;;;\nStand: 05.01.2026;;;;;;\n;;;;;;\n")
        table = csv.writer(file, delimiter=";", lineterminator="\r\n")
        table.writerow(["Inventarnr.", "Rechner", "Ort", "Speicher", "Kerne", "gekauft am", "Bemerkung"])
        for one in some:
            note = chance.choice(("", "geprüft", "Lüfter laut;\nsiehe Ticket", 'sagt "ok"'))
            ram = f"{one.ram},0 GiB" if chance.random() < 0.5 else f"{one.ram * 1024} MiB"
            site = chance.choice((one.site, SITES[one.site], f" {one.site.lower()} "))
            table.writerow(
                [f"gc {one.asset}", one.host.capitalize(), site, ram, one.cores, one.bought.strftime("%d.%m.%Y"), note]
            )
        table.writerow([f"Summe: {len(some)}", "", "", "", "", "", ""])


def as_ini(chance: random.Random, some: list[Machine], out: Path) -> None:
    """A file per place, a section per host, defaults above; the memory is what the kernel sees, a little less than was bought."""
    by_site: dict[str, list[Machine]] = {}
    for one in some:
        by_site.setdefault(one.site, []).append(one)
    for site, here in by_site.items():
        common = chance.choice((4, 8))
        text = [
            f"; written by confsync 2025-08-20, {SITES[site]}",
            "[DEFAULT]",
            f"cores = {common}",
            f"rack = {SITES[site]}-R01",
            "",
        ]
        for one in here:
            text += [f"[{one.host}.{SITES[site].lower()}.example.net]", f"asset=GC{one.asset:04}"]
            text.append(f"memtotal_kb = {int(one.ram * 1024 * 1024 * chance.uniform(0.965, 0.99))}   ; /proc/meminfo")
            if one.cores != common:
                text.append(f"cores: {one.cores}")
            if chance.random() < 0.4:
                text.append(f"rack = {SITES[site]}-R{chance.randint(2, 9):02}")
            text += [
                f"bought = {one.bought.day} {one.bought.strftime('%b %Y')}",
                "# role = ???" if chance.random() < 0.2 else "",
                "",
            ]
        (out / f"hosts-{SITES[site].lower()}.ini").write_text("\n".join(text), encoding="utf-8")


def stale(chance: random.Random, one: Machine) -> Machine:
    """What an older origin says of a machine that was changed since."""
    return replace(one, ram=max(8, one.ram // 2)) if one.ram > 8 else one


def main() -> None:
    """Write OUT."""
    options = argparse.ArgumentParser()
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--machines", type=int, default=120)
    given = options.parse_args()
    chance = random.Random(given.seed)
    every = machines(chance, given.machines)
    third = len(every) // 3
    shuffled = chance.sample(every, len(every))
    parts = [shuffled[:third], shuffled[third : 2 * third], shuffled[2 * third :]]
    for name, write, part, older in (
        ("tool", as_json, parts[0], []),
        ("sheet", as_csv, parts[1], []),
        ("conf", as_ini, parts[2], parts[1]),
    ):
        folder = given.out / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        write(chance, [*part, *(stale(chance, one) for one in older[:12])], folder)
    owners = {f"GC-{one.asset:04}": chance.choice(OWNERS) for one in every if chance.random() < 0.9}
    (given.out / "owners.json").write_text(json.dumps(owners, indent=1))
    with (given.out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["asset", "host", "site", "ram", "cores", "bought", "owner"], lineterminator="\n")
        table.writeheader()
        for one in every:
            tag = f"GC-{one.asset:04}"
            table.writerow({**asdict(one), "asset": tag, "owner": owners.get(tag, "")})


if __name__ == "__main__":
    main()
