"""`gear map` inside a run mends its prompt: what is asked of whom, from which account, what is on record and what a person sees."""

import importlib.util
import json

from gearcase.cli.app import run_command_line
from tests.run.test_maps import BEGIN, MAP, SHAPE, account, code, lines, said

ASKED = "Only the text of the prompt changes"
FIRST = {"text": "It is a word."}
ODD = {"text": '{"n": 7}', "when": "4."}
BETTER = {"text": '{"n": 1}', "when": "as JSON"}
REWRITE = {"text": json.dumps({"diagnosis": "no form is named", "prompt": "Say as JSON: {item}"}), "when": ASKED}


def repaired(stage, *replies, worker=(FIRST, ODD, BETTER), items=120, command=f"{MAP} --schema '{SHAPE}'", **box):
    text = f"mkdir out; {BEGIN % items}; {command} > out/said 2>&1; echo $? > out/code; gear done --as-is"
    return stage.play({"commands": [text]}, *replies, worker=stage.script(*worker), **box)


def test_a_prompt_is_rewritten_tested_and_asked_of_the_rest(stage, capsys):
    played = repaired(stage, REWRITE)
    told = account(played)
    assert code(played) == 0 and told["account"]["ok"] == 120, said(played)
    [tried] = [r.event for r in played.records("prompt_tried")]
    assert tried.decision == "default" and tried.signature["code"] == "not_json" and tried.evidence
    assert told["canary"]["first_failed"] == tried.failing and told["canary"]["failed"] == 0
    rows = lines(played.out / "out/m/results.jsonl")
    assert [row["item"] for row in rows] == list(range(120))
    assert {row["prompt"] for row in rows} == {tried.parent, tried.prompt}
    assert {row["answer"]["n"] for row in rows if row["prompt"] == tried.parent} == {7}
    calls = [r.event for r in played.records("model_called")]
    assert sum(one.label == "map m1" for one in calls) == told["calls"]
    assert sum(one.label == "map m1 repair" for one in calls) == told["repair"]["calls"]
    assert sum(one.label == "map m1 repair" and one.model == "scripted" for one in calls) == told["repair"]["calls"]
    opened = [r.event for r in played.records("account_opened") if r.event.account.endswith("repair m1")]
    closed = [r.event for r in played.records("account_closed") if r.event.account.endswith("repair m1")]
    assert opened[0].parent == "lead" and opened[0].limits["usd"] == told["repair"]["budget"] > told["repair"]["nano_usd"] > 0
    assert closed[0].returned["usd"] == told["repair"]["budget"] - told["repair"]["nano_usd"]
    assert "1 of 1 rewrites accepted" in said(played)
    assert run_command_line(["prompts", played.folder.id]) == 0
    shown = capsys.readouterr().out
    assert "-Say ok to: {item}" in shown and "+Say as JSON: {item}" in shown and "no form is named" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert run_command_line(["prompts", played.folder.id, "--json"]) == 0
    [one] = json.loads(capsys.readouterr().out)["maps"]
    assert one["tried"][0]["prompt"] == tried.prompt and one["tried"][0]["diff"]
    assert run_command_line(["report", played.folder.id]) == 0
    assert "1 of 1 rewrites of the prompt accepted" in " ".join(capsys.readouterr().out.split())


def test_a_reply_that_wants_the_schema_is_refused_and_the_map_is_as_it_was(stage):
    greedy = {"text": json.dumps({"prompt": "p {item}", "schema": {"type": "object"}}), "when": ASKED}
    played = repaired(stage, greedy)
    told = account(played)
    assert code(played) == 1 and told["stopped"]["class"] == "canary" and told["repair"]["accepted"] == 0
    assert [r.event.decision for r in played.records("prompt_tried")] == ["refused", "refused"]
    assert all("more than the prompt" in r.event.why for r in played.records("prompt_tried"))
    assert told["calls"] == 20 and told["account"]["skipped"] == 100


def test_no_repair_asks_nobody(stage):
    played = repaired(stage, REWRITE, command=f"{MAP} --schema '{SHAPE}' --no-repair")
    assert account(played)["repair"] is None and not played.records("prompt_tried", "account_opened")[3:]
    assert account(played)["stopped"]["class"] == "canary"


def test_an_optimizer_that_is_not_installed_is_told_with_what_to_install(stage, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "gepa" else found(name, *more))
    played = repaired(stage, REWRITE, command=f"{MAP} --schema '{SHAPE}' --optimizer gepa")
    assert code(played) == 1 and "pip install 'gearcase[gepa]'" in said(played) and not played.records("map_started")


def test_a_validator_s_trace_is_what_the_repair_model_sees(stage):
    check = "import json, sys\\ndef judge(said):\\n    assert said.startswith('{'), 'no object'\\njudge(json.load(sys.stdin))\\n"
    seen = {"text": json.dumps({"prompt": "as JSON: {item}"}), "when": "in judge"}
    command = f"printf \"{check}\" > check.py; {MAP} --validator 'python3 check.py' --give check.py"
    played = repaired(stage, seen, items=30, command=command)
    [tried] = [r.event for r in played.records("prompt_tried")]
    assert tried.signature["stage"] == "validator" and tried.signature["path"] == "check.py in judge"
    assert code(played) == 0 and account(played)["account"]["ok"] == 30


def test_the_same_map_again_finds_every_answer_of_every_prompt(stage):
    command = f"{MAP} --schema '{SHAPE}' > /dev/null; {MAP} --schema '{SHAPE}'"
    played = repaired(stage, REWRITE, command=f"({command})")
    told = account(played)
    assert code(played) == 0 and told["account"]["ok"] == 120
    assert told["found"] == 120 and told["calls"] == 0
    assert not [r for r in played.records("model_called") if r.event.label.startswith("map m2")]
    assert len({row["prompt"] for row in lines(played.out / "out/m/results.jsonl")}) == 2


def test_rewrites_of_a_map_that_was_begun_again_are_shown_below_what_an_earlier_one_had_found(stage, capsys):
    """The second map goes on with the first one's prompt, under which its own items fail anew."""
    better = {"text": '{"n": 2}', "when": "JSON, better"}
    asked = {"text": REWRITE["text"], "when": ASKED, "times": 1}
    second = {"text": json.dumps({"prompt": "Say as JSON, better: {item}"}), "when": ASKED}
    more = "seq 300 399 | sed 's/^/new /' >> words.txt"
    command = f"({MAP} --schema '{SHAPE}'; {more}; {MAP} --schema '{SHAPE}')"
    played = repaired(
        stage, asked, second, worker=(FIRST, ODD, better, {"text": "prose", "when": "JSON: new"}, BETTER), command=command
    )
    tried = [r.event for r in played.records("prompt_tried")]
    later = [one for one in tried if one.map == "m2"]
    assert later, said(played)
    assert later[0].parent == tried[0].prompt
    assert run_command_line(["prompts", played.folder.id, "--map", "m2"]) == 0
    shown = capsys.readouterr().out
    assert "found by an earlier map" in shown and later[0].prompt[:8] in shown
    assert "-Say as JSON: {item}" in shown and "+Say as JSON, better: {item}" in shown


def test_known_answers_of_the_box_stop_a_map_and_are_seen_outside_alone(stage):
    lead = stage.script(
        {"commands": [f"mkdir out; {BEGIN % 60}; {MAP} > out/said; cat out/m/*.jsonl > out/all; gear done --as-is"]}
    )
    worker = stage.script({"text": "no"}, {"text": "yes", "when": "secret 1"})
    known = "".join(f'[[maps.known]]\nmap = "words*"\nitem = "secret {n}"\nanswer = "yes"\n' for n in range(6))
    (stage.work / "box.toml").write_text(
        f'goal = "g"\n[model]\nlead = "{lead}"\nworker = "{worker}"\n[files]\ntake = ["out/**"]\n[maps]\nknown_at_least = "50%"\n{known}'
    )
    stage.types("run", "-f", "box.toml", "--out", "result", "--name", "planted")
    ended = stage.has("map_ended")
    assert ended["known"]["asked"] >= 3 and ended["ended"] == "stopped" and "known answers are right" in ended["why"]
    out = stage.work / "result/out"
    assert (
        "secret" not in (out / "all").read_text() + (out / "said").read_text() and "known_answers" in (out / "said").read_text()
    )
    told = " ".join(stage.types("report", "planted").stdout.split())
    assert f"known answers: {ended['known']['right']} of {ended['known']['asked']} right" in told
