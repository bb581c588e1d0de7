"""Credentials in what is about to leave are marked, in real sandboxes; what was not looked at is said."""

import asyncio
import base64
import os
import random
import string
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from gearcase.doors import scanning
from gearcase.doors.files import take
from gearcase.doors.scanning import marked, scan, without
from gearcase.sandbox.namespaces import NamespacesDriver

RANDOM = random.Random(4711)


def letters(count, alphabet=string.ascii_letters + string.digits):
    return "".join(RANDOM.choice(alphabet) for _ in range(count))


AWS = "AKIA" + letters(16, string.ascii_uppercase + string.digits)
GITHUB = "ghp_" + letters(36)
KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + letters(800) + "\n-----END RSA PRIVATE KEY-----\n"
PLANTED = {
    "config.py": (f"import os\n\naws_access_key_id = '{AWS}'\n", (3, "AWS Access Key")),
    "deep/id_rsa": (KEY, (1, "Private Key")),
    "large.pem": ("# a comment\n" * 5461 + KEY, (5462, "Private Key")),
    "notes.md": (f"# Notes\n- use {GITHUB} for now\n", (2, "GitHub Token")),
    "env": (f"A=1\nB=2\nOPENAI=sk-proj-{letters(24)}T3BlbkFJ{letters(24)}\n", (3, "OpenAI Key")),
    "ant.json": ('{"key": "sk-ant-api03-' + letters(60) + '"}', (1, "Anthropic Key")),
    "g.js": (f"const k = 'AIza{letters(35)}';", (1, "Google API Key")),
    "db.txt": ("x\npostgresql://root:hunter2hunter2@db.example.org/x\n", (2, "Basic Auth Credentials")),
    "long.txt": (letters(300_000) + f" {GITHUB} " + letters(300_000), (1, "GitHub Token")),
    "binary": ("\0\x01\xff\n" * 5000 + f"\0{AWS}\0" + "\0" * 100, (5001, "AWS Access Key")),
}
CLEAN = {
    "table.csv": "id,name,sha\n" + "".join(f"{n},name {n},{letters(40, '0123456789abcdef')}\n" for n in range(2000)),
    "code.py": "password = os.environ['PASSWORD']\napi_key = None\nuuid = '6f9619ff-8b86-d011-b42d-00cf4fc964ff'\n",
    "parser.py": 'HEAD = "-----BEGIN RSA PRIVATE KEY-----"\n',
    "noise": letters(100_000),
    "empty": "",
}


class Bench:
    def __init__(self, folder):
        self.workspace, self.staging = folder / "workspace", folder / "run/delivered"
        self.workspace.mkdir()

    def write(self, files):
        for name, text in files.items():
            path = self.workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))

    def stage(self):
        root = os.open(self.workspace, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.delivery = take(root, ["**"], self.staging, most_bytes=1 << 30)
        finally:
            os.close(root)
        return self.delivery

    def scan(self, held=None):
        @asynccontextmanager
        async def braked(_sandbox):
            yield

        async def scanned():
            driver = NamespacesDriver()
            try:
                return await scan(driver, self.stage(), self.staging, f"scan-{os.getpid()}", braked, held or {})
            finally:
                await driver.close()

        return asyncio.run(scanned())


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_planted_credentials_are_found_by_path_line_and_kind_and_clean_files_are_not(bench):
    bench.write({name: text for name, (text, _) in PLANTED.items()} | CLEAN)
    found = bench.scan()
    assert found.unscanned == "" and len(found.seen) == len(PLANTED) + len(CLEAN)
    told = {(one.path.decode(), one.line, one.kind) for one in found.found}
    assert told == {(name, *where) for name, (_, where) in PLANTED.items()}
    flags = {file.path.decode(): file.flags for file in marked(bench.delivery, found).files}
    assert flags["config.py"] == ("AWS Access Key, line 3",)
    assert all(flags[name] == () for name in CLEAN)


def test_no_value_is_told(bench):
    bench.write({name: text for name, (text, _) in PLANTED.items()})
    found = bench.scan()
    told = repr(found) + repr(marked(bench.delivery, found).record())
    assert not any(value in told for value in (AWS, GITHUB, KEY[40:80], "hunter2"))


def test_the_values_of_this_runs_doors_are_found_however_they_are_written(bench):
    value = "not a known/form of 4711"
    ways = {
        "raw": f"a\nb\n{value}",
        "base64": "x" + base64.b64encode(f"u:{value}".encode()).decode(),
        "url": f"?q={quote(value)}",
        "far": "\n" * ((1 << 20) - 10) + value,
        "clean": value[:-1],
    }
    bench.write(ways)
    found = bench.scan({"api.github": [value], "model": []})
    assert {(one.path.decode(), one.line, one.kind) for one in found.found} == {
        ("raw", 3, "credential of api.github"),
        ("base64", 1, "credential of api.github"),
        ("url", 1, "credential of api.github"),
        ("far", (1 << 20) - 9, "credential of api.github"),
    }


def test_a_pattern_that_takes_for_ever_ends_at_the_deadline_and_says_so(bench, monkeypatch):
    monkeypatch.setattr(scanning, "DEADLINE", 1.0)
    hold = "artif" + "=AP0" * 20_000  # what a detector backtracks over
    bench.write({"a-first.txt": GITHUB, **{f"p{n:03}": ("aws " * 16_000 + "\n" + hold + "\n") * 40 for n in range(8)}})
    found = bench.scan()
    assert "not scanned: it took longer than 1 s" in found.unscanned
    assert len(found.seen) < 9


def test_a_scanner_that_dies_is_no_clean_scan(bench, monkeypatch):
    bench.write({"a": GITHUB})
    monkeypatch.setattr(scanning.Mount, "__init__", _mounts_nothing(scanning.Mount.__init__))
    found = bench.scan()
    assert found.found == () and found.seen == frozenset()
    assert "1 of 1 files were not scanned: the scan ended with 1" in found.unscanned


def _mounts_nothing(real):
    def init(self, source, target, executable=True):
        real(self, source, target.replace("detect_secrets", "something_else"), executable)

    return init


def test_very_many_findings_are_cut_and_that_is_said(bench):
    bench.write({f"f{n:02}": "".join(f"ghp_{letters(36)}\n" for _ in range(30)) for n in range(40)})
    found = bench.scan()
    assert 390 <= len(found.found) <= 400 and "more was found than is told" in found.unscanned
    flags = marked(bench.delivery, found).files[0].flags
    assert len(flags) == 4 and flags[-1] == "and 17 more credentials"


def test_refused_files_stay_with_what_belongs_to_them(bench):
    bench.write({"bad": GITHUB, "good": "x"})
    import sqlite3

    db = sqlite3.connect(bench.workspace / "app.sqlite", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("create table t (x)")
    db.execute("insert into t values (?)", (GITHUB,))
    found = bench.scan()
    left = without(bench.delivery, found, bench.staging)
    assert [file.path for file in left.files] == [b"good"]
    assert sorted(path.name for path in bench.staging.iterdir()) == ["good"]
    reasons = {one.path: one.reason for one in left.refused}
    assert reasons[b"bad"] == "holds a credential (GitHub Token, line 1)"
    assert reasons[b"app.sqlite"] == "it belongs to a database that holds a credential"
    db.close()


@pytest.mark.parametrize(
    "report",
    [
        b'[99, 1, "x"]\n',
        b'[-5, 1, "x"]\n',
        b'[0, "x", 1]\n',
        b'[0, 1, "\\u001b[31m"]\n',
        b'{"end": "x"}\n',
        b'{"end": {}}\n',
        b"{}\n",
        b"[" * 60_000,
        b'[0, 1, "Git',
        b"\xff\n",
    ],
)
def test_a_scanner_that_was_taken_over_is_not_believed(bench, report):
    from gearcase.seams import CommandResult, Output

    bench.write({"a": "x"})
    nothing = Output(b"", b"", 0)
    told = scanning._told(bench.stage(), CommandResult("exited", 0, nothing, nothing, report, 0.1, 0.1))
    assert told.found == () and told.unscanned
