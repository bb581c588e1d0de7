"""Count rows by a column."""

import collections
import csv
import sys

with open(sys.argv[1]) as file:
    counted = collections.Counter(row[sys.argv[2]] for row in csv.DictReader(file))
for value, count in counted.most_common():
    print(f"{value},{count}")
