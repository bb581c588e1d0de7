"""The share of rows at their place."""

import os

GRAMS = {"kg": 1000, "g": 1, "lb": 453.592}
rows = [line.strip().split(",") for line in open("items.csv")]
truth = sorted((float(w) * GRAMS[u], n) for n, w, u in rows if w != "?")
try:
    made = [line.split(",")[0].strip() for line in open(os.environ["DELIVERED"] + "/out/sorted.csv")]
except OSError:
    made = []
right = sum(a == b for a, (_, b) in zip(made, truth, strict=False)) if len(made) <= len(truth) else 0
with os.fdopen(3, "w") as score:
    score.write('{"score": %.3f}' % (right / len(truth)))
