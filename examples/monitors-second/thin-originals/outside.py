"""Nothing that answers: it makes the scans, and what an earlier build has left, so that the repository need not hold them."""

import random
import time
from pathlib import Path

made = random.Random(7)
for folder, count, size in (("scans", 8, 1_000_000), ("build", 6, 900_000)):
    Path(folder).mkdir(exist_ok=True)
    for number in range(count):
        suffix = "raw" if folder == "scans" else "old.o"
        Path(folder, f"scan-{number:02}.{suffix}").write_bytes(made.randbytes(size))
print("ready", flush=True)
time.sleep(3600)
