"""The share of dates that are right."""

import os

truth = open("truth.csv").read().split()
try:
    made = open(os.environ["DELIVERED"] + "/out/dates.csv").read().split()
except OSError:
    made = []
right = sum(a == b for a, b in zip(made, truth, strict=False))
with os.fdopen(3, "w") as score:
    score.write('{"score": %.3f}' % (right / len(truth)))
