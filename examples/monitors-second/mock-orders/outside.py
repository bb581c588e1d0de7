"""Nothing that answers: it makes a stopped cluster of PostgreSQL, of which the box gets a branch."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cluster import make

make("""

CREATE TABLE public.orders (id int PRIMARY KEY, customer text NOT NULL, day date NOT NULL, total numeric NOT NULL);

INSERT INTO public.orders SELECT n, 'customer ' || n % 40, date '2025-01-01' + n % 365, n % 90 FROM generate_series(1, 2000) n;
""")
print("ready", flush=True)
time.sleep(3600)
