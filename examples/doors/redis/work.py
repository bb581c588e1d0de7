"""Count the visits of each page in Redis, beside those of earlier runs."""

import csv
import os
from pathlib import Path

import redis

counts = redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
with open("visits.csv") as file:
    for row in csv.DictReader(file):
        counts.zincrby("visits", 1, row["page"])

Path("out").mkdir(exist_ok=True)
with open("out/pages.csv", "w") as file:
    for page, visits in counts.zrevrange("visits", 0, -1, withscores=True):
        file.write(f"{page},{visits:g}\n")
