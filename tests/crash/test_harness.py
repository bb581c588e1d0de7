"""The model door is killed under load a few times; the full figure is `scripts/crash-door`."""

import asyncio
import importlib
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    for name in ("books", "callers", "harness"):
        sys.modules.pop(name, None)
    return importlib.import_module("harness")


def test_after_kills_at_random_nothing_was_billed_that_was_not_charged_and_no_limit_was_passed(harness, tmp_path):
    found = asyncio.run(harness.Run(tmp_path, kills=6, callers=16, seed=7).whole())
    assert found.breaches == []
    assert found.kills == 6
    assert found.with_hold >= 3
    assert found.verified
    assert found.billed.total() > 0
    print(harness.table(found, 6, 16, 7))


def test_the_audit_finds_a_call_that_was_billed_and_not_charged(harness, tmp_path):
    """A positive control: a door that gave a hold back after a crash, though its call had left, would be found out."""
    run = harness.Run(tmp_path, kills=1, callers=1, seed=1)
    journal = harness.Books(tmp_path / "journal").folder
    journal.mkdir()
    opened = ({"type": "account_opened", "account": "agent-0", "parent": "", "limits": {"usd": 10**9}},)
    held = {"type": "held", "hold": 1, "account": "agent-0", "amounts": {"usd": 10**7}}
    write(journal, *opened, held, {"type": "sent", "hold": 1}, {"type": "released", "hold": 1})
    entry = {
        "path": "/v1/messages",
        "model": "claude-sonnet-4-5",
        "caller": "agent-0",
        "status": 200,
        "billed": {"input": 100, "output": 9},
    }
    (tmp_path / "witness.jsonl").write_text(json.dumps(entry) + "\n")
    run.audit()
    [breach, *_] = run.outcome.breaches
    assert breach == "agent-0: billed 435000 nano-dollars, charged 0"
    run.close()


def write(folder, *records):
    (folder / "000001.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


OPENED = (
    {"type": "account_opened", "account": "run", "parent": "", "limits": {"usd": 100}},
    {"type": "account_opened", "account": "a", "parent": "run", "limits": {"usd": 60}},
    {"type": "account_opened", "account": "b", "parent": "run", "limits": {"usd": 60}},
)


def test_the_books_see_a_limit_that_was_passed_for_a_moment_only(harness, tmp_path):
    """A positive control: accounts that overdraw their parent together are found out, though all is given back."""
    write(
        tmp_path,
        *OPENED,
        {"type": "held", "hold": 1, "account": "a", "amounts": {"usd": 55}},
        {"type": "held", "hold": 2, "account": "b", "amounts": {"usd": 50}},
        {"type": "released", "hold": 1},
        {"type": "sent", "hold": 2},
    )
    books = harness.Books(tmp_path).read_on()
    assert books.over == {("run", "usd"): 5}
    assert (len(books.holds), books.sent) == (1, 1)


def test_the_books_add_up_what_was_charged_and_leave_an_incomplete_line_for_later(harness, tmp_path):
    write(
        tmp_path,
        *OPENED,
        {"type": "held", "hold": 1, "account": "a", "amounts": {"usd": 20}},
        {"type": "held", "hold": 2, "account": "a", "amounts": {"usd": 30}},
        {"type": "cut", "hold": 1},
    )
    settled = json.dumps({"type": "settled", "hold": 2, "account": "a", "amounts": {"usd": 7}})
    with (tmp_path / "000001.jsonl").open("a") as file:
        file.write(settled[:20])
    books = harness.Books(tmp_path).read_on()
    assert (books.charged["a"], books.torn, len(books.holds)) == (20, True, 1)
    with (tmp_path / "000001.jsonl").open("a") as file:
        file.write(settled[20:] + "\n")
    assert (books.read_on().charged["a"], books.torn) == (27, False)
    assert books.used["run", "usd"] == 27
    assert books.over == {}
