"""Parquet in a map: rows and row groups as lines of JSON, results as a table, by either library."""

import datetime
import decimal
import importlib.util
import json
import sys
from pathlib import Path

import duckdb
import pyarrow
import pyarrow.parquet
import pytest

INBOX = Path(__file__).parents[2] / "src/gearcase/inbox"


def load():
    spec = importlib.util.spec_from_file_location("geartables", INBOX / "geartables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["pyarrow", "duckdb", "none"])
def tables(request, monkeypatch):
    module = load()
    if request.param != "pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    if request.param == "none":
        monkeypatch.setitem(sys.modules, "duckdb", None)
    return module


@pytest.fixture
def table(tmp_path):
    rows = [{"n": n, "text": f"zeile {n} ä"} for n in range(25)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=10)
    return str(tmp_path / "t.parquet")


def has_library(tables):
    try:
        return bool(tables.library())
    except tables.NoTables as error:
        assert "pyarrow or duckdb" in str(error)
        return False


def test_rows_come_in_groups_as_they_are_asked_for(tables, table):
    if not has_library(tables):
        return
    groups = list(tables.shards(table, None, 100_000))
    assert [name.rpartition(":")[2] for name, _, _ in groups] == ["1-10", "11-20", "21-25"]
    assert [json.loads(line)["n"] for _, data, _ in groups for line in data.splitlines()] == list(range(25))
    records = list(tables.shards(table, 7, 100_000))
    assert [len(data.splitlines()) for _, data, _ in records] == [7, 7, 7, 4]
    assert json.loads(records[0][1].splitlines()[3]) == {"n": 3, "text": "zeile 3 ä"}


def test_a_group_that_is_too_long_is_told_and_the_next_is_not(tables, table):
    if not has_library(tables):
        return
    groups = list(tables.shards(table, None, 200))
    assert [bool(why) for _, _, why in groups] == [True, True, False]
    assert "records:N" in groups[0][2] and groups[0][1] == b""


def test_what_is_no_table_is_told(tables, tmp_path):
    if not has_library(tables):
        return
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(tables.NoTables, match="cannot be read as Parquet"):
        list(tables.shards(str(tmp_path / "x.parquet"), 1, 100))


def test_what_json_has_no_word_for_is_text(tables):
    odd = {"t": datetime.datetime(2026, 1, 2), "d": decimal.Decimal("1.50"), "b": b"\xff", "n": float("nan"), "l": [{"x": 1}]}
    assert tables.plain(odd) == {"t": "2026-01-02T00:00:00", "d": "1.50", "b": "/w==", "n": None, "l": [{"x": 1}]}


def test_results_are_a_table_in_their_order_with_where_they_came_from(tables, tmp_path):
    if not has_library(tables):
        return
    told = {"shard": "a:1", "attempts": 1, "nano_usd": 7, "found": False, "prompt": "p", "answer": {"x": "ä"}}
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"item": n, **told}) + "\n" for n in range(2500)))
    tables.write(tmp_path / "r.jsonl", tmp_path / "it's.parquet")
    rows = duckdb.execute("SELECT * FROM read_parquet(?)", [str(tmp_path / "it's.parquet")]).fetchall()
    assert [row[0] for row in rows] == list(range(2500))
    assert rows[0] == (0, "a:1", "p", 1, 7, False, '{"x": "ä"}')


def test_results_of_a_map_without_an_answer_are_an_empty_table(tables, tmp_path):
    if has_library(tables):
        (tmp_path / "r.jsonl").write_text("")
        tables.write(tmp_path / "r.jsonl", tmp_path / "r.parquet")
        assert (tmp_path / "r.parquet").stat().st_size > 0
