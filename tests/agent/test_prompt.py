"""The instructions: at most a page, all of it from the box."""

from gearcase.agent.prompt import DoorLine, instructions
from gearcase.box import Box
from gearcase.run.handover import MOST_REQUESTS


def box(**more):
    return Box.model_validate({"goal": "Clean the table.", "limits": {"usd": 2, "wall": "45m", "steps": 30}, **more})


def test_the_instructions_say_where_things_are_what_counts_and_what_is_left():
    checks = [{"name": "valid", "run": "python3 check.py", "show": "score"}, {"name": "small", "run": "test -s x"}]
    text = instructions(box(files={"give": ["/host/data"], "see": ["/host/reference"], "take": ["out/**"]}, check=checks))
    for expected in (
        "What you were given is in it: data.",
        "Read-only: /given/reference",
        "/workspace/out/** (together at most 500 MiB)",
        "- valid (you see the score)",
        "- small (you see pass or fail)",
        "$2.00 for model calls ($0.10 of it kept for handing in); 30 answers; 45m 00s of time",
        "http://model.box",
        "`gear done [--note TEXT]`",
        "`--check` runs in /workspace on a copy of all your files; the agent's are below $DELIVERED",
    ):
        assert expected in text
    assert f"`gear check [NAME]` run the acceptance checks now, {MOST_REQUESTS} times at most" in text
    assert "/host" not in text
    assert "python3 check.py" not in text
    assert "Clean the table." not in text


def test_a_box_with_nothing_declared_says_so():
    text = instructions(box())
    assert "Only these leave the box: none were asked for." in text
    assert "No check was declared" in text
    assert "/given" not in text


def test_it_is_at_most_a_page_however_large_the_box():
    checks = [{"name": f"check-{number}", "run": "true"} for number in range(200)]
    files = {"give": [f"/host/part-{number}" for number in range(200)], "take": [f"out/{number}/**" for number in range(200)]}
    doors = [DoorLine("orders.box", "a database")] + [DoorLine(f"api-{number}.box", "an API") for number in range(200)]
    text = instructions(box(files=files, check=checks), doors)
    assert "and 188 more" in text and "and 191 more" in text
    assert "orders.box: a database" in text
    assert len(text) < 5000


def test_braces_in_names_are_kept():
    assert "{take}" in instructions(box(files={"take": ["out/{take}.txt"]}))
