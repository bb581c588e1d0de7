"""Answers that the owner knows, and the spread of those that nobody does."""

import asyncio
import random

import pytest

from gearcase.events import MapEnded
from gearcase.swarm.items import Known
from gearcase.swarm.known import KnownAnswers, holds, is_named
from gearcase.swarm.map import Map
from gearcase.swarm.results import Results
from gearcase.swarm.spread import WINDOW, Spread
from gearcase.swarm.worker import Answered
from tests.swarm.test_map import at_once, ready, serve, spec
from tests.swarm.test_repair import Bench, canary, items


@pytest.mark.parametrize(
    ("wanted", "answer", "is_there"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": {"b": "x"}}, {"a": {"b": " x "}}, True),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "c": 3}]}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": True}, {"a": 1}, False),
        ("yes", "yes\n", True),
        ({"a": 1}, "a", False),
    ],
)
def test_what_is_known_must_stand_in_the_answer(wanted, answer, is_there):
    assert holds(wanted, answer) is is_there


@pytest.mark.parametrize(
    ("file", "pattern", "is_meant"),
    [
        ("prompt.txt", "prompt.txt", True),
        ("./prompt.txt", "prompt.txt", True),
        ("prompt.txt", "./prompt.txt", True),
        ("/workspace/a/../prompt.txt", "prompt.txt", True),
        ("work/prompt.txt", "prompt.txt", True),
        ("work/prompt.txt", "data/prompt.txt", False),
        ("./work//lines.log", "work/lines.log", True),
        ("other.txt", "prompt.txt", False),
        ("", "prompt.txt", False),
        ("", "*", True),
        ("a/b", "*", True),
    ],
)
def test_a_map_is_named_by_its_files_however_they_are_typed(file, pattern, is_meant):
    assert is_named(file, pattern) is is_meant


def planted(folder, wrong=(), count=200, *, gate=True):
    """A map of `count` items with ten planted, with a canary if there is a `gate`; `wrong` are those that are answered wrongly."""
    known = KnownAnswers([Known(f"ok{9000 + n}", "no" if n in wrong else f"ok{9000 + n}") for n in range(10)], 0.8)
    bench = Bench(folder, expected=count)
    results = Results(folder / "r.sqlite")
    asked = spec(count, concurrency=1)
    bench.map = Map("m1", asked, bench.model, results, {}, bench.record, "lead", ready=ready, sleep=at_once, known=known)
    texts = items(ok=count)
    endings = canary(bench, texts, 20) if gate else asyncio.run(serve(bench.map, texts))
    results.close()
    return bench, endings


def test_known_items_are_mixed_in_and_seen_nowhere(tmp_path):
    bench, endings = planted(tmp_path)
    assert bench.map.account.ok == 200 == len(endings) and bench.map.calls == 200
    assert bench.record.of(MapEnded)[0].known == {"asked": 10, "right": 10, "nano_usd": 70}
    order = [item for _, item in bench.model.calls]
    places = [order.index(f"ok{9000 + n}") for n in range(10)]
    assert sum(place < 26 for place in places) == 5 and max(places) > 60, "half with the canary, the rest among the others"
    assert not any("900" in ended.item.text for ended in endings)


def test_of_a_map_without_a_gate_they_decide_at_its_end(tmp_path):
    bench, _ = planted(tmp_path, wrong=range(10), count=30, gate=False)
    bench.map.conclude()
    assert bench.map.account.ok == 30 and bench.map.stopped.code == "known_answers"


def test_one_that_was_right_is_asked_anew_of_a_rewritten_prompt(tmp_path):
    """What was answered to the first prompt says nothing of the new one."""
    known = KnownAnswers([Known(f"ok{9000 + n}", f"ok{9000 + n}") for n in range(10)], 0.8)
    bench = Bench(tmp_path, ["p +a"], expected=300, max_failure_rate=0.2)
    bench.map._known = known
    canary(bench, items(ok=150, a=150), 20)
    assert [one.decision for one in bench.tried()] == ["default"]
    again = [item for prompt, item in bench.model.calls if prompt == "p +a" and item.startswith("ok900")]
    assert len(again) == 10, "each of them, under the prompt that is used from then on"


def test_too_many_wrong_ones_stop_the_map(tmp_path):
    bench, _ = planted(tmp_path, wrong=range(4))
    assert bench.map.stopped.code == "known_answers" and "1 of 5" in bench.map.stopped.message
    assert bench.map.account.skipped == 180 and bench.map.account.pending == 0
    assert "ok9" not in bench.map.stopped.message


def test_a_rewritten_prompt_is_held_against_them_anew(tmp_path):
    known = KnownAnswers([Known(f"a{9000 + n}", f"a{9000 + n}") for n in range(10)], 0.8)
    texts = items(ok=100, a=100)
    bench = Bench(tmp_path, ["p +a"], expected=len(texts))
    bench.map._known = known
    canary(bench, texts, 20)
    assert bench.map.stopped is None and (known.asked, known.right) == (10, 10) and bench.map.account.ok == 200


def compared(before, now):
    spread = Spread()
    for number, answer in enumerate(before):
        spread.add(number * 50, answer)
    spread.roll_out()
    found = [spread.add(100 + number, answer) for number, answer in enumerate(now)]
    return [one[0] for one in found if one]


def test_answers_that_go_dull_are_noticed_and_those_that_do_not_are_not():
    chance = random.Random(1)
    varied = [f'{{"level": "{chance.choice("abc")}", "text": "{n}"}}' for n in range(20)]
    assert compared(varied, ['{"level": "a", "text": ""}'] * WINDOW) == ["degenerate"]
    assert compared(varied, [f'{{"level": null, "text": "", "n": [{"null, " * (n % 3)}null]}}' for n in range(WINDOW)]) == [
        "nothing"
    ]
    assert compared([one * 1 for one in varied], [f'"{n}"' for n in range(WINDOW)]) == ["short"]
    assert compared(varied, [f'{{"level": "a", "text": "{n}"}}' for n in range(3 * WINDOW)]) == []
    mostly = ['{"level": "a", "text": ""}' if n % 6 else varied[n % 20] for n in range(WINDOW)]
    assert compared(varied, mostly) == ["alike"]


def test_an_input_that_is_sorted_has_long_runs_of_one_answer():
    kinds = [f'{{"k": "{"abcd"[n // 5]}"}}' for n in range(20)]
    assert compared(kinds, ['{"k": "a"}'] * WINDOW) == []


def test_a_map_whose_model_goes_dull_is_stopped(tmp_path):
    class Dull:
        def __init__(self):
            self.count = 0

        async def __call__(self, question):
            await asyncio.sleep(0)
            self.count += 1
            return Answered(f'"{question[-5:]}"' if self.count <= 20 else '"same"', 1)

    bench = Bench(tmp_path, expected=600)
    bench.map._ask = Dull()
    canary(bench, items(ok=600), 20)
    assert bench.map.stopped.code == "spread" and bench.map.account.skipped > 300
    assert [one.kind for one in bench.record.events if type(one).__name__ == "SpreadWarned"] == ["degenerate"]
