"""SQL over the record of a run, through the installed command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gearcase import events
from gearcase.events import Event
from gearcase.journal import Journal
from gearcase.journal.tables import columns_of_all

PROGRAM = str(Path(sys.executable).with_name("gearcase"))


def called(number: int, model: str, seconds: float = 0.5) -> events.ModelCalled:
    usage = {"input": 90, "output": 10}
    return events.ModelCalled(number, number, "anthropic", model, model, 200, "complete", usage, seconds, 0.1)


HAPPENED = (
    events.RunStarted("ab12cd34", "amber-fox", "count\x1b[2J the rows", "ab", "0.1.0", "boot", {"uid": 0}),
    events.AccountOpened("run", "", {"usd": 2_000_000_000}),
    *(
        one
        for number, model, usd in ((1, "haiku", 410_000_000), (2, "opus", 7), (3, "haiku", 1))
        for one in (
            events.Held(number, "run", {"usd": 900_000_000, "calls": 1}, billed_by=f"anthropic/{model}"),
            events.Sent(number),
            events.Settled(number, "run", {"usd": usd, "tokens": 100, "calls": 1}),
            called(number, model, number / 4),
        )
    ),
    events.CommandStarted(1, "python3 count.py"),
    events.CommandEnded(1, "exited", 3, 1.5, 1.0, 12, "", "\x1b]0;owned\x07no such file\n", ["memory"]),
    events.LimitReached("wall"),
)


def on_disk(state: Path, *happened: Event) -> Path:
    folder = state / "gearcase/runs/ab12cd34"
    folder.mkdir(parents=True, mode=0o700)
    facts = {"id": "ab12cd34", "name": "amber-fox", "goal": "count", "created": 1.0}
    (folder / "run.json").write_text(json.dumps(facts))
    journal = Journal.create(folder / "journal")
    for event in happened:
        journal.append(event, "lead")
    journal.close()
    return folder / "journal/000001.jsonl"


def ask(state: Path, *arguments: str, program: tuple[str, ...] = (PROGRAM,)) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, "XDG_STATE_HOME": str(state), "COLUMNS": "80"}
    return subprocess.run([*program, "query", *arguments], env=around, capture_output=True, text=True, timeout=60)


def rows(state: Path, *arguments: str) -> list[dict[str, object]]:
    told = ask(state, *arguments, "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    return json.loads(told.stdout)


def refused(state: Path, *arguments: str) -> dict[str, object]:
    told = ask(state, *arguments, "--json")
    assert told.returncode == 2, told.stdout + told.stderr
    return json.loads(told.stdout)["error"]


def test_what_each_model_cost_is_one_query_away(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    sql = (
        "select model, count(*) as calls, sum(amounts['usd']) as nano, usd(nano) as usd "
        "from model_called join settled using (hold) group by model order by nano desc"
    )
    assert rows(tmp_path, "amber", sql) == [
        {"model": "haiku", "calls": 2, "nano": 410_000_001, "usd": 0.410000001},
        {"model": "opus", "calls": 1, "nano": 7, "usd": 7e-09},
    ]
    shown = ask(tmp_path, sql)
    assert shown.returncode == 0, "the latest run is meant"
    assert "0.410000001" in shown.stdout and "0.000000007" in shown.stdout


def test_every_type_has_a_view_with_the_fields_of_the_catalogue(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    assert set(columns_of_all()) == {"events", *Event.catalogue}
    kinds = rows(tmp_path, "select table_name, list(column_name) as columns from information_schema.columns group by all")
    found = {str(row["table_name"]): row["columns"] for row in kinds}
    for name, kind in Event.catalogue.items():
        assert found[name] == ["seq", "time", "boot", "agent", *kind.fields]
    one = rows(tmp_path, "select * exclude (seq, time, boot) from command_ended")
    assert one == [{"agent": "lead", **HAPPENED[-2].as_dict()}]
    assert rows(tmp_path, 'select "limit", detail from limit_reached') == [{"limit": "wall", "detail": ""}]


def test_events_have_every_record_with_all_its_fields(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    told = rows(tmp_path, "select seq, agent, type, fields from events order by seq")
    assert [(row["seq"], row["type"]) for row in told] == [(seq, event.type) for seq, event in enumerate(HAPPENED, 1)]
    assert [json.loads(str(row["fields"])) for row in told] == [event.as_dict() for event in HAPPENED]


def test_a_field_that_an_older_version_did_not_write_has_its_default_and_one_that_does_not_fit_is_empty(tmp_path: Path) -> None:
    class Sent_(Event):
        hold: str

    del Event.catalogue[Sent_.type]
    Sent_.type = "model_called"
    on_disk(tmp_path, HAPPENED[0], Sent_("many"))
    told = rows(tmp_path, "select hold, label, billed, usage, thread from model_called")
    assert told == [{"hold": None, "label": "", "billed": True, "usage": None, "thread": ""}]


def test_what_a_type_of_another_version_says_stands_in_events(tmp_path: Path) -> None:
    class Beamed(Event):
        photons: int

    del Event.catalogue[Beamed.type]
    on_disk(tmp_path, HAPPENED[0], Beamed(12))
    assert rows(tmp_path, "select fields->>'photons' as photons from events where type = 'beamed'") == [{"photons": "12"}]


def test_a_run_that_goes_on_is_asked_up_to_its_last_whole_record(tmp_path: Path) -> None:
    segment = on_disk(tmp_path, *HAPPENED)
    with segment.open("ab") as file:
        file.write(b'{"seq":18,"time":1.0,"bo')
    told = ask(tmp_path, "select count(*) as n from events", "--csv")
    assert (told.stdout.split(), told.stderr) == (["n", str(len(HAPPENED))], "")


def test_damage_is_said_and_what_follows_it_is_left_out(tmp_path: Path) -> None:
    segment = on_disk(tmp_path, *HAPPENED)
    segment.write_text(segment.read_text().replace("410000000", "110000000"))
    told = ask(tmp_path, "select max(seq) as last from events", "--json")
    assert told.returncode == 0
    assert "record 5: it was changed" in told.stderr
    assert json.loads(told.stdout) == [{"last": 4}]
    segment.write_text(segment.read_text()[:700] + "\nnothing\n")
    told = ask(tmp_path, "select count(*) from events")
    assert told.returncode == 0 and "damaged" in told.stderr


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('{path}')",
        "select * from read_csv('{path}')",
        "select * from '{path}'",
        "select * from glob('/etc/*')",
        "select * from parquet_scan('https://example.com/x.parquet')",
        "select content from read_text('/proc/self/environ')",
        "select * from query('attach ''{path}.db''')",
        "select * from HAPPENED",
        "select * from tables",
        "copy (select 1) to '{path}'",
        "attach '{path}.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "pragma version",
        "call enable_logging()",
        "create table x (a int)",
        "delete from record",
        "drop view settled",
        "select 1; select 2",
        "select 1; drop view settled",
        "",
    ],
)
def test_a_query_reads_the_journal_and_nothing_else(tmp_path: Path, sql: str) -> None:
    on_disk(tmp_path, *HAPPENED)
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nplatypus\n")
    told = ask(tmp_path, "amber-fox", sql.format(path=secret) or ";")
    assert told.returncode == 2, told.stdout
    assert "error bad_query" in told.stderr
    assert "platypus" not in told.stdout + told.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gearcase", "secret.csv"]
    assert secret.read_text() == "word\nplatypus\n"


def test_a_wrong_query_is_told_with_the_views_that_there_are(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    error = refused(tmp_path, "select * from setled")
    assert error["code"] == "bad_query"
    assert "did you mean settled?" in str(error["remedy"]) and "model_called" in str(error["remedy"])
    assert set(Event.catalogue) < set(error["context"]["views"])  # type: ignore[index, call-overload]
    error = refused(tmp_path, "select nothing from settled")
    assert "nothing" in str(error["message"]) and "LINE 1" in str(error["cause"])
    assert refused(tmp_path, "amber-fox", "select 1", "--csv")["code"] == "two_forms"


def test_without_a_query_the_views_are_listed_with_their_columns(tmp_path: Path) -> None:
    listed = ask(tmp_path)
    assert listed.returncode == 0, "no run is needed to see what there is"
    assert all(name in listed.stdout for name in ("events", "settled", "MAP(VARCHAR, BIGINT)", "usd(NANO)"))
    on_disk(tmp_path, *HAPPENED)
    of_run = json.loads(ask(tmp_path, "amber-fox", "--json").stdout)
    assert set(of_run) == {"events", *(event.type for event in HAPPENED)}
    assert of_run["sent"] == {"seq": "BIGINT", "time": "DOUBLE", "boot": "DOUBLE", "agent": "VARCHAR", "hold": "BIGINT"}


def test_no_line_is_wider_than_80_columns_and_nothing_in_it_acts(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    for sql in ("select * from run_started", "select * from events", "select seq, type, fields from events", "from model_called"):
        told = ask(tmp_path, sql)
        assert told.returncode == 0, told.stderr
        assert max(map(len, told.stdout.splitlines())) <= 80
        assert "\x1b" not in told.stdout and "\x07" not in told.stdout
    assert "no rows" in ask(tmp_path, "select * from cut").stdout


def test_comma_separated_values_are_all_rows(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    told = ask(tmp_path, "select range as n, 'a,\"b' as t, null as nil from range(1200)", "--csv")
    table = list(csv.reader(told.stdout.splitlines()))
    assert (table[0], table[1], len(table)) == (["n", "t", "nil"], ["0", 'a,"b', ""], 1201)
    assert "the first 500 of 1,200 rows" in ask(tmp_path, "select * from range(1200)").stdout


def test_a_journals_folder_can_be_named_too(tmp_path: Path) -> None:
    segment = on_disk(tmp_path, *HAPPENED)
    assert rows(tmp_path, str(segment.parent), "select count(*) as n from sent") == [{"n": 3}]


def test_without_duckdb_it_says_what_to_install(tmp_path: Path) -> None:
    on_disk(tmp_path, *HAPPENED)
    without = "import sys; sys.modules['duckdb'] = None; from gearcase.cli import main; sys.exit(main())"
    told = ask(tmp_path, "select 1 from events", program=(sys.executable, "-c", without))
    assert told.returncode == 2
    assert "missing_extra" in told.stderr and "pip install 'gearcase[query]'" in told.stderr
