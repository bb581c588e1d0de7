"""Runs of other tools through the detectors, and the rates that come of runs whose outcome is known."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase import events as e
from gearcase.errors import UsageError
from gearcase.journal import Journal
from gearcase.monitors.foreign import told_by
from gearcase.monitors.scoring import Rate, Spoken, labels_of, score, spoken


def kinds(path):
    return [event.type for _at, _agent, event in told_by(path)]


def file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_a_swe_agent_trajectory_that_loops_is_seen_to_loop(tmp_path):
    step = {
        "action": "python reproduce.py\n",
        "observation": "Traceback\nKeyError: 'x'\n",
        "response": "...",
        "execution_time": 0.5,
    }
    document = {"trajectory": [step] * 6, "info": {"exit_status": "exit_cost", "model_stats": {"instance_cost": 0.6}}}
    path = file(tmp_path, "a.traj", document)
    assert spoken(told_by(path))["repetition"].action == "note"
    spent = sum(event.amounts["usd"] for _at, _agent, event in told_by(path) if isinstance(event, e.Settled))
    assert spent == 600_000_000


def test_a_trajectory_without_a_step_never_started(tmp_path):
    path = file(tmp_path, "a.traj", {"trajectory": [], "info": {}})
    assert spoken(told_by(path)) == {"never_started": Spoken("end", 0.8)}, "with the fourth of five events: its agent has ended"


def test_a_mini_swe_agent_conversation_is_read_with_its_exit_codes(tmp_path):
    messages = [
        {"role": "system", "content": "..."},
        {"role": "user", "content": "the task"},
        {"role": "assistant", "content": "First\n```bash\nls\n```\n"},
        {"role": "user", "content": "<returncode>2</returncode>\n<output>\n3 passed in 0.1s\n</output>"},
        {"role": "assistant", "content": "", "extra": {"actions": [{"command": "cat x"}]}},
        {"role": "tool", "content": [{"type": "text", "text": "<returncode>0</returncode>"}]},
        {"role": "assistant", "content": "done"},
    ]
    path = file(tmp_path, "a.traj.json", {"messages": messages, "info": {"model_stats": {"instance_cost": 0.3}}})
    told = [event for _at, _agent, event in told_by(path)]
    assert [event.text for event in told if isinstance(event, e.CommandStarted)] == ["ls", "cat x"]
    assert [event.exit_code for event in told if isinstance(event, e.CommandEnded)] == [2, 0]
    assert [event.passed for event in told if isinstance(event, e.TestsClaimed)] == [3]
    assert sum(isinstance(event, e.AgentTurn) for event in told) == 3


def test_plain_lines_tell_commands_checks_budget_and_failed_calls(tmp_path):
    rows = [{"budget": 1.0, "wall": 600}, *[{"command": f"edit {n}", "cost": 0.06, "seconds": 9, "exit": 0} for n in range(2)]]
    rows += [
        {"command": "pytest", "output": "40 passed in 0.1s"},
        {"check": "real", "score": 0.1},
        {"check": "real", "score": 0.1},
    ]
    path = file(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert spoken(told_by(path))["local_green_host_red"].action == "note"
    failed = file(tmp_path, "b.jsonl", '{"failed": 401}\n')
    assert "never_started" in spoken(told_by(failed))


def test_our_own_journal_is_read_as_a_folder_and_as_one_file(tmp_path):
    journal = Journal.create(tmp_path / "run" / "journal")
    journal.append(e.AgentStarted("m", "g"), "lead")
    journal.append(e.RunEnded("failed", {}))
    journal.close()
    for path in (tmp_path / "run", tmp_path / "run/journal", tmp_path / "run/journal/000001.jsonl"):
        assert kinds(path) == ["agent_started", "run_ended"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "no", '{"x": 1}\n', '{"trajectory": 3}', '{"command": {}, "exit": "x"}\n', '{"messages": [3]}']
)
def test_what_is_no_run_is_said_to_be_none(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        list(told_by(file(tmp_path, "a.json", text)))
    assert caught.value.code == "no_trajectory" and "JSONL" in caught.value.remedy


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_run_or_an_error_that_says_what_to_do(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("x") / "a"
    path.write_bytes(data)
    try:
        list(told_by(path))
    except UsageError as error:
        assert error.code == "no_trajectory"


# --- rates ---------------------------------------------------------------------------------------------------------------------


def test_wilsons_interval_is_that_of_the_books():
    low, high = Rate(1, 10).interval
    assert (round(low, 4), round(high, 4)) == (0.0179, 0.4042)
    assert Rate(0, 0).interval == (0.0, 1.0) and Rate(0, 20).interval[0] == 0.0 and Rate(20, 20).interval[1] == 1.0


@settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(0, 10_000))
def test_an_interval_holds_its_rate(of, hits):
    hits = min(hits, of)
    low, high = Rate(hits, of).interval
    assert 0 <= low <= hits / of <= high <= 1


def test_rates_are_counted_by_label():
    note, held = Spoken("note", 0.1), Spoken("freeze", 0.2)
    runs = [(True, {"thrash": note}), (True, {}), (False, {"thrash": note}), (False, {"destructive": held}), (False, {})]
    found = {one.detector: one for one in score(runs)}
    assert (found["thrash"].bad, found["thrash"].good, found["thrash"].held) == (Rate(1, 2), Rate(1, 3), Rate(0, 3))
    assert (found["any"].bad, found["any"].good, found["any"].held) == (Rate(1, 2), Rate(2, 3), Rate(1, 3))


def test_labels_are_read_from_lines_and_from_an_object(tmp_path):
    lines = file(tmp_path, "l.csv", "file,label\na.traj,bad\nb.traj,resolved\n")
    assert labels_of(lines) == {"a.traj": True, "b.traj": False}
    assert labels_of(file(tmp_path, "l.json", {"a": "good", "b": True})) == {"a": False, "b": True}
    with pytest.raises(UsageError) as caught:
        labels_of(file(tmp_path, "x.csv", "a,perhaps\n"))
    assert "neither good nor bad" in caught.value.cause
