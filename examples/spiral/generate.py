"""A shop's orders with what only real data has, and what is right about them: `python3 generate.py OUT --seed 7`.

OUT/orders.sql makes the live database. OUT/truth.csv is for the check alone, never for the box: it is worked out here from what was
made up, not by a query.
"""

import argparse
import csv
import datetime
import random
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

REGIONS = ("north", "south", "east", "west")
FIRST, DAYS = datetime.date(2025, 9, 1), 242
ORDERS = 1200

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, territory text);
CREATE TABLE orders (
  id bigserial PRIMARY KEY, order_no text NOT NULL, customer_id int NOT NULL REFERENCES customers, region text,
  placed_on date NOT NULL, total_cents bigint NOT NULL, imported_at timestamptz NOT NULL
);
CREATE TABLE refunds (id bigserial PRIMARY KEY, order_no text NOT NULL, refunded_on date NOT NULL, amount_cents bigint NOT NULL);
COMMENT ON COLUMN orders.order_no IS 'the nightly import may bring an order a second time, under the same number';
COMMENT ON COLUMN refunds.amount_cents IS 'negative, as the ledger books it';
"""


def quoted(value: object) -> str:
    """A value in SQL; none of ours holds a quote."""
    return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"


def inserts(table: str, columns: str, rows: list[tuple[object, ...]]) -> str:
    """One statement for all rows."""
    values = ",\n".join(f"({', '.join(map(quoted, row))})" for row in rows)
    return f"INSERT INTO {table} ({columns}) VALUES\n{values};\n"


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    chance = random.Random(told.seed)
    net: defaultdict[tuple[str, str], int] = defaultdict(int)
    customers: list[tuple[object, ...]] = [(n, f"customer {n}", chance.choice(REGIONS)) for n in range(1, 151)]
    orders: list[tuple[object, ...]] = []
    refunds: list[tuple[object, ...]] = []
    for number in range(ORDERS):
        name, day = f"W-{100000 + number}", FIRST + datetime.timedelta(days=chance.randrange(DAYS))
        region = chance.choice(REGIONS) if chance.random() > 0.06 else None
        cents, customer = chance.randrange(900, 60000), chance.randrange(1, 151)
        net[f"{day:%Y-%m}", region or "unassigned"] += cents
        for again in range(2 if chance.random() < 0.05 else 1):
            orders.append((name, customer, region, day, cents, f"{day + datetime.timedelta(days=1 + again)} 02:00:00+00"))
        if chance.random() < 0.08:
            given, back = day + datetime.timedelta(days=chance.randrange(1, 40)), chance.choice((cents, cents // 2))
            net[f"{given:%Y-%m}", region or "unassigned"] -= back
            refunds.append((name, given, -back))
    columns = "order_no, customer_id, region, placed_on, total_cents, imported_at"
    sql = SCHEMA + inserts("customers", "id, name, territory", customers) + inserts("orders", columns, orders)
    sql += inserts("refunds", "order_no, refunded_on, amount_cents", refunds)
    (told.out / "orders.sql").write_text(sql)
    with (told.out / "truth.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        write(("month", "region", "revenue"))
        for (month, region), cents in sorted(net.items()):
            write((month, region, f"{Decimal(cents) / 100:.2f}"))


if __name__ == "__main__":
    main()
