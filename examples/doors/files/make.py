"""Make app.sqlite: some orders, the last of which stand in the write-ahead log alone, as in any program that runs."""

import sqlite3
import time

db = sqlite3.connect("app.sqlite", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS orders (shop TEXT, amount INT)")
db.executemany("INSERT INTO orders VALUES (?, ?)", [("north", 10), ("north", 5), ("south", 20)])
print("app.sqlite is open; end it with Ctrl-C", flush=True)
time.sleep(600)
