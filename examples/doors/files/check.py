"""Whether the database that is delivered holds the right sums. It is read as a copy: opening one may write beside it."""

import os
import shutil
import sqlite3
import sys
from pathlib import Path

for file in Path(os.environ["DELIVERED"]).glob("app.sqlite*"):
    shutil.copy(file, ".")
db = sqlite3.connect("app.sqlite")
sums = dict(db.execute("SELECT shop, sum(amount) FROM orders GROUP BY 1"))
sys.exit(dict(db.execute("SELECT shop, amount FROM totals")) != sums)
