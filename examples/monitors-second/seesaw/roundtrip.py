import sys

from decode import decode
from encode import encode

rows = open("rows.txt").read().split("\n")
for first in rows:
    for second in rows:
        line = encode([first, second])
        if decode(line) != [first, second]:
            sys.exit(f"AssertionError: {[first, second]} became {decode(line)} by way of {line!r}")
print("all", len(rows) ** 2, "round trips are right")
