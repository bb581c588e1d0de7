"""Where the time of a run went, from a journal whose moments are known."""

from io import StringIO
from types import SimpleNamespace

from rich.console import Console

from gearcase.cli.latency import latency, report
from gearcase.events import BrakeChanged, CommandEnded, CommandStarted, Held, ModelCalled, RunEnded, RunStarted, Settled


class Journal:
    def __init__(self):
        self.records = []
        self.at(0, RunStarted("r", "n", "g", "d", "1", "b", {}))

    def at(self, time, event, agent=""):
        self.records.append(SimpleNamespace(time=1000.0 + time, event=event, agent=agent))

    def call(self, begin, sent, end, hold, agent="lead", label=""):
        self.at(sent, Held(hold, "a", {"usd": 5}), agent)
        self.at(end, Settled(hold, "a", {"usd": 1}), agent)
        called = ModelCalled(hold, hold, "chat", "m", "m", 200, "complete", {}, end - begin, 0.0, label=label)
        self.at(end, called, agent)

    def command(self, begin, end, number, text, agent="lead"):
        self.at(begin, CommandStarted(number, text), agent)
        self.at(end, CommandEnded(number, "exited", 0, end - begin, 0.1, 0, "", ""), agent)

    def told(self, end):
        self.at(end, RunEnded("unverified", {}))
        return latency(sorted(self.records, key=lambda record: record.time))


def test_each_moment_is_what_the_run_waited_for_and_all_of_them_add_up():
    journal = Journal()
    journal.call(1, 3, 8, 1)  # two seconds in line, five of answer
    journal.command(8, 18, 1, "make it")
    journal.command(20, 50, 2, "gear map --over x")
    for number in range(4):  # four at once, in a command of the lead
        journal.call(22, 24, 44, 10 + number, label="map m1")
    told = journal.told(60)
    assert told.path == {"model": 25.0, "queue": 4.0, "tools": 18.0, "frozen": 0.0, "own": 13.0}
    assert sum(told.path.values()) == 60
    assert told.summed == {"model": 85.0, "queue": 10.0, "tools": 40.0}
    assert [(one.what, one.seconds) for one in told.links] == [
        ("gear map --over x", 30.0),
        ("make it", 10.0),
        ("answer 1 of m", 7.0),
    ]
    assert told.links[0].parts == {"tools": 8.0, "queue": 2.0, "model": 20.0}
    assert told.as_json()["critical_path"]["model"] == 25.0


def test_a_sub_agents_calls_are_what_its_parents_command_waits_for():
    journal = Journal()
    journal.command(0, 20, 1, "gear wait a1")
    journal.call(2, 2, 12, 1, agent="a1")
    journal.command(12, 18, 2, "sort", agent="a1")
    told = journal.told(20)
    assert told.path["model"] == 10.0 and told.path["tools"] == 10.0 and told.summed["tools"] == 26.0
    assert [one.what for one in told.links] == ["gear wait a1"]


def test_time_in_which_the_run_stood_frozen_is_nobodys():
    journal = Journal()
    journal.command(0, 30, 1, "make")
    journal.at(10, BrakeChanged("frozen", "operator", "", 1.0))
    journal.at(25, BrakeChanged("running", "operator", "", 1.0))
    told = journal.told(30)
    assert told.path["frozen"] == 15.0 and told.path["tools"] == 15.0 and told.links[0].seconds == 15.0


def test_the_numbers_of_long_steps_are_read_at_80_columns():
    journal = Journal()
    journal.at(1, CommandStarted(1, "python3 make.py --with a --long list --of words; " * 4), "lead")
    console = Console(record=True, width=78, file=StringIO())  # 80, less the indentation of a section
    for part in report(journal.told(4000)):
        console.print(part)
    [row] = [line for line in console.export_text().splitlines() if "make.py" in line]
    assert row.split()[-6:] == ["1h", "06m", "0.00s", "0.00s", "1h", "06m"], row


def test_a_run_without_calls_and_one_that_goes_on_are_told_too():
    assert sum(Journal().told(2).path.values()) == 2.0
    journal = Journal()
    journal.at(1, CommandStarted(1, "sleep 100"), "lead")
    told = journal.told(11)
    assert told.path["tools"] == 10.0
    console = Console(record=True, width=100, file=StringIO())
    for part in report(told):
        console.print(part)
    text = console.export_text()
    assert "waited for: tools 10.00s, own 1.00s" in text and "sleep 100" in text
