"""How `gear map` splits files into items, and how its output is put in order."""

import ast
import importlib.util
import io
import json
import sys
import tracemalloc
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path(str(resources.files("gearcase.inbox").joinpath("gearmap.py")))
MOST = 256 * 1024


def load():
    spec = importlib.util.spec_from_file_location("gearmap", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gearmap = load()


def split(path, how, most=MOST):
    """(shard without its folder, text or why there is none) of every item."""
    items = list(gearmap.Reader([str(path)], how, most).items())
    assert [item["item"] for item in items] == list(range(len(items)))
    return [(item["shard"].removeprefix(str(path)), item.get("text") or item.get("unreadable")) for item in items]


def test_it_needs_no_more_than_python_3_8_and_the_standard_library():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names


def test_lines_one_by_one_and_together_without_those_that_hold_nothing(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\r\n\n  two\n\nthree")
    assert split(file, "lines:1") == [(":1", "one"), (":3", "  two"), (":5", "three")]
    assert split(file, "lines:2") == [(":1-3", "one\n  two"), (":5", "three")]
    file.write_bytes(b"")
    assert split(file, "lines:1") == []


def test_records_of_csv_keep_the_header_and_their_quoted_line_ends(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b'id,text\r\n1,"two\r\nlines, and ""quotes"""\r\n2,plain\r\n\r\n3,"a\n\nb"')
    assert split(file, "records:1") == [
        (":2-3", 'id,text\n1,"two\r\nlines, and ""quotes"""'),
        (":4", "id,text\n2,plain"),
        (":6-8", 'id,text\n3,"a\n\nb"'),
    ]
    assert [shard for shard, _ in split(file, "records:2")] == [":2-4", ":6-8"]


def test_records_of_json_are_its_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": "x\\ny"}\n{"a": 2}\n')
    assert split(file, "records:1") == [(":1", '{"a": "x\\ny"}'), (":2", '{"a": 2}')]


def test_a_quote_that_never_ends_is_one_item_that_cannot_be_read_and_not_the_memory(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b'a\n1\n"' + (b"x," * 500 + b"\n") * 20_000)
    tracemalloc.start()
    found = split(file, "records:1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == (":2", "a\n1") and "over" in found[1][1] and len(found) == 2
    assert peak < 30_000_000


def test_a_line_of_fifty_megabytes_is_one_item_that_cannot_be_read(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"before\n" + b"x" * 50_000_000 + b"\nafter\n")
    tracemalloc.start()
    found = split(file, "lines:1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(":1", "before"), (":2", f"it is over {MOST} bytes"), (":3", "after")]
    assert peak < 10_000_000


def test_what_is_not_utf_8_says_where(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"good\nba\xffd\n\xc3\xa9\n")
    assert split(file, "lines:1") == [(":1", "good"), (":2", "it is not UTF-8: byte 2 is 0xff"), (":3", "é")]


def test_a_limit_is_met_to_the_byte(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 100 + b"\n" + b"x" * 101 + b"\n" + b"x" * 102 + b"\n" + b"x" * 103)
    assert [len(text) if text.startswith("x") else "over" for _, text in split(file, "lines:1", 100)] == [100, *["over"] * 3]


def test_files_are_items_and_an_empty_one_is_not_lost(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").write_text("")
    assert split(tmp_path / "a", "file") == [("", "text")]
    assert split(tmp_path / "b", "file") == [("", "it is empty")]


@given(text=st.text("aé€😀\n", min_size=1, max_size=200), count=st.integers(16, 40))
def test_pieces_of_bytes_cut_no_character_and_lose_none(text, count, tmp_path_factory):
    file = tmp_path_factory.mktemp("pieces") / "a"
    file.write_text(text)
    pieces = [text for _, text in split(file, f"bytes:{count}")]
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= count for piece in pieces)


@given(rows=st.lists(st.lists(st.text('a",\n', max_size=6), min_size=2, max_size=2), min_size=1, max_size=8))
def test_records_are_those_of_a_csv_reader(rows):
    import csv

    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    found = list(gearmap.records(io.BytesIO(written.getvalue().encode()), MOST))
    assert [next(csv.reader(io.StringIO(data.decode(), newline=""))) for data, _, _ in found] == rows


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("lines", "none of"),
        ("lines:0", "not a number"),
        ("lines:x", "not a number"),
        ("file:2", "none of"),
        ("pages:1", "none of"),
        ("bytes:3", "16 to"),
        ("bytes:99999999", "16 to"),
    ],
)
def test_a_split_that_makes_no_sense_is_told(tmp_path, how, told):
    (tmp_path / "a").write_text("x")
    with pytest.raises(gearmap.Unusable, match=told):
        gearmap.Reader([str(tmp_path / "a")], how, MOST)


def test_a_path_that_is_no_file_is_told_before_anything_begins(tmp_path):
    for path, told in ((tmp_path / "no", "No such file"), (tmp_path, "is not a file")):
        with pytest.raises(gearmap.Unusable, match=told):
            gearmap.Reader([str(path)], "file", MOST)


@given(st.permutations(range(20)), st.sets(st.integers(0, 19)))
def test_lines_stand_in_the_order_of_their_numbers(tmp_path_factory, order, left_out):
    path = tmp_path_factory.mktemp("ordered") / "deep/results.jsonl"
    out = gearmap.Ordered(path)
    for number in order:
        if number not in left_out:
            out.add(number, {"item": number})
    out.finish(keep_empty=True)
    assert [json.loads(line)["item"] for line in path.read_text().splitlines()] == sorted(set(range(20)) - left_out)
    assert [one.name for one in path.parent.iterdir()] == ["results.jsonl"]


def test_a_canary_is_spread_over_sizes_and_kinds_of_files(tmp_path):
    for name, lines in (("a.log", 900), ("b.csv", 300)):
        (tmp_path / name).write_text("".join("x" * (number // 3 + 1) + "\n" for number in range(lines)))
    reader = gearmap.Reader([str(tmp_path / "a.log"), str(tmp_path / "b.csv")], "lines:1", MOST)
    chosen = sorted(gearmap.choose(gearmap.survey(reader)))
    assert len(chosen) == 20
    logs, tables = [n for n in chosen if n < 900], [n - 900 for n in chosen if n >= 900]
    assert len(logs) == 15 and len(tables) == 5
    assert min(logs) < 60 and max(logs) > 840 and min(tables) < 60 and max(tables) > 240


def test_a_canary_is_a_small_share_and_none_of_what_is_small(tmp_path):
    from array import array

    assert gearmap.choose(array("Q", range(40))) == set()
    assert len(gearmap.choose(array("Q", range(41)))) == 20
    assert len(gearmap.choose(array("Q", [7] * 100_000))) == 1500
