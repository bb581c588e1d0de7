"""Parquet for `gear map` inside the box, by what the box's Python has: pyarrow or duckdb.

A row is a line of JSON. What JSON has no word for is text (times, decimals), base64 (bytes) or null (numbers that are not finite).
"""

from __future__ import annotations

import base64
import importlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

TOGETHER = 1024
"""Rows that are held at a time."""
COLUMNS = {
    "item": "BIGINT",
    "shard": "VARCHAR",
    "prompt": "VARCHAR",
    "attempts": "BIGINT",
    "nano_usd": "BIGINT",
    "found": "BOOLEAN",
    "answer": "VARCHAR",
}
"""Of a map's results; `answer` is JSON text."""
MISSING = (
    "pyarrow or duckdb must be in the box's Python: install one on the host below /usr (Debian: python3-pyarrow), or let the operator \
show a folder that holds it ([files] see) and set PYTHONPATH to it"
)


class NoTables(Exception):
    """Neither library is there, or the file is none; says so."""


def library() -> str:
    """The one that is used. Raises NoTables."""
    for name in ("pyarrow", "duckdb"):
        try:
            importlib.import_module(f"{name}.parquet" if name == "pyarrow" else name)
        except ImportError:
            continue
        return name
    raise NoTables(MISSING)


def shards(path: str, count: int | None, most: int) -> Iterator[tuple[str, bytes, str]]:
    """So many rows each, or a row group each: where they are, lines of JSON, or why they cannot be read. Raises NoTables."""
    read = _read_arrow if library() == "pyarrow" else _read_duck
    try:
        sizes, rows = read(path)
        yield from _grouped(path, iter(sizes) if count is None else None, count or 0, rows, most)
    except NoTables:
        raise
    except Exception as error:  # each library has exceptions of its own for what is no Parquet
        raise NoTables(f"{path} cannot be read as Parquet: {str(error)[:300]}") from None


def _grouped(
    path: str, sizes: Iterator[int] | None, count: int, rows: Iterator[dict[str, Any]], most: int
) -> Iterator[tuple[str, bytes, str]]:
    group: list[bytes] = []
    size = number = begin = 0
    wanted = next(sizes, 0) if sizes else count
    for row in rows:
        line = json.dumps(plain(row), ensure_ascii=False).encode("utf-8", "replace") if size <= most else b""
        number += 1
        size += len(line) + 1
        group.append(line if size <= most else b"")
        while sizes and not wanted:
            wanted = next(sizes, 1)
        if number - begin == wanted:
            yield _shard(path, begin, number, group, size, most)
            group, size, begin = [], 0, number
            wanted = next(sizes, 0) if sizes else count
    if group:
        yield _shard(path, begin, number, group, size, most)


def _shard(path: str, begin: int, end: int, group: list[bytes], size: int, most: int) -> tuple[str, bytes, str]:
    name = f"{path}:{begin + 1}" if end == begin + 1 else f"{path}:{begin + 1}-{end}"
    return (
        (name, b"", f"it is over {most} bytes: --split records:N makes it smaller")
        if size > most
        else (name, b"\n".join(group), "")
    )


def _read_arrow(path: str) -> tuple[list[int], Iterator[dict[str, Any]]]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    file = parquet.ParquetFile(path)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    return sizes, (row for batch in file.iter_batches(batch_size=TOGETHER) for row in batch.to_pylist())


def _read_duck(path: str) -> tuple[list[int], Iterator[dict[str, Any]]]:
    duckdb: Any = importlib.import_module("duckdb")
    connection = duckdb.connect()
    question = "SELECT any_value(row_group_num_rows) FROM parquet_metadata(?) GROUP BY row_group_id ORDER BY row_group_id"
    sizes = [row[0] for row in connection.execute(question, [path]).fetchall()]

    def rows() -> Iterator[dict[str, Any]]:
        answer = connection.execute("SELECT * FROM read_parquet(?)", [path])
        names = [column[0] for column in answer.description]
        while some := answer.fetchmany(TOGETHER):
            yield from (dict(zip(names, row)) for row in some)  # noqa: B905 (the box's Python may be 3.8)

    return sizes, rows()


def plain(value: Any) -> Any:
    """The same in what JSON can hold."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in cast("list[Any]", value)]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def write(lines: Path, target: Path) -> None:
    """Make a Parquet file of a map's results, in their order, in one step. Raises NoTables."""
    new = target.with_name(target.name + ".new")
    (_write_arrow if library() == "pyarrow" else _write_duck)(lines, new)
    new.replace(target)


def _results(lines: Path) -> Iterator[tuple[Any, ...]]:
    with lines.open("rb") as file:
        for line in file:
            told = json.loads(line)
            told["answer"] = json.dumps(told["answer"], ensure_ascii=False)
            yield tuple(told[name] for name in COLUMNS)


def _write_arrow(lines: Path, target: Path) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    kinds = {"BIGINT": arrow.int64(), "VARCHAR": arrow.string(), "BOOLEAN": arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    with parquet.ParquetWriter(target, schema) as writer:
        for rows in _some(_results(lines)):
            columns = [arrow.array([row[at] for row in rows], type=one.type) for at, one in enumerate(schema)]
            writer.write_table(arrow.table(columns, schema=schema))


def _write_duck(lines: Path, target: Path) -> None:
    duckdb: Any = importlib.import_module("duckdb")
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE results ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
    for rows in _some(_results(lines)):
        connection.executemany(f"INSERT INTO results VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    place = str(target).replace("'", "''")
    connection.execute(f"COPY (SELECT * FROM results ORDER BY item) TO '{place}' (FORMAT parquet)")


def _some(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while together := list(itertools.islice(rows, TOGETHER)):
        yield together
