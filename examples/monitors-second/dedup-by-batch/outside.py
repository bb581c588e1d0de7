"""Nothing that answers: it makes a stopped cluster of PostgreSQL, of which the box gets a branch."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cluster import make

make("""

CREATE TABLE public.orders (id int PRIMARY KEY, customer text NOT NULL, day date NOT NULL, total numeric NOT NULL);

INSERT INTO public.orders SELECT n, 'customer ' || n % 40, date '2022-07-01' + n % 1200, n % 90 FROM generate_series(1, 3000) n;

CREATE TABLE public.legacy_orders AS
    SELECT 90000 + n AS old_id, 'customer ' || n % 40 AS customer, date '2024-01-01' + n % 300 AS day, n % 70 AS total
    FROM generate_series(1, 400) n;

CREATE TABLE public.archive_2023 AS SELECT * FROM public.orders WHERE day < '2024-01-01';
""")
print("ready", flush=True)
time.sleep(3600)
