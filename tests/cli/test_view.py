"""What a person sees is a fold over the journal, and adds up."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from rich.console import Console, RenderableType

from gearcase import events
from gearcase.box import Limits
from gearcase.cli import lines, maps, summary
from gearcase.cli.held import two_lines
from gearcase.cli.history import DIED, History
from gearcase.cli.live import LivePanel
from gearcase.cli.parts import HostView, ThreadView
from gearcase.cli.ps import _table
from gearcase.cli.threads import tree
from gearcase.cli.view import View, fold
from gearcase.journal import Journal, Record, read
from gearcase.run.record import EndRecord
from gearcase.runs import RunFolder

STARTED = events.RunStarted("4f3a2b1c", "amber-fox", "count the rows", "ab", "0.1.0", "boot", {})
OPENED = events.AccountOpened("run", "", {"usd": 2_000_000_000, "tokens": 1000})


def records_of(folder: Path, *happened: events.Event) -> list[Record]:
    """The events as a real journal gives them back."""
    journal = Journal.create(folder / "journal")
    for event in happened:
        journal.append(event, "lead")
    journal.flush()
    journal.close()
    return list(read(folder / "journal"))


def view_of(folder: Path, *happened: events.Event) -> View:
    view = View()
    for record in records_of(folder, *happened):
        view = fold(view, record)
    return view


def rendered(what: RenderableType, width: int = 100, colour: bool = False) -> str:
    stream = io.StringIO()
    system = "truecolor" if colour else None
    Console(
        file=stream, width=width, force_terminal=colour, color_system=system, markup=False, emoji=False, highlight=False
    ).print(what)
    return stream.getvalue()


def history_of(folder: Path, view: View, owner: int = 0) -> History:
    return History(RunFolder("4f3a2b1c", "amber-fox", "count the rows", 0.0, folder), view, Limits(), owner)


def called(call: int, hold: int, model: str = "a/b") -> events.ModelCalled:
    return events.ModelCalled(call, hold, "chat", model, model, 200, "complete", {"input": 7, "output": 2}, 1.0, 0.5)


def command_ended(number: int, exit_code: int = 0, tail: str = "") -> events.CommandEnded:
    return events.CommandEnded(number, "exited", exit_code, 1.5, 1.0, len(tail), "", tail)


# --- money -----------------------------------------------------------------------------------------------------------------


def test_spent_is_what_was_settled_and_what_was_cut(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        STARTED,
        OPENED,
        events.Held(1, "lead", {"usd": 90, "calls": 1}),
        events.Held(2, "lead", {"usd": 50, "calls": 1}),
        events.Held(3, "lead", {"usd": 20, "calls": 1}),
        events.Held(4, "lead", {"usd": 5}),
        events.Settled(1, "lead", {"usd": 40, "calls": 1}),
        events.Cut(2, "stream broke"),
        events.Released(3),
    )
    assert (view.spent["usd"], view.spent["calls"]) == (90, 2)
    assert view.held["usd"] == 5
    assert view.limits["usd"] == 2_000_000_000


def test_a_carved_account_adds_no_limit_and_a_grant_does(tmp_path: Path) -> None:
    carved = events.AccountOpened("lead", "run", {"usd": 1_900_000_000})
    view = view_of(tmp_path, OPENED, carved, events.LimitGranted("run", {"usd": 5}))
    assert view.limits["usd"] == 2_000_000_005


def test_money_stands_beside_its_model_in_whichever_order_the_facts_came(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        OPENED,
        events.Held(1, "lead", {"usd": 90}),
        events.Settled(1, "lead", {"usd": 40}),
        called(1, 1, "a/one"),
        events.Held(2, "lead", {"usd": 90}),
        called(2, 2, "a/two"),
        events.Settled(2, "lead", {"usd": 30}),
    )
    assert {name: (model.calls, model.usd) for name, model in view.models.items()} == {"a/one": (1, 40), "a/two": (1, 30)}
    assert sum(model.usd for model in view.models.values()) == view.spent["usd"]
    assert not view.unjoined_costs
    assert not view.unjoined_calls


def paid(number: int, thread: str, parent: str = "") -> list[events.Event]:
    call = events.ModelCalled(
        number, number, "anthropic", "a/b", "a/b", 200, "complete", {"input": 7}, 1.0, 0.5, thread=thread, parent=parent
    )
    settled = events.Settled(number, "lead", {"usd": 10_000_000 * number, "calls": 1})
    held = events.Held(number, "lead", {"usd": 90_000_000, "calls": 1})
    return [held, call, settled] if number % 2 else [held, settled, call]


def test_what_sub_agents_spent_is_a_tree(tmp_path: Path) -> None:
    main, one, two, below = "25ed64b7-bccafaae0ec1", "a-agent-one", "a-agent-two", "a-agent-sub"
    happened = [*paid(1, main), *paid(2, one, main), *paid(3, below, one), *paid(4, two, main), *paid(5, main), *paid(6, "")]
    run = history_of(tmp_path, view_of(tmp_path, STARTED, OPENED, *happened))
    shown = [line.split() for line in rendered(summary.report(run, None)).splitlines() if "gent-" in line or "main " in line]
    assert shown == [
        ["main", "faae0ec1", "2", "$0.06"],
        ["├─", "gent-one", "1", "$0.02"],
        ["│", "└─", "gent-sub", "1", "$0.03"],
        ["└─", "gent-two", "1", "$0.04"],
    ]
    assert summary.as_json(run, None)["threads"][below] == {"parent": one, "calls": 1, "usd": 30_000_000}


def test_one_thread_is_no_tree(tmp_path: Path) -> None:
    assert tree(view_of(tmp_path, STARTED, OPENED, *paid(1, "a"), *paid(2, "")).threads) is None


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", *"abcdefgh"])), max_size=12))
def test_every_thread_is_told_once_whatever_programs_say_of_their_parents(claims: list[tuple[str, str]]) -> None:
    threads = {name: ThreadView(parent, 1, 0) for name, parent in claims}
    table = tree(threads)
    assert (table.row_count if table else len(threads)) == len(threads)


def test_threads_without_end_stay_few_lines_and_their_money_adds_up(tmp_path: Path) -> None:
    happened = [event for number in range(1, 100) for event in paid(number, f"t{number}")]
    view = view_of(tmp_path, STARTED, OPENED, *happened)
    assert len(view.threads) == 21
    assert sum(one.usd for one in view.threads.values()) == view.spent["usd"] == view.models["a/b"].usd


def test_a_bill_above_its_hold_is_an_alarm_in_the_report(tmp_path: Path) -> None:
    held = events.Held(1, "lead", {"usd": 10})
    view = view_of(tmp_path, STARTED, OPENED, held, events.Settled(1, "lead", {"usd": 25}, {"usd": 15}))
    assert view.overspent["usd"] == 15
    assert "billed above what was held" in rendered(summary.report(history_of(tmp_path, view), None))


# --- state, time, commands -------------------------------------------------------------------------------------------------


def test_box_time_stands_still_while_frozen(tmp_path: Path) -> None:
    first, frozen, thawed = records_of(
        tmp_path, STARTED, events.BrakeChanged("frozen", "operator"), events.BrakeChanged("running", "operator")
    )
    view = fold(fold(View(), first), frozen)
    assert view.state == "frozen"
    assert view.elapsed(frozen.time + 1000) == frozen.time - first.time
    view = fold(view, thawed)
    assert view.state == "running"
    assert abs(view.elapsed(thawed.time + 5) - (5 + frozen.time - first.time)) < 1e-6


def test_a_run_that_nobody_drives_and_that_did_not_end_has_died(tmp_path: Path) -> None:
    view = view_of(tmp_path, STARTED)
    assert history_of(tmp_path, view).state == DIED
    assert history_of(tmp_path, view, owner=1).state == "running"


def test_failed_commands_are_counted_and_named(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        STARTED,
        events.CommandStarted(1, "make"),
        command_ended(1),
        events.CommandStarted(2, "make test"),
        command_ended(2, 2, "one\ntwo\n"),
        events.CommandStarted(3, "sleep 9"),
    )
    assert (view.commands, view.failed_commands) == (3, 1)
    assert [command.text for command in view.failures] == ["make test"]
    assert list(view.running) == [3]
    assert view.finished is not None
    assert view.finished.lines == ("one", "two")


def test_a_check_keeps_its_best_score(tmp_path: Path) -> None:
    ran = [events.CheckRan("valid", verdict, score, 1.0, "ab", False) for verdict, score in (("failed", 0.9), ("failed", 0.4))]
    check = view_of(tmp_path, *ran).checks["valid"]
    assert (check.verdict, check.score, check.best, check.runs) == ("failed", 0.4, 0.9, 2)


def test_many_refusals_stay_few_lines(tmp_path: Path) -> None:
    refused = [events.DoorRefused("model", f"code-{number}", "no") for number in range(100)]
    view = view_of(tmp_path, *refused)
    assert len(view.refusals) <= 21
    assert sum(view.refusals.values()) == 100


# --- the report ------------------------------------------------------------------------------------------------------------


def ended(status: str, **more: Any) -> EndRecord:
    return EndRecord("4f3a2b1c", "amber-fox", status, **more)  # type: ignore[arg-type]


def test_a_name_that_is_not_inside_is_shown_once_with_how_often_it_was_asked_for(tmp_path: Path) -> None:
    asked = [events.NameAsked("api.statsig.com", kind, False, count) for count in (1, 10, 12) for kind in ("A", "AAAA")]
    asked += [events.NameAsked("model.box", "A", True, 3), events.NameAsked("once.example", "A", False, 1)]
    view = view_of(tmp_path, STARTED, *asked)
    told = "denied: api.statsig.com (12 times), once.example (once)"
    assert told in rendered(summary.report(history_of(tmp_path, view), None)) and told in rendered(LivePanel(Limits(), view))
    assert summary.as_json(history_of(tmp_path, view), None)["denied"] == {"api.statsig.com": 12, "once.example": 1}


def test_many_names_stay_one_short_text(tmp_path: Path) -> None:
    view = view_of(tmp_path, STARTED, *(events.NameAsked(f"n{number}.example", "A", False, 1) for number in range(1000)))
    told = rendered(LivePanel(Limits(), view), width=2000)
    assert told.count(".example") == 10 and "more" in told


def test_the_report_tells_what_a_person_asks(tmp_path: Path) -> None:
    record = ended(
        "accepted",
        delivered=[{"path": "out/table.csv", "size": 2048, "flags": ["executable"]}],
        refused=[{"path": "out/link", "reason": "a symbolic link"}],
        out="./gearcase-out/amber-fox",
        warnings=["cassette: message 3 differs"],
        note="Counted 1,000 rows.",
    )
    guarantee = {"strength": "watched", "by": "a signal sweep", "bound": "700 ms"}
    view = view_of(
        tmp_path,
        STARTED,
        OPENED,
        events.SandboxOpened("box-1", {"driver": "namespaces", "guarantees": {"freeze": guarantee}}),
        events.AgentStarted("a/b", "count the rows"),
        events.Held(1, "lead", {"usd": 500_000_000}),
        events.Settled(1, "lead", {"usd": 410_000_000}),
        called(1, 1),
        events.CheckRan("valid", "passed", 0.96, 1.0, "ab", True),
        events.LimitReached("tokens"),
        events.SandboxClosed("box-1", []),
        events.RunEnded("accepted", record.as_json()),
    )
    told = rendered(summary.report(history_of(tmp_path, view), record))
    for expected in (
        "ACCEPTED",
        "amber-fox",
        "count the rows",
        "Counted 1,000 rows.",
        "out/table.csv",
        "2.0 KiB",
        "executable",
        "a symbolic link",
        "✓  valid  passed  score 0.96",
        "$0.41 of $2.00",
        "a signal sweep (overshoot: 700 ms)",
        "left behind: nothing",
        "cassette: message 3 differs",
        "limit reached: tokens",
        view.head,
    ):
        assert expected in told, expected


def test_a_narrow_report_tells_what_each_model_cost(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        STARTED,
        OPENED,
        events.Held(1, "lead", {"usd": 10**9}),
        events.Settled(1, "lead", {"usd": 1234567}),
        called(1, 1),
    )
    told = rendered(summary.report(history_of(tmp_path, view), ended("accepted")), 40)
    assert all(len(row) <= 40 for row in told.splitlines())
    [row] = [row.split() for row in told.splitlines() if row.split()[1:2] == ["1"] and "$" in row]
    assert row[0] != "1" and row[-1] == "$0.0012"


def test_the_report_says_why_calls_failed(tmp_path: Path) -> None:
    call = events.ModelCalled(1, 1, "chat", "a/b", "", 0, "failed", {}, 1.0, 0.0, why="nobody listens at \x1b[2J:1")
    status = events.ModelCalled(2, 2, "chat", "c/d", "", 529, "failed", {}, 1.0, 0.0)
    run = history_of(tmp_path, view_of(tmp_path, STARTED, OPENED, call, called(3, 3), status))
    told = rendered(summary.report(run, None))
    assert "the last of a/b that failed: nobody listens at" in told and "\x1b" not in told
    assert "the last of c/d that failed: status 529" in told
    assert summary.as_json(run, None)["models"]["a/b"]["why"].startswith("nobody listens")


def test_residue_is_told_in_the_report(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        STARTED,
        events.SandboxOpened("box-1", {}),
        events.SandboxClosed("box-1", ["mount /run/x"]),
        events.RunEnded("failed", ended("failed").as_json()),
    )
    assert "left behind: mount /run/x" in rendered(summary.report(history_of(tmp_path, view), ended("failed")))


def test_the_report_for_programs_holds_the_ending_and_the_models(tmp_path: Path) -> None:
    view = view_of(
        tmp_path, STARTED, OPENED, events.Held(1, "lead", {"usd": 9}), events.Settled(1, "lead", {"usd": 4}), called(1, 1)
    )
    told = summary.as_json(history_of(tmp_path, view), ended("rejected"))
    assert told["status"] == "rejected"
    assert told["exit_code"] == 10
    assert told["models"]["a/b"] == {"calls": 1, "failed": 0, "usd": 4, "tokens": {"input": 7, "output": 2}, "why": ""}


# --- hostile text ----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40) | st.sampled_from(
    ["\x1b[2J", "[bold]x[/]", "\u202eabc", "a\nb\rc", "\x9b31m", "[/nonsense]", "😀" * 30]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT, width=st.integers(40, 160))
def test_no_view_lets_an_agents_text_act(tmp_path_factory: Any, text: str, width: int) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    record = ended(
        "failed",
        delivered=[{"path": text, "size": 1, "flags": [text]}],
        refused=[{"path": text, "reason": text}],
        out=text,
        note=text,
        warnings=[text],
        error={"code": text, "message": text, "cause": text, "remedy": text},
        limit=text,
        how_to_resume=text,
    )
    happened = [
        events.RunStarted("id", text, text, "ab", "0.1.0", "boot", {}),
        OPENED,
        events.SandboxOpened(text, {"guarantees": {"disk": {"strength": text, "by": text, "bound": text}}}),
        events.AgentStarted(text, text),
        events.AgentTurn(1, text, 1),
        events.CommandStarted(1, text),
        events.CommandEnded(1, text, 1, 0.1, 0.1, 3, text, text, [text], text),
        events.CommandStarted(2, text),
        events.TestsClaimed(1, text, 1, 1),
        called(1, 1, text),
        events.CheckRan(text, text, 0.5, 0.1, "ab", True, text),
        events.DoorRefused(text, text, text),
        events.RequestEdited(1, [text]),
        events.Failure({"code": text, "message": text}),
        events.SnapshotTaken(text, 1, 1, text),
        events.Rewound(text),
        events.Delivered(text, [{"path": text, "size": 1}], [], "ab"),
        events.BrakeChanged("latched", text, text),
        events.LimitReached(text, text),
        events.AgentEnded(text, text),
        events.SandboxLost(text, text),
        events.SandboxClosed(text, [text]),
        events.Cut(1, text),
    ]
    records = records_of(folder, *happened)
    view = View()
    for one in records:
        view = fold(view, one)
    run = history_of(folder, view)
    shown = rendered(summary.report(run, record), width, colour=True)
    shown += rendered(LivePanel(Limits(), view, view.now + 1, "hint"), width, colour=True)
    shown += rendered(_table([run]), width, colour=True)
    for one in records:
        said = lines.line(one)
        assert said is None or "\n" not in said.plain
        shown += rendered(said or "", width, colour=True) + rendered(lines.detail(one), width, colour=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    acting = re.search(r".*[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b-\u200f]", plain)
    assert acting is None, acting[0]


def test_the_live_panel_fits_its_width(tmp_path: Path) -> None:
    long = "x" * 500
    view = view_of(
        tmp_path,
        events.RunStarted("id", long, long, "ab", "0.1.0", "boot", {}),
        OPENED,
        events.CommandStarted(1, long),
        events.AgentTurn(1, long, 1),
    )
    for width in (40, 80, 120):
        rows = rendered(LivePanel(Limits(), view, view.now, "Ctrl-C freezes and asks"), width).splitlines()
        assert all(len(row) <= width for row in rows)
        assert len(rows) < 14


def test_what_was_reached_outside_is_told_by_host(tmp_path: Path) -> None:
    happened = [
        STARTED,
        events.ConnectionClosed("http", 1, "files.example", 10, 300, 0.1, "done"),
        events.ConnectionClosed("http", 2, "files.example", 10, 300, 0.1, "done"),
    ]
    assert view_of(tmp_path, *happened).hosts == {"files.example": HostView(2, 20, 600)}


def test_a_command_counts_box_time_and_nothing_else_is_shown_as_its_output(tmp_path: Path) -> None:
    view = View()
    early = events.CommandStarted(1, "cat sales.csv"), events.CommandEnded(1, "exited", 0, 0.1, 0.1, 9, "old words\n", "")
    happened = (STARTED, *early, events.CommandStarted(2, "sleep 100"), events.BrakeChanged("frozen", "operator"))
    for record in records_of(tmp_path, *happened):
        view = fold(view, record)
    told = rendered(LivePanel(Limits(), view, view.now + 3600))
    assert "old words" not in told
    assert "running 0" in told or "running 1 s" in told, told
    assert "gearcase resume amber-fox" in told


def test_after_the_agent_has_ended_it_is_told_what_is_still_done(tmp_path: Path) -> None:
    view = view_of(tmp_path, STARTED, events.AgentStarted("m", "g"), events.AgentEnded("done", ""))
    assert "looked at for credentials, checked and delivered" in rendered(LivePanel(Limits(), view, view.now + 1))
    over = replace(view, ended={"status": "accepted"})
    assert "looked at for credentials" not in rendered(LivePanel(Limits(), over, view.now + 1))


def test_what_the_model_does_not_answer_is_told_until_it_does(tmp_path: Path) -> None:
    missed = events.AttemptFailed(2, 5, "http://x.invalid/v1 cannot be reached: no such name", 4.0, 1_700_000_000.0, True)
    view = view_of(tmp_path, STARTED, events.AgentStarted("m", "g"), missed)
    told = " ".join(rendered(LivePanel(Limits(), view, view.now), width=400).split())
    assert "no answer http://x.invalid/v1 cannot be reached: no such name (attempt 2 of 5, again in 4 s, until about" in told
    assert "nothing was sent, nothing is charged" in told
    (tmp_path / "more").mkdir()
    answered = view_of(tmp_path / "more", STARTED, missed, events.AgentTurn(1, "I look.", 1))
    assert "no answer" not in rendered(LivePanel(Limits(), answered, answered.now))


def test_a_person_who_is_waited_for_is_told_which_file(tmp_path: Path) -> None:
    turns = tmp_path / "turns"
    turns.mkdir()
    (turns / "0001.request.md").touch()
    (turns / "0001.answer.json").touch()
    (turns / "0002.request.md").touch()
    view = View(name="amber-fox", held={"usd": 1})
    told = rendered(LivePanel(Limits(), view, 1.0, turns=turns), width=200)
    assert "waits for you" in told and "0002.request.md → 0002.answer.json" in told
    (turns / "0002.error.txt").touch()
    assert "see 0002.error.txt" in rendered(LivePanel(Limits(), view, 1.0, turns=turns), width=200)


def test_a_map_is_shown_while_it_goes_on_and_when_it_has_ended(tmp_path: Path) -> None:
    began = events.MapStarted("m1", "ab", "Say [red]ok[/red]\x1b[2J", "small", "lines:1", 100, 16, 0)
    half = {"items": 80, "ok": 50, "failed": 0, "quarantined": 2, "skipped": 0, "pending": 28}
    whole = {"items": 100, "ok": 97, "failed": 1, "quarantined": 2, "skipped": 0, "pending": 0}
    going = events.MapProgressed("m1", half, 3, 50, 1, 1_000_000, 2_000_000, 25.0, 6)
    failed = events.MapItemFailed("m1", 7, "a.txt:8", "quarantined", "schema", "no \x1b[31mlevel", 1)
    end = events.MapEnded("m1", "done", whole, 3, 99, 1, 1_900_000, 4.0, {"schema": 2, "status_503": 1})
    view = View()
    said = []
    for record in records_of(tmp_path, STARTED, OPENED, began, going, failed, end):
        view = fold(view, record)
        if (line := lines.line(record)) is not None:
            said.append(line.plain)
    assert "100 items (lines:1)" in said[1] and "\x1b" not in "".join(said)
    assert "80 items = 50 ok + 2 quarantined + 28 pending (6 wait for a better prompt)" in said[2] and "25 a second" in said[2]
    assert "a.txt:8 quarantined: schema" in said[3] and "m1 done" in said[4]
    assert view.maps["m1"].ended == "done" and view.maps["m1"].rate == 25.0
    shown = "\n".join(text.plain for text in maps.report(view.maps))
    assert "97 ok + 1 failed + 2 quarantined (3 found" in shown and "schema 2, status_503 1" in shown


def test_the_calls_of_a_map_are_not_told_one_by_one(tmp_path: Path) -> None:
    call = events.ModelCalled(1, 1, "chat", "small", "small", 200, "complete", {}, 0.1, 0.1, label="map m1")
    assert [lines.line(record) for record in records_of(tmp_path, call)] == [None]


def test_a_run_that_a_monitor_holds_says_why_and_what_answers_it_until_it_goes_on(tmp_path: Path) -> None:
    said = "51% of the budget is used, and public.orders had no contact"
    seen = events.AlarmRaised("no_contact", "latch", said, "", "lead")
    named = events.AlarmRaised("no_contact", "latch", said, "", "lead", {"snapshot": "s0"})
    latched, running = events.BrakeChanged("latched", "monitor", "why"), events.BrakeChanged("running", "operator")
    why, answers = two_lines(view_of(tmp_path / "a", STARTED, named, latched)) or ("", "")
    assert why.startswith("amber-fox is held (its doors are shut) by no_contact: 51% of the budget is used")
    assert answers.startswith("go back: gearcase rewind amber-fox --to s0   go on: gearcase resume amber-fox")
    assert "rewind" not in (two_lines(view_of(tmp_path / "b", STARTED, seen, latched)) or ("", "rewind"))[1]
    assert two_lines(view_of(tmp_path / "c", STARTED, named, latched, running)) is None
    back = events.BrakeChanged("frozen", "operator", "to return to s0")
    assert two_lines(view_of(tmp_path / "d", STARTED, named, latched, back)) is None, "somebody is at it"
    report = rendered(
        summary.report(history_of(tmp_path / "a", view_of(tmp_path / "e", STARTED, named, latched), owner=1), None), width=160
    )
    assert "gearcase rewind amber-fox --to s0" in report and "! no_contact" in report, "of a run that lives, too"
