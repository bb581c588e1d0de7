"""`gear map` inside the box: splits files into items, gives them to the gear door, writes what comes back.

The files are the agent's, so they are opened, split and decoded here and nowhere else; the door is given text, in bounded batches. It is
streamed: neither the input nor the output is ever held whole. Nothing is left out silently: what cannot be read (not UTF-8, too long)
is an item too, one that is quarantined with its reason.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

MOST_BATCH = 900_000
"""Bytes of one request to the door, as JSON."""
MOST_PROMPT = 64 * 1024
MOST_ITEM = 256 * 1024
MOST_SHARD = 640 * 1024
"""Bytes of an item for a prompt, and for a command, until the door says it."""
CHUNK = 1024 * 1024
WORKSPACE = "/workspace"
NOT_THERE = ("/tmp/", "/home/", "/dev/shm/")
"""Folders that each sandbox has for itself."""
CANARY = 20
"""Items that are asked about first, at least."""


class Unusable(Exception):
    """The command line makes no sense; says why."""


class Reader:
    """Splits files into items of at most `most` bytes. `split` is lines:N, records:N, file or bytes:N."""

    def __init__(self, paths: list[str], split: str, most: int) -> None:
        kind, _, count = split.partition(":")
        if kind not in ("lines", "records", "rowgroups", "file", "bytes") or (kind in ("file", "rowgroups")) != (not count):
            raise Unusable(f"--split {split} is none of: lines:N, records:N, rowgroups, file, bytes:N")
        if count and (not count.isascii() or not count.isdecimal() or not 0 < int(count) < 2**40):
            raise Unusable(f"--split {split}: {count} is not a number of {kind}")
        for path in paths:
            try:
                regular = stat.S_ISREG(Path(path).stat().st_mode)
            except OSError as error:
                raise Unusable(f"--over {path}: {error.strerror}") from None
            if not regular:
                raise Unusable(f"--over {path} is not a file; name files: --over {path}/*")
            if is_table(path) != (kind == "rowgroups") and kind in ("rowgroups", "lines"):
                raise Unusable(f"--split {split} --over {path}: Parquet is split by records:N or rowgroups, other files are not")
        if kind == "bytes" and not 16 <= int(count) <= most:
            raise Unusable(f"--split {split}: give 16 to {most} bytes")
        self.paths = paths
        self.kind = kind
        self.count = int(count or 1)
        self.most = most

    def items(self) -> Iterator[dict[str, Any]]:
        """Every item: its number, the shard that it is, its text, or why that is unreadable."""
        number = 0
        for path in self.paths:
            with Path(path).open("rb") as file:
                for shard, data, why in self._shards(path, file):
                    yield self._item(number, shard, data, why)
                    number += 1

    def _shards(self, path: str, file: BinaryIO) -> Iterator[tuple[str, bytes, str]]:
        if is_table(path) and self.kind in ("records", "rowgroups"):
            return self._rows(path)
        if self.kind == "file":
            data = file.read(self.most + 1)
            return iter([(path, data, "" if data else "it is empty")])
        if self.kind == "bytes":
            return self._pieces(path, file)
        if self.kind == "records" and path.lower().endswith((".csv", ".tsv")):
            return self._table(path, file)
        return self._grouped(path, ((data.rstrip(b"\r\n"), first, last) for data, first, last in lines(file, self.most)), b"")

    def _rows(self, path: str) -> Iterator[tuple[str, bytes, str]]:
        """Rows of a Parquet file as lines of JSON."""
        tables = importlib.import_module("geartables")
        try:
            yield from tables.shards(path, self.count if self.kind == "records" else None, self.most)
        except tables.NoTables as error:
            raise Unusable(f"--over {path}: {error}") from None

    def _pieces(self, path: str, file: BinaryIO) -> Iterator[tuple[str, bytes, str]]:
        """So many bytes each, but no character is cut in two."""
        at, rest = 0, b""
        while True:
            data = rest + file.read(max(1, self.count - len(rest)))
            if not data:
                return
            cut = len(data) if len(data) < self.count else whole(data)
            piece, rest = data[:cut], data[cut:]
            yield f"{path}@{at}", piece, ""
            at += len(piece)

    def _table(self, path: str, file: BinaryIO) -> Iterator[tuple[str, bytes, str]]:
        """Records of a CSV file, each group below the header. A line end between quotes does not end a record."""
        rows = records(file, self.most)
        header, _, _ = next(rows, (b"", 0, 0))
        if len(header) > self.most:
            return iter([(f"{path}:1", b"", "its header is too long, so none of its records is read")])
        return self._grouped(path, ((data.rstrip(b"\r\n"), first, last) for data, first, last in rows), header.rstrip(b"\r\n"))

    def _grouped(self, path: str, parts: Iterable[tuple[bytes, int, int]], header: bytes) -> Iterator[tuple[str, bytes, str]]:
        """So many together; a part that holds nothing is none."""
        group: list[bytes] = []
        size = begin = end = 0
        for data, first, last in parts:
            if not data.strip():
                continue
            begin, end = begin if group else first, last
            group.append(data if size <= self.most else b"")
            size += len(data)
            if len(group) == self.count:
                yield self._group(path, group, size, begin, end, header)
                group, size = [], 0
        if group:
            yield self._group(path, group, size, begin, end, header)

    def _group(self, path: str, group: list[bytes], size: int, begin: int, end: int, header: bytes) -> tuple[str, bytes, str]:
        shard = f"{path}:{begin}" if begin == end else f"{path}:{begin}-{end}"
        if size > self.most:
            return shard, b"", f"it is over {self.most} bytes"
        return shard, b"\n".join([header, *group] if header else group), ""

    def _item(self, number: int, shard: str, data: bytes, why: str) -> dict[str, Any]:
        shard = shard.encode("utf-8", "replace").decode()
        if len(data) > self.most:
            why = f"it is over {self.most} bytes"
        try:
            text = "" if why else data.decode("utf-8")
        except UnicodeDecodeError as error:
            text, why = "", f"it is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        item = {"item": number, "shard": shard, "text": text}
        if not why and len(data) > MOST_BATCH // 8 and len(json.dumps(item)) > MOST_BATCH:
            why = f"it is over {MOST_BATCH} bytes as JSON"
        return {"item": number, "shard": shard, "unreadable": why} if why else item


def is_table(path: str) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.lower().endswith((".parquet", ".pq"))


def lines(file: BinaryIO, most: int) -> Iterator[tuple[bytes, int, int]]:
    """Lines with their number. One that is over `most` bytes is passed over; as many bytes and one more stand for it."""
    number = 0
    while line := file.readline(most + 2):
        number += 1
        if len(line) == most + 2 and not line.endswith(b"\n"):
            while (more := file.readline(CHUNK)) and not more.endswith(b"\n"):
                pass
            line = b"x" * (most + 1)
        yield line, number, number


def records(file: BinaryIO, most: int) -> Iterator[tuple[bytes, int, int]]:
    """Records of a CSV file with the numbers of their first and last line: they end where the quotes are even."""
    number = begin = 0
    kept, piece, even, inside = bytearray(), b"", True, False
    while more := file.readline(CHUNK):
        piece = more
        if not inside:
            begin = number + 1
        inside = True
        number += piece.endswith(b"\n")
        if len(kept) <= most:
            kept += piece
        if piece.count(b'"') % 2:
            even = not even
        if even and piece.endswith(b"\n"):
            yield bytes(kept), begin, number
            kept, inside = bytearray(), False
    if inside:
        yield bytes(kept), begin, number if piece.endswith(b"\n") else number + 1


def whole(data: bytes) -> int:
    """Where data can be cut so that no character is: at its end, or up to three bytes before."""
    for back in range(1, min(4, len(data)) + 1):
        lead = data[-back]
        if lead >= 0xC0:
            wanted = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return len(data) - back if wanted > back and len(data) > back else len(data)
        if lead < 0x80:
            break
    return len(data)


class Ordered:
    """A file of lines that come in any order and stand in the order of their numbers once it is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.part.open("w+b")
        self.places = array("q")
        self.count = 0

    def add(self, number: int, line: dict[str, Any]) -> None:
        """One line, kept on disk until its turn."""
        if number >= len(self.places):
            self.places.extend([-1]) if number == len(self.places) else self._grow(number)
        self.places[number] = self.file.tell()
        self.file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.count += 1

    def _grow(self, number: int) -> None:
        self.places.frombytes(array("q", [-1]).tobytes() * (number + 1 - len(self.places)))

    def finish(self, *, keep_empty: bool) -> None:
        """Write it in order, in one step; without a line it is left out, or empty."""
        self.file.flush()
        if self.count or keep_empty:
            ordered = self.path.with_name(self.path.name + ".new")
            with ordered.open("wb") as out:
                for place in self.places:
                    if place >= 0:
                        self.file.seek(place)
                        out.write(self.file.readline())
            ordered.replace(self.path)
        elif self.path.exists():
            self.path.unlink()  # of an earlier map
        self.file.close()
        self.part.unlink()


class Output:
    """The folder of a map's output."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        try:
            self.results = Ordered(self.folder / "results.jsonl")
            self.failed = Ordered(self.folder / "quarantine/failed.jsonl")
            self.skipped = Ordered(self.folder / "quarantine/skipped.jsonl")
        except OSError as error:
            raise Unusable(f"--out {folder}: {error}") from None

    def add(self, ending: dict[str, Any], prompt: str) -> None:
        """One item has ended."""
        number = int(ending["item"])
        if ending["state"] == "ok":
            answer = json.loads(ending.pop("answer"))
            del ending["state"]
            self.results.add(number, {**ending, "prompt": ending.get("prompt", prompt), "answer": answer})
        elif ending["state"] == "skipped":
            self.skipped.add(number, {"item": number, "shard": ending["shard"]})
        else:
            self.failed.add(number, {**ending, "prompt": ending.get("prompt", prompt)})

    def finish(self, account: dict[str, Any], tables: Any = None) -> None:
        """Put everything in its place; the account is the last. With `tables` the results are a Parquet file."""
        self.results.finish(keep_empty=True)
        table = self.folder / "results.parquet"
        if tables is not None:
            tables.write(self.results.path, table)
            self.results.path.unlink()
        else:
            table.unlink(missing_ok=True)  # of an earlier map
        self.failed.finish(keep_empty=False)
        self.skipped.finish(keep_empty=False)
        quarantine = self.folder / "quarantine"
        if not any(quarantine.iterdir()):
            quarantine.rmdir()
        new = self.folder / "account.json.new"
        new.write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
        new.replace(self.folder / "account.json")


def run(options: Any, schema: Any, call: Callable[[str, dict[str, Any]], dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """The whole map; returns its account and the exit status. Raises Unusable, and what `call` raises."""
    asked = work_of(options, schema)
    tables: Any = importlib.import_module("geartables") if options.format == "parquet" else None
    if tables is not None:
        try:
            tables.library()  # before anything is paid for
        except tables.NoTables as error:
            raise Unusable(f"--format parquet: {error}") from None
    reader = Reader(options.over, options.split, MOST_SHARD if options.run else MOST_ITEM)
    sizes = survey(reader)
    expected = len(sizes)
    canary = choose(sizes) if options.canary else cast("set[int]", set())
    bounds = {"expected": expected, "max_failure_rate": options.max_failure_rate, "split": options.split}
    bounds |= {"repair": options.repair, "repair_model": options.repair_model, "optimizer": options.optimizer}
    bounds["named"] = [name for name in (options.prompt, *options.over) if name][:100]
    begun = call("map", {**asked, **bounds})
    reader.most = int(begun["most_item"])
    output = Output(options.out)
    if canary:
        feed((item for item in reader.items() if item["item"] in canary), begun, output, call, gate=True)
    answer = feed((item for item in reader.items() if item["item"] not in canary), begun, output, call)
    account = {**account_of(begun, answer, expected), "out": options.out, "results": "results.jsonl"}
    if tables is not None:
        account["results"] = "results.parquet"
    output.finish(account, tables)
    return account, 0 if answer["passed"] and "changed" not in account else 1


def account_of(begun: dict[str, Any], answer: dict[str, Any], expected: int) -> dict[str, Any]:
    """The account of a map, from the door's last answer."""
    account = {"map": begun["map"], "model": begun["model"], "prompt": begun["prompt"], **answer}
    for key in ("endings", "room", "ended", "waiting"):
        del account[key]
    if answer["account"]["items"] != expected:
        account["changed"] = f"the input changed while it was read: {expected} items were counted before"
    return account


def work_of(options: Any, schema: Any) -> dict[str, Any]:
    """What is done with each item, as the door is told it. Raises Unusable."""
    asked = {"model": options.model, "schema": schema, "max_output": options.max_output, "validator": options.validator}
    asked.update(concurrency=options.concurrency, allow_failed=options.allow_failed, deadline=options.deadline)
    if options.prompt is not None:
        asked["prompt"] = read_prompt(options.prompt)
    else:
        asked["run"] = options.run
    commands = [command for command in (options.run, options.validator) if command is not None]
    if not commands:
        if options.give:
            raise Unusable("--give is for commands: --run or --validator")
        return asked
    here = within(str(Path.cwd()))
    out = within(whole_path(options.out))
    return {**asked, "give": seen_by(commands, options.give), "without": [out] if out else [], "cwd": here or "."}


def seen_by(commands: list[str], give: list[str]) -> list[str]:
    """The files that commands see, relative to the workspace: those that they name, and what is given. Raises Unusable."""
    found: dict[str, None] = {}
    for path in give:
        if not os.path.lexists(path):
            raise Unusable(f"--give {path}: there is no such file")
        inside = within(whole_path(path))
        if inside is None:
            raise Unusable(f"--give {path}: commands see files below {WORKSPACE} alone; put it there")
        found[inside] = None
    here = whole_path(".")
    for word in (word for command in commands for word in words(command)):
        path = whole_path(word)
        if not os.path.lexists(path) or here == path or here.startswith(path.rstrip("/") + "/"):
            continue
        for one in (path, os.path.realpath(path)):
            inside = within(one)
            if inside is not None and inside != ".":
                found[inside] = None
        if within(path) is None and path.startswith(NOT_THERE) and Path(path).is_file():
            raise Unusable(f"{path} is not in the sandbox of a command: put it below {WORKSPACE}")
    return list(found)


def words(command: str) -> list[str]:
    """The words of a shell command."""
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        return list(lexer)
    except ValueError:  # the shell will say what is wrong with it
        return command.split()


def whole_path(path: str) -> str:
    """From the root, without . and .., and without a look at links."""
    return os.path.normpath(Path(path).absolute())


def within(path: str) -> str | None:
    """A path relative to the workspace, "." for itself; None where it is outside."""
    inside = os.path.relpath(path, WORKSPACE)
    return None if inside == ".." or inside.startswith("../") else inside


def feed(
    items: Iterator[dict[str, Any]],
    begun: dict[str, Any],
    output: Output,
    call: Callable[[str, dict[str, Any]], dict[str, Any]],
    *,
    gate: bool = False,
) -> dict[str, Any]:
    """Give every item, as there is room, and take every ending; returns the last answer.

    At a `gate` there are more to come, once the map has judged these.
    """
    room, held, more = 64, cast("dict[str, Any] | None", None), True
    while True:
        batch: list[dict[str, Any]] = []
        size = 0
        while more and len(batch) < room:
            held = held or next(items, None)
            if held is None:
                more = False
                break
            size += len(json.dumps(held)) + 2
            if batch and size > MOST_BATCH:
                break
            batch.append(held)
            held = None
        answer = call("map-items", {"map": begun["map"], "items": batch, "end": not (more or gate), "gate": gate and not more})
        for ending in answer["endings"]:
            output.add(ending, begun["prompt"])
        room = int(answer["room"])
        if answer["ended"] or (gate and not more and answer["gate"] and not answer["waiting"]):
            return answer


def survey(reader: Reader) -> array[int]:
    """The size of every item, below the number of the kind of its file: what a canary is spread over."""
    kinds: dict[str, int] = {}
    sizes: array[int] = array("Q")
    for item in reader.items():
        kind = kinds.setdefault(Path(item["shard"].partition(":")[0]).suffix, len(kinds))
        sizes.append(kind << 40 | len(item.get("text", "")))
    return sizes


def choose(sizes: array[int]) -> set[int]:
    """1.5 % of the items, at least CANARY, evenly spread over kinds of files and sizes; none where that would be half of all."""
    count = max(CANARY, len(sizes) * 3 // 200)
    if len(sizes) <= 2 * CANARY:
        return set()
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    return {order[(2 * at + 1) * len(order) // (2 * count)] for at in range(count)}


def read_prompt(path: str) -> str:
    """The prompt's text."""
    try:
        data = Path(path).read_bytes()[: MOST_PROMPT + 1]
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise Unusable(f"--prompt {path} cannot be read: {error}") from None
    if not text.strip() or len(data) > MOST_PROMPT:
        raise Unusable(
            f"--prompt {path}: a prompt has 1 to {MOST_PROMPT} bytes; what differs between items belongs into the items"
        )
    return text


def show(account: dict[str, Any]) -> str:
    """The account for a reader."""
    counts = account["account"]
    parts = [f"{counts[key]:,} {key}" for key in ("ok", "failed", "quarantined", "skipped", "pending")]
    found = f" ({account['found']:,} of the ok found, paid for before)" if account["found"] else ""
    text = [f"{account['map']}: {counts['items']:,} items = {' + '.join(parts)}{found}"]
    cost = account["nano_usd"] / 1e9
    what = f"calls of {account['model']}" if account["model"] else "commands"
    text.append(f"${cost:.6f} for {account['calls']:,} {what}, {account['retries']:,} of them tried again")
    warnings: dict[str, str] = account.get("warnings") or {}
    text += [f"warning: {told}" for told in warnings.values()]
    if repair := account.get("repair"):
        text.append(
            f"prompt repair: {repair['accepted']} of {repair['tries']} rewrites accepted, {repair['mended']:,} items mended, "
            f"${repair['nano_usd'] / 1e9:.6f} more; gearcase prompts shows them"
        )
    if account["classes"]:
        text.append("without an answer: " + ", ".join(f"{name} {count:,}" for name, count in account["classes"].items()))
    for cluster in account["clusters"][:5]:
        place = " ".join(str(cluster[key]) for key in ("stage", "code", "path", "keyword", "message") if key in cluster)
        text.append(f"  {cluster['count']:,} of {place}, the first {cluster['first']}")
    if account["different"] == 1 and counts["ok"] >= CANARY:
        text.append(f"all {counts['ok']:,} answers are the same: does the prompt say what is asked of each item?")
    if account["stopped"]:
        text.append(f"stopped: {account['stopped']['class']}: {account['stopped']['why']}")
    if "changed" in account:
        text.append(account["changed"])
    failures = counts["failed"] + counts["quarantined"] + counts["skipped"]
    text.append(f"{account['out']}/{account['results']}" + (f", and why not: {account['out']}/quarantine/" if failures else ""))
    return "\n".join(text)
